"""Batches of crystals, and their way to and from pandas and pymatgen."""

from __future__ import annotations

import pytest
import torch
from helpers import PAPER_ELEMENTS, make_crystal
from pymatgen.core import Composition, DummySpecies, Lattice, Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from crystalgfn.crystal.crystals import LATTICE_PARAMETERS, Crystals
from crystalgfn.errors import InputError
from crystalgfn.random import generator
from crystalgfn.testing import random_walk


@pytest.fixture(scope="module")
def crystals() -> Crystals:
    env = make_crystal(elements=PAPER_ELEMENTS, space_groups=[1, 2, 14, 62, 139, 148, 167, 194, 225])
    return env.decode(random_walk(env, 200, generator("crystals"))[0])


def assert_equal(one: Crystals, two: Crystals) -> None:
    assert torch.equal(one.space_group, two.space_group)
    assert torch.equal(one.counts, two.counts)
    assert torch.equal(one.lattice, two.lattice)


def test_volume(crystals: Crystals) -> None:
    expected = torch.tensor([lattice.volume for lattice in crystals.lattices()], dtype=torch.float64)
    torch.testing.assert_close(crystals.volume, expected, rtol=1e-8, atol=0)


def test_a_cell_that_does_not_close_has_no_volume() -> None:
    flat = Crystals.from_arrays([1, 1], [{"Na": 1}] * 2, [[3, 3, 3, 60, 60, 120], [3, 3, 3, 50, 50, 120]])
    assert flat.volume[0] < 1e-5 and flat.volume[1] == 0


def test_round_trip_through_pandas(crystals: Crystals) -> None:
    frame = crystals.to_frame()
    assert list(frame.columns) == ["formula", "space_group", *LATTICE_PARAMETERS]
    compositions = [Composition(formula).get_el_amt_dict() for formula in frame["formula"]]
    again = Crystals.from_arrays(
        frame["space_group"].tolist(), compositions, frame[list(LATTICE_PARAMETERS)].to_numpy().tolist()
    )
    assert_equal(again, crystals)


def test_round_trip_through_pymatgen(crystals: Crystals) -> None:
    lattices = [list(lattice.parameters) for lattice in crystals.lattices()]
    compositions = [composition.get_el_amt_dict() for composition in crystals.compositions()]
    again = Crystals.from_arrays(crystals.space_group.tolist(), compositions, lattices)
    assert torch.equal(again.counts, crystals.counts)
    torch.testing.assert_close(again.lattice, crystals.lattice)


def test_formulas_put_cations_first() -> None:
    compositions = [{"Cl": 4, "Na": 4}, {"O": 3, "Ti": 1, "Ba": 1}]
    crystals = Crystals.from_arrays([225, 221], compositions, [[4, 4, 4, 90, 90, 90]] * 2)
    assert crystals.formulas() == ["Na4 Cl4", "Ba1 Ti1 O3"]
    assert crystals.n_atoms.tolist() == [8, 5]


def test_rock_salt_from_its_primitive_cell() -> None:
    conventional = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    primitive = conventional.get_primitive_structure()
    assert len(primitive) == 2
    crystals = Crystals.from_structures([conventional, primitive])
    assert crystals.space_group.tolist() == [225, 225]
    assert crystals.formulas() == ["Na4 Cl4", "Na4 Cl4"]
    expected = torch.tensor([[5.64, 5.64, 5.64, 90.0, 90.0, 90.0]], dtype=torch.float64).repeat(2, 1)
    torch.testing.assert_close(crystals.lattice, expected, rtol=1e-6, atol=1e-6)


def test_structures_are_brought_to_hexagonal_axes() -> None:
    corundum = Structure.from_spacegroup(
        "R-3c", Lattice.hexagonal(4.76, 12.99), ["Al", "O"], [[0, 0, 0.352], [0.306, 0, 0.25]]
    ).get_primitive_structure()
    crystals = Crystals.from_structures([corundum])
    assert crystals.space_group.tolist() == [167]
    assert crystals.formulas() == ["Al12 O18"]
    torch.testing.assert_close(
        crystals.lattice[0], torch.tensor([4.76, 4.76, 12.99, 90, 90, 120], dtype=torch.float64), rtol=1e-4, atol=1e-4
    )


def test_parts_make_the_whole(crystals: Crystals) -> None:
    assert len(crystals) == 200 and len(crystals[:7]) == 7 and len(crystals[:0]) == 0
    assert_equal(Crystals.cat([crystals[:50], crystals[50:]]), crystals)
    order = torch.arange(199, -1, -1)
    assert_equal(crystals[order][order], crystals)
    assert_equal(crystals.to("cpu"), crystals)


def test_an_empty_batch() -> None:
    empty = Crystals.from_arrays([], [], [])
    assert len(empty) == 0 and len(empty.to_frame()) == 0
    assert empty.volume.shape == (0,) and empty.n_atoms.shape == (0,)


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"\(n, 94\)"):
        Crystals(torch.ones(2, dtype=torch.int64), torch.zeros(2, 93, dtype=torch.int64), torch.ones(2, 6))


def test_structures_that_are_no_crystals_are_refused_by_name() -> None:
    salt = Structure(Lattice.cubic(4.2), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    alloy = Structure(Lattice.cubic(4.2), [{"Fe": 0.8}, "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    dummy = Structure(Lattice.cubic(4.2), [DummySpecies("X"), "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    heavy = Structure(Lattice.cubic(4.2), ["Am", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    with pytest.raises(InputError, match=r"structure 2 \(Fe0\.8 O1\): is not ordered"):
        Crystals.from_structures([salt, alloy])
    with pytest.raises(InputError, match=r"structure 1 \(X1 O1\): contains X0\+; allowed: the elements H to Pu"):
        Crystals.from_structures([dummy])
    with pytest.raises(InputError, match=r"structure 1 \(Am1 O1\): contains Am; allowed"):
        Crystals.from_structures([heavy])


def test_species_and_deuterium_are_elements() -> None:
    hydride = Structure(Lattice.cubic(4.1), ["Li+", "D"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert Crystals.from_structures([hydride]).formulas() == ["Li1 H1"]


def test_hexagonal_cells_with_equal_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = Structure(
        Lattice.hexagonal(3.9, 3.9), ["Gd", "Se", "F"], [[0, 0, 0], [1 / 3, 2 / 3, 0.3], [2 / 3, 1 / 3, 0.6]]
    )

    def check() -> None:
        crystal = Crystals.from_structures([flat])
        assert crystal.space_group.tolist() == [156] and crystal.formulas() == ["Gd1 Se1 F1"]
        assert crystal.lattice[0].tolist() == pytest.approx([3.9, 3.9, 3.9, 90, 90, 120])

    check()

    def tripled(self: SpacegroupAnalyzer) -> Structure:
        """What pymatgen 2025.6.14 makes of this cell."""
        cell = self.get_refined_structure()
        cell.make_supercell(((1, -1, 0), (0, 1, -1), (1, 1, 1)))
        a, _, c = sorted(cell.lattice.abc)
        return Structure(Lattice.hexagonal(a, c), cell.species, cell.frac_coords)

    monkeypatch.setattr(SpacegroupAnalyzer, "get_conventional_standard_structure", tripled)
    check()
    cubic = Structure(Lattice.cubic(4.2), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    monkeypatch.setattr(SpacegroupAnalyzer, "get_refined_structure", lambda self: cubic.copy().scale_lattice(20))
    with pytest.raises(InputError, match=r"structure 1 \(Cs1 Cl1\): has .* per atom, but .* they must agree"):
        Crystals.from_structures([cubic])
