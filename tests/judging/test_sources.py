"""Crystals to judge are read from every kind of file, and what cannot be used is kept with its reason."""

import json
import math
import sys

import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure

from crystalgfn.errors import InputError
from crystalgfn.judging.sources import (
    Unusable,
    check_names,
    counts_of,
    from_structures,
    plain,
    read_cif,
    read_given,
    texts_of,
)

SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
CIF = SALT.to(fmt="cif")
ALLOY = Structure(Lattice.cubic(3), [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]])


def test_a_table_of_texts(tmp_path):
    frame = pd.DataFrame(
        {
            "material_id": ["a", "b", "c", "d"],
            "cif": [CIF, "", "data_x\nnonsense", ALLOY.to(fmt="cif")],
            "space_group": [216, None, 300, 1],
            "cpu_seconds": [1.5, None, None, 2.0],
            "reason": ["", "not made: too slow", "", ""],
        }
    )
    for path in (tmp_path / "t.csv", tmp_path / "t.parquet"):
        (frame.to_csv if path.suffix == ".csv" else frame.to_parquet)(path, index=False)
        given = read_given(path)
        assert [crystal.id for crystal in given] == ["a", "b", "c", "d"]
        assert counts_of(given[0].structure) == {"Na": 4, "Cl": 4} and given[0].reason == ""
        assert (given[0].space_group, given[0].cpu_seconds) == (216, 1.5)
        assert given[1].reason == "not made: too slow" and math.isnan(given[1].cpu_seconds)
        assert given[2].reason.startswith("cannot be read as CIF") and given[2].space_group is None
        assert "shared by elements" in given[3].reason and given[3].structure is None
    frame.drop(columns="material_id").to_csv(tmp_path / "t.csv", index=False)
    assert read_given(tmp_path / "t.csv")[0].id == "row-000001"


def test_files_and_folders(tmp_path):
    folder = tmp_path / "cifs"
    folder.mkdir()
    for name in ("b", "a"):
        (folder / f"{name}.cif").write_text(CIF)
    (folder / "c.cif").write_text("")
    given = read_given(folder)
    assert [(crystal.id, crystal.reason) for crystal in given] == [("a", ""), ("b", ""), ("c", "no structure")]
    assert given[0].space_group is None
    assert [crystal.id for crystal in read_given(folder / "a.cif")] == ["a"]

    from ase import Atoms
    from ase.io import write
    from pymatgen.io.ase import AseAtomsAdaptor

    salt = AseAtomsAdaptor.get_atoms(SALT, msonable=False)
    named = salt.copy()
    named.info["id"] = "mine"
    write(tmp_path / "x.extxyz", [salt, named, Atoms("H2", [[0, 0, 0], [0, 0, 1]])])
    given = read_given(tmp_path / "x.extxyz")
    assert [crystal.id for crystal in given] == ["frame-000001", "mine", "frame-000003"]
    assert given[1].structure.volume == pytest.approx(SALT.volume, rel=1e-6)
    assert "periodic" in given[2].reason


def test_a_folder_of_build_gives_the_structures_before_relaxation(tmp_path):
    (tmp_path / "crystals").mkdir()
    (tmp_path / "structures.csv").write_text("id,space_group,reason\nrow-1,225,\nrow-2,12,not built: too crowded\n")
    large = SALT.copy()
    large.scale_lattice(2 * SALT.volume)
    content = {"structure_built": SALT.as_dict(), "structure_relaxed": large.as_dict(), "cpu_seconds": 9.0}
    (tmp_path / "crystals" / "row-1.json").write_text(json.dumps(content))
    (tmp_path / "crystals" / "row-2.json").write_text(json.dumps({"reason": "not built: too crowded"}))
    first, second = read_given(tmp_path)
    assert first.structure.volume == pytest.approx(SALT.volume) and first.space_group == 225
    assert math.isnan(first.cpu_seconds)  # it includes the relaxation
    assert second.structure is None and second.reason == "not built: too crowded" and second.space_group == 12
    del content["structure_relaxed"]
    (tmp_path / "crystals" / "row-1.json").write_text(json.dumps(content))
    assert read_given(tmp_path)[0].cpu_seconds == 9.0


def test_a_folder_from_someone_else_runs_no_code(tmp_path):
    (tmp_path / "crystals").mkdir()
    (tmp_path / "structures.csv").write_text("id,space_group\nrow-1,225\n")
    content = SALT.as_dict()
    trap = {"@module": "pathlib", "@class": "Path", "@callable": "touch", "args": [str(tmp_path / "trap")]}
    content["sites"][0]["properties"] = {"x": {"@module": "this", "@class": "x"}, "y": trap}
    (tmp_path / "crystals" / "row-1.json").write_text(json.dumps({"structure_built": content}))
    assert counts_of(read_given(tmp_path)[0].structure) == {"Na": 4, "Cl": 4}
    assert "this" not in sys.modules and not (tmp_path / "trap").exists()
    for damaged in ("[]", "{", '{"structure_built": {"sites": [1]}}'):
        (tmp_path / "crystals" / "row-1.json").write_text(damaged)
        with pytest.raises(InputError, match=r"row-1.json: cannot be read"):
            read_given(tmp_path)


def test_what_cannot_be_read_is_told(tmp_path):
    with pytest.raises(InputError, match=r"absent: no such file or folder"):
        read_given(tmp_path / "absent")
    with pytest.raises(InputError, match="has no CIF files"):
        read_given(tmp_path)
    (tmp_path / "t.csv").write_text("id\na\n")
    with pytest.raises(InputError, match=r"missing column\(s\) cif"):
        read_given(tmp_path / "t.csv")
    (tmp_path / "x.xyz").write_text("not a number\n")
    with pytest.raises(InputError, match="cannot be read as extxyz"):
        read_given(tmp_path / "x.xyz")
    with pytest.raises(InputError, match="more than one crystal is called a"):
        check_names([*read_given_twice()])
    with pytest.raises(InputError, match="there are no crystals"):
        check_names([])


def read_given_twice():
    from crystalgfn.judging.sources import Given

    return [Given("a", SALT), Given("a", SALT), Given("b", SALT)]


def test_structures_lose_what_potentials_do_not_read():
    charged = SALT.copy()
    charged.add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    charged.add_site_property("magmom", [1.0] * 8)
    clean = plain(charged)
    assert clean.species[0].symbol == "Na" and not clean.site_properties and "+" not in str(clean.species)
    with pytest.raises(Unusable, match="beyond Pu: Am"):
        plain(Structure(Lattice.cubic(3), ["Am"], [[0, 0, 0]]))
    named = from_structures([SALT, ALLOY])
    assert [crystal.id for crystal in named] == ["row-000001", "row-000002"] and named[1].reason


def test_the_formula_of_a_text_is_read_without_its_structure(monkeypatch):
    texts = texts_of(pd.DataFrame({"id": ["a", "b"], "cif": [CIF, CIF.replace("_chemical_formula_sum", "_other")]}))
    assert texts.formula(1) == {"Na": 1, "Cl": 1}
    monkeypatch.setattr("crystalgfn.judging.sources.read_cif", lambda _: pytest.fail("read the structure"))
    assert texts.formula(0) == {"Na": 1, "Cl": 1}
    assert counts_of(SALT) == {"Na": 4, "Cl": 4}
    monkeypatch.undo()
    assert counts_of(read_cif(CIF)) == {"Na": 4, "Cl": 4}
