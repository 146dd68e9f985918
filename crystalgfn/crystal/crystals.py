"""A batch of crystals as tensors, with conversions from pymatgen structures and to pymatgen and pandas objects.

A crystal here consists of a space group, the number of atoms of each element in the conventional cell, and the lattice
parameters of this cell. It has no atomic positions. The cell is pymatgen's conventional standard cell: monoclinic cells
have the unique axis b; trigonal cells (including rhombohedral lattices) and hexagonal cells have hexagonal axes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from crystalgfn.checks import shortened, shown
from crystalgfn.crystal.crystallography.elements import N_ELEMENTS, electronegativity_order, element_symbols
from crystalgfn.crystal.formulas import count_rows, formula_text, symbol_counts
from crystalgfn.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from pymatgen.core import Composition, Lattice, Structure

LENGTHS = ("a", "b", "c")
ANGLES = ("alpha", "beta", "gamma")
LATTICE_PARAMETERS = LENGTHS + ANGLES
"""Names of the lattice parameters, in the order of the columns of `Crystals.lattice`."""

VOLUME_TOLERANCE = 0.05
"""Largest relative difference between the volume per atom of a structure and of its conventional cell, which is made
symmetric."""

OXIDATION_STATES = "oxidation_states"
"""Column of tables of samples with a neutral assignment of oxidation states."""


@dataclass(frozen=True)
class Crystals:
    """A batch of n crystals.

    Attributes:
        space_group: (n,) int64, number of the space group, 1 to 230.
        counts: (n, 94) int64, atoms of each element in the conventional cell; column Z - 1 holds element Z.
        lattice: (n, 6) float64, a, b, c [Å], alpha, beta, gamma [degrees] of the conventional cell.

    Raises:
        ValueError: if the shapes do not fit together.
    """

    space_group: Tensor
    counts: Tensor
    lattice: Tensor

    def __post_init__(self) -> None:
        n = self.space_group.shape[0]
        shapes = (self.space_group.shape, self.counts.shape, self.lattice.shape)
        if shapes != ((n,), (n, N_ELEMENTS), (n, 6)):
            raise ValueError(f"shapes of space_group, counts, lattice must be (n,), (n, 94), (n, 6), not {shapes}")

    def __len__(self) -> int:
        return self.space_group.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> Crystals:
        return Crystals(self.space_group[rows], self.counts[rows], self.lattice[rows])

    def to(self, device: torch.device | str) -> Crystals:
        """The same crystals on another device."""
        return Crystals(self.space_group.to(device), self.counts.to(device), self.lattice.to(device))

    @staticmethod
    def cat(parts: Iterable[Crystals]) -> Crystals:
        """Join several batches into one, in order."""
        parts = list(parts)
        return Crystals(
            torch.cat([p.space_group for p in parts]),
            torch.cat([p.counts for p in parts]),
            torch.cat([p.lattice for p in parts]),
        )

    @property
    def n_atoms(self) -> Tensor:
        """(n,) int64, atoms in the conventional cell."""
        return self.counts.sum(1)

    @property
    def volume(self) -> Tensor:
        """(n,) float64, volume of the conventional cell [Å³]; 0 if the angles do not form a cell.

        Source: abc·sqrt(1 - cos²α - cos²β - cos²γ + 2 cosα cosβ cosγ).
        """
        cos = torch.cos(torch.deg2rad(self.lattice[:, 3:]))
        square = 1 - cos.square().sum(1) + 2 * cos.prod(1)
        return self.lattice[:, :3].prod(1) * square.clamp_min(0).sqrt()

    def formulas(self) -> list[str]:
        """Formula of each conventional cell, such as ``Na4 Cl4``, with the elements by rising electronegativity."""
        symbols, order = element_symbols(), electronegativity_order()
        rows = self.counts.tolist()
        return [formula_text({symbols[z - 1]: row[z - 1] for z in order if row[z - 1]}) for row in rows]

    def compositions(self) -> list[Composition]:
        """Composition of each conventional cell, as pymatgen objects."""
        from pymatgen.core import Composition

        return [Composition(composition) for composition in symbol_counts(self.counts)]

    def lattices(self) -> list[Lattice]:
        """Lattice of each conventional cell, as pymatgen objects."""
        from pymatgen.core import Lattice

        return [Lattice.from_parameters(*row) for row in self.lattice.tolist()]

    def to_frame(self) -> pd.DataFrame:
        """Table with one row for each crystal.

        Returns:
            columns formula (of the conventional cell), space_group, a, b, c [Å], alpha, beta, gamma [degrees].
        """
        import pandas as pd

        columns = {"formula": self.formulas(), "space_group": self.space_group.tolist()}
        columns |= {name: self.lattice[:, i].tolist() for i, name in enumerate(LATTICE_PARAMETERS)}
        return pd.DataFrame(columns)

    @classmethod
    def from_arrays(
        cls, space_group: Sequence[int], compositions: Sequence[Mapping[str, int]], lattice: Sequence[Sequence[float]]
    ) -> Crystals:
        """Make a batch of crystals from Python values.

        Args:
            space_group: n numbers of space groups, 1 to 230; they are not checked.
            compositions: n mappings from the symbol of an element to its number of atoms in the conventional cell.
            lattice: n rows of a, b, c [Å], alpha, beta, gamma [degrees]; they are not checked.

        Raises:
            KeyError: if a symbol is not that of an element from H to Pu.
            ValueError: if the arguments have different lengths.
        """
        return cls(
            torch.as_tensor(space_group, dtype=torch.int64),
            count_rows(compositions),
            torch.as_tensor(lattice, dtype=torch.float64).reshape(-1, 6),
        )

    @classmethod
    def from_structures(cls, structures: Iterable[Structure], symprec: float = 0.1) -> Crystals:
        """Make a batch of crystals from pymatgen structures, each converted to its conventional standard cell.

        Deuterium counts as hydrogen.

        Args:
            structures: ordered structures of the elements H to Pu.
            symprec: tolerance of the symmetry search [Å].

        Raises:
            InputError: if a structure is not ordered, contains something else than these elements, or cannot be
                standardised; the message names the structure.
        """
        groups, compositions, lattice = [], [], []
        for number, structure in enumerate(structures, start=1):
            name = f"structure {number} ({shortened(structure.composition.formula)})"
            _check_sites(name, structure)
            group, cell = _conventional_cell(name, structure, symprec)
            groups.append(group)
            compositions.append(Counter(element_symbols()[site.specie.Z - 1] for site in cell))
            lattice.append(cell.lattice.parameters)
        return cls.from_arrays(groups, compositions, lattice)


def _check_sites(name: str, structure: Structure) -> None:
    """Raise an `InputError` unless each site has one whole atom of an element from H to Pu."""
    from pymatgen.core import DummySpecies

    if not structure.is_ordered:
        raise InputError(f"{name}: is not ordered; each site must have one atom, with occupancy 1")
    for site in structure:
        # The number Z of a dummy species is a hash.
        if isinstance(site.specie, DummySpecies) or not 1 <= site.specie.Z <= N_ELEMENTS:
            raise InputError(f"{name}: contains {shown(str(site.specie))}; allowed: the elements H to Pu")


def _conventional_cell(name: str, structure: Structure, symprec: float) -> tuple[int, Structure]:
    """Number of the space group of an ordered structure, and its conventional standard cell.

    Raises:
        InputError: if the cell does not have the volume per atom of the structure.
    """
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    analyzer = SpacegroupAnalyzer(structure, symprec=symprec)
    group, cell = analyzer.get_space_group_number(), analyzer.get_conventional_standard_structure()
    before = structure.volume / len(structure)
    if abs(cell.volume / len(cell) / before - 1) > VOLUME_TOLERANCE:
        # pymatgen 2025.6.14 takes primitive hexagonal cells with a = c for rhombohedral ones and triples them. The
        # cell of spglib has the axes of the conventional standard cell in these groups.
        cell = analyzer.get_refined_structure()
        after = cell.volume / len(cell)
        if not 143 <= group <= 194 or abs(after / before - 1) > VOLUME_TOLERANCE:
            raise InputError(
                f"{name}: has {before:.4g} Å³ per atom, but {after:.4g} Å³ in the conventional cell with symprec "
                f"{symprec:g} Å; they must agree. Use a smaller symprec"
            )
    return group, cell
