"""Tests that every potential must pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from crystalgfn.atoms.potentials import Potential, make
from crystalgfn.atoms.potentials.references import ElementReferences
from crystalgfn.crystal.crystallography.elements import element_symbols
from crystalgfn.errors import InputError
from crystalgfn.registry import POTENTIALS
from crystalgfn.testing.generators import assert_untouched, global_generators

if TYPE_CHECKING:
    from pymatgen.core import Structure

STEP = 0.01
"""Displacement of atoms [Å] and strain for numerical derivatives; large enough for potentials in float32."""

DIRECTIONS = 3
"""Number of random directions in which derivatives are compared."""


class PotentialContract:
    """Tests of one potential; subclass it in a test file and provide the fixtures ``potential`` and ``structures``.

    ``structures`` are two or more ordered structures of different sizes, of elements that the potential knows. Displace
    their atoms from symmetric positions, so that forces and stresses are not zero.
    """

    @pytest.fixture
    def tolerance(self) -> float:
        """Largest difference between energies [eV/atom] and between forces [eV/Å] that should be the same."""
        return 1e-4

    @pytest.fixture
    def derivative_tolerance(self) -> float:
        """Largest relative error of forces and stresses against numerical derivatives of the energy."""
        return 0.03

    def test_declares_itself(self, potential: Potential) -> None:
        """Version, corrections and elements are valid."""
        kind = type(potential).__name__
        assert isinstance(potential.version, str), f"{kind}.version is {potential.version!r}; it must be a text"
        assert potential.corrections in ("none", "MP2020"), (
            f"{kind}.corrections is {potential.corrections!r}; it must be 'none' or 'MP2020'"
        )
        wrong = sorted(set(potential.elements or ()) - set(element_symbols()))
        assert not wrong, f"{kind}.elements has {', '.join(wrong)}; symbols of elements up to Pu are allowed"

    def test_is_made_from_its_name(self, potential: Potential) -> None:
        """Worker processes make the potential from its name."""
        kind = type(potential).__name__
        assert kind in POTENTIALS, f"{kind} is not registered; use the decorator @POTENTIALS.register"
        again = make(potential.name)
        found = (type(again), again.name, again.version)
        assert found == (type(potential), potential.name, potential.version), (
            f"make({potential.name!r}) gives {again.name!r} {again.version!r}, not {potential.version!r}"
        )

    def test_references_are_its_own(self, potential: Potential) -> None:
        """The element references that come with the potential can be read, and are for its version."""
        if potential.references is None:
            pytest.skip("no references come with this potential")
        assert ElementReferences.load(potential).energies

    def test_shapes(self, potential: Potential, structures: list[Structure]) -> None:
        """Energies are (n,), forces (N_i, 3) and stresses (n, 3, 3), finite and float64, if they are asked for."""
        only = potential.evaluate(structures)
        assert only.forces is None and only.stresses is None, "forces or stresses were not asked for"
        found = potential.evaluate(structures, forces=True, stresses=True)
        assert found.forces is not None and found.stresses is not None, "forces and stresses were asked for"
        n = len(structures)
        assert found.energies.shape == (n,), f"{n} structures give energies of shape {found.energies.shape}"
        assert found.stresses.shape == (n, 3, 3), f"{n} structures give stresses of shape {found.stresses.shape}"
        sizes = [(len(structure), 3) for structure in structures]
        assert [force.shape for force in found.forces] == sizes, f"the shapes of the forces must be {sizes}"
        for name, values in (("energies", found.energies), ("stresses", found.stresses), *_named(found.forces)):
            assert values.dtype == np.float64, f"{name} are {values.dtype}; they must be float64"
            assert np.isfinite(values).all(), f"{name} are not finite"
        skew = np.abs(found.stresses - found.stresses.transpose(0, 2, 1)).max()
        assert skew < 1e-6, f"stresses are not symmetric, by up to {skew:g} eV/Å³"

    def test_batch_equals_single(self, potential: Potential, structures: list[Structure], tolerance: float) -> None:
        """Structures of a batch do not interact, in any order."""
        together = potential.evaluate(structures[::-1], forces=True, stresses=True)
        assert together.forces is not None and together.stresses is not None
        for row, structure in enumerate(structures[::-1]):
            alone = potential.evaluate([structure], forces=True, stresses=True)
            assert alone.forces is not None and alone.stresses is not None
            size = len(structure)
            np.testing.assert_allclose(alone.energies[0] / size, together.energies[row] / size, rtol=0, atol=tolerance)
            np.testing.assert_allclose(alone.forces[0], together.forces[row], rtol=0, atol=tolerance)
            np.testing.assert_allclose(alone.stresses[0], together.stresses[row], rtol=0, atol=tolerance)

    def test_the_energy_is_that_of_the_cell(
        self, potential: Potential, structures: list[Structure], tolerance: float
    ) -> None:
        """A cell of twice the size has twice the energy."""
        doubled = [structure * (2, 1, 1) for structure in structures]
        sizes = np.array([len(structure) for structure in structures])
        one, two = potential.evaluate(structures).energies, potential.evaluate(doubled).energies
        np.testing.assert_allclose(two / sizes, 2 * one / sizes, rtol=0, atol=2 * tolerance)

    def test_forces_are_the_negative_gradient(
        self, potential: Potential, structures: list[Structure], tolerance: float, derivative_tolerance: float
    ) -> None:
        """The energy changes as the forces say if all atoms move."""
        found = potential.evaluate(structures, forces=True).forces
        assert found is not None
        random = np.random.default_rng(0)
        for structure, forces in zip(structures, found, strict=True):
            moves = [_unit(random, forces.shape) * np.sqrt(len(structure)) for _ in range(DIRECTIONS)]
            moved = [_moved(structure, sign * STEP * move) for move in moves for sign in (1, -1)]
            numerical = _slopes(potential, moved)
            expected = np.array([-(forces * move).sum() for move in moves])
            scale = np.abs(forces).max() * np.sqrt(len(structure))
            np.testing.assert_allclose(
                numerical, expected, rtol=0, atol=derivative_tolerance * scale + tolerance,
                err_msg=f"{structure.formula}: forces are not the negative derivative of the energy",
            )  # fmt: skip

    def test_stresses_are_the_derivative_by_strain(
        self, potential: Potential, structures: list[Structure], derivative_tolerance: float
    ) -> None:
        """The energy changes as the stress says if the cell is strained; stretched cells have a positive stress."""
        found = potential.evaluate(structures, stresses=True).stresses
        assert found is not None
        random = np.random.default_rng(0)
        for structure, stress in zip(structures, found, strict=True):
            strains = [(raw + raw.T) / 2 for raw in (_unit(random, (3, 3)) for _ in range(DIRECTIONS))]
            strained = [_strained(structure, sign * STEP * strain) for strain in strains for sign in (1, -1)]
            numerical = _slopes(potential, strained) / structure.volume
            expected = np.array([(stress * strain).sum() for strain in strains])
            np.testing.assert_allclose(
                numerical, expected, rtol=0, atol=derivative_tolerance * np.abs(stress).max(),
                err_msg=f"{structure.formula}: stresses are not the derivative of the energy by the strain",
            )  # fmt: skip

    def test_symmetries(self, potential: Potential, structures: list[Structure], tolerance: float) -> None:
        """Shifting, turning or reordering atoms leaves the energy as it is; forces turn and are reordered with them."""
        random = np.random.default_rng(0)
        turn, _ = np.linalg.qr(random.normal(size=(3, 3)))
        turn *= np.linalg.det(turn)  # a rotation, without reflection
        for structure in structures:
            size = len(structure)
            order = random.permutation(size)
            changed = {
                "shifted": (_moved(structure, np.full((size, 3), 0.37)), np.eye(3), np.arange(size)),
                "turned": (_turned(structure, turn), turn, np.arange(size)),
                "reordered": (structure.from_sites([structure[i] for i in order.tolist()]), np.eye(3), order),
            }
            before = potential.evaluate([structure], forces=True)
            assert before.forces is not None
            for how, (other, rotation, places) in changed.items():
                after = potential.evaluate([other], forces=True)
                assert after.forces is not None
                message = f"{structure.formula}: a {how} structure has other energies or forces"
                np.testing.assert_allclose(
                    after.energies / size, before.energies / size, rtol=0, atol=tolerance, err_msg=message
                )
                np.testing.assert_allclose(
                    after.forces[0], before.forces[0][places] @ rotation.T, rtol=0, atol=10 * tolerance, err_msg=message
                )

    def test_the_calculator_agrees(self, potential: Potential, structures: list[Structure], tolerance: float) -> None:
        """The ase calculator gives the same energies, forces and stresses."""
        from pymatgen.io.ase import AseAtomsAdaptor

        found = potential.evaluate(structures, forces=True, stresses=True)
        assert found.forces is not None and found.stresses is not None
        for row, structure in enumerate(structures):
            atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
            atoms.calc = potential.calculator()
            energy, size = atoms.get_potential_energy(), len(structure)
            np.testing.assert_allclose(energy / size, found.energies[row] / size, rtol=0, atol=tolerance)
            np.testing.assert_allclose(atoms.get_forces(), found.forces[row], rtol=0, atol=tolerance)
            np.testing.assert_allclose(atoms.get_stress(voigt=False), found.stresses[row], rtol=0, atol=tolerance)

    def test_unknown_elements_are_refused(self, potential: Potential, structures: list[Structure]) -> None:
        """An element that the potential does not know is an error that names it."""
        unknown = potential.unknown(element_symbols())
        if not unknown:
            pytest.skip("the potential knows all elements")
        other = structures[0].copy()
        other.replace(0, unknown[0])
        with pytest.raises(InputError, match=rf"\b{unknown[0]}\b"):
            potential.evaluate([structures[-1], other])

    def test_is_deterministic_and_changes_nothing(self, potential: Potential, structures: list[Structure]) -> None:
        """The same structures give the same numbers again, stay as they are, and no random number is drawn."""
        kept, before = [structure.copy() for structure in structures], global_generators()
        first = potential.evaluate(structures, forces=True)
        second = potential.evaluate(structures, forces=True)
        assert_untouched(before, type(potential).__name__)
        assert structures == kept, "evaluate changes the structures"
        assert np.array_equal(first.energies, second.energies), "the same structures give other energies"
        assert first.forces is not None and second.forces is not None
        assert all(map(np.array_equal, first.forces, second.forces)), "the same structures give other forces"


def _named(forces: list[np.ndarray]) -> list[tuple[str, np.ndarray]]:
    return [(f"forces of structure {row}", values) for row, values in enumerate(forces)]


def _unit(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A random direction of length 1."""
    values = random.normal(size=shape)
    return values / np.linalg.norm(values)


def _slopes(potential: Potential, pairs: list[Structure]) -> np.ndarray:
    """Numerical derivatives from energies of structures before and behind the point, in pairs."""
    energies = potential.evaluate(pairs).energies.reshape(-1, 2)
    return (energies[:, 0] - energies[:, 1]) / (2 * STEP)


def _moved(structure: Structure, moves: np.ndarray) -> Structure:
    """A structure with displaced atoms; moves (N, 3) [Å]."""
    return _with(structure, structure.lattice.matrix, structure.cart_coords + moves)


def _strained(structure: Structure, strain: np.ndarray) -> Structure:
    """A structure after a symmetric strain (3, 3) of its cell and positions."""
    return _turned(structure, np.eye(3) + strain)


def _turned(structure: Structure, matrix: np.ndarray) -> Structure:
    """A structure whose vectors are multiplied by a matrix (3, 3)."""
    return _with(structure, structure.lattice.matrix @ matrix.T, structure.cart_coords @ matrix.T)


def _with(structure: Structure, cell: np.ndarray, positions: np.ndarray) -> Structure:
    from pymatgen.core import Structure

    return Structure(cell, structure.species, positions, coords_are_cartesian=True)
