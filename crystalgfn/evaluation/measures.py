"""Functions that compute the numbers of the report from pools. Their results are written to ``metrics.json``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crystalgfn.crystal.crystallography import N_ELEMENTS, N_SPACE_GROUPS, element_symbols
from crystalgfn.crystal.formulas import symbol_counts
from crystalgfn.crystal.group_classes import group_classes
from crystalgfn.evaluation.checks import (
    Mask,
    assignment_is_right,
    cell_shapes,
    cell_volumes,
    fits_lattice_system,
    fits_wyckoff,
    is_neutral,
    passes_smact,
    smact_version,
)
from crystalgfn.evaluation.intervals import tally
from crystalgfn.evaluation.pools import Floats, Ints, Pool, derived, refused_rows
from crystalgfn.gflownet.metrics import ranks

HARD_CHECKS = ("charge_neutral", "wyckoff", "lattice_system", "positive_volume")
"""Checks that a crystal must pass to be valid."""

DENSITY_RANGE = (0.5, 23.0)
"""Range of plausible densities [g/cm³] without a reference: lithium has 0.53, osmium 22.6."""

DENSITY_PERCENTILES = (0.1, 99.9)
"""Percentiles of the reference's densities that limit the plausible range."""

QUANTILES = {"min": 0.0, "q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "max": 1.0}
"""Quantiles by their names in ``metrics.json``."""

CLASS_KINDS = ("crystal_systems", "crystal_lattice_systems", "lattice_systems", "point_symmetries")
"""Kinds of classes of space groups, by their names in ``metrics.json``."""

_SINGULAR = dict(
    zip(CLASS_KINDS, ("crystal_system", "crystal_lattice_system", "lattice_system", "point_symmetry"), strict=True)
)


def uniqueness(pool: Pool) -> dict[str, Any]:
    """Numbers of distinct crystals and of distinct pairs of composition and space group, among the usable rows."""
    return {
        "crystals": tally(len(np.unique(pool.objects)), len(pool)),
        "compositions_in_group": tally(len(np.unique(pool.compositions)), len(pool)),
    }


def check_all(
    pool: Pool, oxidation_states: str, mixed_valence: bool, density_range: tuple[float, float], with_smact: bool
) -> dict[str, Mask]:
    """Check the usable rows.

    Args:
        pool: the crystals.
        oxidation_states: name of the set of oxidation states for the check of charges.
        mixed_valence: whether that check allows two oxidation states of the same sign for one element.
        density_range: lowest and highest plausible density [g/cm³].
        with_smact: whether to run SMACT's test, if it is installed.

    Returns:
        name of each check to (k,) bool, True if passed.
    """
    formulas = [tuple(counts.items()) for counts in symbol_counts(pool.table.crystals.counts)]
    groups = pool.groups.tolist()
    density = derived(pool, "density")
    checks = {
        "charge_neutral": [is_neutral(formula, oxidation_states, mixed_valence) for formula in formulas],
        "wyckoff": [
            fits_wyckoff(group, [count for _, count in formula])
            for group, formula in zip(groups, formulas, strict=True)
        ],
        "lattice_system": fits_lattice_system(pool.groups, pool.lattice),
        "positive_volume": cell_volumes(pool.lattice) > 0,
        **cell_shapes(pool.lattice),
        "density_in_range": (density >= density_range[0]) & (density <= density_range[1]),
    }
    if "oxidation_states" in pool.table.frame.columns:
        texts = pool.column("oxidation_states").astype(str).tolist()
        checks["assignment"] = [
            assignment_is_right(text, dict(formula)) for text, formula in zip(texts, formulas, strict=True)
        ]
    if with_smact and smact_version() is not None:
        checks["smact"] = [passes_smact(formula) for formula in formulas]
    return {name: np.asarray(passed, dtype=np.bool_) for name, passed in checks.items()}


def all_hard(checks: Mapping[str, Mask]) -> Mask:
    """(k,) whether a crystal passes all of `HARD_CHECKS`."""
    return np.asarray(np.logical_and.reduce([checks[name] for name in HARD_CHECKS]), dtype=np.bool_)


def validity(pool: Pool, checks: Mapping[str, Mask]) -> dict[str, Any]:
    """Number of rows that pass each check, and the numbers of the first hundred rows that fail it.

    The total of ``readable`` and ``valid`` is all rows of the file. The total of ``positive_volume``,
    ``lattice_system`` and ``wyckoff`` is the usable rows and those that cannot be used because of this check. The total
    of the other checks is the usable rows.

    Args:
        pool: the crystals.
        checks: what `check_all` returned.
    """
    total = len(pool.table.problems)
    valid = all_hard(checks)
    result = {"readable": tally(len(pool), total), "valid": {**tally(int(valid.sum()), total)}}
    for name, passed in checks.items():
        refused = refused_rows(pool.table, name)
        failing = sorted([*pool.row_numbers((~passed).nonzero()[0]), *refused])[:100]
        result[name] = {**tally(int(passed.sum()), len(pool) + len(refused)), "first_failing_rows": failing}
    return result


def class_counts(pool: Pool, rows: Ints | None = None) -> dict[str, dict[str, int]]:
    """Number of crystals with each element, space group, and class of space groups; zeros are left out.

    Args:
        pool: the crystals.
        rows: indices of the crystals to count; None counts all.
    """
    counts, groups = (pool.counts, pool.groups) if rows is None else (pool.counts[rows], pool.groups[rows])
    occurrence = (counts > 0).sum(axis=0)
    by_group = np.bincount(groups - 1, minlength=N_SPACE_GROUPS)
    result = {
        "elements": {symbol: int(n) for symbol, n in zip(element_symbols(), occurrence, strict=True) if n},
        "space_groups": {str(index + 1): int(n) for index, n in enumerate(by_group) if n},
    }
    for kind in CLASS_KINDS:
        classes = group_classes(_SINGULAR[kind])
        found = np.bincount(classes.of_group.numpy(), weights=by_group, minlength=len(classes.names))
        result[kind] = {name: int(n) for name, n in zip(classes.names, found, strict=True) if n}
    return result


def possible_classes() -> dict[str, int]:
    """Number of possible elements, space groups and classes of space groups."""
    sizes = {"elements": N_ELEMENTS, "space_groups": N_SPACE_GROUPS}
    return sizes | {kind: len(group_classes(_SINGULAR[kind]).names) for kind in CLASS_KINDS}


def coverage(pool: Pool) -> dict[str, Any]:
    """Elements, space groups and classes that occur in all crystals and in the best ones, with their counts."""
    everywhere = class_counts(pool)
    top = class_counts(pool, pool.top) if pool.top is not None else None
    return {
        kind: {
            "possible": possible,
            "all": len(everywhere[kind]),
            "top": len(top[kind]) if top is not None else None,
            "counts": everywhere[kind],
            "top_counts": top[kind] if top is not None else None,
        }
        for kind, possible in possible_classes().items()
    }


def statistics(values: Floats) -> dict[str, Any]:
    """Number, mean, standard deviation and quantiles (linear interpolation) of the finite values; None without any."""
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return {"n": 0, "missing": len(values), "mean": None, "std": None, **dict.fromkeys(QUANTILES)}
    quantiles = np.quantile(finite, list(QUANTILES.values()))
    return {
        "n": len(finite),
        "missing": len(values) - len(finite),
        "mean": float(finite.mean()),
        "std": float(finite.std()),
        **dict(zip(QUANTILES, map(float, quantiles), strict=True)),
    }


def entropy(counts: Iterable[int] | NDArray[np.int64]) -> dict[str, Any]:
    """Shannon entropy [nats] of a distribution given by counts, and its effective number of classes, exp(H)."""
    numbers = np.asarray(list(counts), dtype=np.float64)
    p = numbers[numbers > 0] / numbers.sum()
    h = max(float(-(p * np.log(p)).sum()), 0.0)
    return {"classes": len(p), "entropy": h, "effective": float(np.exp(h))}


def diversity(pool: Pool) -> dict[str, Any]:
    """Entropies of elements, space groups and chemical systems, and the mean distance between two compositions."""
    present = pool.counts > 0
    systems = np.unique(np.packbits(present, axis=1), axis=0, return_counts=True)[1]
    return {
        "elements": entropy(present.sum(axis=0)),
        "space_groups": entropy(np.bincount(pool.groups)),
        "chemical_systems": entropy(systems),
        "composition_distance": mean_distance(pool.counts),
    }


def mean_distance(counts: Ints) -> float | None:
    """Mean of half the L1 distance between the atomic fractions of two crystals, over all pairs; 0 to 1.

    The mean is exact, without a loop over pairs: if the fractions of one element are sorted, the value of rank i (from
    0) is added i times and subtracted n - 1 - i times.

    Args:
        counts: (n, 94) atoms of each element.

    Returns:
        the mean; None for fewer than two crystals.
    """
    n = len(counts)
    if n < 2:
        return None
    fractions = np.sort(counts / counts.sum(axis=1, keepdims=True), axis=0)
    weights = 2.0 * np.arange(n) - (n - 1)
    return float(0.5 * (weights[:, None] * fractions).sum() / (n * (n - 1) / 2))


def sampler_quality(pool: Pool) -> dict[str, Any] | None:
    """How well log p(x) follows log R(x).

    Returns:
        ``n``, number of rows with both; ``pearson`` and ``spearman``, correlations; ``slope`` of log p over log R,
        least squares, 1 is perfect; ``log_z_bound``, mean of log R - log p, at most log Z; ``log_z``, log of the mean
        of R / p; ``ess``, effective share of samples with the weights R / p, (sum w)² / (n sum w²), 1 is perfect. None
        if one of the columns is missing or fewer than two rows have both numbers.
    """
    if pool.log_reward is None or pool.log_pf is None:
        return None
    both = np.isfinite(pool.log_reward) & np.isfinite(pool.log_pf)
    log_r, log_p = pool.log_reward[both], pool.log_pf[both]
    n = len(log_r)
    if n < 2:
        return None
    weight = log_r - log_p
    scaled = np.exp(weight - weight.max())
    varies = np.ptp(log_r) > 0
    return {
        "n": n,
        "pearson": _correlation(log_r, log_p),
        "spearman": _correlation(*(ranks(torch.from_numpy(values)).numpy() for values in (log_r, log_p))),
        "slope": float(np.cov(log_r, log_p)[0, 1] / log_r.var(ddof=1)) if varies else None,
        "log_z_bound": float(weight.mean()),
        "log_z": float(weight.max() + np.log(scaled.mean())),
        "ess": float(scaled.sum() ** 2 / (n * (scaled**2).sum())),
    }


def _correlation(x: Floats, y: Floats) -> float | None:
    """Pearson correlation; None if one of the two does not vary."""
    return float(np.corrcoef(x, y)[0, 1]) if np.ptp(x) > 0 and np.ptp(y) > 0 else None
