"""Random compositions: those a hull is checked and measured on."""

from __future__ import annotations

import numpy as np

from crystalgfn.proxies.hull.phases import Floats, Integers

MAX_COUNT = 16
"""Atoms of one element in a random composition: from 1 to this."""


def random_compositions(k: int, n: int, max_elements: int, stream: np.random.Generator) -> Integers:
    """Random counts of one to ``max_elements`` elements: numbers of elements, elements and counts are uniform.

    Args:
        k: number of elements to choose from.
        n: number of compositions.
        max_elements: most elements of a composition.
        stream: source of random numbers.

    Returns:
        (n, k) number of atoms of each element.
    """
    counts = stream.integers(1, MAX_COUNT + 1, size=(n, k))
    number = stream.integers(1, min(max_elements, k) + 1, size=(n, 1))
    return np.where(stream.random((n, k)).argsort(1) < number, counts, 0)


def fractions(counts: Integers) -> Floats:
    """(n, k) share of each element in the atoms."""
    return counts / counts.sum(1, keepdims=True)
