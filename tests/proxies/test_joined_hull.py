"""The hull of a reference and further crystals together: by facets, by phases, and by pymatgen's phase diagram."""

import numpy as np
import pytest
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition

from crystalgfn.crystal.formulas import count_rows, formula_text, parse_formula, symbol_counts
from crystalgfn.proxies.hull import ReferenceHull, build_hull, hull_energies, joined, load_hull, open_hull

ELEMENTS = ("Li", "O", "F", "Mg", "Al")


@pytest.fixture(scope="module")
def hulls(tmp_path_factory):
    """The same invented phases as a file of facets and as a table."""
    folder = tmp_path_factory.mktemp("hull")
    stream = np.random.default_rng(3)
    lines = ["formula,formation_energy"]
    for _ in range(40):
        chosen = stream.choice(len(ELEMENTS), int(stream.integers(2, 4)), replace=False)
        formula = "".join(f"{ELEMENTS[i]}{stream.integers(1, 4)}" for i in chosen)
        lines.append(f"{formula},{stream.uniform(-2.5, 0.2):.4f}")
    (folder / "known.csv").write_text("\n".join(lines) + "\n")
    build_hull(folder / "known.csv", folder / "hull.pt", elements=ELEMENTS)
    return load_hull(folder / "hull.pt"), ReferenceHull(folder / "known.csv"), folder


@pytest.fixture(scope="module")
def crystals():
    stream = np.random.default_rng(4)
    formulas = ["Li2O", "LiF", "MgAl2O4", "LiAlO2", "Mg2Li1F5", "Li1O1F1", "AlF3", "Mg3Al1O2F4", "Li6Mg1Al1O3F2"]
    counts = count_rows(map(parse_formula, formulas))
    return counts, stream.uniform(-3.2, -1.0, len(formulas))


def test_facets_and_phases_agree_with_pymatgen(hulls, crystals):
    facets, table, _ = hulls
    counts, energies = crystals
    one = hull_energies(counts, joined(facets, counts, energies))
    other = hull_energies(counts, joined(table, counts, energies))
    np.testing.assert_allclose(one, other, atol=1e-6)
    phases = table.phases
    entries = [
        PDEntry(Composition(dict(zip(phases.elements, row, strict=True))), energy * row.sum())
        for row, energy in zip(phases.fractions, phases.energies, strict=True)
        if set(np.array(phases.elements)[row > 0]) <= set(ELEMENTS)
    ]
    own = [
        PDEntry(Composition(formula_text(c)), e * sum(c.values()))
        for c, e in zip(symbol_counts(counts), energies.tolist(), strict=True)
    ]
    diagram = PhaseDiagram(entries + own)
    exact = [diagram.get_hull_energy_per_atom(entry.composition) for entry in own]
    np.testing.assert_allclose(one, exact, atol=1e-6)
    assert (one <= energies + 1e-9).all() and (one < energies - 1e-3).any() and (np.abs(one - energies) < 1e-9).any()


def test_without_lower_crystals_nothing_changes(hulls, crystals):
    counts, _ = crystals
    for hull in hulls[:2]:
        before = hull_energies(counts, hull)
        for energies in (np.full(len(counts), np.nan), before + 0.01, np.full(len(counts), 0.5)):
            np.testing.assert_allclose(hull_energies(counts, joined(hull, counts, energies)), before, atol=1e-6)


def test_crystals_that_the_hull_does_not_know_are_left_out(hulls):
    counts = count_rows([{"Li": 1, "F": 1}, {"Cs": 1, "F": 1}])
    energies = hull_energies(counts, joined(hulls[0], counts, np.array([-9.0, -9.0])))
    assert energies[0] == pytest.approx(-9.0) and np.isnan(energies[1])


def test_a_hull_is_opened_by_the_kind_of_its_file(hulls):
    folder = hulls[2]
    assert type(open_hull(folder / "known.csv")) is ReferenceHull
    assert type(open_hull(folder / "hull.pt")) is type(hulls[0])
