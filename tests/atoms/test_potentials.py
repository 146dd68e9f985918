"""Potentials pass their contract; how they are named, what their energies lack, and their element references."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ase.build import bulk
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from crystalgfn.atoms.build import relax_given
from crystalgfn.atoms.isolated import Failed, run
from crystalgfn.atoms.potentials import DEFAULT, AseCalculator, CHGNet, SevenNet, make, sevennet
from crystalgfn.atoms.potentials.corrections import mp2020
from crystalgfn.atoms.potentials.references import ElementReferences
from crystalgfn.errors import InputError
from crystalgfn.registry import POTENTIALS
from crystalgfn.testing import PotentialContract

PAGE = Path(__file__).parents[2] / "docs" / "new_potential.md"
LENNARD_JONES = "AseCalculator:ase.calculators.lj.LennardJones"
SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


class ArgonFluid(AseCalculator):
    """Argon, as a plugin would write it."""

    def __init__(self):
        super().__init__("ase.calculators.lj.LennardJones", elements=["Ar", "Kr"], sigma=3.4, epsilon=0.0104,
                         rc=8.0, smooth=True)  # fmt: skip


@pytest.fixture
def registered():
    POTENTIALS.register(ArgonFluid)
    yield
    del POTENTIALS._classes["ArgonFluid"]
    make.cache_clear()


def rattled(structure, seed):
    moves = np.random.default_rng(seed).normal(scale=0.15, size=(len(structure), 3))
    return Structure(
        structure.lattice.matrix * 1.03, structure.species, structure.cart_coords + moves, coords_are_cartesian=True
    )


@pytest.fixture(scope="module")
def oxides():
    """Structures without symmetry, of different sizes: one more than fits the smallest batch."""
    rutile = Structure.from_spacegroup(
        "P4_2/mnm", Lattice.tetragonal(4.65, 2.97), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]
    )
    return [rattled(cell, seed) for seed, cell in enumerate((SALT.get_primitive_structure(), rutile, SALT))]


class TestCHGNet(PotentialContract):
    @pytest.fixture
    def potential(self):
        pytest.importorskip("chgnet")
        return CHGNet()

    @pytest.fixture
    def structures(self, oxides):
        return oxides


@pytest.mark.long
class TestSevenNet(PotentialContract):
    @pytest.fixture
    def potential(self):
        pytest.importorskip("sevenn")
        return SevenNet("7net-0")

    @pytest.fixture
    def structures(self, oxides):
        return oxides


@pytest.mark.usefixtures("registered")
class TestAseCalculator(PotentialContract):
    @pytest.fixture
    def potential(self):
        return ArgonFluid()

    @pytest.fixture
    def structures(self):
        cells = [bulk("Ar", "fcc", a=5.3), bulk("Ar", "fcc", a=5.3, cubic=True)]
        return [rattled(AseAtomsAdaptor.get_structure(cell), seed) for seed, cell in enumerate(cells)]


def test_the_page_about_new_potentials():
    """The first potential of the page works as it stands there; the second has what the contract asks for."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    before = set(POTENTIALS)
    try:
        spaces = [{"__file__": str(PAGE), "__name__": "pages"} for _ in range(2)]
        for block, space in zip(blocks, spaces, strict=False):
            exec(block, space)
        solid = AseAtomsAdaptor.get_structure(bulk("Ar", "fcc", a=5.3))
        assert make("argon").energies_per_atom([solid])[0] < 0
        mine = make("mypotential")
        assert np.isnan(mine.evaluate([Structure(Lattice.cubic(4), ["Li"], [[0, 0, 0]])]).energies).all()
        assert mine.name == "MyPotential" and mine.unknown(["Na", "O"]) == ["Na"]
    finally:
        for name in set(POTENTIALS) - before:
            del POTENTIALS._classes[name]
        make.cache_clear()


