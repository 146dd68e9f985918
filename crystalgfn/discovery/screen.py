"""Choose the crystals that are worth an evaluation: new, promising or unsure, and different from each other."""

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

    First the share that is drawn at random, not thinned by groups: it tells how good the model is. Then those of the
    lowest ``predicted - kappa uncertainty``, within the limits for each formula and group; where these leave too few,
    the limit for a group is dropped.

    Args:
        formulas: (k,) key of the reduced formula of each sample.
        formulas_in_groups: (k,) key of the reduced formula and the space group together.
        groups: (k,) space group.
        predicted: (k,) energy above the hull [eV/atom].
        uncertainty: (k,) its uncertainty [eV/atom].
        n: crystals wanted.
        config: the settings.
        left_out: keys of formula and group of crystals that are not wanted: relaxation leads crystals of one formula
            and group to the same few places, so those that were evaluated before teach little.
        random: the generator.

    Returns:
        (m,) indices of the chosen ones, at most n, those drawn at random first; and (m,) whether each was one of these.
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
