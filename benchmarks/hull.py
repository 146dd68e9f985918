"""Speed of the shipped convex hull, compared with pymatgen's PhaseDiagram and with the linear program.

    python benchmarks/hull.py --table crystals.parquet

The table must be the one that the hull was made from. Random compositions of up to five elements of the hull are
evaluated, on one thread; times are CPU time. pymatgen gets the same phases and one diagram for the elements of each
composition. The time to make the diagrams is not counted.

Results: docs/results/stability.md.
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
from crystalgfn.proxies.hull import Phases, load_hull, read_phases
from crystalgfn.proxies.hull.sampling import fractions, random_compositions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True, help="table of crystals that the hull was made from")
    parser.add_argument(
        "--compositions", type=int, default=20_000, help="compositions for the speed of the hull (default 20,000)"
    )
    parser.add_argument(
        "--checked", type=int, default=1000, help="compositions for pymatgen and the linear program (default 1,000)"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="measurements of the hull; the fastest is used (default 5)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the compositions (default 0)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    hull = load_hull(SHIPPED_HULL)
    print(f"{len(hull.potentials):,} facets, read in {time.process_time() - start:.2f} s\n")
    phases = read_phases(options.table, elements=hull.elements).phases

    stream = np.random.default_rng(options.seed)
    rows = random_compositions(len(phases.elements), options.compositions, 5, stream)
    counts = torch.zeros(len(rows), 94, dtype=torch.int64)
    counts[:, [Element(symbol).Z - 1 for symbol in phases.elements]] = torch.from_numpy(rows)
    few = rows[: options.checked]
    diagrams = [_diagram(phases, row) for row in few]
    compositions = [Composition(dict(zip(phases.elements, row.tolist(), strict=True))) for row in few]

    def pymatgen() -> np.ndarray:
        pairs = zip(diagrams, compositions, strict=True)
        return np.array([diagram.get_hull_energy_per_atom(composition) for diagram, composition in pairs])

    ways = {
        "shipped hull": (lambda: hull(counts).numpy(), options.rounds),
        "linear program (HiGHS), its own system's phases": (lambda: phases.hull_energy(fractions(few)), 1),
        "pymatgen's `PhaseDiagram`, the diagrams made before": (pymatgen, 1),
    }
    expected = pymatgen()
    print(f"| | compositions/s | largest difference from pymatgen, {len(few):,} compositions [eV/atom] |")
    print("|---|--:|--:|")
    for name, (run, rounds) in ways.items():
        energies, seconds = fastest(run, rounds)
        difference = np.abs(energies[: len(few)] - expected).max()
        print(f"| {name} | {len(energies) / seconds:,.0f} | {difference:.1e} |")


def _diagram(phases: Phases, row: np.ndarray) -> PhaseDiagram:
    """The phase diagram of the elements of one composition."""
    inside = (phases.fractions[:, row == 0] == 0).all(1)
    entries = []
    for share, energy in zip(phases.fractions[inside], phases.energies[inside], strict=True):
        entries.append(PDEntry(Composition(dict(zip(phases.elements, share.tolist(), strict=True))), float(energy)))
    return PhaseDiagram(entries)


def fastest(run: Callable[[], np.ndarray], rounds: int) -> tuple[np.ndarray, float]:
    """The result of a call, and the shortest CPU time [s] of some rounds."""
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        result = run()
        seconds.append(time.process_time() - start)
    return result, min(seconds)


if __name__ == "__main__":
    main()