def test_names():
    assert make() is make() and make("chgnet").name == DEFAULT == "CHGNet"
    assert make("sevennet").name == make("SevenNet:7net-l3i5").name == "SevenNet:7net-l3i5"
    fast = make("sevennet:7net-0")
    assert fast.name == make("SevenNet:model=7net-0").name == "SevenNet:7net-0" and fast.version == "7net-0_11jul2024"
    argon = make(f"{LENNARD_JONES},sigma=3.4,elements=Kr Ar,smooth=true")
    assert argon.name == f"{LENNARD_JONES},elements=Ar Kr,sigma=3.4,smooth=True"
    assert make(argon.name).name == argon.name and argon.unknown(["Na", "Ar", "Na"]) == ["Na"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("m3gnet", r"potential: 'm3gnet' is not allowed; allowed: .*CHGNet.*SevenNet"),
        ("sevennet:7net-omni", "SevenNet: model: '7net-omni' is not allowed; allowed: 7net-l3i5, 7net-0"),
        ("chgnet:0.2.0", "potential: 'chgnet:0.2.0' is not allowed"),
        ("sevennet:cutoff=3", "potential: 'sevennet:cutoff=3' is not allowed"),
        ("asecalculator", "potential: 'asecalculator' is not allowed"),
        (f"{LENNARD_JONES},corrections=some", "AseCalculator: corrections: 'some' is not allowed"),
    ],
)
def test_names_that_are_refused(text, match):
    with pytest.raises(InputError, match=match):
        make(text)


@pytest.mark.parametrize(
    ("path", "match"),
    [("no.such.Class", "cannot be imported"), ("ase.calculators.lj.Nothing", "cannot be imported"),
     ("LennardJones", "cannot be imported"), ("ase.calculators.mixing.SumCalculator", "SumCalculator: .*missing")],
)  # fmt: skip
def test_calculators_that_cannot_be_made(path, match):
    with pytest.raises(InputError, match=f"AseCalculator: .*{match}"):
        AseCalculator(path).evaluate([SALT])


def test_a_structure_that_cannot_be_evaluated_has_no_energy():
    pytest.importorskip("chgnet")
    alone = Structure(Lattice.cubic(30), ["Na"], [[0, 0, 0]])
    found = CHGNet().evaluate([alone, SALT], forces=True, stresses=True)
    assert np.isnan(found.energies).tolist() == [True, False]
    assert np.isnan(found.forces[0]).all() and np.isnan(found.stresses[0]).all()


@pytest.mark.long
def test_sevennet_has_no_energy_for_an_atom_without_neighbours():
    pytest.importorskip("sevenn")
    potential = SevenNet("7net-0")
    alone = Structure(Lattice.cubic(30), ["Na"], [[0, 0, 0]])
    assert np.isnan(potential.evaluate([alone, SALT]).energies).tolist() == [True, False]
    atoms = AseAtomsAdaptor.get_atoms(alone, msonable=False)
    atoms.calc = potential.calculator()
    with pytest.raises(ValueError, match="SevenNet:7net-0 cannot evaluate this structure"):
        atoms.get_potential_energy()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("crystalgfn.atoms.find_spec", lambda name: None)
    sevennet._load.cache_clear()
    with pytest.raises(InputError, match=r"sevenn.* not installed; .*pip install 'crystalgfn\[sevennet\]'"):
        SevenNet().prepare()


