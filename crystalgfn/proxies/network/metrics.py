"""Errors of a trained property network for groups of rows, and how well its uncertainty predicts them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from crystalgfn.checks import listed
from crystalgfn.crystal.crystallography.elements import atomic_numbers
from crystalgfn.crystal.tables import CrystalTable
from crystalgfn.errors import InputError
from crystalgfn.gflownet.metrics.likelihood import pearson, ranks

if TYPE_CHECKING:
    import pandas as pd

LABEL_PERCENTILES = (5, 50)


@dataclass(frozen=True)
class ReferenceLabels:
    """Which labels are reference values; other labels are less exact, or belong to another kind of crystals.

    Attributes:
        column: column that marks reference values; null if all labels are reference values.
        value: value of this column in reference rows; the main errors of the model card are those of reference rows.
        other_weight: weight of every other row in the training loss; a reference row has the weight 1.
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
    """Groups of rows for which the model card lists errors.

    Attributes:
        group_columns: columns of the table; errors are listed for each of their values.
        elements: errors and label percentiles are also listed for the crystals that contain only these elements.
    """

    group_columns: tuple[str, ...] = ()
    elements: tuple[str, ...] = ()


def check_report(reference: ReferenceLabels, report: ReportConfig, table: CrystalTable) -> None:
    """Check, before training, that the model card can be written.

    Args:
        reference: which labels are reference values.
        report: the groups of rows for which errors are listed.
        table: the table.

    Raises:
        InputError: if the table does not have a column, or an element is unknown.
    """
    columns = [*report.group_columns, *([reference.column] if reference.column else [])]
    missing = [column for column in columns if column not in table.frame.columns]
    if missing:
        raise InputError(
            f"reference, report: {table.path} has no column(s) {listed(missing)}; it has: {listed(table.frame.columns)}"
        )
    unknown = [symbol for symbol in report.elements if symbol not in atomic_numbers()]
    if unknown:
        raise InputError(
            f"report.elements: unknown element(s) {', '.join(unknown)}; allowed: symbols of the elements 1 to 94"
        )


@dataclass(frozen=True)
class Predictions:
    """Predictions for the usable rows of a table.

    Attributes:
        value: (n,) the property.
        uncertainty: (n,) expected absolute error of the property.
        disagreement: (n,) disagreement of the members of the ensemble.
        not_zero: (n,) probability that the property is not exactly zero; None for a network without ``zero_share``.
    """

    value: Tensor
    uncertainty: Tensor
    disagreement: Tensor
    not_zero: Tensor | None

    def __getitem__(self, rows: Tensor) -> Predictions:
        return Predictions(
            self.value[rows],
            self.uncertainty[rows],
            self.disagreement[rows],
            None if self.not_zero is None else self.not_zero[rows],
        )


def errors(
    reference: ReferenceLabels, report: ReportConfig, table: CrystalTable, rows: Tensor, predictions: Predictions
) -> dict[str, dict[str, float]]:
    """Errors on some rows, for groups of these rows.

    Args:
        reference: which labels are reference values.
        report: the groups of rows.
        table: the table.
        rows: indices of some usable rows.
        predictions: predictions for all usable rows.

    Returns:
        for each group of rows: number of rows ``n``; ``mae``, ``rmse`` and ``bias`` (mean error); the mean
        ``uncertainty``, the mean ``disagreement`` of the members, and the rank correlation (Spearman) of each of these
        two with the absolute error. For a network with ``zero_share`` also: number ``n_not_zero`` and ``mae_not_zero``
        of the rows whose label is not zero, and ``auroc``, the area under the ROC curve for the distinction of these
        rows from the others.
    """
    assert table.labels is not None
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
    labels, chosen = table.labels[rows], predictions[rows]
    return {name: _errors(chosen[mask], labels[mask]) for name, mask in groups.items() if bool(mask.any())}


def calibration(
    reference: ReferenceLabels, table: CrystalTable, rows: Tensor, predictions: Predictions
) -> list[dict[str, float]]:
    """Mean uncertainty and MAE of the reference rows, in five groups of equal size by uncertainty.

    Args:
        reference: which labels are reference values.
        table: the table.
        rows: indices of some usable rows; reference rows among them are used.
        predictions: predictions for all usable rows.

    Returns:
        ``uncertainty`` and ``mae`` of each group, from low to high uncertainty; empty for fewer than 50 rows.
    """
    assert table.labels is not None
    rows = rows[reference.rows(table)[rows]]
    if len(rows) < 50:
        return []
    order = rows[predictions.uncertainty[rows].argsort()]
    size = (predictions.value.double() - table.labels).abs()
    return [
        {"uncertainty": float(predictions.uncertainty[part].mean()), "mae": float(size[part].mean())}
        for part in order.tensor_split(5)
    ]


def label_percentiles(report: ReportConfig, table: CrystalTable, rows: Tensor) -> dict[str, Any]:
    """Percentiles of the label over some rows, and over those of them that contain only the chosen elements."""
    assert table.labels is not None
    result = {"all rows": percentiles(table.labels[rows], LABEL_PERCENTILES)}
    within = rows[_within(report, table, rows)] if report.elements else rows[:0]
    if len(within):
        result["chosen elements only"] = percentiles(table.labels[within], LABEL_PERCENTILES) | {"n": len(within)}
    return result


def _by_value(frame: pd.DataFrame, column: str) -> dict[str, Tensor]:
    """Mask of the rows for each value of a column; missing values are left out."""
    values = frame[column].dropna().astype(str).unique()
    return {v: torch.tensor((frame[column].astype(str) == v).tolist(), dtype=torch.bool) for v in sorted(values)}


def _errors(predictions: Predictions, labels: Tensor) -> dict[str, float]:
    """Errors of one group; a rank correlation or area that is not defined for the rows is left out."""
    error = predictions.value.double() - labels
    size = error.abs()
    result = {
        "n": len(labels),
        "mae": float(size.mean()),
        "rmse": float(error.square().mean().sqrt()),
        "bias": float(error.mean()),
        "uncertainty": float(predictions.uncertainty.mean()),
        "disagreement": float(predictions.disagreement.mean()),
    }
    for name in ("uncertainty", "disagreement"):
        result |= _defined(f"{name}_spearman", _spearman(getattr(predictions, name), size))
    if predictions.not_zero is not None:
        from torchmetrics.functional.classification import binary_auroc

        other = labels != 0
        result["n_not_zero"] = int(other.sum())
        if bool(other.any()):
            result["mae_not_zero"] = float(size[other].mean())
        if bool(other.any() & ~other.all()):
            result["auroc"] = float(binary_auroc(predictions.not_zero, other.long()))
    return result


def _spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation of two vectors; ties get their mean rank; NaN if the correlation is not defined."""
    return float(pearson(ranks(a), ranks(b))) if len(a) > 2 else float("nan")


def _defined(name: str, value: float) -> dict[str, float]:
    return {} if math.isnan(value) else {name: value}


def _within(report: ReportConfig, table: CrystalTable, rows: Tensor) -> Tensor:
    """Mask of the rows whose elements are all among the chosen ones."""
    others = torch.ones(table.crystals.counts.shape[1], dtype=torch.bool)
    others[[atomic_numbers()[symbol] - 1 for symbol in report.elements]] = False
    return table.crystals.counts[rows][:, others].sum(1) == 0


def percentiles(values: Tensor, chosen: tuple[float, ...]) -> dict[str, float]:
    """Chosen percentiles of values (n,), rounded to 4 decimal places."""
    import numpy as np

    return {f"{p:g}": round(float(np.percentile(values.numpy(), p)), 4) for p in chosen}
