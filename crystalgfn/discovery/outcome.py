"""What became of evaluated crystals: how many survive, how various and new these are, and how far the proxy was off.

Everything is counted strictly: a crystal that could not be built or relaxed, or took too long, counts as evaluated and
as no survivor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crystalgfn.crystal.crystallography import element_symbols
from crystalgfn.crystal.formulas import count_rows, parse_formula
from crystalgfn.crystal.tables import read_table
from crystalgfn.discovery.labels import CAP, SURVIVES
from crystalgfn.evaluation.known import formula_in_group_keys, formula_keys

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

HOLE = -0.1
"""Energy above the hull [eV/atom] below which a hole of the reference is more likely than a discovery."""

CONFIDENCE = 0.95

BINS = 5
"""Groups of equal size, by predicted uncertainty, of the calibration."""


@dataclass(frozen=True)
class KnownCrystals:
    """What a table of known crystals holds, as sorted hashes.

    Attributes:
        formulas: of the reduced formulas.
        in_groups: of the pairs of reduced formula and space group.
    """

    formulas: Ints
    in_groups: Ints

    @classmethod
    def read(cls, path: Path) -> KnownCrystals:
        """Read a table of crystals; rows that cannot be used are left out.

        Raises:
            InputError: if the file cannot be read or a column is missing.
        """
        crystals = read_table(path, strict=False).crystals
        counts, groups = crystals.counts.numpy(), crystals.space_group.numpy()
        return cls(np.unique(formula_keys(counts)), np.unique(formula_in_group_keys(counts, groups)))

    def has_formula(self, counts: Ints) -> Mask:
        """(n,) whether the reduced formula of (n, 94) counts is known."""
        return np.isin(formula_keys(counts), self.formulas)

    def has_in_group(self, counts: Ints, groups: Ints) -> Mask:
        """(n,) whether the reduced formula is known in a space group; there is none in group 0."""
        return np.isin(formula_in_group_keys(counts, groups), self.in_groups)


def wilson(count: int, total: int) -> tuple[float, float]:
    """95 % interval of a share, Wilson's; 0 to 1 for none of nothing."""
    from scipy.stats import binomtest

    if total == 0:
        return 0.0, 1.0
    interval = binomtest(count, total).proportion_ci(CONFIDENCE, "wilson")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of evaluated crystals, and which ones survive.

    Args:
        frame: one row a crystal, as `LabelDatabase.frame` gives it, with the energies above the hull of
            `with_energies`.
        known: known crystals, for novelty; None where there are none.
    """

    frame: pd.DataFrame
    known: KnownCrystals | None = None

    @property
    def evaluated(self) -> int:
        """All crystals, failures included."""
        return len(self.frame)

    @property
    def relaxed(self) -> int:
        """Crystals that were built and relaxed."""
        return int((self.frame["status"] == "relaxed").sum())

    @cached_property
    def above_hull(self) -> Floats:
        """(n,) energy above the hull after relaxation [eV/atom]; infinite for failures."""
        values = column(self.frame, "energy_above_hull_relaxed")
        relaxed = (self.frame["status"] == "relaxed").to_numpy(dtype=bool)
        return np.where(relaxed & np.isfinite(values), values, np.inf)

    @cached_property
    def survives(self) -> Mask:
        """(n,) relaxed, and less than `SURVIVES` above the hull."""
        return np.asarray(self.above_hull < SURVIVES)

    @property
    def survivors(self) -> int:
        """How many survive."""
        return int(self.survives.sum())

    @property
    def holes(self) -> int:
        """Survivors below `HOLE`: first of all a sign that the reference lacks a phase."""
        return int((self.above_hull < HOLE).sum())

    @property
    def rate(self) -> float:
        """Share of survivors; NaN of nothing."""
        return self.survivors / self.evaluated if self.evaluated else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Of the share of survivors."""
        return wilson(self.survivors, self.evaluated)

    @cached_property
    def counts(self) -> Ints:
        """(n, 94) atoms of each element in the conventional cell."""
        return np.asarray(count_rows(map(parse_formula, self.frame["formula"])).numpy(), dtype=np.int64)

    @property
    def elements(self) -> list[str]:
        """Symbols of the elements among the survivors."""
        present = np.asarray((self.counts[self.survives] > 0).any(axis=0))
        return [symbol for symbol, is_there in zip(element_symbols(), present.tolist(), strict=True) if is_there]

    @property
    def groups(self) -> list[int]:
        """Sampled space groups among the survivors."""
        return sorted({int(group) for group in self.frame["space_group"].to_numpy()[self.survives]})

    @cached_property
    def new_formula(self) -> Mask:
        """(n,) whether the reduced formula is not known.

        Raises:
            ValueError: without known crystals.
        """
        return ~self._known.has_formula(self.counts)

    @cached_property
    def new_in_group(self) -> Mask:
        """(n,) whether the reduced formula is known neither in the sampled nor in the relaxed space group.

        Raises:
            ValueError: without known crystals.
        """
        sampled = self.frame["space_group"].to_numpy(dtype=np.int64)
        relaxed = np.nan_to_num(column(self.frame, "space_group_relaxed")).astype(np.int64)
        return ~(self._known.has_in_group(self.counts, sampled) | self._known.has_in_group(self.counts, relaxed))

    @property
    def _known(self) -> KnownCrystals:
        if self.known is None:
            raise ValueError("novelty needs known crystals")
        return self.known

    def number_of(self, mask: Mask) -> int:
        """Survivors of which something holds."""
        return int((self.survives & mask).sum())

    @property
    def median(self) -> float:
        """Median energy above the hull of all crystals [eV/atom]; failures lie above all, so it can be infinite."""
        return float(np.median(self.above_hull)) if self.evaluated else math.nan

    @property
    def cpu_seconds(self) -> float:
        """Processor time of building and relaxing."""
        return float(np.nansum(column(self.frame, "cpu_seconds")))

    def rows(self) -> dict[str, str]:
        """What a table says of it, name to text."""
        low, high = self.interval
        far = decimal(HOLE, 1)
        rows = {
            "evaluated": f"{self.evaluated}",
            "not built or not relaxed": f"{self.evaluated - self.relaxed}",
            f"survivors: below {SURVIVES} eV/atom above the hull (95 % interval)": (
                f"**{self.survivors}** of {self.evaluated} ({low:.0%} to {high:.0%})"
            ),
            f"of these within ±{SURVIVES}; below {far} eV/atom": f"{self.survivors - self.holes}; {self.holes}",
            "elements; space groups among the survivors": f"{len(self.elements)}; {len(self.groups)}",
        }
        if self.known is not None:
            rows["survivors with a new formula; with a formula new in its space group"] = (
                f"{share(self.number_of(self.new_formula), self.survivors)}; "
                f"{share(self.number_of(self.new_in_group), self.survivors)}"
            )
        rows["energy above hull, median of all [eV/atom]"] = decimal(self.median)
        rows["processor time of building and relaxing [min]"] = f"{self.cpu_seconds / 60:.1f}"
        return rows


