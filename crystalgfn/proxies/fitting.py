"""The training loop of a property network: each member on its own, judged on the validation rows after every epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from crystalgfn.crystals import Crystals
from crystalgfn.proxies.features import Features
from crystalgfn.proxies.networks import Member, Sites
from crystalgfn.proxies.property_network import PropertyNetwork

EVALUATION_BATCH = 2048
"""Rows evaluated at once, to bound memory."""


@dataclass(frozen=True)
class OptimizerConfig:
    """How the members are trained: AdamW with warm-up and a cosine schedule; the averaged weights are kept.

    Attributes:
        epochs: passes over the training rows, for each member.
        batch_size: rows in a step.
        learning_rate: highest learning rate of the schedule.
        final_learning_rate: learning rate at the end, as a fraction of the highest; with the averaged weights, not
            cooling down to 0 overfits less.
        weight_decay: decay of the weight matrices and embeddings.
        loss_beta: error, in standard deviations of the label, at which the loss turns from squared to absolute.
        average: decay of the moving average of the weights, for each step.
        feature_noise: standard deviation of the noise on scaled row features.
        prototype_dropout: probability of hiding the prototype of a training row.
        min_prototype_rows: training rows that a prototype needs for an embedding of its own.
        gradient_clip: largest norm of the gradient.
    """

    epochs: int = 25
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


def fit_ensemble(
    model: PropertyNetwork,
    crystals: Crystals,
    target: Tensor,
    weight: Tensor,
    train: Tensor,
    val: Tensor,
    config: OptimizerConfig,
    seed: int,
    log: Callable[[str], None],
) -> None:
    """Train every member, one after the other; the model holds their averaged weights in the end.

    Args:
        model: an untrained network, scaled to the training rows.
        crystals: n crystals.
        target: (n,) float32, their property.
        weight: (n,) weight of each crystal in the loss.
        train: indices of the training rows.
        val: indices of the validation rows; they decide nothing here, their error is only shown.
        config: how to train.
        seed: seeds the order of the rows and the noise. Dropout uses the global generator, which the caller lends.
        log: takes one line an epoch.
    """
    features = model.inputs(crystals)
    weight = weight / weight[train].mean()
    held_out, held_out_target = features[val], target[val]
    total = torch.zeros_like(held_out_target)
    for number, member in enumerate(model.members, start=1):
        assert isinstance(member, Member)
        generator = torch.Generator().manual_seed(1000 * seed + number)
        title = f"member {number}/{len(model.members)}"
        prediction = _fit_member(
            model, member, features, target, weight, train, held_out, held_out_target, config, generator, title, log
        )
        total += prediction
        log(f"mean of {number} member(s): val MAE {_mae(total / number, held_out_target):.4f} {model.unit}")


def _fit_member(
    model: PropertyNetwork,
    member: Member,
    features: Features,
    target: Tensor,
    weight: Tensor,
    train: Tensor,
    held_out: Features,
    held_out_target: Tensor,
    config: OptimizerConfig,
    generator: torch.Generator,
    title: str,
    log: Callable[[str], None],
) -> Tensor:
    """Train one member; returns its predictions for the validation rows."""
    matrices = [p for p in member.parameters() if p.ndim > 1]
    vectors = [p for p in member.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=config.learning_rate,
        fused=True,
    )
    steps = -(-len(train) // config.batch_size)
    total_steps = steps * config.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _learning_rate(step, total_steps, config.final_learning_rate)
    )
    average = _Average(member, config.average)
    mean, deviation = model.target_scale[2], model.target_scale[3]
    scaled = (target - mean) / deviation
    started = time.time()
    prediction = held_out_target
    for epoch in range(1, config.epochs + 1):
        member.train()
        total = 0.0
        for batch in train[torch.randperm(len(train), generator=generator)].split(config.batch_size):
            inputs = _disturbed(features[batch], config, generator)
            output = member(inputs, Sites.of(inputs))
            losses = smooth_l1_loss(output, scaled[batch], beta=config.loss_beta, reduction="none")
            loss = (weight[batch] * losses).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(member.parameters(), config.gradient_clip)
            optimizer.step()
            schedule.step()
            average.update()
            total += float(loss.detach()) * len(batch)
        with average:
            prediction = model.unscale(_evaluate(member, held_out))
        log(
            f"{title}  epoch {epoch:>{len(str(config.epochs))}}/{config.epochs}  train loss {total / len(train):.4f}  "
            f"val MAE {_mae(prediction, held_out_target):.4f} {model.unit}  {time.time() - started:.0f} s"
        )
    average.keep()
    return prediction


def _learning_rate(step: int, total: int, final: float) -> float:
    """Learning rate at a step, as a fraction of the highest: linear warm-up over 5 % of the steps, then a cosine."""
    warm_up = min(1.0, (step + 1) / (0.05 * total + 1))
    return warm_up * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total))))


def _disturbed(features: Features, config: OptimizerConfig, generator: torch.Generator) -> Features:
    """Training rows with noise on the row features and some prototypes hidden."""
    row, prototype = features.row, features.prototype
    if config.feature_noise:
        row = row + config.feature_noise * torch.randn(row.shape, generator=generator)
    if config.prototype_dropout:
        hidden = torch.rand(prototype.shape, generator=generator) < config.prototype_dropout
        prototype = prototype.masked_fill(hidden, 0)
    return replace(features, row=row, prototype=prototype)


def _evaluate(member: Member, features: Features) -> Tensor:
    """(n,) output of a member for any number of rows."""
    member.eval()
    with torch.no_grad():
        parts = [features[part] for part in torch.arange(len(features)).split(EVALUATION_BATCH)]
        return torch.cat([member(part, Sites.of(part)) for part in parts])


def _mae(prediction: Tensor, target: Tensor) -> float:
    return float((prediction - target).abs().mean())


class _Average:
    """Moving average of a network's parameters; as a context it stands in for them.

    Args:
        network: the network.
        decay: decay for each step; smaller at the start, so that the initial weights are soon forgotten.
    """

    def __init__(self, network: Member, decay: float) -> None:
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.values = [p.detach().clone() for p in self.parameters]
        self.decay = decay
        self.step = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters after a step."""
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
        """Leave the average in the network for good."""
        self._swap()
