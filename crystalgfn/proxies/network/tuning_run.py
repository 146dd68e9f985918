"""Fine-tuning of a property network from tables.

``crystalgfn tune-proxy`` calls `tune_proxy`. It reads the new rows and the old table, holds out a share of the new
reduced formulas, and tunes the network. It writes the weights, a card and the metrics. The metrics are errors before
and after tuning, on the new rows that were held out and on the test rows of the old table.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from crystalgfn.checks import between, quoted
from crystalgfn.crystal.tables import CrystalTable, read_table
from crystalgfn.errors import InputError
from crystalgfn.files import atomic_path, check_writable, read_numbers
from crystalgfn.proxies.formation_energy import SHIPPED_WEIGHTS
from crystalgfn.proxies.network.metrics import ReferenceLabels, ReportConfig, check_report, errors
from crystalgfn.proxies.network.model_card import LIMITS, error_table, settings_text
from crystalgfn.proxies.network.property_network import PropertyNetwork
from crystalgfn.proxies.network.splits import DataConfig, SplitTable, reduced_formulas, split_table
from crystalgfn.proxies.network.training import predict
from crystalgfn.proxies.network.tuning import TuningConfig, tune

WEIGHT, ERROR_BEFORE = "weight", "error_before"
"""Optional columns of the new rows: weight in the loss, and absolute error of a prediction made before training."""

SHIPPED = "shipped"
"""Name of the default shipped weights of `FormationEnergy`."""


@dataclass(frozen=True)
class OldTable:
    """The table that the network was trained on.

    Attributes:
        path: CSV or parquet file; if null, the network is trained to keep its predictions for made-up crystals.
        label: column with the property; if null, the name of the network's property.
        split: column with train, val or test; if the table has no such column, rows are split by reduced formula.
        bad_rows: what to do with rows that cannot be read: stop at the first one (``error``), or skip and count them
            (``skip``).
        volume_per_atom: lowest and highest volume per atom [Å³] of a training row.
        label_range: lowest and highest label of a training row; no limits if null.
    """

    path: Path | None = None
    label: str | None = None
    split: str = "split"
    bad_rows: Literal["error", "skip"] = "skip"
    volume_per_atom: tuple[float, float] = (4.0, 150.0)
    label_range: tuple[float, float] | None = None


def tune_proxy(
    new: Path,
    out: Path,
    weights: str = SHIPPED,
    label: str | None = None,
    test_share: float = 0.1,
    seed: int = 0,
    threads: int = 1,
    data: OldTable = OldTable(),
    tuning: TuningConfig = TuningConfig(),  # noqa: B008 - frozen
    reference: ReferenceLabels = ReferenceLabels(),  # noqa: B008 - frozen
    report: ReportConfig = ReportConfig(),  # noqa: B008 - frozen
    new_groups: tuple[str, ...] = (),
    command: str = "",
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Fine-tune a property network and write its weights, a card and metrics.

    The same tables, settings, seed and number of threads give the same weights on the same machine. The state of the
    global random generator does not change.

    Args:
        new: table of new rows: crystals, the label, and optionally ``weight`` (in the loss) and ``error_before``
            (absolute error of a prediction made before the row was trained on; empty if it is not known). Without the
            column ``error_before``, the errors of the network before tuning are used.
        out: file of the weights (``.pt``); the card (``.md``) and the metrics (``.json``) get the same name.
        weights: file of the network to start from, or ``shipped`` for the shipped network of the formation energy.
        label: column of the new rows with the property; if null, the name of the network's property.
        test_share: share of the reduced formulas of the new rows that are held out to measure errors; 0 for none.
        seed: seed of the held-out formulas, of the bootstraps, of the order of the rows, and of the split of the old
            table (if the table has no split).
        threads: number of threads of torch.
        data: the table that the network was trained on.
        tuning: settings of the fine-tuning.
        reference: which labels of the old table are reference values. Other rows are trained on in the same way, but
            are not used for validation.
        report: groups of rows of the old table for which errors are listed.
        new_groups: columns of the new rows; errors are listed for each of their values.
        command: the command line, for the card.
        log: called with each line of progress.

    Returns:
        the metrics, as in the JSON file.

    Raises:
        InputError: if tables, weights or settings cannot be used, or outputs cannot be written. All of this is
            checked before training.
    """
    started = time.time()
    outputs = _check(out, test_share, seed, threads, tuning)
    network = PropertyNetwork.load(SHIPPED_WEIGHTS if weights == SHIPPED else Path(weights))
    name = network.property_name if label is None else label
    rows = read_table(new, label=name, quantity=network.property_name)
    assert rows.labels is not None
    new_report = ReportConfig(group_columns=new_groups)
    check_report(ReferenceLabels(), new_report, rows)
    weight, known = _numbers(rows)
    test = _held_out(rows, test_share, seed)
    old = None if data.path is None else _old_table(data, data.path, network, seed, reference, report)
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        before = predict(network, rows.crystals)
        mistakes = (before.value.double() - rows.labels).abs() if known is None else known
        train = (~test).nonzero()[:, 0]
        log(f"{new}: {len(train)} rows to train with, {int(test.sum())} held out; {_size(mistakes[train])}")
        train_rows = held_out = None
        if old is not None:
            assert old.table.labels is not None
            index, val = old.rows["train"], old.rows["val"]
            train_rows = old.table.crystals[index], old.table.labels[index]
            held_out = old.table.crystals[val], old.table.labels[val]
            log(f"{data.path}: {', '.join(f'{len(part)} {name}' for name, part in old.rows.items())} rows")
        model = tune(
            network, rows.crystals[train], rows.labels[train], weight[train], mistakes[train], train_rows, held_out,
            tuning, seed, log,
        )  # fmt: skip
        seconds = time.time() - started
        model.about = {**model.about, "tuned": {"rows": len(train), "seed": seed, "label": name}}
        measured: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
        if bool(test.any()):
            part = _rows_of(rows, test.nonzero()[:, 0])
            measured["new rows, held out"] = _before_and_after(network, model, ReferenceLabels(), new_report, part)
        if old is not None and len(old.rows["test"]):
            part = _rows_of(old.table, old.rows["test"])
            measured["old test rows"] = _before_and_after(network, model, reference, report, part)
    finally:
        torch.set_num_threads(threads_before)
    model.save(out)
    metrics = {
        "settings": {
            "property": network.property_name,
            "unit": network.unit,
            "new": new.name,
            "label": name,
            "weights_before": weights if weights == SHIPPED else Path(weights).name,
            "old_table": None if data.path is None else data.path.name,
            "test_share": test_share,
            "seed": seed,
            "threads": threads,
            "tuning": asdict(tuning),
            "calibration": [round(x, 4) for x in model.calibration.tolist()],
            "command": command,
            "seconds": round(seconds),
        },
        "rows": {"new": len(train), "new, held out": int(test.sum())}
        | ({} if old is None else {f"old {name}": len(part) for name, part in old.rows.items()}),
        "label_range": [round(x, 4) for x in model.label_range.tolist()],
        "machine": f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}",
        "errors": measured,
    }
    with atomic_path(outputs["metrics"]) as temporary:
        temporary.write_text(json.dumps(metrics, indent=1) + "\n")
    with atomic_path(outputs["card"]) as temporary:
        temporary.write_text(tuning_card(metrics))
    for kind, parts in measured.items():
        first, last = parts["before"]["all rows"], parts["after"]["all rows"]
        log(f"{kind}: MAE {first['mae']:.4f} before, {last['mae']:.4f} after {network.unit}".strip())
    log(f"wrote {out}, {outputs['card'].name}, {outputs['metrics'].name}")
    return metrics


