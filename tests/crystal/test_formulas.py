"""Formulas and ranges of space groups, as text and as numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalgfn.crystal.crystallography.group_ranges import as_ranges, group_range
from crystalgfn.crystal.formulas import (
    anonymous_counts,
    count_rows,
    formula_text,
    formula_units,
    parse_formula,
    reduced,
    reduced_counts,
    symbol_counts,
)
from crystalgfn.errors import InputError

compositions = st.dictionaries(st.sampled_from(["H", "C", "O", "Na", "Cl", "Pu"]), st.integers(1, 60), min_size=1)


@pytest.mark.parametrize(
    ("formula", "counts"),
    [
        ("Na4 Cl4", {"Na": 4, "Cl": 4}),
        ("Na4Cl4", {"Na": 4, "Cl": 4}),
        ("  NaCl ", {"Na": 1, "Cl": 1}),
        ("NaN", {"Na": 1, "N": 1}),
        ("CO2 C1", {"C": 2, "O": 2}),
        ("Pu", {"Pu": 1}),
        ("Na4.0Cl4.00 O", {"Na": 4, "Cl": 4, "O": 1}),
    ],
)
def test_formulas(formula: str, counts: dict[str, int]) -> None:
    assert parse_formula(formula) == counts


@pytest.mark.parametrize("count", ["0.5", "4.", ".0", "4.01", "4.0.0"])
def test_counts_that_are_not_whole(count: str) -> None:
    with pytest.raises(InputError, match=r"not a whole number|cannot read"):
        parse_formula(f"Na{count}")


@pytest.mark.parametrize("count", ["0.0", "00", "9" * 30, "9" * 5000, "10001"])
def test_counts_out_of_range(count: str) -> None:
    with pytest.raises(InputError, match="has a count of Na outside of 1 to 10000"):
        parse_formula(f"Na{count}")


def test_an_element_may_be_named_once_only() -> None:
    assert parse_formula("C1 H3 C1") == {"C": 2, "H": 3}
    with pytest.raises(InputError, match="names C twice"):
        parse_formula("C1 H3 C1", once=True)


@settings(deadline=None, derandomize=True)
@given(st.lists(compositions, max_size=5))
def test_one_formula_in_all_its_forms(mappings: list[dict[str, int]]) -> None:
    rows = count_rows(mappings)
    assert rows.shape == (len(mappings), 94) and symbol_counts(rows) == mappings
    assert [parse_formula(formula_text(counts)) for counts in mappings] == mappings
    assert symbol_counts(reduced_counts(rows)) == [reduced(counts) for counts in mappings]
    assert formula_units(rows).tolist() == [math.gcd(*counts.values()) for counts in mappings]
    for row, counts in zip(anonymous_counts(rows).tolist(), mappings, strict=True):
        assert [count for count in row if count] == sorted(counts.values(), reverse=True)


def test_reduced_formulas() -> None:
    assert reduced({"O": 6, "Fe": 4}) == {"O": 3, "Fe": 2} and list(reduced({"O": 6, "Fe": 4})) == ["O", "Fe"]
    assert reduced((6, 4, 2)) == (3, 2, 1)
    assert reduced_counts(torch.tensor([[6, 4, 0], [0, 5, 0], [0, 0, 0]])).tolist() == [[3, 2, 0], [0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("entry", "groups"),
    [
        (225, [225]),
        ("225", [225]),
        (np.int64(3), [3]),
        ("16-18", [16, 17, 18]),
        (" 1 - 2 ", [1, 2]),
        ("230-230", [230]),
    ],
)
def test_groups(entry: object, groups: list[int]) -> None:
    assert list(group_range(entry)) == groups


@pytest.mark.parametrize(
    "entry", [0, 231, -3, "9-3", "225-231", "1-2-3", "Fm-3m", "", True, 2.0, None, 10**9, "1" * 99]
)
def test_no_groups(entry: object) -> None:
    assert not group_range(entry)


def test_ranges_as_text() -> None:
    assert as_ranges([1, 2, 3, 7, 9, 10]) == "1-3, 7, 9-10" and as_ranges([]) == ""
    for text in as_ranges([2, 5, 6]).split(", "):
        assert set(group_range(text)) <= {2, 5, 6}
