"""What is reported of a trained property network: errors by group of rows, as JSON and as a model card."""

from __future__ import annotations

import json
import math
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from crystalgfn.crystallography.elements import atomic_numbers
from crystalgfn.errors import InputError
from crystalgfn.tables import CrystalTable, atomic_path

if TYPE_CHECKING:
    import pandas as pd

VOLUME_PERCENTILES = (0.1, 0.5, 1, 5, 50, 95, 99, 99.5, 99.9)
LABEL_PERCENTILES = (5, 50)

LIMITS = """\
- The network sees composition, space group and cell, no atomic positions: two crystals that differ in positions only
  get one value.
- It is trained on relaxed cells. It does not know that a strained cell has a higher energy: features of a cell
  are saturated at the range of the training rows, and the prediction at the range of their labels. A prediction
  for a cell outside of that range is that for a cell at its edge. Look at the volume per atom before you trust it.
- Elements, space groups and prototypes (space group and counts) without training rows are described by their
  properties and classes only.
- The spread of the members shows how well they agree; it is smaller than the error and no error bar."""


@dataclass(frozen=True)
class ReferenceConfig:
    """Which labels are reference values; the others are known less exactly or come from another population.

    Attributes:
        column: column that says so; null if all labels are reference values.
        value: value of that column in reference rows; headline errors are those of these rows.
        other_weight: weight of any other row in the training loss, where a reference row weighs 1.
    """

    column: str | None = None
    value: str = "exact"
    other_weight: float = 1.0

    def rows(self, table: CrystalTable) -> Tensor:
        """(k,) bool, which of the usable rows of a table have reference labels."""
        if self.column is None:
            return torch.ones(len(table.rows), dtype=torch.bool)
        values = table.frame[self.column].iloc[table.rows.tolist()]
        return torch.tensor((values == self.value).tolist(), dtype=torch.bool)


@dataclass(frozen=True)
class ReportConfig:
    """What the model card tells apart.

    Attributes:
        group_columns: columns by whose values errors are listed.
        elements: errors and label percentiles are also given for crystals of these elements alone.
    """

    group_columns: tuple[str, ...] = ()
    elements: tuple[str, ...] = ()


def check_report(reference: ReferenceConfig, report: ReportConfig, table: CrystalTable) -> None:
    """Make sure that the card can be written, before training.

    Raises:
        InputError: for a column that the table does not have or an unknown element.
    """
    columns = [*report.group_columns, *([reference.column] if reference.column else [])]
    missing = [column for column in columns if column not in table.frame.columns]
    if missing:
        present = ", ".join(str(c) for c in table.frame.columns)
        raise InputError(f"reference, report: {table.path} has no column(s) {', '.join(missing)}; it has: {present}")
    unknown = [symbol for symbol in report.elements if symbol not in atomic_numbers()]
    if unknown:
        raise InputError(f"report.elements: unknown element(s) {', '.join(unknown)}")


def write_report(
    reference: ReferenceConfig,
    report: ReportConfig,
    table: CrystalTable,
    rows: dict[str, Tensor],
    dropped: dict[str, int],
    predictions: Tensor,
    settings: dict[str, Any],
    card: Path,
    metrics_path: Path,
) -> dict[str, Any]:
    """Write the metrics and the model card.

    Args:
        reference: which labels are reference values.
        report: what is told apart.
        table: the table with all usable rows.
        rows: indices of the rows of each split.
        dropped: rows left out, by reason.
        predictions: (members, n) predictions for the usable rows.
        settings: settings of the training, as plain values.
        card: Markdown file to write.
        metrics_path: JSON file to write.

    Returns:
        the metrics.
    """
    metrics = {
        "settings": settings,
        "rows": {name: len(index) for name, index in rows.items()},
        "dropped": dropped,
        "machine": f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}",
        "errors": {name: errors(reference, report, table, rows[name], predictions) for name in ("val", "test")},
        "volume_per_atom_percentiles": _percentiles(
            (table.crystals.volume / table.crystals.n_atoms)[rows["train"]], VOLUME_PERCENTILES
        ),
        "label_percentiles": label_percentiles(report, table, rows["val"]),
    }
    with atomic_path(metrics_path) as temporary:
        temporary.write_text(json.dumps(metrics, indent=1) + "\n")
    with atomic_path(card) as temporary:
        temporary.write_text(model_card(metrics, reference, report))
    return metrics


def errors(
    reference: ReferenceConfig, report: ReportConfig, table: CrystalTable, rows: Tensor, predictions: Tensor
) -> dict[str, Any]:
    """Errors of the ensemble on some rows, by group.

    Returns:
        for each group of rows: n, mae, rmse and bias of the ensemble's mean, the mean spread of its members and the
        correlation of spread and absolute error; ``members`` lists the MAE of each member on the reference rows.
    """
    assert table.labels is not None
    labels = table.labels[rows]
    mean, spread = predictions[:, rows].mean(0), predictions[:, rows].std(0, correction=0)
    frame = table.frame.iloc[table.rows[rows].tolist()]
    exact = reference.rows(table)[rows]
    groups: dict[str, Tensor] = {"all rows": torch.ones(len(rows), dtype=torch.bool)}
    if reference.column is not None:
        groups["reference rows"] = exact
        groups |= {f"{reference.column} = {value}": mask for value, mask in _by_value(frame, reference.column).items()}
        groups.pop(f"{reference.column} = {reference.value}", None)
    for column in report.group_columns:
        groups |= {f"reference, {column} = {v}": exact & mask for v, mask in _by_value(frame, column).items()}
    if report.elements:
        groups["reference, chosen elements only"] = exact & _within(report, table, rows)
    result: dict[str, Any] = {}
    for name, mask in groups.items():
        if bool(mask.any()):
            result[name] = _errors(mean[mask], spread[mask], labels[mask])
    result["members"] = [float((p[rows] - labels)[exact].abs().mean()) for p in predictions]
    return result


