"""Training a property network on a table of crystals.

`train_proxy` is behind ``crystalgfn train-proxy``. It reads and checks the table, leaves out odd training rows and says
which, trains the members of the ensemble one after the other, and writes the weights, a model card and the metrics.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from crystalgfn.crystals import Crystals
from crystalgfn.errors import InputError
from crystalgfn.proxies.fitting import EVALUATION_BATCH, OptimizerConfig, fit_ensemble
from crystalgfn.proxies.model_card import ReferenceConfig, ReportConfig, check_report, write_report
from crystalgfn.proxies.networks import NetworkSizes
from crystalgfn.proxies.property_network import PropertyNetwork
from crystalgfn.tables import CrystalTable, check_writable, read_table

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class DataConfig:
    """The table and which of its rows are used.

    Attributes:
        path: CSV or parquet file with columns formula, space_group, a, b, c, alpha, beta, gamma and the label.
        label: column with the property to learn.
        split: column with train, val or test; where the table has none, rows are split by reduced formula.
        bad_rows: stop at the first row that cannot be read, or skip such rows and count them.
        volume_per_atom: lowest and highest volume per atom [Å³] of a training row.
        label_range: lowest and highest label of a training row; no limits if null.
    """

    path: Path
    label: str = "formation_energy"
    split: str = "split"
    bad_rows: Literal["error", "skip"] = "error"
    volume_per_atom: tuple[float, float] = (4.0, 150.0)
    label_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class SplitTable:
    """The usable rows of a table, by split, and how many rows were left out for which reason."""

    table: CrystalTable
    rows: dict[str, Tensor]
    dropped: dict[str, int] = field(default_factory=dict)
    split_by: str = ""


def train_proxy(
    data: DataConfig,
    out: Path,
    property_name: str = "formation_energy",
    unit: str = "eV/atom",
    seed: int = 0,
    threads: int = 1,
    network: NetworkSizes = NetworkSizes(),  # noqa: B008 - frozen
    optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008 - frozen
    reference: ReferenceConfig = ReferenceConfig(),  # noqa: B008 - frozen
    report: ReportConfig = ReportConfig(),  # noqa: B008 - frozen
    command: str = "",
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train a property network on a table and write its weights, a model card and metrics.

    The same table, settings, seed and number of threads on the same machine give the same weights. Draws nothing from
    the global random generator.

    Args:
        data: the table and which of its rows are used.
        out: file of the weights (``.pt``); the card (``.md``) and the metrics (``.json``) get the same name.
        property_name: name of the property; `FormationEnergy` accepts weights for ``formation_energy`` only.
        unit: unit of the label.
        seed: seeds the split (where the table has none), the initial weights and the order of the rows.
        threads: threads of torch while training.
        network: sizes of the network.
        optimizer: how it is trained.
        reference: which labels are reference values, and what the other rows weigh.
        report: what the model card tells apart.
        command: the command line, for the model card.
        log: takes each line of progress.

    Returns:
        the metrics, as in the JSON file.

    Raises:
        InputError: for a table or settings that cannot be used, or outputs that cannot be written; all of it is
            checked before training.
    """
    started = time.time()
    _check_settings(out, seed, threads, network, optimizer, reference)
    outputs = {kind: out.with_suffix(suffix) for kind, suffix in (("card", ".md"), ("metrics", ".json"))}
    for path in (out, *outputs.values()):
        check_writable(path)
    split = split_table(data, seed)
    table = split.table
    check_report(reference, report, table)
    log(f"{data.path}: {', '.join(f'{len(split.rows[name])} {name}' for name in SPLITS)} rows ({split.split_by})")
    for reason, count in split.dropped.items():
        log(f"left out: {count} rows, {reason}")
    assert table.labels is not None
    train = split.rows["train"]
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        # Layers draw their initial weights and dropout masks from the global generator: lend it to this run only.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            target = table.labels.float()
            model = PropertyNetwork.for_data(
                network,
                table.crystals[train],
                target[train],
                optimizer.min_prototype_rows,
                property_name,
                unit,
            )
            exact = reference.rows(table)
            weight = torch.where(exact, 1.0, reference.other_weight)
            if not bool((weight[train] > 0).any()):
                raise InputError(
                    f"{data.path}: no training row has a weight: none is {reference.column} = {reference.value}"
                )
            val = split.rows["val"]
            # Epochs are judged on reference rows, unless there are none.
            judged = val[exact[val]] if bool(exact[val].any()) else val
            fit_ensemble(model, table.crystals, target, weight, train, judged, optimizer, seed, log)
        model.eval().requires_grad_(False)
        seconds = time.time() - started
        model.about = {"seed": seed, "rows": len(train), "label": data.label}
        model.save(out)
        # Metrics are those of the file: what is read back went through half precision.
        model = PropertyNetwork.load(out, property_name)
        predictions = predict(model, table.crystals)
    finally:
        torch.set_num_threads(threads_before)
    metrics = write_report(
        reference,
        report,
        split.table,
        split.rows,
        split.dropped,
        predictions,
        settings={
            "property": property_name,
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


def split_table(data: DataConfig, seed: int) -> SplitTable:
    """Read a table and split its usable rows.

    Rows of the validation and test split are never filtered by volume or label, so that errors are not flattered.

    Raises:
        InputError: if the table cannot be used or a split has no rows.
    """
    table = read_table(data.path, label=data.label, strict=data.bad_rows == "error")
    dropped: Counter[str] = Counter(f"{p.column} {p.what}" for p in table.problems if p is not None)
    if len(table.rows) < 3:
        raise InputError(f"{data.path}: {len(table.rows)} usable rows; at least 3 are needed ({dict(dropped)})")
    if data.split in table.frame.columns:
        names = table.frame[data.split].iloc[table.rows.tolist()].tolist()
        unknown = sorted({str(name) for name in names if name not in SPLITS})
        if unknown:
            raise InputError(
                f"{data.path}: column {data.split}: unknown split(s) {', '.join(map(repr, unknown[:5]))}; "
                f"allowed: {', '.join(SPLITS)}"
            )
        split_by = f"column {data.split!r} of the table"
    else:
        names = split_by_formula(table.crystals, seed)
        split_by = f"80/10/10 by reduced formula with seed {seed}"
    rows = {name: torch.tensor([i for i, n in enumerate(names) if n == name], dtype=torch.int64) for name in SPLITS}
    assert table.labels is not None
    rows["train"] = _filter(data, table.crystals, table.labels, rows["train"], dropped)
    for name in ("train", "val"):
        if not len(rows[name]):
            raise InputError(f"{data.path}: no usable row in the split {name!r} (left out: {dict(dropped) or 'none'})")
    return SplitTable(table, rows, dict(dropped), split_by)


def split_by_formula(crystals: Crystals, seed: int) -> list[str]:
    """A split for each crystal: 80 % train, 10 % val, 10 % test of the reduced formulas.

    Raises:
        InputError: if there are fewer than 3 reduced formulas.
    """
    keys = []
    for row in crystals.counts.tolist():
        divisor = math.gcd(*row)
        keys.append(tuple((z, count // divisor) for z, count in enumerate(row) if count))
    unique = sorted(set(keys))
    if len(unique) < 3:
        raise InputError(f"{len(unique)} different reduced formulas; a split into {', '.join(SPLITS)} needs at least 3")
    held_out = max(1, round(0.1 * len(unique)))
    order = torch.randperm(len(unique), generator=torch.Generator().manual_seed(seed)).tolist()
    place = {unique[index]: number for number, index in enumerate(order)}
    return ["val" if place[k] < held_out else "test" if place[k] < 2 * held_out else "train" for k in keys]


def predict(model: PropertyNetwork, crystals: Crystals) -> Tensor:
    """(members, n) predictions for any number of crystals, in batches."""
    with torch.no_grad():
        starts = range(0, len(crystals), EVALUATION_BATCH)
        return torch.cat([model(crystals[slice(s, s + EVALUATION_BATCH)]) for s in starts], dim=1)


def _filter(data: DataConfig, crystals: Crystals, labels: Tensor, rows: Tensor, dropped: Counter[str]) -> Tensor:
    """Training rows within the limits; the others are counted."""
    lowest, highest = data.volume_per_atom
    volume = (crystals.volume / crystals.n_atoms)[rows]
    good = (volume >= lowest) & (volume <= highest)
    if not bool(good.all()):
        dropped[f"training rows with a volume per atom outside of {lowest:g} to {highest:g} Å³"] += int((~good).sum())
    rows = rows[good]
    if data.label_range is not None:
        lowest, highest = data.label_range
        good = (labels[rows] >= lowest) & (labels[rows] <= highest)
        if not bool(good.all()):
            dropped[f"training rows with a label outside of {lowest:g} to {highest:g}"] += int((~good).sum())
        rows = rows[good]
    return rows


def _check_settings(
    out: Path, seed: int, threads: int, network: NetworkSizes, optimizer: OptimizerConfig, reference: ReferenceConfig
) -> None:
    """Refuse settings that cannot work, with the name of the field."""
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
    ]
    for name, value, lowest, highest in limits:
        if not lowest <= value <= highest:
            raise InputError(f"{name}: {value} is not allowed; allowed: {lowest:g} to {highest:g}")
