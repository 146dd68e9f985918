"""Training a property network on a table of crystals.

``crystalgfn train-proxy`` calls `train_proxy`. It reads and checks the table, and leaves out and counts unusual
training rows. Then it trains the members of the ensemble one after the other, and the network that predicts their
errors. It writes the weights, a model card and the metrics.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crystalgfn.checks import between
from crystalgfn.crystal.crystals import OXIDATION_STATES, Crystals
from crystalgfn.crystal.tables import CRYSTAL_COLUMNS
from crystalgfn.errors import InputError
from crystalgfn.files import check_writable
from crystalgfn.gflownet.proxies.names import check_property_name
from crystalgfn.proxies.network.error_model import ErrorConfig, fit_errors
from crystalgfn.proxies.network.fitting import EVALUATION_BATCH, OptimizerConfig, fit_ensemble
from crystalgfn.proxies.network.metrics import Predictions, ReferenceLabels, ReportConfig, check_report
from crystalgfn.proxies.network.model_card import write_report
from crystalgfn.proxies.network.networks import NetworkSizes
from crystalgfn.proxies.network.property_network import PropertyNetwork
from crystalgfn.proxies.network.splits import SPLITS, DataConfig, SplitTable, split_table


def train_proxy(
    data: DataConfig,
    out: Path,
    property_name: str | None = None,
    unit: str = "",
    seed: int = 0,
    threads: int = 1,
    network: NetworkSizes = NetworkSizes(),  # noqa: B008 - frozen
    optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008 - frozen
    error: ErrorConfig = ErrorConfig(),  # noqa: B008 - frozen
    reference: ReferenceLabels = ReferenceLabels(),  # noqa: B008 - frozen
    report: ReportConfig = ReportConfig(),  # noqa: B008 - frozen
    command: str = "",
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train a property network on a table and write its weights, a model card and metrics.

    The same table, settings, seed and number of threads give the same weights on the same machine. The state of the
    global random generator does not change.

    Args:
        data: the table of crystals and which of its rows are used.
        out: file of the weights (``.pt``); the card (``.md``) and the metrics (``.json``) get the same name.
        property_name: name of the property, an identifier; it names a column of tables and a tag in TensorBoard. If
            null, the name is that of the label.
        unit: unit of the label.
        seed: seed of the split (if the table has no split), of the initial weights and of the order of the rows.
        threads: number of threads of torch during training.
        network: sizes of the networks of the ensemble.
        optimizer: how the networks of the ensemble are trained.
        error: the network that predicts the error of the ensemble.
        reference: which labels are reference values, and the weight of the other rows.
        report: groups of rows for which the model card lists errors.
        command: the command line, for the model card.
        log: called with each line of progress.

    Returns:
        the metrics, as in the JSON file.

    Raises:
        InputError: if the table or the settings cannot be used, or the outputs cannot be written. All of this is
            checked before training.
    """
    started = time.time()
    name = data.label if property_name is None else property_name
    check_property_name("property_name", name, (*CRYSTAL_COLUMNS, OXIDATION_STATES))
    _check_settings(out, seed, threads, network, optimizer, error, reference)
    outputs = {kind: out.with_suffix(suffix) for kind, suffix in (("card", ".md"), ("metrics", ".json"))}
    for path in (out, *outputs.values()):
        check_writable(path)
    split = split_table(data, seed, name)
    table = split.table
    check_report(reference, report, table)
    log(f"{data.path}: {', '.join(f'{len(split.rows[part])} {part}' for part in SPLITS)} rows ({split.split_by})")
    for reason, count in split.dropped.items():
        log(f"left out: {count} rows, {reason}")
    weight = _weights(data, network, reference, split)
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        # Initial weights and dropout masks come from the global generator; its state is restored afterwards.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = _fit(name, unit, seed, network, optimizer, error, reference, split, weight, log)
        model.eval().requires_grad_(False)
        seconds = time.time() - started
        model.about = {"seed": seed, "rows": len(split.rows["train"]), "label": data.label}
        model.save(out)
        # The metrics describe the network in the file, which is stored in half precision.
        model = PropertyNetwork.load(out, name)
        predictions = predict(model, split.table.crystals)
    finally:
        torch.set_num_threads(threads_before)
    metrics = write_report(
        reference,
        report,
        split,
        predictions,
        settings={
            "property": name,
            "unit": unit,
            "label": data.label,
            "table": data.path.name,
            "split": split.split_by,
            "volume_per_atom_limits": list(data.volume_per_atom),
            "label_limits": list(data.label_range) if data.label_range else None,
            "seed": seed,
            "threads": threads,
            "network": vars(network),
            "optimizer": vars(optimizer),
            "error": vars(error),
            "calibration": [round(x, 4) for x in model.calibration.tolist()],
            "command": command,
            "weights": out.name,
            "parameters": sum(p.numel() for p in model.parameters()),
            "seconds": round(seconds),
        },
        card=outputs["card"],
        metrics_path=outputs["metrics"],
    )
    log(f"wrote {out}, {outputs['card'].name}, {outputs['metrics'].name}")
    return metrics


