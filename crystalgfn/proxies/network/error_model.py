"""How wrong a property network is: a further network learns the size of errors on rows that were held out.

Members that have seen a crystal know it too well, and members that agree can be wrong together, so neither training
errors nor the spread of an ensemble tell the error on a new crystal. Here the training rows are cut into parts by
reduced formula; for each part a member is trained on the other parts, and its errors on the part are those that the
error network learns. Its prediction and the disagreement of the members are then brought together, with three numbers,
on the validation rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from crystalgfn.crystal.crystals import Crystals
from crystalgfn.errors import InputError
from crystalgfn.proxies.network.features import Features
from crystalgfn.proxies.network.fitting import EVALUATION_BATCH, Batches, OptimizerConfig, fit_ensemble, fit_network
from crystalgfn.proxies.network.networks import Constituents, NetworkSizes
from crystalgfn.proxies.network.property_network import LOG_RANGE, Outputs, PropertyNetwork
from crystalgfn.proxies.network.splits import reduced_formulas

_AVERAGE = 0.998
"""Decay of the moving average of the weights, at most."""

_PRIOR_ROWS = 20.0
"""Validation rows that the prior of the calibration weighs: that the error network ranks errors well by itself."""


@dataclass(frozen=True)
class ErrorConfig:
    """The network that predicts the error.

    Attributes:
        folds: parts that the training rows are cut into; for each one a member is trained on the others.
        epochs: passes over the training rows.
        learning_rate: highest learning rate of the schedule.
        embedding: width of the embedding of an element in a crystal.
        hidden: width of the layers that read the error.
        dropout: probability of dropping a hidden unit in training.
        prototype_dropout: probability of hiding the prototype of a training row.
    """

    folds: int = 2
    epochs: int = 10
    learning_rate: float = 2e-3
    embedding: int = 48
    hidden: int = 96
    dropout: float = 0.1
    prototype_dropout: float = 0.3

    def sizes(self, network: NetworkSizes) -> NetworkSizes:
        """Sizes of the error network beside members of some sizes."""
        return replace(
            network,
            members=1,
            embedding=self.embedding,
            hidden=self.hidden,
            layers=1,
            dropout=self.dropout,
            zero_share=False,
        )

    def settings(self, members: OptimizerConfig) -> OptimizerConfig:
        """How it is trained, beside members that are trained in some way."""
        return replace(
            members,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            prototype_dropout=self.prototype_dropout,
            # It is trained for fewer steps than a member.
            average=min(members.average, _AVERAGE),
        )


def fit_errors(
    model: PropertyNetwork,
    crystals: Crystals,
    target: Tensor,
    weight: Tensor,
    train: Tensor,
    val: Tensor,
    config: ErrorConfig,
    optimizer: OptimizerConfig,
    seed: int,
    log: Callable[[str], None],
) -> None:
    """Train the error network of a model whose members are trained, and calibrate it.

    Args:
        model: the network; its error network and calibration change.
        crystals: n crystals.
        target: (n,) float32, their property.
        weight: (n,) weight of each crystal in the loss.
        train: indices of the training rows.
        val: indices of the validation rows that calibrate.
        config: how to train the error network.
        optimizer: how the members were trained; those for the parts are trained in the same way.
        seed: seeds the parts and the order of the rows.
        log: takes each line of progress.

    Raises:
        InputError: if there are fewer than two reduced formulas in training.
    """
    train = train[weight[train] > 0]
    parts = _parts(crystals, train, config.folds, seed)
    count = int(parts.max()) + 1
    held_out: list[Outputs] = []
    errors, rows = [], []
    for part in range(count):
        inside, outside = train[parts != part], train[parts == part]
        single = PropertyNetwork.for_data(
            replace(model.sizes, members=1),
            model.error_sizes,
            crystals[inside],
            target[inside],
            optimizer.min_prototype_rows,
            model.property_name,
            model.unit,
        )
        title = f"part {part + 1}/{count} held out, "
        shown = outside[:: -(-len(outside) // EVALUATION_BATCH)]
        fit_ensemble(single, crystals, target, weight, inside, shown, optimizer, seed + 1 + part, log, title)
        outputs = evaluate(single.eval(), crystals[outside])
        held_out.append(outputs)
        errors.append((outputs.value - target[outside]).abs())
        rows.append(outside)
    # Dropout draws from the global generator, which the caller lends: the same draws however members were trained.
    torch.manual_seed(seed)
    index, sizes = torch.cat(rows), torch.cat(errors)
    with torch.no_grad():
        # Start from the mean error everywhere.
        model.error.out.weight.mul_(0.1)
        model.error.out.bias.fill_(math.log(float((sizes / model.target_scale[3]).mean()) + 1e-6))
    features = model.error_inputs(model.inputs(crystals[index]), _join(held_out))
    fit_error_network(model, features, sizes, weight[index], config.settings(optimizer), seed, log)
    model.round_weights()
    outputs = evaluate(model, crystals[val])
    features = model.error_inputs(model.inputs(crystals[val]), outputs)
    calibrate(
        model,
        features,
        outputs.disagreement,
        (outputs.value - target[val]).abs(),
        weight[val],
        torch.tensor([0.0, 1.0, 0.0]),
    )
    shift, slope, other = model.calibration.tolist()
    log(f"uncertainty: exp({shift:.3f}) · predicted error^{slope:.3f} · disagreement^{other:.3f}")


def evaluate(model: PropertyNetwork, crystals: Crystals) -> Outputs:
    """What the members say of any number of crystals, in batches."""
    with torch.no_grad():
        starts = range(0, max(len(crystals), 1), EVALUATION_BATCH)
        return _join([model.outputs(crystals[slice(s, s + EVALUATION_BATCH)]) for s in starts])


def fit_error_network(
    model: PropertyNetwork,
    features: Features,
    errors: Tensor,
    weight: Tensor,
    settings: OptimizerConfig,
    seed: int,
    log: Callable[[str], None],
) -> None:
    """Train the error network of a model, from the weights that it has, on errors of held-out rows.

    Args:
        model: the network; its error network changes.
        features: of k rows, as `PropertyNetwork.error_inputs` makes them.
        errors: (k,) absolute errors, in the unit of the property.
        weight: (k,) weight of each row in the loss.
        settings: how to train.
        seed: seeds the order of the rows. Dropout uses the global generator, which the caller lends.
        log: takes each line of progress.
    """
    scaled = errors / model.target_scale[3]
    weight = weight / weight.mean()
    generator = torch.Generator().manual_seed(2000 * seed + 7)

    def loss(batch: Tensor, inputs: Features) -> Tensor:
        said = model.error(inputs, Constituents.of(inputs))[:, 0].clamp(*LOG_RANGE)
        return (weight[batch] * _surprise(said, scaled[batch])).mean()

    batches = Batches.passes(torch.arange(len(errors)), settings, generator)
    for epoch, mean_loss in fit_network(model.error, features, batches, loss, settings, generator):
        if epoch % settings.epochs == 0:
            log(f"error network  epoch {epoch}  train loss {mean_loss:.4f}")


def _surprise(said: Tensor, error: Tensor) -> Tensor:
    """Loss of a predicted logarithm of the mean error: the Poisson deviance up to a constant.

    Its minimum is the mean of the errors. The likelihood of a Laplace law has the same minimum, but a surprise among
    crystals that are nearly always right, as metals are, outweighs all others there.
    """
    return said.exp() - error * said


def calibrate(
    model: PropertyNetwork, features: Features, disagreement: Tensor, errors: Tensor, weight: Tensor, prior: Tensor
) -> None:
    """Fit the three numbers of the calibration to held-out rows; their mean uncertainty becomes their mean error.

    Args:
        model: the network; its calibration changes.
        features: of k rows, as `PropertyNetwork.error_inputs` makes them.
        disagreement: (k,) expected deviation of the members from the prediction, in the unit of the property.
        errors: (k,) absolute errors, in the unit of the property.
        weight: (k,) weight of each row.
        prior: (3,) calibration that the exponents stay near to where there are few rows.
    """
    with torch.no_grad():
        said = model.error(features, Constituents.of(features))[:, 0]
    error = errors / model.target_scale[3]
    numbers = prior.clone().requires_grad_()
    search = torch.optim.LBFGS([numbers], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        each = _surprise(model.log_uncertainty(said, disagreement, numbers), error)
        value = (weight * each).sum() / (weight * error).sum().clamp_min(1e-9) * len(error)
        value = value + _PRIOR_ROWS * (numbers - prior)[1:].square().sum()
        value.backward()
        return value

    search.step(loss)
    model.calibration.copy_(numbers.detach())


def _parts(crystals: Crystals, train: Tensor, folds: int, seed: int) -> Tensor:
    """(k,) part of each training row; rows of one reduced formula are in one part."""
    keys = reduced_formulas(crystals[train])
    unique = sorted(set(keys))
    if len(unique) < 2:
        raise InputError(
            "the training rows have one reduced formula; at least 2 are needed to learn the size of errors"
        )
    order = torch.randperm(len(unique), generator=torch.Generator().manual_seed(seed)).tolist()
    part = {key: place % min(folds, len(unique)) for key, place in zip(unique, order, strict=True)}
    return torch.tensor([part[key] for key in keys])


def _join(outputs: list[Outputs]) -> Outputs:
    """Outputs of several batches, one after the other."""
    return Outputs(*(torch.cat([getattr(o, f.name) for o in outputs], dim=-1) for f in fields(Outputs)))
