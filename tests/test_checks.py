"""Checks of single settings: what passes is silent, what does not is named with its value and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from crystalgfn.checks import (
    MOST_NAMES,
    at_least,
    between,
    finite,
    listed,
    not_negative,
    one_of,
    positive,
    quoted,
    refuse,
    rising,
    shortened,
    shown,
)
from crystalgfn.errors import InputError

CASES: list[tuple[Callable[..., None], tuple, list, list, str]] = [
    (at_least, (1,), [1, 2.5, math.inf], [0, -1, math.nan], "it must be at least 1"),
    (positive, (), [1, 1e-9], [0, -1, math.inf, math.nan], "it must be a positive number"),
    (not_negative, (), [0, 1], [-1e-9, math.inf, math.nan], "it must be 0 or a positive number"),
    (between, (0, 0.5), [0, 0.5], [-0.1, 0.6, math.nan], "it must lie between 0 and 0.5"),
    (between, (0, 0.5, 0.5), [0, 0.4], [-0.1, 0.5, math.nan], "it must lie between 0 and 0.5, 0.5 excluded"),
    (finite, (), [0, -1e9], [math.inf, -math.inf, math.nan], "it must be a finite number"),
    (one_of, (("best", 3),), ["best", 3], ["worst", None], "allowed: best, 3"),
    (rising, (), [[-1, 1]], [[1, 1], [2, 1], [math.nan, 1], [1, math.inf]], "it must be low and high with low < high"),
    (rising, (0,), [(1, 2)], [[0, 1]], "it must be low and high with 0 < low < high"),
    (rising, (0, 180), [(1, 2)], [[1, 180]], "it must be low and high with 0 < low < high < 180"),
]


@pytest.mark.parametrize(("check", "limits", "good", "bad", "allowed"), CASES)
def test_checks(check: Callable[..., None], limits: tuple, good: list, bad: list, allowed: str) -> None:
    for value in good:
        check("group.name", value, *limits)
    for value in bad:
        with pytest.raises(InputError) as caught:
            check("group.name", value, *limits)
        shown = repr(value) if check is one_of else value
        assert str(caught.value) == f"group.name: {shown} is not allowed; {allowed}"


def test_quotations_are_short() -> None:
    long = "x" * 10**6
    for text in (shortened(long), shown(long), quoted(long), shown([long]), listed([long]), shown("\n" * 10**6)):
        assert len(text) <= 82 and text.strip("']").endswith("...")
    assert (shown("a b"), quoted("a b"), shown(""), shown("\n"), shown(1.5)) == (
        "a b",
        "'a b'",
        "''",
        repr("\n"),
        "1.5",
    )
    assert shown(10**5000) == "a int"
    assert listed(range(MOST_NAMES + 2)).endswith(f", {MOST_NAMES - 1} and 2 more") and listed("ab") == "a, b"
    assert str(refuse("name", long, "it must be short")).endswith("... is not allowed; it must be short")
