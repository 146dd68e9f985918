"""What search, relaxation and fits ask of a potential: energies, forces and stresses of structures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from crystalgfn.atoms import require_extra
from crystalgfn.errors import InputError

if TYPE_CHECKING:
    from pymatgen.core import Structure

Array = NDArray[np.float64]

DATA = Path(__file__).parent / "data"
"""Folder of the element references that come with the package."""

BATCH_ATOMS = 160
"""Atoms evaluated at once. Larger batches need more memory and are not faster on one core."""


@dataclass(frozen=True)
class Evaluation:
    """What a potential computes for n structures with N_i atoms each. A structure that it cannot evaluate has NaN.

    Attributes:
        energies: (n,) float64 energies of the cells, without corrections [eV].
        forces: n float64 arrays (N_i, 3) [eV/Å]; None if they were not asked for.
        stresses: (n, 3, 3) float64 [eV/Å³], positive if the cell is stretched, as in ase; None if they were not asked
            for.
    """

    energies: Array
    forces: list[Array] | None = None
    stresses: Array | None = None

    @classmethod
    def empty(cls, structures: Sequence[Structure], forces: bool, stresses: bool) -> Evaluation:
        """Arrays of NaN for these structures, to be filled."""
        n = len(structures)
        return cls(
            np.full(n, np.nan),
            [np.full((len(structure), 3), np.nan) for structure in structures] if forces else None,
            np.full((n, 3, 3), np.nan) if stresses else None,
        )


class Potential(ABC):
    """Energies, forces and stresses of structures with atoms.

    A potential is made from a text, such as ``SevenNet:7net-0`` (`crystalgfn.atoms.potentials.make`), because each
    worker process makes its own. To make one must be cheap: weights are loaded when the first structure is evaluated.
    A subclass defines `version` and `_evaluate`, and what of the following differs for it.

    Attributes:
        name: the text that the potential is made from; it stands in folders, databases and messages.
        version: version of the weights. Element references are valid for one version only.
        corrections: corrections that the energies lack: ``MP2020`` for energies of plain PBE and PBE+U, to which the
            Materials Project adds corrections of 2020; ``none`` if they contain them, or if there are none.
        elements: symbols of the elements that the potential knows; None for all.
        references: file with the element references that come with the potential; None if it has none.
        packages: names of the packages that it needs, as they are imported.
        install: what to install if a package is missing.
    """

    version: str
    corrections: Literal["none", "MP2020"] = "none"
    elements: frozenset[str] | None = None
    references: Path | None = None
    packages: ClassVar[tuple[str, ...]] = ()
    install: ClassVar[str] = "crystalgfn[structures]"

    @property
    def name(self) -> str:
        return type(self).__name__

    @abstractmethod
    def _evaluate(self, structures: Sequence[Structure], forces: bool, stresses: bool) -> Evaluation:
        """Evaluate structures whose elements are all known; see `evaluate`."""

    def evaluate(self, structures: Sequence[Structure], forces: bool = False, stresses: bool = False) -> Evaluation:
        """Energies of structures and, if asked for, forces and stresses.

        Args:
            structures: n ordered structures, of any sizes.
            forces: whether to compute forces.
            stresses: whether to compute stresses.

        Returns:
            the energies of the cells [eV], forces [eV/Å] and stresses [eV/Å³], without corrections. They are NaN if the
            potential cannot evaluate the structure, for example because an atom has no neighbours.

        Raises:
            InputError: if a package is missing, or the potential does not know an element.
        """
        unknown = self.unknown(element.symbol for structure in structures for element in structure.composition.elements)
        if unknown:
            raise InputError(f"{self.name} does not know {', '.join(unknown)}")
        return self._evaluate(structures, forces, stresses)

    def unknown(self, symbols: Iterable[str]) -> list[str]:
        """Those of the elements that the potential does not know, each one once, in alphabetical order."""
        return [] if self.elements is None else sorted(set(symbols) - self.elements)

    def energies_per_atom(self, structures: Sequence[Structure]) -> Array:
        """(n,) energies in eV/atom, without corrections, of n structures; NaN as in `evaluate`."""
        return self.evaluate(structures).energies / np.array([len(structure) for structure in structures])

    def corrected(self, structure: Structure, energy: float) -> float:
        """An energy with the corrections that the potential lacks, so that it can be compared with formation energies.

        Args:
            structure: the structure.
            energy: its energy from this potential [eV/atom].

        Returns:
            the energy with corrections [eV/atom].
        """
        if self.corrections == "none":
            return energy
        from crystalgfn.atoms.potentials.corrections import mp2020

        return energy + mp2020(structure) / len(structure)

    def calculator(self) -> Any:
        """Make an ase calculator, for relaxations: energies in eV, forces in eV/Å, stresses in eV/Å³.

        It raises a ValueError for a structure that the potential cannot evaluate.

        Raises:
            InputError: if a package is missing.
        """
        from crystalgfn.atoms.potentials.calculator import PotentialCalculator

        return PotentialCalculator(self)

    def prepare(self) -> None:
        """Load what the potential needs, so that loading does not count towards the time limit of a crystal.

        Raises:
            InputError: if a package is missing.
        """
        require_extra(self.packages, self.install)


def batches(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Split structures into batches of at most `BATCH_ATOMS` atoms; a larger structure is a batch of its own.

    Args:
        sizes: numbers of atoms of n structures.

    Yields:
        the indices of the structures of one batch.
    """
    batch: list[int] = []
    total = 0
    for index, n_atoms in enumerate(sizes):
        if batch and total + n_atoms > BATCH_ATOMS:
            yield batch
            batch, total = [], 0
        batch.append(index)
        total += n_atoms
    if batch:
        yield batch
