"""Fine-tuning a trained property network with new labelled crystals, without forgetting the old ones.

The crystals that a generative model proposes differ from the table that a proxy was trained on, and their predictions
are too good on average. `tune` continues the training from the trained weights; every batch contains new and old rows.
The members stay different, because each member is trained on its own bootstrap of the new rows in its own order. If
the old rows are not available, the network is trained to keep its predictions for made-up crystals (`rehearsal.py`).
The network that predicts the error learns the errors that the proxy made on the new rows before it was trained on
them.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from crystalgfn.checks import between
from crystalgfn.crystal.crystals import Crystals
from crystalgfn.errors import InputError
from crystalgfn.proxies.network.error_model import calibrate, evaluate, fit_error_network
from crystalgfn.proxies.network.features import Features
from crystalgfn.proxies.network.fitting import Batches, OptimizerConfig, fit_members
from crystalgfn.proxies.network.property_network import OUTSIDE_UNCERTAINTY, PropertyNetwork
from crystalgfn.proxies.network.rehearsal import made_up_crystals
from crystalgfn.proxies.network.splits import reduced_formulas

_GROUP = 50
"""Steps after which progress can be reported; also the smallest number of steps for few new rows."""

_CALIBRATION_SHARE = 0.25
"""Share of the reduced formulas with known errors that is used for the calibration; the error network learns from
the others."""

_MADE_UP = 8000
"""Number of made-up crystals that are used if there are no old rows."""

_LEAST_ERRORS = 40
"""Number of known errors that is needed to train the error network; fewer are used only for the calibration."""


@dataclass(frozen=True)
class TuningConfig:
    """How a network is fine-tuned: AdamW with warm-up and a cosine schedule; the averaged weights are kept.

    Attributes:
        steps: number of steps for each member.
        passes: largest number of passes over the new rows; few rows get fewer steps, but at least 50.
        batch_size: rows in a step.
        old_share: share of old rows in a batch, or of made-up crystals if there are no old rows.
        learning_rate: highest learning rate of the schedule.
        final_learning_rate: learning rate at the end, as a fraction of the highest.
        loss_beta: error, in standard deviations of the old labels, at which the loss turns from squared to absolute.
        average: decay of the moving average of the weights, for each step.
        prototype_dropout: probability of hiding the prototype of a row.
        gradient_clip: largest norm of the gradient.
        support: the range of a feature is widened only to values that at least this number of new rows reach or exceed.
        error_steps: number of steps for the network that predicts the error.
        error_learning_rate: highest learning rate of the network that predicts the error.
    """

    steps: int = 600
    passes: int = 60
    batch_size: int = 256
    old_share: float = 0.75
    learning_rate: float = 1e-3
    final_learning_rate: float = 0.05
    loss_beta: float = 0.05
    average: float = 0.99
    prototype_dropout: float = 0.2
    gradient_clip: float = 1.0
    support: int = 5
    error_steps: int = 300
    error_learning_rate: float = 1e-3

    def check(self, name: str = "tuning") -> None:
        """Raise an error for settings that cannot be used.

        Args:
            name: name before the dot in the field names of the message.

        Raises:
            InputError: if a setting is out of bounds; the message names the field.
        """
        limits: dict[str, tuple[float, float]] = {
            "steps": (1, 1_000_000),
            "passes": (1, 1_000_000),
            "batch_size": (2, 100_000),
            "old_share": (0, 0.99),
            "learning_rate": (1e-8, 1),
            "final_learning_rate": (0, 1),
            "loss_beta": (0, 10),
            "average": (0, 0.99999),
            "prototype_dropout": (0, 1),
            "gradient_clip": (1e-6, 1e6),
            "support": (1, 1_000_000),
            "error_steps": (1, 1_000_000),
            "error_learning_rate": (1e-8, 1),
        }
        for field, (lowest, highest) in limits.items():
            between(f"{name}.{field}", getattr(self, field), lowest, highest)


def tune(
    network: PropertyNetwork,
    new: Crystals,
    target: Tensor,
    weight: Tensor | None = None,
    errors: Tensor | None = None,
    old: tuple[Crystals, Tensor] | None = None,
    held_out: tuple[Crystals, Tensor] | None = None,
    config: TuningConfig = TuningConfig(),
    seed: int = 0,
    log: Callable[[str], None] = print,
) -> PropertyNetwork:
    """Train a network further on new crystals; the global random generator does not change.

    Predictions are limited to the range of the training labels, and features to the range of the training rows. Both
    ranges grow with the new rows (`TuningConfig.support`). Prototypes without an embedding of their own do not get one.

    Args:
        network: a trained network; it does not change.
        new: n crystals.
        target: (n,) property of the crystals, in the unit of the network.
        weight: (n,) relative weight of each crystal in the loss; None for equal weights.
        errors: (n,) absolute errors of predictions made before the crystals were trained on; NaN if an error is not
            known. The error network learns these errors, together with the errors on ``held_out``. With neither
            ``held_out`` nor ``old``, it learns them together with the errors that it predicts for made-up crystals. If
            ``errors`` is None, or no error is known, the error network and its calibration do not change.
        old: crystals of the earlier training, and their property. If None, the network is trained to keep its
            predictions for made-up crystals.
        held_out: crystals that were not used for training, such as the validation rows of the table, and their
            property. Their error is reported; if ``errors`` is given, the error network learns it.
        config: how to tune.
        seed: seed of the bootstraps, of the order of the rows and of dropout.
        log: called with each line of progress.

    Returns:
        the tuned network, in evaluation mode, with weights in the precision of a file.

    Raises:
        InputError: if labels, weights, errors or settings cannot be used.
    """
    config.check()
    weight = torch.ones(len(new)) if weight is None else weight.float()
    _check_rows(new, target, weight, errors, old, held_out)
    kept = weight > 0
    new, target, weight = new[kept], target[kept].float(), weight[kept]
    errors = None if errors is None else errors[kept].float()
    model = copy.deepcopy(network).requires_grad_(True)
    expected = None
    if old is None:
        made_up = made_up_crystals(network, _MADE_UP, torch.Generator().manual_seed(seed))
        with torch.no_grad():
            said = network(made_up)
        inside = said.uncertainty - OUTSIDE_UNCERTAINTY * said.outside * network.target_scale[3]
        old, expected = (made_up, said.value), (made_up, inside)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _widen(model, model.features(new), target, config.support)
        _tune_members(model, new, target, weight, old, held_out, config, seed, log)
        model.eval().round_weights()
        if errors is not None and bool(errors.isfinite().any()):
            torch.manual_seed(seed)
            if held_out is not None:
                expected = held_out[0], (evaluate(model, held_out[0]).value - held_out[1]).abs().float()
            _tune_errors(model, new, weight, errors, expected, config, seed, log)
            model.eval().round_weights()
    return model.eval().requires_grad_(False)


def _tune_members(
    model: PropertyNetwork,
    new: Crystals,
    target: Tensor,
    weight: Tensor,
    old: tuple[Crystals, Tensor],
    held_out: tuple[Crystals, Tensor] | None,
    config: TuningConfig,
    seed: int,
    log: Callable[[str], None],
) -> None:
    """Train the members on new and old rows."""
    parts = [(new, target), old, *([] if held_out is None else [held_out])]
    features = Features.cat([model.inputs(crystals) for crystals, _ in parts])
    labels = torch.cat([values.float() for _, values in parts])
    weights = torch.cat([weight / weight.mean(), torch.ones(len(labels) - len(new))])
    rows = torch.arange(len(labels)).split([len(crystals) for crystals, _ in parts])
    keys = reduced_formulas(new)

    def batches(generator: torch.Generator) -> Batches:
        return _mixed(keys, rows[1], config, generator)

    optimizer = OptimizerConfig(
        learning_rate=config.learning_rate,
        final_learning_rate=config.final_learning_rate,
        weight_decay=0.0,
        loss_beta=config.loss_beta,
        average=config.average,
        prototype_dropout=config.prototype_dropout,
        gradient_clip=config.gradient_clip,
    )
    shown = rows[-1] if held_out is not None else rows[0]
    fit_members(
        model, features, labels, weights, batches, shown, optimizer, seed, log,
        shown="val" if held_out is not None else "new rows",
    )  # fmt: skip


def _mixed(
    keys: list[tuple[tuple[int, int], ...]], old: Tensor, config: TuningConfig, seed: torch.Generator
) -> Batches:
    """Batches of new and old rows for one member.

    The new rows are a bootstrap by reduced formula: as many formulas as there are in the new rows are drawn, with
    replacement. Each of them brings all of its rows.

    Args:
        keys: reduced formula of each new row; new rows have the indices 0 to n - 1.
        old: indices of the old rows.
        config: size of a batch, share of old rows, number of steps.
        seed: source of random numbers for the bootstrap and the order of the rows.
    """
    rows_of = defaultdict(list)
    for row, key in enumerate(keys):
        rows_of[key].append(row)
    groups = list(rows_of.values())
    drawn = torch.randint(len(groups), (len(groups),), generator=seed).tolist()
    new = torch.tensor([row for place in drawn for row in groups[place]])
    from_old = min(round(config.old_share * config.batch_size), config.batch_size - 1)
    from_new = config.batch_size - from_old
    steps = min(config.steps, max(_GROUP, -(-config.passes * len(keys) // from_new)))
    new_rows, old_rows = _endless(new, from_new, seed), _endless(old, from_old, seed)

    def group(size: int) -> Iterator[Tensor]:
        for _ in range(size):
            batch = next(new_rows)
            yield torch.cat([batch, next(old_rows)]) if from_old else batch

    sizes = [min(_GROUP, steps - start) for start in range(0, steps, _GROUP)]
    return Batches(steps, len(sizes), (group(size) for size in sizes))


def _endless(rows: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches (size,) of passes over some rows (k,), each pass in a different random order."""
    waiting = rows[:0]
    while True:
        while len(waiting) < size:
            waiting = torch.cat([waiting, rows[torch.randperm(len(rows), generator=generator)]])
        yield waiting[:size]
        waiting = waiting[size:]


