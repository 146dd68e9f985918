"""Wyckoff positions, arrangements and their search, without CHGNet where it is not needed."""

import json
import time

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Composition, Lattice, Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from crystalgfn.atoms import require_extra
from crystalgfn.atoms.arrangements import contacts, crowding, distance_ratios, propose
from crystalgfn.atoms.isolated import Failed, run
from crystalgfn.atoms.outputs import symmetry
from crystalgfn.atoms.potentials import CHGNet
from crystalgfn.atoms.potentials.references import ElementReferences, fit
from crystalgfn.atoms.search import are_apart
from crystalgfn.crystal.crystallography.positions import positions, settings, ways
from crystalgfn.errors import InputError

SALT = {"Na": 4, "Cl": 4}


def proposals(number, counts, lattice, n, seed=0):
    random = np.random.default_rng(seed)
    cells = settings(number, np.array(lattice, dtype=float))
    choices = ways(number, counts, 100, random)
    pairs = [(way, cell) for way in choices for cell in cells]
    return propose(number, counts, [pairs[i % len(pairs)] for i in range(n)], random)


def test_positions_are_those_of_the_tables():
    labels = [(p.label, p.freedom) for p in positions(225)]
    assert labels[-3:] == [("8c", 0), ("4b", 0), ("4a", 0)] and labels[0] == ("192l", 3)
    # Atoms of the primitive cell: a quarter of the conventional multiplicity for a face-centred lattice.
    assert all(len(p.rotations) * 4 == p.multiplicity for p in positions(225))
    assert all(len(p.rotations) * 3 == p.multiplicity for p in positions(166))


@pytest.mark.parametrize(
    ("number", "lattice", "n"),
    [
        (225, [5.7] * 3 + [90] * 3, 1),
        (62, [4, 6, 9, 90, 90, 90], 6),
        (62, [4, 4, 9, 90, 90, 90], 3),
        (63, [4, 6, 9, 90, 90, 90], 2),
        (38, [4, 6, 9, 90, 90, 90], 2),
        (14, [4, 6, 9, 90, 100, 90], 3),
        (12, [4, 6, 9, 90, 100, 90], 1),
        (2, [4, 6, 9, 80, 100, 95], 1),
    ],
)
def test_settings_of_a_conventional_standard_cell(number, lattice, n):
    cells = settings(number, np.array(lattice, dtype=float))
    assert len(cells) == n
    volume = Lattice.from_parameters(*lattice).volume
    for cell in cells:
        assert abs(np.linalg.det(cell)) == pytest.approx(volume)


@pytest.mark.parametrize("number", [7, 14, 15, 36, 40, 62, 63, 72, 129, 166, 194, 205, 216, 227])
def test_settings_contain_the_cell_of_the_international_tables(number):
    """A crystal, brought to the conventional standard cell, has the cell it was made in among the settings."""
    from pyxtal.symmetry import Group

    lattice = {"t": [5.1, 5.1, 7.3, 90, 90, 90], "h": [5.1, 5.1, 7.3, 90, 90, 120], "c": [7.1] * 3 + [90] * 3}
    kind = Group(number).lattice_type[0]
    cell = lattice.get(kind, [7.7, 5.3, 6.1, 90, 104 if kind == "m" else 90, 90])
    if number in (166,):
        cell = lattice["h"]
    general = positions(number)[0]
    made = Structure.from_spacegroup(
        Group(number).symbol.replace("P21", "P2_1"),
        Lattice.from_parameters(*cell),
        ["Si", "C"],
        [[0.11, 0.23, 0.37], [0.41, 0.07, 0.19]],
    )
    assert len(made) == 2 * general.multiplicity
    standard = SpacegroupAnalyzer(made, symprec=1e-3).get_conventional_standard_structure()
    found = [
        Lattice(matrix).parameters for matrix in settings(number, np.array(standard.lattice.parameters, dtype=float))
    ]
    close = [np.abs(np.array(parameters[:3]) - np.array(cell[:3])).max() < 1e-6 for parameters in found]
    assert any(close), (standard.lattice.parameters, found)


def test_cells_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="the cell is not cubic, which space group 225 requires"):
        settings(225, np.array([5.7, 5.7, 5.8, 90, 90, 90]))
    settings(225, np.array([5.7, 5.7, 5.7004, 90, 90, 90]))  # rounding


def test_ways_use_fixed_positions_once_and_hold_the_composition():
    group = positions(225)
    found = ways(225, {"Na": 4, "Cl": 4, "O": 8}, 100, np.random.default_rng(0))
    assert len(found) > 1
    for way in found:
        held = [sum(group[p].multiplicity for element, p in way.orbits if element == e) for e in range(3)]
        assert held == [4, 4, 8]
        fixed = [p for _, p in way.orbits if group[p].freedom == 0]
        assert len(fixed) == len(set(fixed))
    # Two elements on 4a and 4b, in either order, and nothing else.
    assert len(ways(225, SALT, 100, np.random.default_rng(0))) == 2
    assert ways(225, {"Na": 3}, 100, np.random.default_rng(0)) == []
    assert ways(225, {"Na": 4, "Cl": 4, "K": 4}, 100, np.random.default_rng(0)) == []


