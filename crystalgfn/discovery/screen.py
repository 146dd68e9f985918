"""Choose the samples to evaluate: new crystals with a low or uncertain prediction, different from each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set

import numpy as np
from numpy.typing import NDArray

from crystalgfn.discovery.settings import ScreenConfig

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def screen(
    formulas: Ints,
    formulas_in_groups: Ints,
    groups: Ints,
    predicted: Floats,
    uncertainty: Floats,
    n: int,
    config: ScreenConfig,
    left_out: Set[int],
    random: np.random.Generator,
) -> tuple[Ints, Bools]:
    """Choose crystals from a pool of samples.

    First, a share of the crystals is drawn at random. It shows how good the model is, so the limit per space group does
    not apply to it. Then the crystals with the lowest ``predicted - kappa uncertainty`` follow, within the limits per
    formula and per space group. If these are fewer than n, the limit per space group is dropped.

    Args:
        formulas: (k,) key of the reduced formula of each sample.
        formulas_in_groups: (k,) key of the reduced formula and the space group together.
        groups: (k,) space group.
        predicted: (k,) energy above the hull [eV/atom].
        uncertainty: (k,) its uncertainty [eV/atom].
        n: number of crystals to choose.
        config: the settings of the screening.
        left_out: keys of formula and space group of crystals that are not chosen. Crystals with the same formula and
            space group relax to the same few structures, so a second evaluation gives little information.
        random: the random generator.

    Returns:
        (m,) indices of the chosen crystals, m at most n, randomly drawn ones first; and (m,) whether each was drawn at
        random.
    """
    free = np.array([key not in left_out for key in formulas_in_groups.tolist()], dtype=np.bool_)
    at_random = min(n, round(config.random_share * n))
    promising = np.argsort(predicted - config.kappa * uncertainty, kind="stable")
    chosen: list[int] = []
    drawn: list[bool] = []
    of_formula: Counter[int] = Counter()
    of_group: Counter[int] = Counter()

    def take(order: Ints, most: int, per_group: int, is_random: bool) -> None:
        for row in order.tolist():
            if len(chosen) >= most:
                return
            formula, group = int(formulas[row]), int(groups[row])
            if not free[row] or of_group[group] >= per_group or of_formula[formula] >= config.max_per_formula:
                continue
            free[row] = False
            chosen.append(row)
            drawn.append(is_random)
            of_formula[formula] += 1
            of_group[group] += 1

    take(random.permutation(len(free)), at_random, n, True)
    take(promising, n, config.max_per_group, False)
    take(promising, n, n, False)
    return np.array(chosen, dtype=np.int64), np.array(drawn, dtype=np.bool_)
