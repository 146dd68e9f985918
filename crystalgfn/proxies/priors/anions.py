"""Which elements are cations and which anions, and whether the cations are the less electronegative ones."""

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
"""So many partial assignments of a batch are searched for equal ones, which costs time but bounds the memory."""


@dataclass(frozen=True)
class Assignments:
    """The best neutral assignment of oxidation states for each of n crystals.

    Attributes:
        neutral: (n,) bool, whether there is one.
        violation: (n,) float64, electronegativity of the most electronegative cation minus that of the least
            electronegative anion, or 0 if that is negative; inf without an assignment.
        anions: (n,) int64, elements with a negative oxidation state; 0 without an assignment.
    """

    neutral: Tensor
    violation: Tensor
    anions: Tensor


class _Assigning(Proxy):
    """A proxy that looks at all neutral assignments with one oxidation state for each element.

    Args:
        oxidation_states: name of the set of oxidation states, ``pymatgen_common`` or ``pymatgen_icsd``.

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
        """The neutral assignment of least violation, and of fewest anions among those.

        Partial assignments grow by an element at a time and are dropped where the rest cannot make them neutral.

        Args:
            counts: (n, 94) int64.
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
        # Ranks of electronegativity: of the most electronegative cation and the least electronegative anion.
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
    """By how much the best neutral assignment has cations that are more electronegative than anions [Pauling units].

    0 where some neutral assignment of oxidation states, one for each element, has all cations below or at the
    electronegativity of all anions. Otherwise the least, over the neutral assignments, of the most electronegative
    cation minus the least electronegative anion. As in SMACT, metals alone and single elements are alloys and
    elements, and get 0; SMACT fails a cation and an anion of exactly equal electronegativity, here they get 0.
    Where no such assignment is neutral, the value is the largest difference that two elements can have, 3.28.

    Args:
        oxidation_states: name of the set of oxidation states, ``pymatgen_common`` or ``pymatgen_icsd``.

    Raises:
        InputError: if no set has this name.

    Source: Pauling electronegativities of pymatgen; the test of Davies et al., Chem 1, 617 (2016), as a margin.
    """

    name = "electronegativity_order"
    unit = "Pauling"
    valid_range = (0.0, 4.0)

    def forward(self, objects: Crystals) -> Tensor:
        """(n,) float64, 0 to 3.28."""
        found = self.assign(objects.counts)
        present = objects.counts > 0
        free = (present.sum(1) <= 1) | ~(present & ~self.metal).any(1)
        worst = self.electronegativities[-1] - self.electronegativities[0]
        return torch.where(free, 0.0, torch.where(found.neutral, found.violation, worst))


@PROXIES.register
class AnionKinds(_Assigning):
    """Number of elements that are anions in the best neutral assignment of oxidation states.

    Best is the assignment with the cations most clearly below the anions in electronegativity
    (`ElectronegativityOrder`), and of those equally good the one with fewest anions: sulfates, carbonates and borates
    have one, oxygen. Hydrogen is an anion only where it is negative in that assignment: in LiH and NaBH4, not in
    NaOH. Where no assignment is neutral, the elements that are no metals are counted, so alloys have 0.

    Args:
        oxidation_states: name of the set of oxidation states, ``pymatgen_common`` or ``pymatgen_icsd``.

    Raises:
        InputError: if no set has this name.
    """

    name = "anion_kinds"
    valid_range = (0.0, 94.0)

    def forward(self, objects: Crystals) -> Tensor:
        """(n,) float64 number of kinds of anions."""
        found = self.assign(objects.counts)
        nonmetals = ((objects.counts > 0) & ~self.metal).sum(1)
        return torch.where(found.neutral, found.anions, nonmetals).to(torch.float64)


def _left(charges: Tensor, crystal: Tensor, n: int) -> Tensor:
    """(m,) sum of the numbers of the later elements of the same crystal, for elements in the order of crystals."""
    until = charges.cumsum(0)
    total = torch.zeros(n, dtype=charges.dtype, device=charges.device).index_add_(0, crystal, charges)
    return total.cumsum(0)[crystal] - until


def _oxidation_state_table(name: str) -> tuple[Tensor, Tensor]:
    """(94, s) int64 oxidation states, each element's first one repeated at the end of its row, and (94,) how many."""
    of_element = list(oxidation_state_set(name).values())
    width = max(map(len, of_element))
    rows = [[*own, *[own[0] if own else 0] * (width - len(own))] for own in of_element]
    return torch.tensor(rows), torch.tensor([len(own) for own in of_element])


def _electronegativities() -> tuple[Tensor, Tensor, Tensor]:
    """Different electronegativities in rising order, (94,) int64 the rank of each element, (94,) bool metals.

    Elements without a value share the highest rank; they have no oxidation state in either set.
    """
    from pymatgen.core import Element

    elements = [Element(symbol) for symbol in element_symbols()]
    # `Element.X` warns for noble gases; the raw table simply has no number for them.
    found = [element.data.get("X") for element in elements]
    numbers = [float(x) if isinstance(x, int | float) else math.nan for x in found]
    values = sorted({x for x in numbers if not math.isnan(x)})
    rank = [len(values) - 1 if math.isnan(x) else values.index(x) for x in numbers]
    metal = [bool(element.is_metal) for element in elements]
    return torch.tensor(values, dtype=torch.float64), torch.tensor(rank), torch.tensor(metal)
