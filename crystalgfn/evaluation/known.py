"""Novelty of crystals: what a reference has and does not have."""

from __future__ import annotations

from functools import cache
from itertools import permutations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crystalgfn.crystal.crystallography import N_SPACE_GROUPS
from crystalgfn.crystal.formulas import count_rows, parse_formula, reduced_counts
from crystalgfn.crystal.tables import CrystalTable
from crystalgfn.errors import InputError
from crystalgfn.evaluation.intervals import tally
from crystalgfn.evaluation.pools import Ints, Pool, numbers
from crystalgfn.gflownet.keys import key_array

LENGTH_TOLERANCE = 0.1
"""Largest difference between two equal lengths, as a share of their mean."""

ANGLE_TOLERANCE = 5.0
"""Largest difference between two equal angles [degrees]."""

NEW, KNOWN_FORMULA, KNOWN_FORMULA_IN_GROUP, NOT_COMPARABLE, KNOWN_CRYSTAL = range(5)
LEVELS = (
    "new formula",
    "known formula",
    "known formula and group",
    "known formula and group, in a cell that cannot be compared",
    "known crystal",
)
"""What the reference has of a crystal; each level includes the previous ones. A cell of the reference that fails the
check of tables cannot be compared, so nobody can say that the crystal is new."""

REDISCOVERED = 100
"""Largest number of known crystals that are listed."""


def formula_keys(counts: Ints) -> Ints:
    """(n,) hashes, equal exactly for the same reduced formula, of (n, 94) atoms of each element."""
    return key_array(reduced_counts(torch.from_numpy(counts)))


def formula_in_group_keys(counts: Ints, groups: Ints) -> Ints:
    """(n,) hashes, equal exactly for the same reduced formula and space group."""
    return key_array(torch.cat([reduced_counts(torch.from_numpy(counts)), torch.tensor(groups)[:, None]], 1))


def unusable_formulas(table: CrystalTable) -> tuple[Ints, Ints]:
    """Formulas and space groups of the rows that cannot be used as crystals, for example because of their cells.

    Args:
        table: a table that was read with ``strict=False``.

    Returns:
        (m, 94) atoms of each element in the m such rows whose formula can be read; and (m,) their space groups, 0 if it
        cannot be read.
    """
    rows = [row for row, problem in enumerate(table.problems) if problem is not None]
    groups = np.nan_to_num(numbers(table.frame["space_group"].iloc[rows])) if rows else np.zeros(0)
    groups = np.where((groups >= 1) & (groups <= N_SPACE_GROUPS) & (groups == np.floor(groups)), groups, 0)
    counts = [_counts_or_none(formula) for formula in table.frame["formula"].iloc[rows].tolist()]
    readable = np.array([atoms is not None for atoms in counts], dtype=np.bool_)
    return count_rows(atoms for atoms in counts if atoms is not None).numpy(), groups[readable].astype(np.int64)


@cache
def _counts_or_none(formula: object) -> dict[str, int] | None:
    """Atoms of each element; None if the formula cannot be read."""
    try:
        return parse_formula(formula) if isinstance(formula, str) else None
    except InputError:
        return None


def known_levels(pool: Pool, reference: Pool) -> tuple[Ints, Ints]:
    """What the reference has of each crystal.

    A crystal is known if the reference has one with the same reduced formula, space group and number of atoms in the
    conventional cell, and lattice parameters within the tolerances, with the axes in any order.

    Rows of the reference that cannot be used count with their formula and space group. A row whose space group cannot
    be read may stand for a crystal in any group.

    Args:
        pool: the samples, k usable rows.
        reference: the known crystals.

    Returns:
        (k,) position in `LEVELS`; and (k,) the first usable row of the reference with the same crystal, -1 for none.
    """
    import pandas as pd

    formulas, known_formulas = (formula_keys(p.counts) for p in (pool, reference))
    in_group, known_in_group = (formula_in_group_keys(p.counts, p.groups) for p in (pool, reference))
    others, their_groups = unusable_formulas(reference.table)
    without_group = formula_keys(others[their_groups == 0])
    levels = np.where(np.isin(formulas, known_formulas) | np.isin(formulas, formula_keys(others)), KNOWN_FORMULA, NEW)
    levels[np.isin(in_group, known_in_group)] = KNOWN_FORMULA_IN_GROUP
    unread = np.isin(in_group, formula_in_group_keys(others, their_groups)) | np.isin(formulas, without_group)
    levels[unread] = NOT_COMPARABLE
    left, right = (
        pd.DataFrame({"key": keys, "atoms": p.counts.sum(axis=1), name: np.arange(len(p))})
        for p, keys, name in ((pool, in_group, "row"), (reference, known_in_group, "known"))
    )
    pairs = left.merge(right, on=["key", "atoms"])
    rows, known = pairs["row"].to_numpy(), pairs["known"].to_numpy()
    same = same_cells(pool.lattice[rows], reference.lattice[known])
    match = np.full(len(pool), len(reference))
    np.minimum.at(match, rows[same], known[same])
    match[match == len(reference)] = -1
    levels[match >= 0] = KNOWN_CRYSTAL
    return levels.astype(np.int64), match.astype(np.int64)