def tuning_card(metrics: dict[str, Any]) -> str:
    """The card of a tuned network, in Markdown."""
    settings = metrics["settings"]
    unit = f" [{settings['unit']}]" if settings["unit"] else ""
    old = settings["old_table"]
    lines = [
        f"# {settings['property']}{unit}, tuned",
        "",
        "A trained network that was trained further on new rows. Written by `crystalgfn tune-proxy`.",
        "",
        "## Training",
        f"- Start: `{settings['weights_before']}`.",
        f"- New rows: `{settings['new']}`, label `{settings['label']}`.",
        f"- Old rows: `{old}`." if old else "- No old rows: trained to keep its predictions for made-up crystals.",
        f"- Rows: {', '.join(f'{n} {name}' for name, n in metrics['rows'].items())}.",
        f"- Settings: {settings_text(settings['tuning'])}.",
        f"- Predictions are limited to {metrics['label_range'][0]:g} to {metrics['label_range'][1]:g}{unit}.",
        f"- Calibration of the uncertainty: {', '.join(f'{x:g}' for x in settings['calibration'])}.",
        *([f"- Command: `{settings['command']}`."] if settings["command"] else []),
        f"- Seed {settings['seed']}; {settings['seconds']} s with {settings['threads']} thread(s); "
        f"{metrics['machine']}.",
        "",
        f"## Errors{unit}",
        "",
    ]
    for kind, parts in metrics["errors"].items():
        for when, groups in parts.items():
            lines += [f"{kind[0].upper()}{kind[1:]}, {when}:", "", *error_table(groups), ""]
    if not metrics["errors"]:
        lines += ["No rows were held out.", ""]
    return "\n".join([*lines, "## Limits", LIMITS, ""])


