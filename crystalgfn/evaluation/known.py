"""Novelty of crystals: what a reference has and does not have."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crystalgfn.crystal.formulas import reduced_counts
from crystalgfn.evaluation.measures import tally
from crystalgfn.evaluation.pools import Ints, Pool
from crystalgfn.gflownet.keys import key_array

LENGTH_TOLERANCE = 0.1
"""Largest difference between two equal lengths, as a share of their mean."""

ANGLE_TOLERANCE = 5.0
"""Largest difference between two equal angles [degrees]."""

NEW, KNOWN_FORMULA, KNOWN_FORMULA_IN_GROUP, KNOWN_CRYSTAL = range(4)
LEVELS = ("new formula", "known formula", "known formula and group", "known crystal")
"""What the reference has of a crystal; each level includes the previous ones."""

REDISCOVERED = 100
"""Largest number of known crystals that are listed."""


def formula_keys(counts: Ints) -> Ints:
    """(n,) hashes, equal exactly for the same reduced formula, of (n, 94) atoms of each element."""
    return key_array(reduced_counts(torch.from_numpy(counts)))


def formula_in_group_keys(counts: Ints, groups: Ints) -> Ints:
    """(n,) hashes, equal exactly for the same reduced formula and space group."""
    return key_array(torch.cat([reduced_counts(torch.from_numpy(counts)), torch.tensor(groups)[:, None]], 1))


def known_levels(pool: Pool, reference: Pool) -> tuple[Ints, Ints]:
    """What the reference has of each crystal.

    A crystal is known if the reference has one with the same reduced formula, space group and number of atoms in the
    conventional cell, and lattice parameters within the tolerances, with the axes in any order.

    Args:
        pool: the samples, k usable rows.
        reference: the known crystals.

    Returns:
        (k,) position in `LEVELS`; and (k,) the first usable row of the reference with the same crystal, -1 for none.
    """
    import pandas as pd

    formulas, known_formulas = (formula_keys(p.counts) for p in (pool, reference))
    in_group, known_in_group = (formula_in_group_keys(p.counts, p.groups) for p in (pool, reference))
    levels = np.where(np.isin(formulas, known_formulas), KNOWN_FORMULA, NEW)
    levels[np.isin(in_group, known_in_group)] = KNOWN_FORMULA_IN_GROUP
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
        ``new_formula``, ``new_formula_in_group`` and ``new_crystal``, tallies of the distinct crystals;
        ``valid_unique_new``, tally of the distinct crystals that are valid and not known, among all rows of the file;
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
        "new_crystal": tally(int((levels[first] < KNOWN_CRYSTAL).sum()), distinct),
        "valid_unique_new": tally(
            int((valid[first] & (levels[first] < KNOWN_CRYSTAL)).sum()), len(pool.table.problems)
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