@torch.no_grad()
def _widen(model: PropertyNetwork, raw: Features, target: Tensor, support: int) -> None:
    """Widen the range of labels to the new labels, and the ranges of features to values that enough new rows reach.

    Mean and standard deviation do not change, because the trained weights depend on this scaling.

    Args:
        model: the network; its ranges change.
        raw: unscaled features of the n new crystals.
        target: (n,) property of the new crystals.
        support: number of new rows that must lie at or beyond the new end of a range.
    """
    for scale, values in ((model.row_scale, raw.row), (model.site_scale, raw.constituent)):
        if len(values) >= support:
            scale[0] = torch.minimum(scale[0], values.kthvalue(support, dim=0).values)
            scale[1] = torch.maximum(scale[1], values.kthvalue(len(values) + 1 - support, dim=0).values)
    other = target[target != 0] if model.sizes.zero_share else target
    for limits, labels in ((model.label_range, target), (model.target_scale, other)):
        if len(labels):
            limits[0] = torch.minimum(limits[0], labels.min())
            limits[1] = torch.maximum(limits[1], labels.max())


def _tune_errors(
    model: PropertyNetwork,
    new: Crystals,
    weight: Tensor,
    errors: Tensor,
    others: tuple[Crystals, Tensor] | None,
    config: TuningConfig,
    seed: int,
    log: Callable[[str], None],
) -> None:
    """Train the error network on known errors, and calibrate it on errors of other reduced formulas.

    The error network also learns the errors of other crystals, so that it does not forget them. All new rows together
    have the same weight as all other crystals together. The inputs of the error network are the outputs of the tuned
    members, as for future crystals. The errors on the new rows were made before tuning.
    """
    known = errors.isfinite()
    new, weight, errors = new[known], weight[known], errors[known]
    parts, sizes, weights = [new], [errors], [weight / weight.sum()]
    if others is not None:
        parts.append(others[0])
        sizes.append(others[1])
        weights.append(torch.full((len(others[0]),), 1 / len(others[0])))
    crystals, size, share = Crystals.cat(parts), torch.cat(sizes), torch.cat(weights)
    outputs = evaluate(model, crystals)
    inputs, disagreement = model.error_inputs(model.inputs(crystals), outputs), outputs.disagreement
    learn, judge = _learn_and_judge(crystals, seed)
    if len(errors) < _LEAST_ERRORS or not len(learn):
        judge = torch.arange(len(size))
    else:
        batch = min(128, max(8, len(learn) // 8))
        settings = OptimizerConfig(
            epochs=-(-config.error_steps // -(-len(learn) // batch)),
            min_steps=1,
            batch_size=batch,
            learning_rate=config.error_learning_rate,
            average=config.average,
            prototype_dropout=0.3,
        )
        fit_error_network(model, inputs[learn], size[learn], share[learn], settings, seed, log)
        model.eval().round_weights()
    prior = model.calibration.clone()
    weights_of_judges = share[judge] / share[judge].mean()
    calibrate(model, inputs[judge], disagreement[judge], size[judge], weights_of_judges, prior)
    shift, slope, other = model.calibration.tolist()
    log(f"uncertainty: exp({shift:.3f}) · predicted error^{slope:.3f} · disagreement^{other:.3f}")


def _learn_and_judge(crystals: Crystals, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the rows that train the error network, and of those that calibrate it; split by reduced formula."""
    keys = reduced_formulas(crystals)
    unique = sorted(set(keys))
    order = torch.randperm(len(unique), generator=torch.Generator().manual_seed(seed)).tolist()
    judging = {unique[place] for place in order[: max(1, round(_CALIBRATION_SHARE * len(unique)))]}
    judges = torch.tensor([key in judging for key in keys])
    return (~judges).nonzero()[:, 0], judges.nonzero()[:, 0]


def _check_rows(
    new: Crystals,
    target: Tensor,
    weight: Tensor,
    errors: Tensor | None,
    old: tuple[Crystals, Tensor] | None,
    held_out: tuple[Crystals, Tensor] | None,
) -> None:
    """Raise an error for rows that cannot be used for training."""
    n = len(new)
    columns = {"target": target, "weight": weight, **({} if errors is None else {"errors": errors})}
    for name, values in columns.items():
        if values.shape != (n,):
            raise InputError(
                f"{name}: shape {tuple(values.shape)} is not allowed; allowed: ({n},), one for each new crystal"
            )
    if not bool(target.isfinite().all()):
        raise InputError("target: every new crystal needs a finite label")
    if not bool((weight.isfinite() & (weight >= 0)).all()):
        raise InputError("weight: some are negative or not finite; allowed: 0 or more")
    if not bool((weight > 0).any()):
        raise InputError("weight: no new crystal has a weight above 0; at least one is needed")
    if errors is not None and bool((errors < 0).any()):
        raise InputError("errors: some are negative; allowed: absolute errors, or NaN if an error is not known")
    for name, part in (("old", old), ("held_out", held_out)):
        if part is None:
            continue
        crystals, labels = part
        if labels.shape != (len(crystals),) or not len(crystals) or not bool(labels.isfinite().all()):
            raise InputError(f"{name}: needs at least one crystal and a finite label for each")
