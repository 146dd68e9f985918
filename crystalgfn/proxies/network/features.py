"""The inputs of a property network: numbers derived from the composition, space group and cell of a crystal.

There are two kinds of features. *Row features* describe a crystal as a whole: statistics of element
properties and the shape and size of the cell. *Constituent features* describe one element of a crystal: how many of
its atoms there are, and which Wyckoff positions can hold them. The constituents of a batch are listed one after the
other (ragged, no padding). The elements of each crystal are listed by electronegativity, so that the order in which a
formula was written does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache

import torch
from torch import Tensor, nn

from crystalgfn.crystal.crystallography import N_ELEMENTS, N_SPACE_GROUPS, electronegativity_order, space_groups
from crystalgfn.crystal.crystals import Crystals
from crystalgfn.crystal.descriptors import element_property_table, general_multiplicity

FEATURE_VERSION = 1
"""Increased whenever a feature changes its meaning; weights of another version cannot be used."""

CELL_FEATURES = (
    "log_volume_per_atom",
    "log_volume_over_atoms",  # divided by the sum of the volumes of the atoms
    *(f"log_{length}" for length in "abc"),
    *(f"log_{length}_over_edge" for length in "abc"),  # edge of a cube of the same volume
    *(f"log_{length}_over_spacing" for length in "abc"),  # edge of a cube with the volume per atom
    *(f"cos_{angle}" for angle in ("alpha", "beta", "gamma")),
    "log_atoms",
    "log_atoms_over_multiplicity",  # multiplicity of the general position
    "elements",
    "largest_fraction",
)
"""Names of the last row features, in order: size and shape of the cell, and numbers of atoms and elements."""

_MAX_COUNT = 64
"""Largest count with an entry of its own in tables of counts; larger counts use the same entry."""

_MIN_VOLUME = 1e-3
"""Volume [Å³] that is used for a cell without volume; it lies far outside any training range."""


@dataclass(frozen=True)
class Features:
    """Features of n crystals with m constituents (a constituent is one element of one crystal).

    Attributes:
        row: (n, f) float32, row features.
        fractions: (n, 94) float32, atomic fractions.
        space_group: (n,) int64, number of the space group minus 1.
        prototype: (n,) int64, hash of the space group and the counts by electronegativity.
        n_elements: (n,) int64, number of elements of each crystal.
        element: (m,) int64, atomic number minus 1, for the constituents in order of crystals.
        count: (m,) int64, atoms of the element in the conventional cell; 64 for larger numbers.
        constituent: (m, s) float32, constituent features.
    """

    row: Tensor
    fractions: Tensor
    space_group: Tensor
    prototype: Tensor
    n_elements: Tensor
    element: Tensor
    count: Tensor
    constituent: Tensor

    def __len__(self) -> int:
        return self.space_group.shape[0]

    def __getitem__(self, rows: Tensor) -> Features:
        """Features of some crystals, given by their indices (k,)."""
        starts = self.n_elements.cumsum(0) - self.n_elements
        constituents = ragged_ranges(starts[rows], self.n_elements[rows])
        return Features(
            self.row[rows],
            self.fractions[rows],
            self.space_group[rows],
            self.prototype[rows],
            self.n_elements[rows],
            self.element[constituents],
            self.count[constituents],
            self.constituent[constituents],
        )

    @staticmethod
    def cat(parts: Sequence[Features]) -> Features:
        """One batch made from several, in order."""
        return Features(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Features)))

    def to(self, device: torch.device | str) -> Features:
        """The same features on another device."""
        return Features(**{name: value.to(device) for name, value in vars(self).items()})


def ragged_ranges(starts: Tensor, lengths: Tensor) -> Tensor:
    """Ranges ``start, start + 1, ..., start + length - 1``, one after the other.

    Args:
        starts: (k,) int64.
        lengths: (k,) int64.

    Returns:
        (sum of lengths,) int64.
    """
    offset = starts - (lengths.cumsum(0) - lengths)
    steps = torch.arange(int(lengths.sum()), device=starts.device)
    return torch.repeat_interleave(offset, lengths, output_size=steps.shape[0]) + steps


class CrystalFeatures(nn.Module):
    """Computes `Features` of a batch of crystals; it has no trainable parameters.

    All tables come from pymatgen, spglib and pyxtal. They are made with the module and are not part of its state. The
    atomic volumes, with which the volume of a cell is compared, are an argument because they are fitted to training
    data.

    Args:
        atomic_volumes: (94,) volume of an atom of each element [Å³].
    """

    def __init__(self, atomic_volumes: Tensor) -> None:
        super().__init__()
        self.order: Tensor
        self.properties: Tensor
        self.wyckoff_table: Tensor
        self.multiplicity: Tensor
        self.atomic_volumes: Tensor
        self.hash_weights: Tensor
        order = torch.tensor(electronegativity_order()) - 1
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("properties", element_property_table(), persistent=False)
        self.register_buffer("wyckoff_table", _wyckoff_table(), persistent=False)
        self.register_buffer("multiplicity", general_multiplicity(), persistent=False)
        self.register_buffer("atomic_volumes", atomic_volumes.to(torch.float64), persistent=False)
        # Odd multipliers of a multiplicative hash; the overflow of int64 products is part of the hash.
        weights = [(0x9E3779B97F4A7C15 * (2 * k + 1) ** 3) % 2**63 | 1 for k in range(N_ELEMENTS + 1)]
        self.register_buffer("hash_weights", torch.tensor(weights), persistent=False)

    @property
    def row_size(self) -> int:
        """Number of row features."""
        return 4 * self.properties.shape[1] + len(CELL_FEATURES)

    def column(self, name: str) -> int:
        """Index of one of the `CELL_FEATURES` among the row features."""
        return self.row_size - len(CELL_FEATURES) + CELL_FEATURES.index(name)

    @property
    def constituent_size(self) -> int:
        """Number of constituent features."""
        return 5 + self.wyckoff_table.shape[2]

    @torch.no_grad()
    def forward(self, crystals: Crystals) -> Features:
        """Features of n crystals, before any scaling.

        Args:
            crystals: the batch; every crystal has at least one atom.
        """
        group = crystals.space_group - 1
        counts = crystals.counts[:, self.order]
        row, column = counts.nonzero(as_tuple=True)
        count = counts[row, column]
        element = self.order[column]
        n_elements = torch.zeros_like(group).index_add_(0, row, torch.ones_like(row))
        start = n_elements.cumsum(0) - n_elements
        place = torch.arange(row.shape[0], device=row.device) - start[row]
        hashed = torch.zeros_like(group).index_add_(0, row, count * self.hash_weights[place + 1])
        prototype = hashed + crystals.space_group * self.hash_weights[0]

        n_atoms = crystals.n_atoms.clamp_min(1)
        fractions = (crystals.counts / n_atoms[:, None]).float()
        fraction = (count / n_atoms[row]).float()
        capped = count.clamp_max(_MAX_COUNT)
        constituent = torch.cat(
            [
                torch.stack(
                    [
                        fraction,
                        fraction.sqrt(),
                        count.float().log(),
                        (count / self.multiplicity[group[row]]).float().log(),
                        place / n_elements[row],
                    ],
                    dim=1,
                ),
                self.wyckoff_table[group[row], capped],
            ],
            dim=1,
        )
        composition = self._composition(fractions, element, start, n_elements)
        rows = torch.cat([composition, self._cell(crystals, fractions, n_atoms, n_elements, group)], dim=1)
        return Features(rows, fractions, group, prototype, n_elements, element, capped, constituent)

    def _composition(self, fractions: Tensor, element: Tensor, start: Tensor, n_elements: Tensor) -> Tensor:
        """(n, 4 p) mean, standard deviation, smallest and largest value of each element property."""
        mean = fractions @ self.properties
        # E[x²] - E[x]² loses digits only if the deviation is small; properties are scaled to unit variance.
        deviation = (fractions @ self.properties.square() - mean.square()).clamp_min(1e-6).sqrt()
        # Crystals with fewer elements than others repeat their first element, which does not change the extremes.
        width = int(n_elements.max()) if n_elements.numel() else 1
        places = torch.arange(width, device=start.device)
        constituents = start[:, None] + torch.where(places < n_elements[:, None], places, 0)
        values = self.properties[element[constituents]]
        return torch.cat([mean, deviation, values.amin(1), values.amax(1)], dim=1)

    def _cell(
        self, crystals: Crystals, fractions: Tensor, n_atoms: Tensor, n_elements: Tensor, group: Tensor
    ) -> Tensor:
        """(n, 18) `CELL_FEATURES`."""
        lengths = crystals.lattice[:, :3].log()
        cosines = torch.cos(torch.deg2rad(crystals.lattice[:, 3:]))
        volume = crystals.volume.clamp_min(_MIN_VOLUME)
        expected = crystals.counts.to(torch.float64) @ self.atomic_volumes
        edge = volume.log()[:, None] / 3
        per_atom = (volume / n_atoms).log()[:, None]
        spacing = lengths - per_atom / 3
        columns = [
            per_atom,
            (volume / expected.clamp_min(1e-3)).log()[:, None],
            lengths,
            lengths - edge,
            spacing,
            cosines,
            n_atoms.log()[:, None],
            (n_atoms / self.multiplicity[group]).log()[:, None],
            n_elements[:, None],
            fractions.amax(1, keepdim=True),
        ]
        return torch.cat([c.float() for c in columns], dim=1)


@cache
def _wyckoff_table() -> Tensor:
    """(230, 65, 3) float32, how each space group can hold 0 to 64 atoms of an element.

    The three columns are: 1 if the count is the multiplicity of a position without free coordinates; 1 if positions
    with a free coordinate alone can hold the count; the logarithm of the count over the smallest multiplicity.
    """
    table = torch.zeros(N_SPACE_GROUPS, _MAX_COUNT + 1, 3)
    for index, group in enumerate(space_groups()):
        smallest = min(group.fixed_multiplicities + group.free_multiplicities)
        by_free = {0}
        for count in range(1, _MAX_COUNT + 1):
            if any(count - m in by_free for m in group.free_multiplicities):
                by_free.add(count)
            table[index, count, 0] = float(count in group.fixed_multiplicities)
            table[index, count, 1] = float(count in by_free)
            table[index, count, 2] = math.log(count / smallest)
    return table


def fit_atomic_volumes(crystals: Crystals) -> Tensor:
    """Volume of an atom of each element, fitted to the volumes of the given cells.

    The fit is a ridge regression of cell volumes on counts, with each row divided by its volume. The prior is the mean
    volume per atom; elements without data keep it.

    Args:
        crystals: the training crystals; every cell must have a volume above 0.

    Returns:
        (94,) float64 volumes [Å³], at least 1.
    """
    volume = crystals.volume[:, None]
    design = crystals.counts.to(torch.float64) / volume
    prior = volume.sum() / crystals.n_atoms.sum()
    gram = design.T @ design
    ridge = 1e-3 * gram.diagonal().mean() + 1e-12
    residual = 1 - design.sum(1, keepdim=True) * prior
    shift = torch.linalg.solve(gram + ridge * torch.eye(N_ELEMENTS, dtype=torch.float64), design.T @ residual)
    return (prior + shift[:, 0]).clamp_min(1.0)