@dataclass(frozen=True)
class ProxyErrors:
    """How a proxy's prediction of the energy above the hull agrees with CHGNet; NaN where there is nothing to compare.

    Attributes:
        n: crystals with both.
        mae: mean absolute error [eV/atom].
        bias: mean of prediction less label [eV/atom]; negative is optimistic.
        uncertainty: mean of what the proxy expects its absolute error to be [eV/atom].
        spearman: rank correlation of prediction and label.
        bins: calibration, crystals in groups of equal size by uncertainty: number, mean uncertainty and mean absolute
            error of each.
    """

    n: int
    mae: float
    bias: float
    uncertainty: float
    spearman: float
    bins: tuple[tuple[int, float, float], ...]


def proxy_errors(frame: pd.DataFrame, stage: str = "sampled", cap: float = CAP) -> ProxyErrors:
    """Compare ``predicted`` and ``predicted_uncertainty`` with the labels.

    Args:
        frame: as of `Outcome`.
        stage: ``sampled``, the crystal in the cell that the proxy saw, or ``relaxed``.
        cap: predictions and labels above it [eV/atom] count as it, as when the proxy is trained.
    """
    import torch
    from torchmetrics.functional.regression import mean_absolute_error, spearman_corrcoef

    label = column(frame, f"energy_above_hull_{stage}")
    predicted = column(frame, "predicted")
    both = np.isfinite(label) & np.isfinite(predicted)
    label, predicted = np.minimum(label[both], cap), np.minimum(predicted[both], cap)
    uncertainty = column(frame, "predicted_uncertainty")[both]
    n = len(label)
    if n == 0:
        return ProxyErrors(0, math.nan, math.nan, math.nan, math.nan, ())
    error = np.abs(predicted - label)
    varies = np.ptp(label) > 0 and np.ptp(predicted) > 0
    tensors = torch.from_numpy(predicted), torch.from_numpy(label)
    return ProxyErrors(
        n=n,
        mae=float(mean_absolute_error(*tensors)),
        bias=float((predicted - label).mean()),
        uncertainty=float(uncertainty.mean()),
        spearman=float(spearman_corrcoef(*tensors)) if varies else math.nan,
        bins=_bins(uncertainty, error),
    )


