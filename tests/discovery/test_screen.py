"""Which samples are evaluated: limits, shares and orders, in cases that are known by hand."""

import numpy as np
import pytest

from crystalgfn.discovery.screen import screen
from crystalgfn.discovery.settings import ScreenConfig


def chosen(predicted, n, formulas=None, groups=None, in_groups=None, uncertainty=None, left_out=(), seed=0, **settings):
    """Chosen rows and which were drawn; by default all formulas and groups differ, and none is drawn at random."""
    k = len(predicted)
    formulas = np.array(formulas if formulas is not None else range(k))
    groups = np.array(groups if groups is not None else range(k))
    in_groups = np.array(in_groups) if in_groups is not None else 1000 * formulas + groups
    doubts = np.array(uncertainty if uncertainty is not None else [0.0] * k)
    config = ScreenConfig(**({"random_share": 0.0, "max_per_group": k} | settings))
    rows, drawn = screen(
        formulas, in_groups, groups, np.array(predicted), doubts, n, config, set(left_out), np.random.default_rng(seed)
    )
    return rows.tolist(), drawn.tolist()


def test_lowest_predictions_come_first():
    assert chosen([0.3, 0.1, 0.2, 0.4], 2) == ([1, 2], [False, False])


@pytest.mark.parametrize(("kappa", "rows"), [(0.0, [0, 1, 2]), (1.0, [2, 0, 1]), (4.0, [2, 1, 0])])
def test_doubt_counts_in_multiples(kappa, rows):
    assert chosen([0.1, 0.2, 0.3], 3, uncertainty=[0.0, 0.05, 0.25], kappa=kappa)[0] == rows


def test_limit_for_a_formula_holds_always():
    assert chosen([0.1, 0.2, 0.3, 0.4], 4, formulas=[7, 7, 7, 8])[0] == [0, 3]
    assert chosen([0.1, 0.2, 0.3, 0.4], 4, formulas=[7, 7, 7, 8], max_per_formula=2)[0] == [0, 1, 3]


def test_limit_for_a_group_yields_to_the_number():
    groups = [5, 5, 5, 6]
    assert chosen([0.1, 0.2, 0.3, 0.4], 2, groups=groups, max_per_group=1)[0] == [0, 3]
    assert chosen([0.1, 0.2, 0.3, 0.4], 3, groups=groups, max_per_group=1)[0] == [0, 3, 1]


def test_left_out_are_left_out():
    assert chosen([0.1, 0.2, 0.3], 3, in_groups=[10, 11, 10], left_out={10})[0] == [1]
    assert chosen([0.1, 0.2], 3, in_groups=[10, 11], left_out={10, 11}) == ([], [])


def test_random_share_comes_first_and_counts_to_the_limits():
    predicted = np.linspace(0, 1, 40)
    rows, drawn = chosen(predicted, 10, random_share=0.3)
    assert drawn == [True] * 3 + [False] * 7 and len(set(rows)) == 10
    assert rows[3:] == [row for row in range(40) if row not in rows[:3]][:7]
    assert rows == chosen(predicted, 10, random_share=0.3)[0] != chosen(predicted, 10, random_share=0.3, seed=1)[0]
    # All of one group: the drawn ones are not thinned, and leave no place for others before the limit is dropped.
    rows, drawn = chosen([0.1] * 6, 4, groups=[5] * 6, random_share=0.5, max_per_group=1)
    assert drawn == [True, True, False, False] and len(set(rows)) == 4
    # All of one formula: its limit is for the drawn ones, too.
    assert len(chosen([0.1] * 6, 4, formulas=[5] * 6, random_share=1.0)[0]) == 1


def test_drawn_ones_are_uniform():
    counts = np.zeros(6)
    for seed in range(600):
        counts[chosen([0.1 * i for i in range(6)], 1, random_share=1.0, seed=seed)[0]] += 1
    assert ((counts - 100) ** 2 / 100).sum() < 20.5  # chi-squared of 5, 0.1 %


def test_pool_that_is_too_small():
    assert chosen([0.2, 0.1], 5) == ([1, 0], [False, False])
    assert chosen([], 5) == ([], [])
