"""Random compositions: those a hull is made for and measured on."""

from __future__ import annotations

import numpy as np

from crystalgfn.crystallography.oxidation_states import oxidation_states
from crystalgfn.stability.phases import Floats, Integers

MAX_COUNT = 16
"""Atoms of one element in a random composition: from 1 to this."""


def random_compositions(
    elements: tuple[str, ...], n: int, max_elements: int, neutral: bool, stream: np.random.Generator
) -> Integers:
    """Random counts of one to ``max_elements`` elements: numbers of elements, elements and counts are uniform.

    Args:
        elements: symbols of the k elements.
        n: number of compositions.
        max_elements: most elements of a composition.
        neutral: only compositions that are neutral with one common oxidation state for each element. Where the
            elements cannot make one, compositions are drawn as without.
        stream: source of random numbers.

    Returns:
        (n, k) number of atoms of each element.
    """
    if not neutral:
        return _draw(len(elements), n, max_elements, stream)
    table = oxidation_states("pymatgen_common")
    states = [table[symbol] or (0,) for symbol in elements]
    charges = np.zeros((len(elements), max(map(len, states))), dtype=np.int64)
    for i, values in enumerate(states):
        charges[i] = np.resize(values, charges.shape[1])
    parts: list[Integers] = []
    found = 0
    for attempt in range(100):
        counts = _draw(len(elements), max(2000, 4 * n), max_elements, stream)
        chosen = charges[np.arange(len(elements)), stream.integers(charges.shape[1], size=counts.shape)]
        parts.append(counts[(counts * chosen).sum(1) == 0])
        found += len(parts[-1])
        if found >= n:
            return np.concatenate(parts)[:n]
        if attempt >= 2 and not found:
            break
    return _draw(len(elements), n, max_elements, stream)


def fractions(counts: Integers) -> Floats:
    """(n, k) share of each element in the atoms."""
    return counts / counts.sum(1, keepdims=True)


def _draw(k: int, n: int, max_elements: int, stream: np.random.Generator) -> Integers:
    counts = stream.integers(1, MAX_COUNT + 1, size=(n, k))
    number = stream.integers(1, min(max_elements, k) + 1, size=(n, 1))
    return np.where(stream.random((n, k)).argsort(1) < number, counts, 0)
