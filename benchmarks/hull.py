"""Compositions a second on the convex hull: facet tables beside pymatgen's PhaseDiagram and the linear program.

    python benchmarks/hull.py --table crystals.parquet --elements Li O F Na Mg Al Si P Fe
    python benchmarks/hull.py --table crystals.parquet

Random compositions of up to five elements, one thread. The table's phases are made into an exact hull; pymatgen gets
the same phases, one diagram for each system, its making not counted. The elements are those of the shipped hull if not
given. Machines are noisy: the fastest of several rounds is printed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition, Element

from crystalgfn.proxies.energy_above_hull import SHIPPED_HULL
from crystalgfn.stability import SystemHull, load_hull, read_phases
from crystalgfn.stability.facets import enumerate_facets
from crystalgfn.stability.sampling import fractions, random_compositions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--elements", nargs="+")
    parser.add_argument("--compositions", type=int, default=20_000)
    parser.add_argument("--slow", type=int, default=100, help="compositions for pymatgen and the linear program")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    shipped = load_hull(SHIPPED_HULL)
    phases = read_phases(options.table, elements=options.elements or shipped.elements).phases
    start = time.perf_counter()
    every = enumerate_facets(phases, 5)
    seconds = time.perf_counter() - start
    print(f"{len(phases)} phases, {len(every)} facets of {len(every.systems)} systems in {seconds:.0f} s\n")
    starts, potentials = torch.from_numpy(every.starts), torch.from_numpy(every.potentials)
    exact = SystemHull(phases.elements, starts, potentials)

    stream = np.random.default_rng(options.seed)
    rows = random_compositions(phases.elements, options.compositions, 5, False, stream)
    counts = torch.zeros(len(rows), 94, dtype=torch.int64)
    counts[:, [Element(symbol).Z - 1 for symbol in phases.elements]] = torch.from_numpy(rows)
    few = rows[: options.slow]
    diagrams = [_diagram(phases, row) for row in few]
    compositions = [Composition(dict(zip(phases.elements, row.tolist(), strict=True))) for row in few]
    expected = np.array([d.get_hull_energy_per_atom(c) for d, c in zip(diagrams, compositions, strict=True)])

    def pymatgen() -> None:
        for diagram, composition in zip(diagrams, compositions, strict=True):
            diagram.get_hull_energy_per_atom(composition)

    results = {
        "shipped, facets of all elements": (fastest(lambda: shipped(counts), options.rounds), len(rows), shipped),
        "exact, facets by system": (fastest(lambda: exact(counts), options.rounds), len(rows), exact),
    }
    slow = {
        "linear program (HiGHS)": fastest(lambda: phases.hull_energy(fractions(few)), 1),
        "pymatgen, diagrams ready": fastest(pymatgen, 1),
    }
    print(f"| hull | compositions/s | largest difference from pymatgen, {len(few)} compositions [eV/atom] |")
    print("|---|--:|--:|")
    for name, (seconds, n, hull) in results.items():
        difference = np.abs(hull(counts[: options.slow]).numpy() - expected).max()
        print(f"| {name} | {n / seconds:,.0f} | {difference:.1e} |")
    difference = np.abs(phases.hull_energy(fractions(few)) - expected).max()
    for name, seconds in slow.items():
        shown = f"{difference:.1e}" if name.startswith("linear") else ""
        print(f"| {name} | {len(few) / seconds:,.0f} | {shown} |")


def _diagram(phases, row) -> PhaseDiagram:
    """The phase diagram of one composition's elements."""
    inside = (phases.fractions[:, row == 0] == 0).all(1)
    entries = []
    for share, energy in zip(phases.fractions[inside], phases.energies[inside], strict=True):
        entries.append(PDEntry(Composition(dict(zip(phases.elements, share.tolist(), strict=True))), float(energy)))
    return PhaseDiagram(entries)


def fastest(run: Callable[[], object], rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


if __name__ == "__main__":
    main()
