"""Fine-tuning a trained property network with new labelled crystals, without forgetting the old ones.

What a generator proposes is unlike the table that a proxy was trained on, and the proxy errs in the generator's favour
there. `tune` goes on from the trained weights: every batch mixes new rows with old ones. Members stay different, as
each one sees its own bootstrap of the new rows in its own order. Where the old rows are not at hand, the network
rehearses what it said before of crystals that are made up (`rehearsal.py`). The network that knows the
errors learns those that the proxy made on the new rows before it saw them.
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
"""Steps between two lines of progress, at least."""

_CALIBRATION_SHARE = 0.25
"""Share of the reduced formulas with known errors that calibrate; the error network learns from the others."""

_MADE_UP = 8000
"""Made-up crystals to rehearse with, where there are no old rows."""

_LEAST_ERRORS = 40
"""Known errors that the error network needs to learn; fewer do no more than calibrate it."""


@dataclass(frozen=True)
class TuningConfig:
    """How a network is fine-tuned: AdamW with warm-up and a cosine schedule; the averaged weights are kept.

    Attributes:
        steps: steps for each member.
        passes: most passes over the new rows; few rows get fewer steps, though not below 50.
        batch_size: rows in a step.
        old_share: share of old rows in a batch, or of made-up crystals in their place.
        learning_rate: highest learning rate of the schedule.
        final_learning_rate: learning rate at the end, as a fraction of the highest.
        loss_beta: error, in standard deviations of the old labels, at which the loss turns from squared to absolute.
        average: decay of the moving average of the weights, for each step.
        prototype_dropout: probability of hiding the prototype of a row.
        gradient_clip: largest norm of the gradient.
        support: new rows that have to lie at or beyond the end of a widened range of a feature.
        error_steps: steps of the network that predicts the error.
        error_learning_rate: its highest learning rate.
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
        """Refuse settings that cannot work.

        Args:
            name: what fields are called in the message, before the dot.

        Raises:
            InputError: with the name of the field.
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
    """A network that knows new crystals, too. Draws nothing from the global random generator.

    Predictions are limited to the range of the labels in training, features to that of the training rows; both grow
    with the new rows (`TuningConfig.support`). Prototypes that have no embedding of their own get none.

    Args:
        network: a trained network; it does not change.
        new: n crystals.
        target: (n,) their property, in the unit of the network.
        weight: (n,) weight of each in the loss, against each other; all the same if None.
        errors: (n,) absolute errors of predictions made before the crystals were trained on; NaN where not known. The
            error network learns them, together with those on ``held_out``, or else the errors that it expected of
            made-up crystals. If None, or none is known, the error network and its calibration stay as they are.
        old: crystals that were trained on before and their property. If None, what the network says of made-up
            crystals is rehearsed instead.
        held_out: crystals with their property that nothing was trained on, such as the validation rows of the table;
            their error is shown, and with ``errors`` the error network learns it.
        config: how to tune.
        seed: seeds the bootstraps, the order of the rows and dropout.
        log: takes each line of progress.

    Returns:
        the tuned network, in evaluation mode, its weights in the precision of a file.

    Raises:
        InputError: for labels, weights, errors or settings that cannot be used.
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

    The new rows are a bootstrap by reduced formula: as many formulas as there are, drawn with replacement, each with
    all of its rows.

    Args:
        keys: reduced formula of each new row; new rows have the indices 0 to n - 1.
        old: indices of the old rows.
        config: size of a batch, share of old rows, number of steps.
        seed: draws the bootstrap and the order of the rows.
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
    """Parts (size,) of passes over some rows (k,), each pass in an order of its own."""
    waiting = rows[:0]
    while True:
        while len(waiting) < size:
            waiting = torch.cat([waiting, rows[torch.randperm(len(rows), generator=generator)]])
        yield waiting[:size]
        waiting = waiting[size:]


@torch.no_grad()
def _widen(model: PropertyNetwork, raw: Features, target: Tensor, support: int) -> None:
    """Widen the range of labels to the new ones, and that of features where enough new rows lie beyond it.

    Mean and standard deviation stay: the trained weights are for features that are scaled by them.

    Args:
        model: its scales change.
        raw: unscaled features of the n new crystals.
        target: (n,) their property.
        support: rows that have to lie at or beyond the new end of a range.
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
    """Train the error network on known errors and calibrate it on those of other reduced formulas.

    Other crystals with their errors are rehearsed, and new rows together weigh as much as these together. What the
    members say is that of the tuned network, as for crystals to come, although it was not tuned yet when it made the
    errors on the new rows.
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
    """Indices of the rows that the error network learns from and of those that calibrate it, by reduced formula."""
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
    """Refuse rows that nothing can be learned from."""
    n = len(new)
    columns = {"target": target, "weight": weight, **({} if errors is None else {"errors": errors})}
    for name, values in columns.items():
        if values.shape != (n,):
            raise InputError(f"{name}: shape {tuple(values.shape)} is not allowed; allowed: ({n},), one a new crystal")
    if not bool(target.isfinite().all()):
        raise InputError("target: every new crystal needs a finite label")
    if not bool((weight.isfinite() & (weight >= 0)).all()):
        raise InputError("weight: some are negative or not finite; allowed: 0 or more")
    if not bool((weight > 0).any()):
        raise InputError("no new crystal has a weight; at least one is needed")
    if errors is not None and bool((errors < 0).any()):
        raise InputError("errors: some are negative; allowed: absolute errors, NaN where they are not known")
    for name, part in (("old", old), ("held_out", held_out)):
        if part is None:
            continue
        crystals, labels = part
        if labels.shape != (len(crystals),) or not len(crystals) or not bool(labels.isfinite().all()):
            raise InputError(f"{name}: needs at least one crystal and a finite label for each")