def same_cells(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether cells agree within the tolerances, with their axes in any order.

    The order of the axes of a sample may differ from that of the conventional standard cell.

    Args:
        one: (n, 6) a, b, c [Å], alpha, beta, gamma [degrees].
        other: (n, 6) the cells to compare with, row by row.

    Returns:
        (n,) bool.
    """
    same = np.zeros(len(one), dtype=np.bool_)
    for order in permutations(range(3)):
        turned = other[:, [*order, *(3 + axis for axis in order)]]
        mean = (one[:, :3] + turned[:, :3]) / 2
        lengths = np.abs(one[:, :3] - turned[:, :3]) <= LENGTH_TOLERANCE * mean
        angles = np.abs(one[:, 3:] - turned[:, 3:]) <= ANGLE_TOLERANCE
        same |= lengths.all(axis=1) & angles.all(axis=1)
    return same


def novelty(pool: Pool, reference: Pool, levels: Ints, match: Ints, valid: NDArray[np.bool_]) -> dict[str, Any]:
    """Number of distinct crystals that are new, and the list of known ones.

    Args:
        pool: the samples.
        reference: the known crystals.
        levels: (k,) levels from `known_levels`.
        match: (k,) rows of the reference from `known_levels`.
        valid: (k,) whether a crystal passes all hard checks.

    Returns:
        ``new_formula``, ``new_formula_in_group``, ``new_crystal`` and ``not_comparable``, tallies of the distinct
        crystals; ``valid_unique_new``, tally of the distinct crystals that are valid and new, among all rows;
        and ``rediscovered``, the known crystals, at most `REDISCOVERED`, highest log R first if there is one.
    """
    first = np.unique(pool.objects, return_index=True)[1]
    distinct = len(first)
    found = first[levels[first] == KNOWN_CRYSTAL]
    order = -pool.log_reward[found] if pool.log_reward is not None else found
    found = found[np.lexsort((found, order))]
    identifiers = _identifiers(reference)
    formulas = pool.table.crystals.formulas()
    return {
        "new_formula": tally(int((levels[first] == NEW).sum()), distinct),
        "new_formula_in_group": tally(int((levels[first] < KNOWN_FORMULA_IN_GROUP).sum()), distinct),
        "new_crystal": tally(int((levels[first] < NOT_COMPARABLE).sum()), distinct),
        "not_comparable": tally(int((levels[first] == NOT_COMPARABLE).sum()), distinct),
        "valid_unique_new": tally(
            int((valid[first] & (levels[first] < NOT_COMPARABLE)).sum()), len(pool.table.problems)
        ),
        "rediscovered": [
            {
                "row": pool.row_numbers(np.array([row]))[0],
                "formula": formulas[row],
                "space_group": int(pool.groups[row]),
                "reference_row": reference.row_numbers(match[[row]])[0],
                "reference_id": identifiers[match[row]] if identifiers is not None else None,
            }
            for row in found[:REDISCOVERED].tolist()
        ],
    }


def _identifiers(reference: Pool) -> list[str] | None:
    """Names of the reference's crystals, from the column ``material_id`` or ``id``; None if there is neither."""
    for name in ("material_id", "id"):
        if name in reference.table.frame.columns:
            return [str(value) for value in reference.column(name)]
    return None
