"""Made-up crystals that resemble the training rows of a network, for fine-tuning without the table of these rows.

During fine-tuning, the network is trained to keep its predictions for these crystals (rehearsal). A file of weights
contains no crystals, but it shows which elements and space groups were trained on, and it contains atomic volumes and
the mean and deviation of every feature. Counts are small multiples of the smallest multiplicity of the space group. In
most made-up crystals, the charges of common oxidation states can add up to 0. Cells have the usual volume for their
atoms, and ratios of lengths and angles that the space group allows.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from crystalgfn.crystal.crystallography import N_ELEMENTS, element_symbols, space_groups
from crystalgfn.crystal.crystallography.oxidation_states import oxidation_state_set
from crystalgfn.crystal.crystals import Crystals
from crystalgfn.proxies.network.property_network import PropertyNetwork

_MULTIPLES = (1, 1, 1, 2, 2, 3, 4, 6)
"""Counts in units of the smallest multiplicity; each entry is drawn with the same probability."""

_BALANCED = 0.75
"""Share of the crystals for which elements are chosen whose charges can add up to 0, if such elements were drawn."""

_TRIES = 16
"""Number of draws of elements for a crystal; the first draw whose charges can add up to 0 is used."""


def made_up_crystals(network: PropertyNetwork, n: int, generator: torch.Generator) -> Crystals:
    """Crystals of one to three elements with space groups, elements and volumes like those of the training rows.

    Args:
        network: a trained network.
        n: number of crystals.
        generator: source of random numbers.

    Returns:
        n crystals.
    """
    groups = _trained(network, "group_own")
    group = groups[torch.randint(len(groups), (n,), generator=generator)]
    least = torch.tensor([min(info.fixed_multiplicities + info.free_multiplicities) for info in space_groups()])
    places = torch.tensor([1, 2, 2, 3, 3, 3])[torch.randint(6, (n, 1), generator=generator)]
    multiples = torch.tensor(_MULTIPLES)[torch.randint(len(_MULTIPLES), (n, 3), generator=generator)]
    counts = least[group, None] * multiples * (torch.arange(3) < places)
    counts = _with_elements(network, counts, generator)
    return Crystals(group + 1, counts, _cells(network, group + 1, counts, generator))


def _trained(network: PropertyNetwork, table: str) -> Tensor:
    """Indices of the trained rows of an embedding, which are not at their initial 0; all rows if there are none."""
    size = torch.stack([getattr(member, table).weight.abs().sum(1) for member in network.members]).sum(0)
    return (size > 0 if bool((size > 0).any()) else size == 0).nonzero()[:, 0]


def _with_elements(network: PropertyNetwork, counts: Tensor, generator: torch.Generator) -> Tensor:
    """(n, 94) counts: elements for (n, 3) counts in the order of electronegativity, most with charges that balance."""
    order = network.features.order[torch.isin(network.features.order, _trained(network, "element_own"))]
    n, places = counts.shape[0], min(3, len(order))
    drawn = torch.rand(n, _TRIES, len(order), generator=generator).topk(places, dim=2).indices
    drawn = torch.nn.functional.pad(drawn, (0, 3 - places)).sort(dim=2).values
    # A place with the count 0 has no element: a crystal of k elements gets the first k of the three drawn elements.
    elements = order[drawn]
    balanced = _can_balance(elements, counts)
    first = balanced.long().argmax(1)
    take = torch.where(torch.rand(n, generator=generator) < _BALANCED, first, 0)
    chosen = elements[torch.arange(n), take]
    return torch.zeros(n, N_ELEMENTS, dtype=torch.int64).scatter_add_(1, chosen, counts)


def _can_balance(elements: Tensor, counts: Tensor) -> Tensor:
    """(n, t) bool, whether common oxidation states of the elements (n, t, 3) with counts (n, 3) can add up to 0."""
    known = oxidation_state_set("pymatgen_common")
    width = max(map(len, known.values()))
    table = torch.full((N_ELEMENTS, width), torch.nan)
    for place, symbol in enumerate(element_symbols()):
        table[place, : len(known[symbol])] = torch.tensor(known[symbol], dtype=torch.float32)
    charges = table[elements] * counts[:, None, :, None]
    charges = torch.where(counts[:, None, :, None] == 0, 0.0, charges)
    found = torch.zeros(elements.shape[:2], dtype=torch.bool)
    for choices in product(range(width), repeat=3):
        found |= sum(charges[:, :, place, choice] for place, choice in enumerate(choices)) == 0
    return found


def _cells(network: PropertyNetwork, group: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
    """(n, 6) lattice parameters, with usual volumes, and with ratios of lengths and angles that the group allows."""
    n = len(group)
    noise = torch.randn(n, 6, generator=generator, dtype=torch.float64)
    _, _, mean, deviation = network.row_scale[:, network.features.column("log_volume_over_atoms")].double()
    volume = (counts.double() @ network.atomic_volumes) * (mean + deviation * noise[:, 0]).exp()
    system = [space_groups()[number - 1].crystal_system for number in group.tolist()]
    cubic, triclinic, monoclinic = (
        torch.tensor([s == name for s in system]) for name in ("cubic", "triclinic", "monoclinic")
    )
    hexagonal = torch.tensor([s in ("trigonal", "hexagonal") for s in system])
    uniaxial = hexagonal | torch.tensor([s == "tetragonal" for s in system])
    shape = 0.4 * noise[:, 1:3]
    shape[cubic] = 0
    shape[uniaxial, 0] = 0
    lengths = torch.cat([torch.zeros(n, 1, dtype=torch.float64), shape], dim=1).exp()
    angles = torch.full((n, 3), 90.0, dtype=torch.float64)
    angles[hexagonal, 2] = 120
    angles[monoclinic, 1] = 90 + (12 * noise[monoclinic, 3].abs()).clamp_max(45)
    angles[triclinic] = (90 + 10 * noise[triclinic, 3:]).clamp(65, 115)
    unit = Crystals(group, counts, torch.cat([lengths, angles], dim=1)).volume.clamp_min(0.1)
    return torch.cat([lengths * (volume / unit).pow(1 / 3)[:, None], angles], dim=1)