@pytest.mark.parametrize(
    ("number", "counts", "lattice"),
    [
        (225, {"Na": 4, "Cl": 4, "O": 8}, [5.7] * 3 + [90] * 3),
        (62, {"Ti": 4, "O": 8}, [4.5, 5.5, 9.2, 90, 90, 90]),
        (14, {"Zr": 4, "O": 8}, [5.1, 5.2, 5.3, 90, 99, 90]),
        (15, {"Zr": 4, "O": 8}, [6.1, 5.2, 5.3, 90, 99, 90]),
        (166, {"Na": 3, "Co": 3, "O": 6}, [2.9, 2.9, 15.6, 90, 90, 120]),
        (40, {"Al": 4, "P": 8}, [6.1, 5.2, 7.3, 90, 90, 90]),
        (2, {"B": 2, "O": 2, "H": 2}, [4.1, 5.2, 6.3, 80, 99, 95]),
    ],
)
def test_arrangements_have_group_composition_and_cell(number, counts, lattice):
    arrangements = proposals(number, counts, lattice, 24)
    structures = arrangements.structures()
    volume = Lattice.from_parameters(*lattice).volume
    share = len(positions(number)[0].rotations) / positions(number)[0].multiplicity
    for structure in structures:
        assert structure.composition.reduced_composition == Composition(counts).reduced_composition
        assert len(structure) == sum(counts.values()) * share
        assert structure.volume == pytest.approx(volume * share)
    apart = [s for s, ratio in zip(structures, distance_ratios(structures)[0], strict=True) if ratio > 0.3]
    assert apart
    for structure in apart[:8]:
        found = SpacegroupAnalyzer(structure, symprec=1e-4)
        rotations = {tuple(r.ravel()) for r in found.get_symmetry_dataset().rotations}
        # The group or a supergroup: its point group is at least as large.
        general = positions(number)[0]
        assert len(rotations) >= len({tuple(np.round(r, 6).ravel()) for r in general.rotations})


def test_gradient_is_the_derivative():
    """Forces of a potential, taken to the free coordinates, against differences."""
    arrangements = proposals(14, {"Zr": 4, "O": 8}, [5.1, 5.2, 5.3, 90, 99, 90], 3)
    target = np.random.default_rng(1).random((len(arrangements.species), 3)) * 5

    def energy(points):
        at = arrangements.at(points)
        return 0.5 * ((at.fractional() @ at.lattice - target) ** 2).sum(axis=(1, 2))

    forces = target - arrangements.fractional() @ arrangements.lattice
    gradient = arrangements.gradient(forces)
    step = np.zeros_like(arrangements.points)
    for index in np.ndindex(*arrangements.points.shape[1:]):
        step[:] = 0
        step[(slice(None), *index)] = 1e-5
        numeric = (energy(arrangements.points + step) - energy(arrangements.points - step)) / 2e-5
        np.testing.assert_allclose(gradient[(slice(None), *index)], numeric, atol=1e-5)


def test_pushing_drives_atoms_apart():
    lattice = [8.9, 9.3, 9.9, 80, 99, 95]
    ratios = distance_ratios(proposals(1, {"Si": 6, "O": 12}, lattice, 40).structures())[0]
    random = Structure(
        Lattice.from_parameters(*lattice), ["Si"] * 6 + ["O"] * 12, np.random.default_rng(0).random((18, 3))
    )
    assert distance_ratios([random])[0][0] < 0.6
    assert (ratios > 0.7).mean() > 0.9


def test_anions_keep_apart_beside_metals_only():
    numbers = np.array([11, 8, 8])
    assert contacts(numbers, True)[1, 2] == pytest.approx(2 * contacts(numbers, False)[1, 2])
    assert contacts(numbers, True)[0, 1] == contacts(numbers, False)[0, 1]
    assert (contacts(np.array([6, 8, 8]), True) == contacts(np.array([6, 8, 8]), False)).all()


def test_distances():
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.7), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    ratio, shortest = distance_ratios([salt, Structure(Lattice.cubic(20), ["Na"], [[0, 0, 0]])])
    assert shortest[0] == pytest.approx(2.85) and ratio[0] == pytest.approx(2.85 / (1.66 + 1.02))
    assert np.isinf(ratio[1]) and np.isinf(shortest[1])


