"""The error estimate of a property network: a further network learns the size of errors on rows that were held out.

The members have smaller errors on training rows than on new crystals, and members that agree can be wrong together.
Therefore neither training errors nor the spread of an ensemble give the error on a new crystal. Here the training rows
are divided into parts by reduced formula. For each part a member is trained on the other parts, and the error network
learns the errors of this member on the part. The calibration, three numbers that are fitted to the validation rows,
then combines the output of the error network with the disagreement of the members.
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
"""Largest decay of the moving average of the weights."""

_PRIOR_ROWS = 20.0
"""Weight of the prior of the calibration, in validation rows.

The prior assumes that the error network alone ranks errors well."""


@dataclass(frozen=True)
class ErrorConfig:
    """The network that predicts the error.

    Attributes:
        folds: number of parts of the training rows; for each part a member is trained on the other parts.
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
        """Sizes of the error network, for members of given sizes."""
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
        """How the error network is trained, for members that are trained in a given way."""
        return replace(
            members,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            prototype_dropout=self.prototype_dropout,
            # The error network is trained for fewer steps than a member.
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
        target: (n,) float32 property of the crystals.
        weight: (n,) weight of each crystal in the loss.
        train: indices of the training rows.
        val: indices of the validation rows, which are used for the calibration.
        config: how to train the error network.
        optimizer: how the members were trained; the members for the parts are trained in the same way.
        seed: seed of the parts and of the order of the rows.
        log: called with each line of progress.

    Raises:
        InputError: if the training rows have fewer than two reduced formulas.
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
    # Dropout uses the global generator. The seed makes its draws independent of the training of the members.
    torch.manual_seed(seed)
    index, sizes = torch.cat(rows), torch.cat(errors)
    with torch.no_grad():
        # Start with the mean error as the prediction for every row.
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
    """Outputs of the members for any number of crystals, computed in batches."""
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
    """Train the error network of a model on errors of held-out rows, starting from its present weights.

    Args:
        model: the network; its error network changes.
        features: features of k rows, from `PropertyNetwork.error_inputs`.
        errors: (k,) absolute errors, in the unit of the property.
        weight: (k,) weight of each row in the loss.
        settings: how to train.
        seed: seed of the order of the rows. Dropout uses the global generator; the caller seeds and restores it.
        log: called with each line of progress.
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
    """Loss of a predicted logarithm of the mean error: the Poisson deviance, up to a constant.

    Its minimum is at the mean of the errors. The likelihood of a Laplace distribution has the same minimum. It is not
    used, because one large error among crystals with nearly exact predictions, such as metals, would outweigh all
    other errors.
    """
    return said.exp() - error * said


def calibrate(
    model: PropertyNetwork, features: Features, disagreement: Tensor, errors: Tensor, weight: Tensor, prior: Tensor
) -> None:
    """Fit the three numbers of the calibration to held-out rows, so that mean uncertainty and mean error agree.

    Args:
        model: the network; its calibration changes, and `PropertyNetwork.uncertainty_scale` becomes 1.
        features: features of k rows, from `PropertyNetwork.error_inputs`.
        disagreement: (k,) expected deviation of the members from the prediction, in the unit of the property.
        errors: (k,) absolute errors, in the unit of the property.
        weight: (k,) weight of each row.
        prior: (3,) calibration; its exponents change little if there are few rows.
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
    model.set_calibration(numbers.detach())


def _parts(crystals: Crystals, train: Tensor, folds: int, seed: int) -> Tensor:
    """(k,) part of each training row; all rows of one reduced formula are in the same part.

    Raises:
        InputError: if the training rows have fewer than two reduced formulas.
    """
    keys = reduced_formulas(crystals[train])
    unique = sorted(set(keys))
    if len(unique) < 2:
        raise InputError(
            "the training rows have only one reduced formula; at least 2 are needed to learn the size of errors"
        )
    order = torch.randperm(len(unique), generator=torch.Generator().manual_seed(seed)).tolist()
    part = {key: place % min(folds, len(unique)) for key, place in zip(unique, order, strict=True)}
    return torch.tensor([part[key] for key in keys])


def _join(outputs: list[Outputs]) -> Outputs:
    """Outputs of several batches, one after the other."""
    return Outputs(*(torch.cat([getattr(o, f.name) for o in outputs], dim=-1) for f in fields(Outputs)))
