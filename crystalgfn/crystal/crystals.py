"""A batch of crystals as tensors, and its way to and from pymatgen and pandas.

A crystal here is a space group, the numbers of atoms in the conventional cell and the cell's lattice parameters;
atomic positions are not part of it. The cell is pymatgen's conventional standard cell: monoclinic with unique axis
b, trigonal (rhombohedral lattices included) and hexagonal on hexagonal axes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from crystalgfn.crystal.crystallography.elements import N_ELEMENTS, electronegativity_order, element_symbols
from crystalgfn.crystal.formulas import count_rows, formula_text, symbol_counts

if TYPE_CHECKING:
    import pandas as pd
    from pymatgen.core import Composition, Lattice, Structure

LATTICE_PARAMETERS = ("a", "b", "c", "alpha", "beta", "gamma")
"""Names, in the order of the columns of `Crystals.lattice`."""


@dataclass(frozen=True)
class Crystals:
    """A batch of n crystals.

    Attributes:
        space_group: (n,) int64, number of the space group, 1 to 230.
        counts: (n, 94) int64, atoms of each element in the conventional cell; column Z - 1 holds element Z.
        lattice: (n, 6) float64, a, b, c [Å], alpha, beta, gamma [degrees] of the conventional cell.
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
        """One batch from several, in order."""
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
        """(n,) float64, volume of the conventional cell [Å³]; 0 where the angles close no cell.

        Source: abc·sqrt(1 - cos²α - cos²β - cos²γ + 2 cosα cosβ cosγ).
        """
        cos = torch.cos(torch.deg2rad(self.lattice[:, 3:]))
        square = 1 - cos.square().sum(1) + 2 * cos.prod(1)
        return self.lattice[:, :3].prod(1) * square.clamp_min(0).sqrt()

    def formulas(self) -> list[str]:
        """Composition of each conventional cell, such as ``Na4 Cl4``: elements by electronegativity, cations first."""
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
        """One row a crystal: formula (conventional cell), space_group, a, b, c [Å], alpha, beta, gamma [degrees]."""
        import pandas as pd

        columns = {"formula": self.formulas(), "space_group": self.space_group.tolist()}
        columns |= {name: self.lattice[:, i].tolist() for i, name in enumerate(LATTICE_PARAMETERS)}
        return pd.DataFrame(columns)

    @classmethod
    def from_arrays(
        cls, space_group: Sequence[int], compositions: Sequence[Mapping[str, int]], lattice: Sequence[Sequence[float]]
    ) -> Crystals:
        """Crystals from plain Python values.

        Args:
            space_group: n numbers of space groups.
            compositions: n mappings from symbols to the numbers of atoms in the conventional cell.
            lattice: n rows of a, b, c [Å], alpha, beta, gamma [degrees].
        """
        return cls(
            torch.as_tensor(space_group, dtype=torch.int64),
            count_rows(compositions),
            torch.as_tensor(lattice, dtype=torch.float64).reshape(-1, 6),
        )

    @classmethod
    def from_structures(cls, structures: Iterable[Structure], symprec: float = 0.1) -> Crystals:
        """Crystals of pymatgen structures, each brought to its conventional standard cell.

        Args:
            structures: ordered structures.
            symprec: tolerance of the symmetry search [Å].
        """
        from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

        groups, compositions, lattice = [], [], []
        for structure in structures:
            analyzer = SpacegroupAnalyzer(structure, symprec=symprec)
            cell = analyzer.get_conventional_standard_structure()
            groups.append(analyzer.get_space_group_number())
            compositions.append({str(k): int(v) for k, v in cell.composition.get_el_amt_dict().items()})
            lattice.append(cell.lattice.parameters)
        return cls.from_arrays(groups, compositions, lattice)