def test_crowded_cells_are_told_from_real_ones():
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.7), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    # Six neighbours within 3 Å: thirty ordered pairs for each atom.
    assert crowding([salt])[0] == 30
    # One atom beside its images, no closer than atoms may be.
    flat = Structure(Lattice.from_parameters(0.9, 0.9, 30, 90, 90, 120), ["H"], [[0, 0, 0]])
    assert crowding([flat])[0] > 320 and distance_ratios([flat])[0][0] > 0.6
    assert are_apart([salt, flat]).tolist() == [True, False]


def test_a_call_that_takes_too_long_is_killed():
    assert run("sleepers:sleep", {"id": "a", "seconds": 0}, 20)["reason"] == ""
    start = time.monotonic()
    with pytest.raises(Failed, match=r"takes longer than 0\.5 s"):
        run("sleepers:sleep", {"id": "b", "seconds": 60}, 0.5)
    assert time.monotonic() - start < 10
    with pytest.raises(Failed, match="RuntimeError: no atoms today"):
        run("sleepers:fail", {}, 20)
    with pytest.raises(Failed, match=r"worker process has died \(status 9\)"):
        run("sleepers:die", {}, 20)
    assert run("sleepers:talk", {"id": "c"}, 20) == {"id": "c", "reason": ""}
    with pytest.raises(Failed, match="ModuleNotFoundError"):
        run("no_such_module:name", {}, 20)


def test_the_process_is_kept_between_calls():
    first = run("sleepers:sleep", {"id": "a", "seconds": 0}, 20)["process"]
    assert run("sleepers:sleep", {"id": "b", "seconds": 0}, 20)["process"] == first


def test_fit_finds_references_in_spite_of_outliers():
    random = np.random.default_rng(0)
    true = {"Na": -1.3, "Cl": -1.8, "O": -4.9}
    compositions = [
        Composition({s: int(k) for s, k in zip(true, random.integers(0, 5, 3), strict=True)}) for _ in range(90)
    ]
    compositions = [c for c in compositions if c.num_atoms]
    labels = random.normal(-1, 0.5, len(compositions))
    exact = [sum(x * true[e.symbol] for e, x in c.fractional_composition.items()) for c in compositions]
    energies = labels + exact + random.normal(0, 0.005, len(labels))
    energies[:5] += 2.0
    found = fit(energies, labels, compositions)
    assert found == pytest.approx(true, abs=0.02)
    references = ElementReferences(found, "CHGNet", "0.3.0")
    value = references.formation_energy(float(energies[10]), compositions[10])
    assert value == pytest.approx(labels[10], abs=0.05)
    assert np.isnan(references.formation_energy(-1.0, Composition("NaXe")))
    assert references.missing(Composition("NaXe")) == ["Xe"]


def test_references_as_a_file(tmp_path):
    path = tmp_path / "references.json"
    ElementReferences({"Na": -1.3}, "CHGNet", "0.3.0", recipe={"seed": 0}).save(path)
    assert ElementReferences.load(CHGNet(), path).energies == {"Na": -1.3}
    shipped = ElementReferences.load(CHGNet())
    assert len(shipped.energies) > 80 and shipped.energies["O"] == pytest.approx(-4.9, abs=0.3)
    path.write_text(json.dumps({"energies": {"Na": -1.3}, "model": "0.2.0", "recipe": {}}))
    with pytest.raises(InputError, match=r"for CHGNet 0\.2\.0, not for CHGNet 0\.3\.0"):
        ElementReferences.load(CHGNet(), path)
    path.write_text("{}")
    with pytest.raises(InputError, match="no table of references"):
        ElementReferences.load(CHGNet(), path)
    with pytest.raises(InputError, match="cannot be read"):
        ElementReferences.load(CHGNet(), tmp_path / "none.json")


def test_without_the_extra_one_clear_message(monkeypatch):
    monkeypatch.setattr("crystalgfn.atoms.find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"chgnet, ase, joblib not installed; .* pip install 'crystalgfn\[structures\]'"
    ):
        require_extra()


def test_matcher_tells_rock_salt_from_caesium_chloride():
    """The judge of other tests can fail."""
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.7), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    caesium = Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert not StructureMatcher().fit(salt, caesium)


def test_symmetry_against_the_group_that_was_asked_for():
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.7), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert symmetry(salt, 225, {"Na": 4, "Cl": 4}) == "sampled"
    assert symmetry(salt, 166, {"Na": 3, "Cl": 3}) == "higher"
    # A supergroup of the same point group with half the cell: Imma for Pnma.
    assert symmetry(Structure.from_spacegroup("Imma", Lattice.orthorhombic(4, 6, 9), ["Na"], [[0, 0.25, 0.13]]), 62,
                    {"Na": 4}) == "higher"  # fmt: skip
    moved = salt.copy()
    moved.translate_sites([0], [0.03, 0.01, 0.05])
    assert symmetry(moved, 225, {"Na": 4, "Cl": 4}) == "lower"
