"""The model card of a trained property network, in Markdown, and its metrics, as JSON."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import torch

from crystalgfn.files import atomic_path
from crystalgfn.proxies.network.metrics import (
    Predictions,
    ReferenceLabels,
    ReportConfig,
    calibration,
    errors,
    label_percentiles,
    percentiles,
)
from crystalgfn.proxies.network.splits import SplitTable

VOLUME_PERCENTILES = (0.1, 0.5, 1, 5, 50, 95, 99, 99.5, 99.9)

LIMITS = """\
- The network uses composition, space group and cell, but no atomic positions: two crystals that differ only in atomic
  positions get the same value.
- It is trained on relaxed cells. Features of a cell are limited to the range of the training rows, and predictions to
  the range of their labels. A cell outside the range gets the prediction for a cell at the edge of the range, with an
  uncertainty that grows with the distance from the range; the rate of this growth is an assumption. Check the volume
  per atom before you trust a prediction.
- Elements, space groups and prototypes (space group and counts) without training rows are described only by their
  properties and classes.
- The uncertainty is the mean absolute error of similar crystals that were held out. It is calibrated on crystals from
  the same sources as the table. Errors can be larger for crystals that a generative model proposes."""


def write_report(
    reference: ReferenceLabels,
    report: ReportConfig,
    split: SplitTable,
    predictions: Predictions,
    settings: dict[str, Any],
    card: Path,
    metrics_path: Path,
) -> dict[str, Any]:
    """Write the metrics and the model card.

    Args:
        reference: which labels are reference values.
        report: the groups of rows for which errors are listed.
        split: the table with all usable rows, and their split.
        predictions: predictions for the usable rows.
        settings: settings of the training, as plain values.
        card: Markdown file to write.
        metrics_path: JSON file to write.

    Returns:
        the metrics.
    """
    table, rows = split.table, split.rows
    held_out = {name: rows[name] for name in ("val", "test") if len(rows[name])}
    metrics = {
        "settings": settings,
        "rows": {name: len(index) for name, index in rows.items()},
        "dropped": split.dropped,
        "machine": f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}",
        "errors": {name: errors(reference, report, table, index, predictions) for name, index in held_out.items()},
        "calibration": {name: calibration(reference, table, index, predictions) for name, index in held_out.items()},
        "volume_per_atom_percentiles": percentiles(
            (table.crystals.volume / table.crystals.n_atoms)[rows["train"]], VOLUME_PERCENTILES
        ),
        "label_percentiles": label_percentiles(report, table, rows["val"]),
    }
    with atomic_path(metrics_path) as temporary:
        temporary.write_text(json.dumps(metrics, indent=1) + "\n")
    with atomic_path(card) as temporary:
        temporary.write_text(model_card(metrics, reference, report))
    return metrics


def model_card(metrics: dict[str, Any], reference: ReferenceLabels, report: ReportConfig) -> str:
    """The model card, in Markdown."""
    settings = metrics["settings"]
    unit = f" [{settings['unit']}]" if settings["unit"] else ""
    zero_share = settings["network"]["zero_share"]
    lines = [
        f"# {settings['property']}{unit}",
        "",
        f"Ensemble of {settings['network']['members']} networks that use composition, space group and cell, and one "
        f"network that predicts the error; {settings['parameters']:,} parameters. Written by `crystalgfn train-proxy`.",
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
        f"- Network: {settings_text(settings['network'])}.",
        f"- Optimizer: {settings_text(settings['optimizer'])}.",
        f"- Error network: {settings_text(settings['error'])}; calibration (shift, exponent of its output, exponent of "
        f"the members' disagreement): {', '.join(f'{x:g}' for x in settings['calibration'])}.",
        *([f"- Command: `{settings['command']}`."] if settings["command"] else []),
        f"- Seed {settings['seed']}; {settings['seconds']} s with {settings['threads']} thread(s); "
        f"{metrics['machine']}.",
        "",
        f"## Errors{unit}",
        "",
    ]
    titles = {"test": "Test rows", "val": "Validation rows, which were used to calibrate the uncertainty"}
    for split in [name for name in titles if name in metrics["errors"]]:
        lines += [f"{titles[split]}:", "", *error_table(metrics["errors"][split]), ""]
        if zero_share:
            lines += ["Zero or not:", "", *_zero_table(metrics["errors"][split]), ""]
    if reference.column:
        lines += [f"Reference rows: those with `{reference.column}` = {reference.value}.", ""]
    if report.elements:
        lines += [f"Chosen elements: {' '.join(report.elements)}.", ""]
    lines += [
        "Uncertainty: the mean of the predicted absolute error; compare it with the MAE. Rank correlation (Spearman): "
        "of the uncertainty and the absolute error; in brackets, of the disagreement of the members and the absolute "
        "error.",
        "",
        *_calibration_lines(metrics, "reference rows" if reference.column else "rows", unit),
        "## Training range",
        f"Volume per atom [Å³] of the training rows, percentiles: {_list(metrics['volume_per_atom_percentiles'])}.",
        "",
        f"Label{unit} of the validation rows, percentiles: "
        + "; ".join(f"{name}: {_list(values)}" for name, values in metrics["label_percentiles"].items())
        + ".",
        "",
        "## Limits",
        LIMITS,
        "",
    ]
    return "\n".join(lines)


def error_table(groups: dict[str, dict[str, float]]) -> list[str]:
    """Lines of a Markdown table of errors.

    Args:
        groups: errors of groups of rows, from `crystalgfn.proxies.network.metrics.errors`.
    """
    lines = [
        "| rows | n | MAE | RMSE | mean error | uncertainty | rank correlation |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, e in groups.items():
        ranks = "–"
        if "uncertainty_spearman" in e:
            ranks = f"{e['uncertainty_spearman']:.2f} ({e.get('disagreement_spearman', 0.0):.2f})"
        lines.append(
            f"| {name} | {e['n']} | {e['mae']:.4f} | {e['rmse']:.4f} | {e['bias']:+.4f} | {e['uncertainty']:.4f} "
            f"| {ranks} |"
        )
    return lines


def _zero_table(groups: dict[str, dict[str, float]]) -> list[str]:
    lines = ["| rows | n | not zero | MAE of those not zero | ROC-AUC |", "|---|--:|--:|--:|--:|"]
    for name, e in groups.items():
        numbers = [f"{e[key]:.4f}" if key in e else "–" for key in ("mae_not_zero", "auroc")]
        lines.append(f"| {name} | {e['n']} | {e['n_not_zero']} | {numbers[0]} | {numbers[1]} |")
    return lines


def _calibration_lines(metrics: dict[str, Any], rows: str, unit: str) -> list[str]:
    """Lines of a table of the MAE by predicted uncertainty; empty if there are too few test rows."""
    bins = metrics["calibration"].get("test", [])
    if not bins:
        return []
    return [
        f"Test {rows} in five groups by their uncertainty{unit}:",
        "",
        "| | " + " | ".join(("lowest", "2nd", "3rd", "4th", "highest")) + " |",
        "|---|--:|--:|--:|--:|--:|",
        "| mean uncertainty | " + " | ".join(f"{b['uncertainty']:.4f}" for b in bins) + " |",
        "| MAE | " + " | ".join(f"{b['mae']:.4f}" for b in bins) + " |",
        "",
    ]


def _list(values: dict[str, float]) -> str:
    return ", ".join(f"{key}: {value:g}" for key, value in values.items())


def settings_text(values: dict[str, Any]) -> str:
    """Settings as one line of text."""
    return ", ".join(f"{key} {value}" for key, value in values.items())