def _check(out: Path, test_share: float, seed: int, threads: int, tuning: TuningConfig) -> dict[str, Path]:
    """Raise an error that names the field, for settings that cannot be used.

    Returns:
        the files of the card and the metrics.
    """
    if out.suffix != ".pt":
        raise InputError(f"out: {out} must end in .pt")
    between("test_share", test_share, 0, 0.9)
    between("seed", seed, 0, 2**31)
    between("threads", threads, 1, 1024)
    tuning.check()
    outputs = {"card": out.with_suffix(".md"), "metrics": out.with_suffix(".json")}
    for path in (out, *outputs.values()):
        check_writable(path)
    return outputs


def _old_table(
    data: OldTable, path: Path, network: PropertyNetwork, seed: int, reference: ReferenceLabels, report: ReportConfig
) -> SplitTable:
    """The old table; only validation rows with reference labels are kept, unless there are none."""
    config = DataConfig(
        path, data.label or network.property_name, data.split, data.bad_rows, data.volume_per_atom, data.label_range
    )
    split = split_table(config, seed, network.property_name)
    check_report(reference, report, split.table)
    exact, val = reference.rows(split.table), split.rows["val"]
    judged = val[exact[val]] if bool(exact[val].any()) else val
    return replace(split, rows={**split.rows, "val": judged})


def _numbers(rows: CrystalTable) -> tuple[Tensor, Tensor | None]:
    """(n,) weights of the new rows and (n,) errors before training; None if there is no column of errors.

    Raises:
        InputError: if a value is not allowed; the message names the first row.
    """
    present = [column for column in (WEIGHT, ERROR_BEFORE) if column in rows.frame.columns]
    _, numbers = read_numbers(rows.path, present) if present else (None, torch.empty(len(rows.rows), 0))
    columns = dict(zip(present, numbers.T, strict=True))
    weight, known = columns.get(WEIGHT, torch.ones(len(rows.rows))), columns.get(ERROR_BEFORE)
    for column, bad, allowed in (
        (WEIGHT, ~(weight >= 0) | weight.isinf(), "a finite number, 0 or more"),
        (ERROR_BEFORE, torch.zeros(0) if known is None else (known < 0) | known.isinf(), "0 or more, or empty"),
    ):
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            raise InputError(
                f"{rows.path}: row {row + 1} (counted from 1, without the header), column {column}: value "
                f"{quoted(rows.frame[column].iloc[row])} is not allowed; allowed: {allowed}"
            )
    return weight, known


def _held_out(rows: CrystalTable, share: float, seed: int) -> Tensor:
    """(n,) bool, whether the reduced formula of a row is held out.

    Raises:
        InputError: if no row would be left to train with.
    """
    keys = reduced_formulas(rows.crystals)
    unique = sorted(set(keys))
    count = max(1, round(share * len(unique))) if share else 0
    if count >= len(unique):
        raise InputError(
            f"{rows.path}: {len(unique)} reduced formula(s) are too few to hold some out; test_share: 0 holds out none"
        )
    order = torch.randperm(len(unique), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen = {unique[place] for place in order[:count]}
    return torch.tensor([key in chosen for key in keys])


def _rows_of(table: CrystalTable, rows: Tensor) -> CrystalTable:
    """The table with only some of its usable rows."""
    assert table.labels is not None
    return replace(table, rows=table.rows[rows], crystals=table.crystals[rows], labels=table.labels[rows])


def _before_and_after(
    before: PropertyNetwork,
    after: PropertyNetwork,
    reference: ReferenceLabels,
    report: ReportConfig,
    table: CrystalTable,
) -> dict[str, dict[str, dict[str, float]]]:
    """Errors of two networks on the usable rows of a table, for groups of rows."""
    index = torch.arange(len(table.rows))
    return {
        name: errors(reference, report, table, index, predict(network, table.crystals))
        for name, network in (("before", before), ("after", after))
    }


def _size(mistakes: Tensor) -> str:
    """Mean and number of the known errors before training, as text."""
    known = mistakes[mistakes.isfinite()]
    if not len(known):
        return "no errors known"
    return f"mean error before {float(known.mean()):.4f} ({len(known)} known)"