def predict(model: PropertyNetwork, crystals: Crystals) -> Predictions:
    """Predictions for any number of crystals, in batches."""
    estimates, members = [], []
    with torch.no_grad():
        for start in range(0, len(crystals), EVALUATION_BATCH):
            part = crystals[slice(start, start + EVALUATION_BATCH)]
            estimates.append(model(part))
            members.append(model.outputs(part).disagreement)
    return Predictions(
        value=torch.cat([e.value for e in estimates]),
        uncertainty=torch.cat([e.uncertainty for e in estimates]),
        disagreement=torch.cat(members),
        not_zero=torch.cat([e.not_zero for e in estimates]) if model.sizes.zero_share else None,
    )


def _fit(
    name: str,
    unit: str,
    seed: int,
    network: NetworkSizes,
    optimizer: OptimizerConfig,
    error: ErrorConfig,
    reference: ReferenceLabels,
    split: SplitTable,
    weight: Tensor,
    log: Callable[[str], None],
) -> PropertyNetwork:
    """Make and train a network."""
    table, train, val = split.table, split.rows["train"], split.rows["val"]
    assert table.labels is not None
    target = table.labels.float()
    model = PropertyNetwork.for_data(
        network,
        error.sizes(network),
        table.crystals[train],
        target[train],
        optimizer.min_prototype_rows,
        name,
        unit,
    )
    # Errors are reported, and uncertainties calibrated, on reference rows, unless there are none.
    exact = reference.rows(table)
    judged = val[exact[val]] if bool(exact[val].any()) else val
    fit_ensemble(model, table.crystals, target, weight, train, judged, optimizer, seed, log)
    # Errors are those of the members in the file. The seed makes them independent of earlier random numbers.
    model.eval().round_weights()
    torch.manual_seed(seed)
    fit_errors(model, table.crystals, target, weight, train, judged, error, optimizer, seed, log)
    return model


def _weights(data: DataConfig, network: NetworkSizes, reference: ReferenceLabels, split: SplitTable) -> Tensor:
    """(n,) weight of each usable row in the loss.

    Raises:
        InputError: if all training rows have the weight 0, or ``zero_share`` is true and no label, or each label, is 0.
    """
    weight = torch.where(reference.rows(split.table), 1.0, reference.other_weight)
    train = split.rows["train"]
    if not bool((weight[train] > 0).any()):
        raise InputError(
            f"{data.path}: no training row has a weight above 0: no row has {reference.column} = {reference.value}"
        )
    assert split.table.labels is not None
    zeros = split.table.labels[train] == 0
    if network.zero_share and bool(zeros.all() | ~zeros.any()):
        found = "nothing but zeros" if bool(zeros.all()) else "no exact zero"
        raise InputError(
            f"network.zero_share: true is not allowed; the column {data.label} of {data.path} has {found} in training"
        )
    return weight


def _check_settings(
    out: Path,
    seed: int,
    threads: int,
    network: NetworkSizes,
    optimizer: OptimizerConfig,
    error: ErrorConfig,
    reference: ReferenceLabels,
) -> None:
    """Raise an error that names the field, for settings that cannot be used."""
    if out.suffix != ".pt":
        raise InputError(f"out: {out} must end in .pt")
    limits: list[tuple[str, float, float, float]] = [
        ("seed", seed, 0, 2**31),
        ("threads", threads, 1, 1024),
        ("network.members", network.members, 1, 64),
        ("network.embedding", network.embedding, 1, 1024),
        ("network.rounds", network.rounds, 0, 8),
        ("network.hidden", network.hidden, 1, 4096),
        ("network.layers", network.layers, 0, 16),
        ("network.prototype", network.prototype, 1, 256),
        ("network.dropout", network.dropout, 0, 0.9),
        ("optimizer.epochs", optimizer.epochs, 1, 10_000),
        ("optimizer.min_steps", optimizer.min_steps, 1, 1_000_000),
        ("optimizer.batch_size", optimizer.batch_size, 1, 100_000),
        ("optimizer.learning_rate", optimizer.learning_rate, 1e-8, 1),
        ("optimizer.final_learning_rate", optimizer.final_learning_rate, 0, 1),
        ("optimizer.weight_decay", optimizer.weight_decay, 0, 10),
        ("optimizer.loss_beta", optimizer.loss_beta, 0, 10),
        ("optimizer.average", optimizer.average, 0, 0.99999),
        ("optimizer.feature_noise", optimizer.feature_noise, 0, 1),
        ("optimizer.prototype_dropout", optimizer.prototype_dropout, 0, 1),
        ("optimizer.min_prototype_rows", optimizer.min_prototype_rows, 1, 1_000_000),
        ("reference.other_weight", reference.other_weight, 0, 1000),
        ("optimizer.gradient_clip", optimizer.gradient_clip, 1e-6, 1e6),
        ("optimizer.zero_loss", optimizer.zero_loss, 1e-6, 1000),
        ("error.folds", error.folds, 2, 100),
        ("error.epochs", error.epochs, 1, 10_000),
        ("error.learning_rate", error.learning_rate, 1e-8, 1),
        ("error.embedding", error.embedding, 1, 1024),
        ("error.hidden", error.hidden, 1, 4096),
        ("error.dropout", error.dropout, 0, 0.9),
        ("error.prototype_dropout", error.prototype_dropout, 0, 1),
    ]
    for name, value, lowest, highest in limits:
        between(name, value, lowest, highest)
