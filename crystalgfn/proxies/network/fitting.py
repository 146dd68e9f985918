"""The training loop of the networks behind a property, with errors on held-out rows after the epochs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, smooth_l1_loss

from crystalgfn.crystal.crystals import Crystals
from crystalgfn.proxies.network.features import Features
from crystalgfn.proxies.network.networks import Constituents, Member
from crystalgfn.proxies.network.property_network import PropertyNetwork

EVALUATION_BATCH = 2048
"""Number of rows that are evaluated at once, to bound memory."""

_SECONDS_BETWEEN_LINES = 5
"""Least time [s] between two lines of progress of one network."""


@dataclass(frozen=True)
class OptimizerConfig:
    """How the members are trained: AdamW with warm-up and a cosine schedule; the averaged weights are kept.

    Attributes:
        epochs: passes over the training rows, for each member.
        min_steps: smallest number of steps; for a small table there are more passes than ``epochs``.
        batch_size: rows in a step; fewer if the table has less than eight times as many rows.
        learning_rate: highest learning rate of the schedule.
        final_learning_rate: learning rate at the end, as a fraction of the highest. With averaged weights, a value
            above 0 overfits less than 0.
        weight_decay: decay of the weight matrices and embeddings.
        loss_beta: error, in standard deviations of the label, at which the loss turns from squared to absolute.
        average: decay of the moving average of the weights, for each step.
        feature_noise: standard deviation of the noise on scaled row features.
        prototype_dropout: probability of hiding the prototype of a training row.
        min_prototype_rows: number of training rows that a prototype needs to get an embedding of its own.
        gradient_clip: largest norm of the gradient.
        zero_loss: weight of the cross-entropy of zero or not zero, for a network with ``zero_share``.
    """

    epochs: int = 25
    min_steps: int = 800
    batch_size: int = 128
    learning_rate: float = 3e-3
    final_learning_rate: float = 0.1
    weight_decay: float = 0.02
    loss_beta: float = 0.05
    average: float = 0.9995
    feature_noise: float = 0.0
    prototype_dropout: float = 0.2
    min_prototype_rows: int = 3
    gradient_clip: float = 1.0
    zero_loss: float = 0.3


@dataclass(frozen=True)
class Batches:
    """The batches for the training of one network.

    Attributes:
        steps: number of batches in all.
        epochs: number of groups of batches; the loss is reported after each group.
        groups: the groups of batches; a batch holds the indices of its rows. Batches are drawn when they are used.
    """

    steps: int
    epochs: int
    groups: Iterable[Iterable[Tensor]]

    @classmethod
    def passes(cls, rows: Tensor, config: OptimizerConfig, generator: torch.Generator) -> Batches:
        """Batches of passes over some rows (k,), each pass in a different random order."""
        size = min(config.batch_size, max(8, len(rows) // 8))
        steps = -(-len(rows) // size)
        epochs = max(config.epochs, -(-config.min_steps // steps))
        order = (torch.randperm(len(rows), generator=generator) for _ in range(epochs))
        return cls(steps * epochs, epochs, (rows[places].split(size) for places in order))


def fit_ensemble(
    model: PropertyNetwork,
    crystals: Crystals,
    target: Tensor,
    weight: Tensor,
    train: Tensor,
    held_out: Tensor,
    config: OptimizerConfig,
    seed: int,
    log: Callable[[str], None],
    title: str = "",
) -> None:
    """Train every member, one after the other; afterwards the model has their averaged weights.

    Args:
        model: an untrained network, scaled to the training rows.
        crystals: n crystals.
        target: (n,) float32 property of the crystals.
        weight: (n,) weight of each crystal in the loss.
        train: indices of the training rows.
        held_out: indices of other rows; their error is reported, but has no influence on the training.
        config: how to train.
        seed: seed of the order of the rows and of the noise. Dropout uses the global generator; the caller seeds and
            restores it.
        log: called with each line of progress.
        title: text at the start of each line.
    """

    def batches(generator: torch.Generator) -> Batches:
        return Batches.passes(train, config, generator)

    weight = weight / weight[train].mean()
    fit_members(model, model.inputs(crystals), target, weight, batches, held_out, config, seed, log, title)


def fit_members(
    model: PropertyNetwork,
    features: Features,
    target: Tensor,
    weight: Tensor,
    batches: Callable[[torch.Generator], Batches],
    held_out: Tensor,
    config: OptimizerConfig,
    seed: int,
    log: Callable[[str], None],
    title: str = "",
    shown: str = "val",
) -> None:
    """Train every member on its own batches, one after the other; afterwards the model has their averaged weights.

    Args:
        model: the network.
        features: scaled features of n crystals.
        target: (n,) float32 property of the crystals.
        weight: (n,) weight of each crystal in the loss.
        batches: makes the batches of a member, from the generator of the member.
        held_out: indices of other rows, at least one; their error is reported, but has no influence on the training.
        config: how to train.
        seed: seed of the generators of the members. Dropout uses the global generator; the caller seeds and restores
            it.
        log: called with each line of progress.
        title: text at the start of each line.
        shown: name of the held-out rows in the lines.
    """
    others, labels = features[held_out], target[held_out]
    loss = _property_loss(model, target, weight, config)
    raw: list[Tensor] = []
    for number, member in enumerate(model.members, start=1):
        assert isinstance(member, Member)
        generator = torch.Generator().manual_seed(1000 * seed + number)
        started = shown_at = time.time()
        outputs = labels.new_empty(0)
        own = batches(generator)
        epochs = own.epochs
        for epoch, mean_loss in fit_network(member, features, own, partial(loss, member), config, generator):
            # Small tables have hundreds of epochs, each of which takes a fraction of a second.
            if epoch < epochs and time.time() - shown_at < _SECONDS_BETWEEN_LINES:
                continue
            outputs = _evaluate(member, others)
            shown_at = time.time()
            log(
                f"{title}member {number}/{len(model.members)}  epoch {epoch:>{len(str(epochs))}}/{epochs}  "
                f"train loss {mean_loss:.4f}  {shown} MAE {_mae(model, [outputs], labels)}  "
                f"{shown_at - started:.0f} s"
            )
        raw.append(outputs)
        if len(model.members) > 1:
            log(f"{title}{number} member(s) together: {shown} MAE {_mae(model, raw, labels)}")


def fit_network(
    network: Member,
    features: Features,
    batches: Batches,
    loss: Callable[[Tensor, Features], Tensor],
    config: OptimizerConfig,
    generator: torch.Generator,
) -> Iterator[tuple[int, float]]:
    """Train one network; it has its averaged weights at the end, and while an epoch is reported.

    Args:
        network: the network to train.
        features: scaled features of n crystals.
        batches: the batches of rows.
        loss: loss of a batch, from the indices of its rows and their disturbed features.
        config: how to train.
        generator: source of random numbers for the noise.

    Yields:
        number and mean loss of each epoch.
    """
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=config.learning_rate,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _learning_rate(step, batches.steps, config.final_learning_rate)
    )
    average = _Average(network, config.average)
    for epoch, group in enumerate(batches.groups, start=1):
        network.train()
        total, rows = 0.0, 0
        for batch in group:
            value = loss(batch, _disturbed(features[batch], config, generator))
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), config.gradient_clip)
            optimizer.step()
            schedule.step()
            average.update()
            total += float(value.detach()) * len(batch)
            rows += len(batch)
        network.eval()
        with average:
            yield epoch, total / rows
    average.keep()


def _property_loss(
    model: PropertyNetwork, target: Tensor, weight: Tensor, config: OptimizerConfig
) -> Callable[[Member, Tensor, Features], Tensor]:
    """The loss of a member on a batch: smoothed absolute error and, with ``zero_share``, cross-entropy of zero or not.

    With ``zero_share``, crystals whose property is 0 contribute only to the cross-entropy.
    """
    mean, deviation = model.target_scale[2], model.target_scale[3]
    scaled = (target - mean) / deviation
    not_zero = (target != 0).float()

    def loss(member: Member, batch: Tensor, inputs: Features) -> Tensor:
        output = member(inputs, Constituents.of(inputs))
        losses = smooth_l1_loss(output[:, 0], scaled[batch], beta=config.loss_beta, reduction="none")
        if model.sizes.zero_share:
            other = not_zero[batch]
            unsure = binary_cross_entropy_with_logits(output[:, 1], other, reduction="none")
            losses = other * losses + config.zero_loss * unsure
        return (weight[batch] * losses).mean()

    return loss


def _learning_rate(step: int, total: int, final: float) -> float:
    """Learning rate at a step, as a fraction of the highest: linear warm-up over 5 % of the steps, then a cosine."""
    warm_up = min(1.0, (step + 1) / (0.05 * total + 1))
    return warm_up * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total))))


def _disturbed(features: Features, config: OptimizerConfig, generator: torch.Generator) -> Features:
    """Training rows with noise on the row features, and with some prototypes hidden."""
    row, prototype = features.row, features.prototype
    if config.feature_noise:
        row = row + config.feature_noise * torch.randn(row.shape, generator=generator)
    if config.prototype_dropout:
        hidden = torch.rand(prototype.shape, generator=generator) < config.prototype_dropout
        prototype = prototype.masked_fill(hidden, 0)
    return replace(features, row=row, prototype=prototype)


def _evaluate(member: Member, features: Features) -> Tensor:
    """(n, outputs) raw outputs of a member for any number of rows."""
    with torch.no_grad():
        parts = [features[part] for part in torch.arange(len(features)).split(EVALUATION_BATCH)]
        return torch.cat([member(part, Constituents.of(part)) for part in parts])


def _mae(model: PropertyNetwork, raw: list[Tensor], target: Tensor) -> str:
    """Mean absolute error of some members together, from their raw outputs, as text with the unit."""
    error = (model.combine(torch.stack(raw)).value - target).abs().mean()
    return f"{float(error):.4f} {model.unit}".strip()


class _Average:
    """Moving average of a network's parameters; in its ``with`` block the network has the averaged parameters.

    Args:
        network: the network.
        decay: decay for each step; it is smaller in the first steps, so that the initial weights soon have no effect.
    """

    def __init__(self, network: Member, decay: float) -> None:
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.values = [p.detach().clone() for p in self.parameters]
        self.decay = decay
        self.step = 0

    @torch.no_grad()
    def update(self) -> None:
        """Include the parameters after a step."""
        self.step += 1
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], 1 - decay)

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, value in zip(self.parameters, self.values, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(kept)

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *_: object) -> None:
        self._swap()

    def keep(self) -> None:
        """Set the parameters of the network to the average permanently."""
        self._swap()
