"""What counts as the same crystal, as known, and as a known prototype."""

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure
from real_crystals import CRYSTALS, STRUCTURES

from crystalgfn.errors import InputError
from crystalgfn.judging.known import Reference, first_of_each, formula_key, prototype


def rock_salt(cation="Na", anion="Cl", a=5.69):
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])


def caesium_chloride(a=3.5):
    return Structure.from_spacegroup("Pm-3m", Lattice.cubic(a), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def rutile(x=0.305):
    return Structure.from_spacegroup("P4_2/mnm", Lattice.tetragonal(4.65, 2.97), ["Ti", "O"], [[0, 0, 0], [x, x, 0]])


def moved(structure, seed=0, scale=0.01):
    stream = np.random.default_rng(seed)
    shift = stream.random(3)
    noise = stream.normal(scale=scale, size=(len(structure), 3))
    positions = structure.lattice.get_cartesian_coords(structure.frac_coords + shift) + noise
    return Structure(structure.lattice, structure.species, positions, coords_are_cartesian=True)


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.setenv("CRYSTALGFN_CACHE", str(tmp_path / "cache"))
    known = {"salt": rock_salt(), "bad": None, "rutile": rutile(), "oxide": rock_salt("Mg", "O", 4.2)}
    texts = ["nonsense" if crystal is None else crystal.to(fmt="cif") for crystal in known.values()]
    frame = pd.DataFrame({"material_id": list(known), "cif": texts})
    frame.to_parquet(tmp_path / "known.parquet")
    return tmp_path / "known.parquet"


def test_the_first_of_each():
    crystals = [rock_salt(), None, caesium_chloride(), moved(rock_salt()), rock_salt(a=6.0), caesium_chloride(3.6)]
    assert first_of_each(crystals) == [0, -1, 2, 0, 0, 2]
    assert formula_key(rock_salt()) == formula_key(caesium_chloride()) == "Na1 Cl1"


def test_prototypes_do_not_depend_on_elements_origin_cell_or_noise():
    assert prototype(rock_salt()) == "225: 4 -3mm, 4 -3mm"
    names = {
        prototype(crystal)
        for crystal in (rock_salt(), rock_salt("O", "Mg"), rock_salt().get_primitive_structure(), moved(rock_salt(), 1))
    }
    assert names == {"225: 4 -3mm, 4 -3mm"}
    assert prototype(rutile()) == prototype(moved(rutile(), 2)) == prototype(rutile(0.31)) == "136: 2 mmm, 4 2mm"
    assert prototype(caesium_chloride()) != prototype(rock_salt())
    # The same counts of atoms on other sites of the same group are another prototype.
    sites = [[0.28, -0.28, 0], [0, 0, 0.2]]
    other = Structure.from_spacegroup("P4_2/mnm", Lattice.tetragonal(6, 4), ["Ti", "O"], sites)
    assert prototype(other) == "136: 4 2mm, 4 2mm"
    plain = Structure.from_spacegroup("P4_2/mnm", Lattice.tetragonal(6, 4), ["Ti", "O"], [sites[0], [0, 0.5, 0]])
    assert prototype(plain) == "136: 4 2/m, 4 2mm"
    assert prototype(Structure(Lattice.cubic(3), ["H", "H"], [[0, 0, 0], [1e-4, 0, 0]])) == ""


def test_a_reference_knows_its_crystals_and_prototypes(table):
    reference = Reference(table)
    assert len(reference) == 4
    assert reference.known_as(moved(rock_salt())) == "salt"
    assert reference.known_as(caesium_chloride()) == "" and reference.known_as(rock_salt("K")) == ""
    assert reference.unusable == 1
    assert prototype(rock_salt("K", "I", 7)) in reference.prototypes(rock_salt("K", "I", 7))
    assert prototype(caesium_chloride()) not in reference.prototypes(caesium_chloride())
    assert reference.prototypes(Structure(Lattice.cubic(3), ["Fe"], [[0, 0, 0]])) == frozenset()


def test_prototypes_are_kept_in_the_cache(table, monkeypatch):
    before = Reference(table).prototypes(rock_salt())
    monkeypatch.setattr("crystalgfn.judging.known.prototype", lambda _: pytest.fail("determined again"))
    assert Reference(table).prototypes(rock_salt()) == before == {"225: 4 -3mm, 4 -3mm"}


def test_a_folder_is_a_reference_too(tmp_path):
    (tmp_path / "salt.cif").write_text(rock_salt().to(fmt="cif"))
    assert Reference(tmp_path).known_as(rock_salt()) == "salt"
    with pytest.raises(InputError, match=r"--reference: .* has no CIF files"):
        Reference(tmp_path.parent / "empty") if (tmp_path.parent / "empty").mkdir() is None else None


@pytest.mark.skipif(not STRUCTURES.exists(), reason="needs the table of real crystals")
def test_real_crystals_are_found_again(monkeypatch, tmp_path):
    monkeypatch.setenv("CRYSTALGFN_CACHE", str(tmp_path))
    reference = Reference(STRUCTURES)
    labels = pd.read_parquet(CRYSTALS, columns=["material_id", "space_group"]).set_index("material_id").space_group
    agree = 0
    rows = np.random.default_rng(0).choice(len(reference), 60, replace=False).tolist()
    for row in rows:
        crystal = moved(reference._texts.structure(row), row, scale=0.005)
        found = reference.known_as(crystal)
        assert found
        agree += int(prototype(crystal).partition(":")[0] == str(labels[found]))
    assert agree >= 55  # the table's groups come from the unmoved structures