def _bins(uncertainty: Floats, error: Floats) -> tuple[tuple[int, float, float], ...]:
    has_one = np.isfinite(uncertainty)
    order = np.argsort(uncertainty[has_one], kind="stable")
    parts = np.array_split(order, min(BINS, len(order)) or 1)
    return tuple(
        (len(part), float(uncertainty[has_one][part].mean()), float(error[has_one][part].mean()))
        for part in parts
        if len(part)
    )


def round_row(number: int, frame: pd.DataFrame, known: KnownCrystals | None = None) -> dict[str, Any]:
    """One row of ``rounds.csv``: the crystals that a round evaluated, before the proxy was trained on them.

    Args:
        number: of the round.
        frame: its crystals, as of `Outcome`.
        known: known crystals; without them ``novel`` is None.

    Returns:
        ``evaluated``, ``survivors``, ``rate``; the proxy's ``mae_before``, ``bias_before`` and ``uncertainty_before``
        in the sampled cell [eV/atom]; ``elements`` and ``groups`` among the survivors; ``novel``, survivors whose
        formula is new in their space group; ``cpu_seconds``; ``drawn`` and ``drawn_survivors``, the same as the first
        two for crystals that the model sampled and nobody chose, those with 1 in the column ``drawn``.
    """
    outcome, errors = Outcome(frame, known), proxy_errors(frame)
    drawn = Outcome(frame[column(frame, "drawn") == 1])
    return {
        "round": number,
        "evaluated": outcome.evaluated,
        "survivors": outcome.survivors,
        "rate": outcome.rate,
        "mae_before": errors.mae,
        "bias_before": errors.bias,
        "uncertainty_before": errors.uncertainty,
        "elements": len(outcome.elements),
        "groups": len(outcome.groups),
        "novel": outcome.number_of(outcome.new_in_group) if known is not None else None,
        "cpu_seconds": outcome.cpu_seconds,
        "drawn": drawn.evaluated,
        "drawn_survivors": drawn.survivors,
    }


def rounds_table(frame: pd.DataFrame, known: KnownCrystals | None = None) -> pd.DataFrame:
    """``rounds.csv`` from all crystals: one row a round, in order."""
    import pandas as pd

    rows = [round_row(int(str(number)), part, known) for number, part in frame.groupby("round", sort=True)]
    return pd.DataFrame(rows)


def column(frame: pd.DataFrame, name: str) -> Floats:
    """(n,) numbers of a column; NaN where there is none."""
    import pandas as pd

    if name not in frame.columns:
        return np.full(len(frame), np.nan)
    return np.array(pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan))


def share(count: int, total: int) -> str:
    """A number of things of all, as text."""
    return f"{count} of {total}" + (f" ({count / total:.0%})" if total else "")


def decimal(value: float, digits: int = 3) -> str:
    """A number as text; a dash where there is none."""
    if math.isinf(value):
        return "∞ (most failed)"
    return "–" if math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")
