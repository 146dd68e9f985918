"""Random compositions, used to check a hull and to measure its errors."""

from __future__ import annotations

import numpy as np

from crystalgfn.proxies.hull.phases import Floats, Integers

MAX_COUNT = 16
"""Largest number of atoms of one element in a random composition; the smallest is 1."""


def random_compositions(k: int, n: int, max_elements: int, stream: np.random.Generator) -> Integers:
    """Random counts of one to ``max_elements`` elements.

    The number of elements, the elements and their counts are drawn uniformly.

    Args:
        k: number of elements to choose from.
        n: number of compositions.
        max_elements: largest number of elements in a composition.
        stream: source of random numbers.

    Returns:
        (n, k) number of atoms of each element.
    """
    counts = stream.integers(1, MAX_COUNT + 1, size=(n, k))
    number = stream.integers(1, min(max_elements, k) + 1, size=(n, 1))
    return np.where(stream.random((n, k)).argsort(1) < number, counts, 0)


def fractions(counts: Integers) -> Floats:
    """(n, k) atomic fraction of each element, from (n, k) numbers of atoms."""
    return counts / counts.sum(1, keepdims=True)