def test_corrections_of_the_materials_project():
    """Published values: Cl -0.614, O in oxides -0.687, in peroxides -0.465, S -0.503, Fe with +U -2.256 eV/atom."""
    assert mp2020(SALT) == pytest.approx(4 * -0.614)
    hematite = Structure.from_spacegroup(
        "R-3c", Lattice.hexagonal(5.04, 13.75), ["Fe", "O"], [[0, 0, 0.355], [0.306, 0, 0.25]]
    )
    assert mp2020(hematite) == pytest.approx(12 * -2.256 + 18 * -0.687)
    peroxide = Structure.from_spacegroup(
        "P6_3/mmc",
        Lattice.hexagonal(3.16, 7.69),
        ["Li", "Li", "O"],
        [[0, 0, 0], [1 / 3, 2 / 3, 0.75], [1 / 3, 2 / 3, 0.15]],
    )
    assert mp2020(peroxide) == pytest.approx(4 * -0.465)
    iron = Structure(Lattice.cubic(2.87), ["Fe", "Fe"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    sulfide = Structure.from_spacegroup("F-43m", Lattice.cubic(5.4), ["Fe", "S"], [[0, 0, 0], [0.25, 0.25, 0.25]])
    assert mp2020(iron) == 0 and mp2020(sulfide) == pytest.approx(4 * -0.503)
    assert SevenNet().corrected(SALT, -3.0) == pytest.approx(-3.307) and CHGNet().corrected(SALT, -3.0) == -3.0


def test_references_belong_to_one_potential(tmp_path):
    with pytest.raises(InputError, match=f"no references come with {LENNARD_JONES}; .* references --potential"):
        ElementReferences.load(make(LENNARD_JONES))
    path = tmp_path / "references.json"
    ElementReferences({"Na": -1.0}, "SevenNet:7net-0", "7net-0_11jul2024").save(path)
    assert ElementReferences.load(SevenNet("7net-0"), path).energies == {"Na": -1.0}
    with pytest.raises(
        InputError, match=r"are references for SevenNet:7net-0 7net-0_11jul2024, not for CHGNet 0\.3\.0"
    ):
        ElementReferences.load(CHGNet(), path)
    for model in ("7net-0", "7net-l3i5"):
        shipped = ElementReferences.load(SevenNet(model))
        assert len(shipped.energies) > 80 and shipped.energies["O"] == pytest.approx(-4.9, abs=0.3)


def test_a_child_process_makes_the_potential_of_its_task(tmp_path):
    """One child, two potentials; one of them cannot be loaded."""
    task = {"id": "a", "seed": 0, "structure": AseAtomsAdaptor.get_structure(bulk("Ar", "fcc", a=5.3)).as_dict()}
    function = "crystalgfn.atoms.build:relax_given"
    found = run(function, task | {"potential": f"{LENNARD_JONES},sigma=3.4,epsilon=0.0104"}, 60)
    assert found["reason"] == "" and found["energy_relaxed"] <= found["energy_built"] < 0
    with pytest.raises(Failed, match=r"AseCalculator: class_path: 'no\.Class' cannot be imported"):
        run(function, task | {"potential": "AseCalculator:no.Class"}, 60)


@pytest.mark.long
def test_rock_salt_with_sevennet(capfd):
    """The space group and the formation energy of the Materials Project, and nothing on the screen."""
    pytest.importorskip("sevenn")
    potential = SevenNet("7net-0")
    sevennet._load.cache_clear()
    found = relax_given({"id": "a", "seed": 0, "structure": SALT.as_dict(), "potential": potential.name})
    references = ElementReferences.load(potential)
    assert found["space_group_relaxed"] == 225
    shown = capfd.readouterr()
    assert shown.out == shown.err == ""
    assert references.formation_energy(found["energy_relaxed"], SALT.composition) == pytest.approx(-2.11, abs=0.1)


def test_references_of_another_potential_from_tables(tmp_path, capsys):
    """The command, on structures whose labels are the energies of a Lennard-Jones potential less known references."""
    from crystalgfn.commands.references import main

    name = f"{LENNARD_JONES},sigma=3.4,epsilon=0.0104,corrections=MP2020"
    potential, true = make(name), {"Na": -0.3, "Cl": 0.4}
    cells = [SALT, Structure(Lattice.cubic(4.3), ["Na"], [[0, 0, 0]]), Structure(Lattice.cubic(4), ["Cl"], [[0, 0, 0]])]
    energies = potential.energies_per_atom(cells).tolist()
    energies[0] += -0.614 / 2  # the correction of chlorides
    labels = [
        energy - sum(x * true[s.symbol] for s, x in cell.composition.fractional_composition.items())
        for energy, cell in zip(energies, cells, strict=True)
    ]
    table, structures, out = tmp_path / "t.csv", tmp_path / "s.csv", tmp_path / "references.json"
    frame = pd.DataFrame({"material_id": ["a", "b", "c"], "formula": [cell.formula for cell in cells]})
    frame.assign(formation_energy=labels).to_csv(table, index=False)
    frame.assign(cif=[cell.to(fmt="cif") for cell in cells]).to_csv(structures, index=False)
    assert main([str(table), str(structures), "--out", str(out), "--potential", name]) == 0
    assert "2 elements from 3 crystals" in capsys.readouterr().out
    assert ElementReferences.load(potential, out).energies == pytest.approx(true, abs=1e-3)
    assert json.loads(out.read_text())["potential"] == potential.name
