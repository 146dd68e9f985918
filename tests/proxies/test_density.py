"""The density, against pymatgen."""

from __future__ import annotations

import pytest
import torch
from helpers import make_crystal
from pymatgen.core import Structure
from real_crystals import STRUCTURES

from crystalgfn.crystal.crystals import Crystals
from crystalgfn.proxies.density import Density
from crystalgfn.random import generator
from crystalgfn.testing import ProxyContract, random_walk


@pytest.fixture(scope="module")
def objects() -> Crystals:
    env = make_crystal(charge_neutral=False, volume_per_atom=(5.0, 60.0), max_elements=3, max_atoms_per_element=6)
    return env.decode(random_walk(env, 40, generator("density"))[0])


class TestDensity(ProxyContract):
    @pytest.fixture
    def proxy(self) -> Density:
        return Density()


def test_agrees_with_pymatgen(objects: Crystals) -> None:
    expected = []
    for lattice, composition in zip(objects.lattices(), objects.compositions(), strict=True):
        species = [symbol for symbol, n in composition.get_el_amt_dict().items() for _ in range(int(n))]
        # Where the atoms are does not matter to the density.
        expected.append(float(Structure(lattice, species, [[0.0, 0.0, 0.0]] * len(species)).density))
    torch.testing.assert_close(Density()(objects), torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=0)


@pytest.mark.skipif(not STRUCTURES.is_file(), reason="needs a table of real structures")
def test_agrees_with_pymatgen_on_real_structures() -> None:
    import pandas as pd
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    cifs = pd.read_parquet(STRUCTURES).cif.iloc[::1200]
    structures = [Structure.from_str(cif, fmt="cif") for cif in cifs]
    # Symmetrizing moves a cell's volume by up to the tolerance of the symmetry search.
    cells = [SpacegroupAnalyzer(s, symprec=0.1).get_conventional_standard_structure() for s in structures]
    expected = torch.tensor([float(cell.density) for cell in cells], dtype=torch.float64)
    assert len(expected) > 40
    torch.testing.assert_close(Density()(Crystals.from_structures(structures)), expected, rtol=1e-4, atol=0)
    published = torch.tensor([float(s.density) for s in structures], dtype=torch.float64)
    torch.testing.assert_close(expected, published, rtol=1e-3, atol=0)


def test_rock_salt() -> None:
    rock_salt = Crystals.from_arrays([225], [{"Na": 4, "Cl": 4}], [[5.6402, 5.6402, 5.6402, 90, 90, 90]])
    assert Density()(rock_salt).item() == pytest.approx(2.163, abs=1e-3)


def test_a_flat_cell_has_no_density() -> None:
    flat = Crystals.from_arrays([1], [{"Na": 1, "Cl": 1}], [[3, 3, 3, 50, 50, 120]])
    with pytest.raises(ValueError, match="Na1 Cl1: the cell has no volume"):
        Density()(flat)
