"""Chemical formulas: reading and writing, conversion to rows of counts, reduced formulas, anonymous formulas."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import overload

import torch
from torch import Tensor

from crystalgfn.crystal.crystallography.elements import N_ELEMENTS, atomic_numbers, element_symbols
from crystalgfn.errors import InputError

MAX_COUNT = 10_000
"""Largest number of atoms of one element in a formula; a larger number is treated as a typing error."""

_TOKEN = re.compile(r"\s*([A-Z][a-z]?)([0-9]+(?:\.[0-9]*)?|\.[0-9]+)?")


def parse_formula(formula: str, once: bool = False) -> dict[str, int]:
    """Counts of the elements in a formula such as ``Na4 Cl4``, ``Na4Cl4`` or ``Na4.0 Cl4.0``; no count means 1.

    Args:
        formula: the text.
        once: if true, each element may be named only once; otherwise, the counts of an element are added up.

    Returns:
        the count of each element, by symbol, in the order of the formula.

    Raises:
        InputError: if the text is not a formula, an element is unknown or beyond Pu (Z = 94), a count is not a whole
            number from 1 to `MAX_COUNT`, or an element is named twice although ``once`` is true. The message is the
            second part of a sentence that starts with the formula.
    """
    counts: dict[str, int] = {}
    text = formula.strip()
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise InputError(f"is not a formula: cannot read {text[position:].strip()[:40]!r}")
        symbol, count = match.group(1), match.group(2) or "1"
        if symbol not in atomic_numbers():
            raise InputError(f"has an element {symbol!r} that is unknown or beyond Pu (Z = {N_ELEMENTS})")
        whole, _, decimals = count.partition(".")
        if not whole or count.endswith(".") or decimals.strip("0"):
            raise InputError(f"has a count of {symbol} that is not a whole number")
        if once and symbol in counts:
            raise InputError(f"names {symbol} twice")
        # Python raises an error for numbers with thousands of digits.
        number = int(whole) if len(whole) < 20 else MAX_COUNT + 1
        total = counts.get(symbol, 0) + number
        if number < 1 or total > MAX_COUNT:
            raise InputError(f"has a count of {symbol} outside of 1 to {MAX_COUNT}")
        counts[symbol] = total
        position = match.end()
    if not counts:
        raise InputError("is an empty formula")
    return counts


def formula_text(counts: Mapping[str, int]) -> str:
    """A formula such as ``Na4 Cl4``, with the elements in the order of the mapping."""
    return " ".join(f"{symbol}{count}" for symbol, count in counts.items())


@overload
def reduced(counts: Mapping[str, int]) -> dict[str, int]: ...
@overload
def reduced(counts: tuple[int, ...]) -> tuple[int, ...]: ...
def reduced(counts: Mapping[str, int] | tuple[int, ...]) -> dict[str, int] | tuple[int, ...]:
    """Counts of the reduced formula: the given counts divided by their greatest common divisor."""
    if isinstance(counts, Mapping):
        return dict(zip(counts, reduced(tuple(counts.values())), strict=True))
    divisor = math.gcd(*counts)
    return tuple(count // divisor for count in counts)


def count_rows(compositions: Iterable[Mapping[str, int]]) -> Tensor:
    """(n, 94) int64 numbers of atoms, from n mappings of symbols to counts; column Z - 1 holds element Z.

    Raises:
        KeyError: if a symbol is not that of an element from H to Pu.
    """
    compositions, numbers = list(compositions), atomic_numbers()
    entries = [(row, numbers[symbol] - 1, int(n)) for row, c in enumerate(compositions) for symbol, n in c.items()]
    row, column, count = torch.tensor(entries, dtype=torch.int64).reshape(-1, 3).unbind(1)
    counts = torch.zeros(len(compositions), N_ELEMENTS, dtype=torch.int64)
    counts[row, column] = count
    return counts


def symbol_counts(counts: Tensor) -> list[dict[str, int]]:
    """The inverse of `count_rows`: the count of each element in each row, by symbol, sorted by atomic number."""
    symbols = element_symbols()
    rows, columns = counts.nonzero(as_tuple=True)
    found: list[dict[str, int]] = [{} for _ in range(len(counts))]
    for row, column, count in zip(rows.tolist(), columns.tolist(), counts[rows, columns].tolist(), strict=True):
        found[row][symbols[column]] = count
    return found


def formula_units(counts: Tensor) -> Tensor:
    """(n,) number of formula units: the greatest common divisor of each row of (n, k) counts; 1 for a row of zeros."""
    while counts.shape[1] > 1:
        half = counts.shape[1] // 2
        pairs = torch.gcd(counts[:, :half], counts[:, half : 2 * half])
        counts = torch.cat([pairs, counts[:, 2 * half :]], 1)
    return counts[:, 0].clamp_min(1)


def reduced_counts(counts: Tensor) -> Tensor:
    """(n, k) counts of the reduced formulas of (n, k) counts."""
    return counts // formula_units(counts)[:, None]


def anonymous_counts(counts: Tensor) -> Tensor:
    """(n, k) counts of the anonymous formulas of (n, 94) counts: the counts of each row from high to low.

    k is the largest number of elements in a row; rows with fewer elements end with zeros.
    """
    width = max(1, int((counts > 0).sum(1).max())) if len(counts) else 1
    return counts.topk(width, dim=1).values
