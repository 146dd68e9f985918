"""A table of facets of limited size that bounds the hull from below, as tightly as possible where it matters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from crystalgfn.stability.facets import SystemFacets, extend
from crystalgfn.stability.hull import ConvexHull
from crystalgfn.stability.phases import Floats, Integers, Phases
from crystalgfn.stability.sampling import fractions, random_compositions

EXACT = 1e-9
"""Energies that differ by less [eV/atom] are equal."""

_SAMPLE = 30_000
_PICKS = 400
_ORDERS = 6


@dataclass(frozen=True)
class Selection:
    """Chosen facets.

    Attributes:
        facets: (m, k) chemical potentials [eV/atom] of all elements; each row is below every phase.
        covered: share of the facets of all systems that the table holds; at 1 the table is exact everywhere.
    """

    facets: Floats
    covered: float


def select_facets(
    every: SystemFacets, max_facets: int, max_elements: int, seed: int, log: Callable[[str], None]
) -> Selection:
    """Choose up to ``max_facets`` facets of the hull of all elements that hold the facets of all systems.

    A row for all elements is tight on k phases and so holds facets of many systems at once. Each round draws random
    compositions, half of them neutral, finds the facets where the table is furthest below the hull in sum, extends
    each to all elements in several orders and keeps the extension that helps most. When no random composition shows
    a gap any more, facets that the table does not hold are added until there are none.

    Args:
        every: all facets of all systems.
        max_facets: largest number of rows.
        max_elements: most elements of a random composition.
        seed: seed of the random compositions and orders.
        log: called with a line of progress now and then.
    """
    phases, k = _on_hull(every), len(every.phases.elements)
    stream = np.random.default_rng([seed, 0])
    start = extend(phases, np.zeros((1, k)), np.zeros((1, k), dtype=np.bool_), np.arange(k)[None])
    table, rounds = start, 0
    size = min(_SAMPLE // 2, 500 + 5 * len(every))
    while len(table) < max_facets:
        drawn = [random_compositions(phases.elements, size, max_elements, kind, stream) for kind in (True, False)]
        sample = fractions(np.concatenate(drawn))
        energy, facet = every.lookup(sample)
        hull = ConvexHull(phases.elements, torch.from_numpy(table), max_elements)
        now = hull.energy(torch.from_numpy(sample)).numpy()
        gap = np.where(energy - now > EXACT, energy - now, 0.0)
        total = np.bincount(facet, gap, minlength=len(every))
        picks = np.argsort(-total, kind="stable")[: min(_PICKS, max_facets - len(table))]
        picks = picks[total[picks] > 0]
        if len(picks) == 0:
            picks = np.flatnonzero(~_held(every, table))[: min(_PICKS, max_facets - len(table))]
            if len(picks) == 0:
                return Selection(table, 1.0)
        table = np.concatenate([table, _best(every, phases, picks, sample, now, stream)])
        rounds += 1
        if rounds % 5 == 1:
            log(f"{len(table)} facets, mean gap {1000 * gap.mean():.3f} meV/atom before the last {len(picks)}")
    return Selection(table, float(_held(every, table).mean()))


def _on_hull(every: SystemFacets) -> Phases:
    """The phases on the hull; the others bound nothing."""
    rows = np.unique(every.members)
    return Phases(every.phases.elements, every.phases.fractions[rows], every.phases.energies[rows])


def _best(
    every: SystemFacets, phases: Phases, picks: Integers, sample: Floats, now: Floats, stream: np.random.Generator
) -> Floats:
    """(p, k) an extension of each picked facet: of several, the one that raises the table most on the sample."""
    k, owner = len(phases.elements), np.searchsorted(every.starts, picks, side="right") - 1
    known, potentials = np.zeros((len(picks), k), dtype=np.bool_), np.zeros((len(picks), k))
    np.put_along_axis(known, every.systems[owner], True, axis=1)
    np.put_along_axis(potentials, every.systems[owner], every.potentials[picks], axis=1)
    orders = stream.random((len(picks) * _ORDERS, k)).argsort(1)
    found = extend(phases, potentials.repeat(_ORDERS, 0), known.repeat(_ORDERS, 0), orders)
    rows, columns = torch.from_numpy(found).float(), torch.from_numpy(sample).float()
    gain = torch.zeros(len(found))
    for part, height in zip(columns.split(256), torch.from_numpy(now).float().split(256), strict=True):
        gain += (rows @ part.T - height).clamp_min(0).sum(1)
    best = gain.view(len(picks), _ORDERS).argmax(1).numpy()
    return found[np.arange(len(picks)) * _ORDERS + best]


def _held(every: SystemFacets, table: Floats) -> npt.NDArray[np.bool_]:
    """(f,) whether some row of the table is tight on all phases of each facet."""
    held = np.zeros(len(every), dtype=np.bool_)
    for part in np.array_split(table, len(table) // 1000 + 1):
        tight = np.packbits(every.phases.energies[:, None] - every.phases.fractions @ part.T < EXACT, axis=1)
        for rows in np.array_split(np.flatnonzero(~held), (~held).sum() // 200_000 + 1):
            held[rows] = np.bitwise_and.reduce(tight[every.members[rows]], axis=1).any(1)
    return held
