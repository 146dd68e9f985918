"""Numerical features of elements, numbers of atoms and space groups.

A network that receives these features can transfer what it learns about one element or space group to similar ones.
"""

from __future__ import annotations

import math
import warnings
from functools import cache

import torch
from torch import Tensor, nn

from crystalgfn.crystal.crystallography import N_ELEMENTS, space_groups

ELEMENT_PROPERTIES = (
    "X",
    "mendeleev_no",
    "atomic_mass",
    "atomic_radius",
    "atomic_radius_calculated",
    "van_der_waals_radius",
    "ionization_energy",
    "electron_affinity",
    "melting_point",
    "boiling_point",
    "molar_volume",
    "thermal_conductivity",
    "density_of_solid",
    "average_ionic_radius",
    "average_cationic_radius",
    "average_anionic_radius",
    "min_oxidation_state",
    "max_oxidation_state",
    "bulk_modulus",
    "row",
    "group",
)
"""Properties of pymatgen's `Element`; if pymatgen has no value for an element, it gets the median over the others."""


@cache
def element_property_table() -> Tensor:
    """(94, p) float32 properties of the elements, each with mean 0 and variance 1 over the elements.

    The columns are `ELEMENT_PROPERTIES`, then the numbers of electrons in the s, p, d and f subshells outside the
    noble-gas core, then the numbers of holes in these subshells (0 for an empty subshell).

    Source: pymatgen's `Element`.
    """
    from pymatgen.core import Element

    columns = []
    elements = [Element.from_Z(z) for z in range(1, N_ELEMENTS + 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns about each value that it does not have
        for name in ELEMENT_PROPERTIES:
            column = torch.tensor([_number(getattr(element, name, None)) for element in elements])
            columns.append(torch.where(column.isnan(), column.nanmedian(), column))
    shells = torch.zeros(N_ELEMENTS, 8)
    for index, element in enumerate(elements):
        last = max(n for n, _, _ in element.full_electronic_structure)
        for kind, (letter, capacity, below) in enumerate((("s", 2, 0), ("p", 6, 0), ("d", 10, 1), ("f", 14, 2))):
            electrons = sum(
                k for n, orbital, k in element.full_electronic_structure if orbital == letter and n == last - below
            )
            shells[index, kind] = electrons
            shells[index, 4 + kind] = capacity - electrons if electrons else 0
    table = torch.cat([torch.stack(columns, dim=1), shells], dim=1).to(torch.float64)
    return ((table - table.mean(0)) / table.std(0)).float()


def _number(value: object) -> float:
    """A property as float; NaN if pymatgen has no value."""
    return float(value) if isinstance(value, int | float) else math.nan


@cache
def space_group_table() -> Tensor:
    """(230, g) float32 one-hot classes of the space groups.

    The classes are crystal-lattice system, point group, point symmetry and centring.
    """
    groups = space_groups()
    blocks = []
    for labels in (
        [g.crystal_lattice_system for g in groups],
        [g.point_group for g in groups],
        [g.point_symmetry for g in groups],
        [g.symbol[0] for g in groups],
    ):
        names = sorted(set(labels))
        blocks.append(nn.functional.one_hot(torch.tensor([names.index(label) for label in labels]), len(names)))
    return torch.cat(blocks, dim=1).float()


@cache
def general_multiplicity() -> Tensor:
    """(230,) float64, multiplicity of the general position, which is the largest multiplicity of each space group."""
    return torch.tensor([max(g.free_multiplicities) for g in space_groups()], dtype=torch.float64)


@cache
def space_group_features() -> Tensor:
    """(230, g + 4) float32: `space_group_table`, then four columns on the multiplicities of the Wyckoff positions.

    The four columns are: log(largest multiplicity) / log 192; log(smallest multiplicity) / log 192; the share of the
    fixed multiplicities in all multiplicities of `SpaceGroupInfo`; 1 if positions of the smallest multiplicity can be
    occupied any number of times, otherwise 0.
    """
    columns = []
    for group in space_groups():
        fixed, free = group.fixed_multiplicities, group.free_multiplicities
        least = min(fixed + free)
        columns.append(
            [
                math.log(max(free)) / math.log(192),
                math.log(least) / math.log(192),
                len(fixed) / (len(fixed) + len(free)),
                float(least in free),
            ]
        )
    return torch.cat([space_group_table(), torch.tensor(columns)], dim=1)


def count_features(largest: int) -> Tensor:
    """(largest, 8) float32 features of the numbers n = 1 to ``largest``.

    The columns are n / largest, log n / log(largest), 1 / n, and whether n is divisible by 2, 3, 4, 6 and 8. These
    divisors are common site multiplicities.
    """
    n = torch.arange(1, largest + 1, dtype=torch.float32).unsqueeze(1)
    divisors = torch.tensor([2, 3, 4, 6, 8])
    return torch.cat([n / largest, n.log() / math.log(max(largest, 2)), 1 / n, (n % divisors == 0).float()], dim=1)