def label_percentiles(report: ReportConfig, table: CrystalTable, rows: Tensor) -> dict[str, Any]:
    """Percentiles of the label over some rows, all and those of the chosen elements."""
    assert table.labels is not None
    result = {"all rows": _percentiles(table.labels[rows], LABEL_PERCENTILES)}
    within = rows[_within(report, table, rows)] if report.elements else rows[:0]
    if len(within):
        result["chosen elements only"] = _percentiles(table.labels[within], LABEL_PERCENTILES) | {"n": len(within)}
    return result


def model_card(metrics: dict[str, Any], reference: ReferenceConfig, report: ReportConfig) -> str:
    """The model card, in Markdown."""
    settings = metrics["settings"]
    unit = settings["unit"]
    lines = [
        f"# {settings['property']} [{unit}]",
        "",
        f"Ensemble of {settings['network']['members']} networks from composition, space group and cell; "
        f"{settings['parameters']:,} parameters. Written by `crystalgfn train-proxy`.",
        "",
        "## Training",
        f"- Table: `{settings['table']}`, label `{settings['label']}`; split: {settings['split']}.",
        f"- Rows: {', '.join(f'{n} {name}' for name, n in metrics['rows'].items())}.",
        *[f"- Left out: {count} rows, {reason}." for reason, count in metrics["dropped"].items()],
        f"- Training rows have a volume per atom of {' to '.join(map(str, settings['volume_per_atom_limits']))} Å³; "
        "validation and test rows are not filtered.",
        *(
            [f"- Weight in the loss: 1 for reference rows, {reference.other_weight:g} for the others."]
            if reference.column
            else []
        ),
        f"- Network: {_settings(settings['network'])}.",
        f"- Optimizer: {_settings(settings['optimizer'])}.",
        *([f"- Command: `{settings['command']}`."] if settings["command"] else []),
        f"- Seed {settings['seed']}; {settings['seconds']} s with {settings['threads']} thread(s); "
        f"{metrics['machine']}.",
        "",
        f"## Errors [{unit}]",
        "",
    ]
    for split, title in (("test", "Test rows"), ("val", "Validation rows")):
        lines += [
            f"{title}:",
            "",
            "| rows | n | MAE | RMSE | mean error | spread of members |",
            "|---|--:|--:|--:|--:|--:|",
        ]
        for name, e in metrics["errors"][split].items():
            if name != "members":
                lines.append(
                    f"| {name} | {e['n']} | {e['mae']:.4f} | {e['rmse']:.4f} | {e['bias']:+.4f} | {e['spread']:.4f} |"
                )
        single = ", ".join(f"{value:.4f}" for value in metrics["errors"][split]["members"])
        lines += ["", f"MAE of the single members on the reference rows: {single}.", ""]
    if reference.column:
        lines += [f"Reference rows: those with `{reference.column}` = {reference.value}.", ""]
    if report.elements:
        lines += [f"Chosen elements: {' '.join(report.elements)}.", ""]
    lines += [
        "## Training range",
        f"Volume per atom [Å³] of the training rows, percentiles: {_list(metrics['volume_per_atom_percentiles'])}.",
        "",
        f"Label [{unit}] of the validation rows, percentiles: "
        + "; ".join(f"{name}: {_list(values)}" for name, values in metrics["label_percentiles"].items())
        + ".",
        "",
        "## Limits",
        LIMITS,
        "",
    ]
    return "\n".join(lines)


def _by_value(frame: pd.DataFrame, column: str) -> dict[str, Tensor]:
    """Mask of the rows with each value of a column, missing values left out."""
    values = frame[column].dropna().astype(str).unique()
    return {v: torch.tensor((frame[column].astype(str) == v).tolist(), dtype=torch.bool) for v in sorted(values)}


def _errors(mean: Tensor, spread: Tensor, labels: Tensor) -> dict[str, float]:
    error = mean - labels
    together = torch.stack([spread.double(), error.abs().double()])
    correlation = float(torch.corrcoef(together)[0, 1]) if len(labels) > 2 else float("nan")
    return {
        "n": len(labels),
        "mae": float(error.abs().mean()),
        "rmse": float(error.square().mean().sqrt()),
        "bias": float(error.mean()),
        "spread": float(spread.mean()),
        "spread_error_correlation": 0.0 if math.isnan(correlation) else correlation,
    }


def _within(report: ReportConfig, table: CrystalTable, rows: Tensor) -> Tensor:
    """Mask of the rows whose elements are all among the chosen ones."""
    others = torch.ones(table.crystals.counts.shape[1], dtype=torch.bool)
    others[[atomic_numbers()[symbol] - 1 for symbol in report.elements]] = False
    return table.crystals.counts[rows][:, others].sum(1) == 0


def _percentiles(values: Tensor, percentiles: tuple[float, ...]) -> dict[str, float]:
    import numpy as np

    return {f"{p:g}": round(float(np.percentile(values.numpy(), p)), 4) for p in percentiles}


def _list(values: dict[str, float]) -> str:
    return ", ".join(f"{key}: {value:g}" for key, value in values.items())


def _settings(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
