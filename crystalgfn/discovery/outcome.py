"""Results of evaluated crystals: number, diversity and novelty of the survivors, and errors of the proxy.

A crystal that could not be built or relaxed, or took too long, counts as evaluated but not as a survivor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crystalgfn.atoms.doubts import count_kinds, doubts
from crystalgfn.crystal.crystallography import element_symbols
from crystalgfn.crystal.formulas import count_rows, parse_formula
from crystalgfn.crystal.tables import read_table
from crystalgfn.discovery.calibration import found_over_expected
from crystalgfn.discovery.labels import CAP
from crystalgfn.evaluation.intervals import wilson
from crystalgfn.evaluation.known import formula_in_group_keys, formula_keys, unusable_formulas
from crystalgfn.judging.verdict import FAR_BELOW, SURVIVES, VOLUME_KEPT

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd
    from pymatgen.core import Structure

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

BINS = 5
"""Number of groups in the calibration. They are of equal size, by predicted uncertainty."""


@dataclass(frozen=True)
class KnownCrystals:
    """Formulas and space groups of a table of known crystals, as sorted hashes.

    Attributes:
        formulas: hashes of the reduced formulas.
        in_groups: hashes of the pairs of reduced formula and space group.
    """

    formulas: Ints
    in_groups: Ints

    @classmethod
    def read(cls, path: Path) -> KnownCrystals:
        """Read a table of crystals.

        A row that cannot be used, for example because of its cell, still counts with its formula and space group if
        these can be read. Otherwise, crystals of the table would count as new.

        Raises:
            InputError: if the file cannot be read or a column is missing.
        """
        table = read_table(path, strict=False)
        others, their_groups = unusable_formulas(table)
        counts = np.concatenate([table.crystals.counts.numpy(), others])
        groups = np.concatenate([table.crystals.space_group.numpy(), their_groups])
        has_group = groups > 0
        in_groups = formula_in_group_keys(counts[has_group], groups[has_group])
        return cls(np.unique(formula_keys(counts)), np.unique(in_groups))

    def has_formula(self, counts: Ints) -> Mask:
        """(n,) whether the reduced formula of (n, 94) counts is known."""
        return np.isin(formula_keys(counts), self.formulas)

    def has_in_group(self, counts: Ints, groups: Ints) -> Mask:
        """(n,) whether the reduced formula is known in the space group; no crystal is known in group 0."""
        return np.isin(formula_in_group_keys(counts, groups), self.in_groups)


@dataclass(frozen=True, eq=False)
class Outcome:
    """Results of evaluated crystals.

    Args:
        frame: n rows, one per crystal, as `LabelDatabase.frame` returns them, with the energies above the hull of
            `with_energies`.
        known: known crystals, to determine novelty; None if there are none.
        structure: function that returns the relaxed structure of a key, such as `LabelDatabase.structure`. Without it,
            survivors are not examined for molecules and collapse.
    """

    frame: pd.DataFrame
    known: KnownCrystals | None = None
    structure: Callable[[str], Structure | None] | None = None

    @property
    def evaluated(self) -> int:
        """Number of all crystals, failures included."""
        return len(self.frame)

    @property
    def relaxed(self) -> int:
        """Number of crystals that were built and relaxed."""
        return int((self.frame["status"] == "relaxed").sum())

    @cached_property
    def above_hull(self) -> Floats:
        """(n,) energy above the hull after relaxation [eV/atom]; infinite for failures."""
        values = column(self.frame, "energy_above_hull_relaxed")
        relaxed = (self.frame["status"] == "relaxed").to_numpy(dtype=bool)
        return np.where(relaxed & np.isfinite(values), values, np.inf)

    @cached_property
    def survives(self) -> Mask:
        """(n,) whether a crystal was relaxed and lies less than `SURVIVES` above the hull."""
        return np.asarray(self.above_hull < SURVIVES)

    @cached_property
    def keeps_group(self) -> Mask:
        """(n,) whether the relaxed structure has the sampled space group."""
        return np.asarray(self.frame["symmetry"] == "sampled", dtype=np.bool_)

    @cached_property
    def keeps_volume(self) -> Mask:
        """(n,) whether the relaxation changes the volume of the sampled cell by at most `VOLUME_KEPT`."""
        return np.asarray(np.abs(column(self.frame, "volume_change")) <= VOLUME_KEPT, dtype=np.bool_)

    @cached_property
    def doubts(self) -> list[dict[str, str]]:
        """Reasons to doubt each of the n crystals, see `crystalgfn.atoms.doubts`; only survivors are examined."""
        frame = self.frame
        change = column(frame, "volume_change").tolist()
        symmetry = frame["symmetry"].astype(str).tolist() if "symmetry" in frame.columns else [""] * len(frame)
        return [
            doubts(self.structure(key) if self.structure is not None else None, change[row], symmetry[row])
            if survives
            else {}
            for row, (key, survives) in enumerate(zip(frame["key"], self.survives.tolist(), strict=True))
        ]

    @cached_property
    def doubtful(self) -> Mask:
        """(n,) whether there is a reason to doubt a survivor."""
        return np.array([bool(found) for found in self.doubts], dtype=np.bool_)

    @property
    def survivors(self) -> int:
        """Number of survivors."""
        return int(self.survives.sum())

    @property
    def holes(self) -> int:
        """Number of survivors below `FAR_BELOW`: most likely, the reference lacks a phase or the potential is wrong."""
        return int((self.above_hull < FAR_BELOW).sum())

    @property
    def rate(self) -> float:
        """Share of survivors; NaN without crystals."""
        return self.survivors / self.evaluated if self.evaluated else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the share of survivors."""
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
            ValueError: if there are no known crystals.
        """
        return ~self._known.has_formula(self.counts)

    @cached_property
    def new_in_group(self) -> Mask:
        """(n,) whether the reduced formula is known neither in the sampled nor in the relaxed space group.

        Raises:
            ValueError: if there are no known crystals.
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
        """Number of survivors among the crystals of an (n,) mask."""
        return int((self.survives & mask).sum())

    @property
    def median(self) -> float:
        """Median energy above the hull of all crystals [eV/atom]; failures count as infinite."""
        return float(np.median(self.above_hull)) if self.evaluated else math.nan

    @property
    def cpu_seconds(self) -> float:
        """Processor time of building and relaxing [s]."""
        return float(np.nansum(column(self.frame, "cpu_seconds")))

    def rows(self) -> dict[str, str]:
        """Rows of a table of the results, name to text."""
        low, high = self.interval
        far = decimal(FAR_BELOW, 1)
        rows = {
            "evaluated": f"{self.evaluated}",
            "not built or not relaxed": f"{self.evaluated - self.relaxed}",
            f"survivors: below {SURVIVES} eV/atom above the hull (95 % interval)": (
                f"**{self.survivors}** of {self.evaluated} ({low:.0%} to {high:.0%})"
            ),
            f"of these within ±{SURVIVES}; below {far} eV/atom": f"{self.survivors - self.holes}; {self.holes}",
            "elements; space groups among the survivors": f"{len(self.elements)}; {len(self.groups)}",
        }
        if self.structure is not None:
            counts = count_kinds(self.doubts)
            rows[f"survivors with doubts; {'; '.join(counts)}"] = (
                f"{share(int(self.doubtful.sum()), self.survivors)}; {'; '.join(map(str, counts.values()))}"
            )
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
    """Errors of a predicted energy above the hull against the potential; NaN if there is nothing to compare.

    Attributes:
        n: number of crystals with a prediction and a label.
        mae: mean absolute error [eV/atom].
        bias: mean of prediction minus label [eV/atom]; negative if the proxy predicts too low energies.
        uncertainty: mean predicted uncertainty, which is the expected absolute error [eV/atom].
        spearman: rank correlation of prediction and label.
        bins: calibration, for crystals in groups of equal size by uncertainty: number, mean uncertainty [eV/atom] and
            mean absolute error [eV/atom] of each group.
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
        frame: as in `Outcome`.
        stage: ``sampled``, the crystal in the cell of the prediction, or ``relaxed``.
        cap: largest energy above the hull [eV/atom]; higher predictions and labels are set to it, as in training.
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


def absolute_errors(frame: pd.DataFrame, cap: float = CAP) -> Floats:
    """(n,) absolute errors of ``predicted`` in the sampled cell [eV/atom], see `proxy_errors`; NaN if not known."""
    predicted, label = column(frame, "predicted"), column(frame, "energy_above_hull_sampled")
    return np.asarray(np.abs(np.minimum(predicted, cap) - np.minimum(label, cap)))


def round_row(number: int, frame: pd.DataFrame, known: KnownCrystals | None = None, cap: float = CAP) -> dict[str, Any]:
    """One row of ``rounds.csv``: the crystals that a round evaluated, before the proxy was trained on them.

    Args:
        number: number of the round.
        frame: its crystals, as in `Outcome`.
        known: known crystals; without them ``novel`` is None.
        cap: see `proxy_errors` [eV/atom].

    Returns:
        ``evaluated``, ``survivors``, ``rate``; the proxy's ``mae_before``, ``bias_before`` and ``uncertainty_before``
        in the sampled cell [eV/atom]; ``elements`` and ``groups`` among the survivors; ``novel``, survivors whose
        formula is new in their space group; ``cpu_seconds``; ``drawn`` and ``drawn_survivors``, the same as the first
        two for crystals that were drawn at random from the samples, those with 1 in the column ``drawn``;
        ``calibration``, the mean absolute error of these crystals over their mean uncertainty, and ``calibration_se``,
        its standard error; NaN without such crystals.
    """
    outcome, errors = Outcome(frame, known), proxy_errors(frame, cap=cap)
    drawn = Outcome(frame[column(frame, "drawn") == 1])
    ratio, standard_error = found_over_expected(
        absolute_errors(drawn.frame, cap), column(drawn.frame, "predicted_uncertainty")
    )
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
        "calibration": ratio,
        "calibration_se": standard_error,
    }


def rounds_table(frame: pd.DataFrame, known: KnownCrystals | None = None, cap: float = CAP) -> pd.DataFrame:
    """``rounds.csv`` from all crystals: one row per round, in order, see `round_row`."""
    import pandas as pd

    rows = [round_row(int(str(number)), part, known, cap) for number, part in frame.groupby("round", sort=True)]
    return pd.DataFrame(rows)


def column(frame: pd.DataFrame, name: str) -> Floats:
    """(n,) numbers of a column; NaN for a cell without a number and for a column that does not exist."""
    import pandas as pd

    if name not in frame.columns:
        return np.full(len(frame), np.nan)
    return np.array(pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan))


def share(count: int, total: int) -> str:
    """A count and its share of a total, as text."""
    return f"{count} of {total}" + (f" ({count / total:.0%})" if total else "")


def decimal(value: float, digits: int = 3) -> str:
    """A number with a fixed number of digits as text; a dash for NaN."""
    if math.isinf(value):
        return "∞ (most failed)"
    return "–" if math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")
