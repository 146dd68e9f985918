"""Which elements are cations or anions, and whether the cations are less electronegative than the anions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from crystalgfn.crystal.crystallography import N_ELEMENTS, element_symbols, oxidation_state_set
from crystalgfn.crystal.crystals import Crystals
from crystalgfn.gflownet.proxies.base import Proxy
from crystalgfn.proxies.network.features import ragged_ranges
from crystalgfn.registry import PROXIES

_MANY = 2**20
"""If a batch has more partial assignments, equal ones are merged; this costs time but bounds the memory."""


@dataclass(frozen=True)
class Assignments:
    """The best neutral assignment of oxidation states for each of n crystals.

    Attributes:
        neutral: (n,) bool, whether there is a neutral assignment.
        violation: (n,) float64, electronegativity of the most electronegative cation minus that of the least
            electronegative anion, or 0 if this difference is negative; inf if there is no neutral assignment.
        anions: (n,) int64, number of elements with a negative oxidation state; 0 if there is no neutral assignment.
    """

    neutral: Tensor
    violation: Tensor
    anions: Tensor


class _Assigning(Proxy):
    """Base of proxies that search all neutral assignments with one oxidation state for each element.

    Args:
        oxidation_states: name of the set of oxidation states: ``pymatgen_common``, ``pymatgen_icsd`` or
            ``pymatgen_all``.

    Raises:
        InputError: if no set has this name.
    """

    def __init__(self, oxidation_states: str = "pymatgen_common") -> None:
        super().__init__()
        self.oxidation_states: Tensor
        self.n_oxidation_states: Tensor
        self.rank: Tensor
        self.electronegativities: Tensor
        self.metal: Tensor
        table, n_oxidation_states = _oxidation_state_table(oxidation_states)
        self.register_buffer("oxidation_states", table, persistent=False)
        self.register_buffer("n_oxidation_states", n_oxidation_states, persistent=False)
        values, rank, metal = _electronegativities()
        self.register_buffer("electronegativities", values, persistent=False)
        self.register_buffer("rank", rank, persistent=False)
        self.register_buffer("metal", metal, persistent=False)

    def assign(self, counts: Tensor) -> Assignments:
        """The neutral assignment with the smallest violation and, if several are equal, with the fewest anions.

        Partial assignments are extended by one element at a time. They are dropped if the remaining elements cannot
        make them neutral.

        Args:
            counts: (n, 94) int64 atoms of each element in the conventional cell.

        Returns:
            the best assignment of each of the n crystals.
        """
        n = counts.shape[0]
        crystal, element = counts.nonzero(as_tuple=True)
        n_elements = (counts > 0).sum(1)
        start = n_elements.cumsum(0) - n_elements
        width = int(n_elements.max()) if n else 0
        charges = self.oxidation_states[element] * counts[crystal, element][:, None]
        lowest, highest = _left(charges.amin(1), crystal, n), _left(charges.amax(1), crystal, n)
        row = torch.arange(n, device=counts.device)
        charge, anions = torch.zeros_like(row), torch.zeros_like(row)
        # Ranks in electronegativity of the most electronegative cation and of the least electronegative anion.
        cation, anion = torch.full_like(row, -1), torch.full_like(row, len(self.electronegativities))
        done = [torch.stack([row, charge, anions, cation, anion])[:, n_elements == 0]]
        for place in range(width):
            here = n_elements[row] > place
            row, charge, anions, cation, anion = (t[here] for t in (row, charge, anions, cation, anion))
            index = start[row] + place
            choices = self.n_oxidation_states[element[index]]
            option = ragged_ranges(torch.zeros_like(choices), choices)
            parent = torch.repeat_interleave(torch.arange(len(row), device=row.device), choices)
            index = index[parent]
            added = charges[index, option]
            charge = charge[parent] + added
            possible = (charge + lowest[index] <= 0) & (charge + highest[index] >= 0)
            parent, index, charge, positive = (
                parent[possible],
                index[possible],
                charge[possible],
                added[possible] > 0,
            )
            rank = self.rank[element[index]]
            row, anions = row[parent], anions[parent] + (~positive).long()
            cation = torch.where(positive, torch.maximum(cation[parent], rank), cation[parent])
            anion = torch.where(positive, anion[parent], torch.minimum(anion[parent], rank))
            ended = n_elements[row] == place + 1
            done.append(torch.stack([row, charge, anions, cation, anion])[:, ended])
            if len(row) > _MANY:
                row, charge, anions, cation, anion = torch.stack([row, charge, anions, cation, anion]).unique(dim=1)
        return self._best(torch.cat(done, dim=1), n)

    def _best(self, assignments: Tensor, n: int) -> Assignments:
        row, _, anions, cation, anion = assignments[:, assignments[2] > 0]
        violation = (self.electronegativities[cation] - self.electronegativities[anion]).clamp_min(0)
        least = torch.full((n,), torch.inf, dtype=torch.float64, device=row.device)
        least = least.scatter_reduce(0, row, violation, "amin")
        best = violation == least[row]
        fewest = torch.full((n,), N_ELEMENTS + 1, device=row.device)
        fewest = fewest.scatter_reduce(0, row[best], anions[best], "amin")
        neutral = least.isfinite()
        return Assignments(neutral, least, torch.where(neutral, fewest, 0))


@PROXIES.register
class ElectronegativityOrder(_Assigning):
    """Violation of the order of electronegativity [Pauling units]; 0 if no cation exceeds an anion.

    An assignment gives one oxidation state to each element. Its violation is the electronegativity of the most
    electronegative cation minus that of the least electronegative anion, or 0 if this difference is negative. The value
    is the smallest violation of all neutral assignments. If no assignment is neutral, the value is the largest
    difference between two elements, 3.28.

    Single elements, and crystals that contain only metals, get 0, as in SMACT. A cation and an anion of exactly equal
    electronegativity also get 0, whereas SMACT rejects them.

    Args:
        oxidation_states: name of the set of oxidation states: ``pymatgen_common``, ``pymatgen_icsd`` or
            ``pymatgen_all``.

    Raises:
        InputError: if no set has this name.

    Source: Pauling electronegativities of pymatgen; the test of Davies et al., Chem 1, 617 (2016), as a difference.
    """

    name = "electronegativity_order"
    unit = "Pauling"
    valid_range = (0.0, 4.0)

    def forward(self, objects: Crystals) -> Tensor:
        """(n,) float64 violation [Pauling units], 0 to 3.28."""
        found = self.assign(objects.counts)
        present = objects.counts > 0
        free = (present.sum(1) <= 1) | ~(present & ~self.metal).any(1)
        worst = self.electronegativities[-1] - self.electronegativities[0]
        return torch.where(free, 0.0, torch.where(found.neutral, found.violation, worst))


@PROXIES.register
class AnionKinds(_Assigning):
    """Number of elements that are anions in the best neutral assignment of oxidation states.

    The best assignment has the smallest violation of the order of electronegativity (`ElectronegativityOrder`) and, if
    several are equal, the fewest anions. In sulfates, carbonates and borates, oxygen is the only anion. Hydrogen is an
    anion only if it is negative in the best assignment: in LiH and NaBH4, but not in NaOH. If no assignment is neutral,
    the elements that are not metals are counted. An alloy without a neutral assignment therefore has 0.

    Args:
        oxidation_states: name of the set of oxidation states: ``pymatgen_common``, ``pymatgen_icsd`` or
            ``pymatgen_all``.

    Raises:
        InputError: if no set has this name.
    """

    name = "anion_kinds"
    valid_range = (0.0, 94.0)

    def forward(self, objects: Crystals) -> Tensor:
        """(n,) float64 number of elements that are anions."""
        found = self.assign(objects.counts)
        nonmetals = ((objects.counts > 0) & ~self.metal).sum(1)
        return torch.where(found.neutral, found.anions, nonmetals).to(torch.float64)


def _left(charges: Tensor, crystal: Tensor, n: int) -> Tensor:
    """(m,) sum of the charges of the later elements of the same crystal; elements are sorted by crystal."""
    until = charges.cumsum(0)
    total = torch.zeros(n, dtype=charges.dtype, device=charges.device).index_add_(0, crystal, charges)
    return total.cumsum(0)[crystal] - until


def _oxidation_state_table(name: str) -> tuple[Tensor, Tensor]:
    """(94, s) int64 oxidation states of the elements, and (94,) how many each has; unused places repeat the first."""
    of_element = list(oxidation_state_set(name).values())
    width = max(map(len, of_element))
    rows = [[*own, *[own[0] if own else 0] * (width - len(own))] for own in of_element]
    return torch.tensor(rows), torch.tensor([len(own) for own in of_element])


def _electronegativities() -> tuple[Tensor, Tensor, Tensor]:
    """The different electronegativities in ascending order, (94,) int64 rank of each element, (94,) bool if a metal.

    Elements without a value share the highest rank; they have no oxidation state in any set.
    """
    from pymatgen.core import Element

    elements = [Element(symbol) for symbol in element_symbols()]
    # `Element.X` warns for noble gases; the raw table has no number for them.
    found = [element.data.get("X") for element in elements]
    numbers = [float(x) if isinstance(x, int | float) else math.nan for x in found]
    values = sorted({x for x in numbers if not math.isnan(x)})
    rank = [len(values) - 1 if math.isnan(x) else values.index(x) for x in numbers]
    metal = [bool(element.is_metal) for element in elements]
    return torch.tensor(values, dtype=torch.float64), torch.tensor(rank), torch.tensor(metal)
