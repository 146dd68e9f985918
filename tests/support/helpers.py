"""Independent checks of crystals, written with pyxtal and pymatgen and not with the tables of the package."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations_with_replacement
from typing import Any

import torch

from crystalgfn.crystal.crystals import Crystals
from crystalgfn.crystal.envs import Crystal


def _numbers(text: str) -> list[int]:
    ranges = [entry.partition("-") for entry in text.split()]
    return [n for low, _, high in ranges for n in range(int(low), int(high or low) + 1)]


PAPER_GROUPS = _numbers(
    "1-16 18-21 25 26 29-31 33 36 38 40 41 43 44 46 47 51-53 55-67 69-72 74 82 84-88 92 99 102 107 113 114 121-123 "
    "126 129 131 136-141 146-148 150 155 156 160-164 166 167 176 181 185-187 189 192 194 198 199 205 206 216 217 220 "
    "221 224 225 227 229 230"
)
"""Space groups of the Crystal-GFN paper, arXiv 2310.04925."""

PAPER_ELEMENTS = [
    "H", "Li", "B", "C", "N", "O", "F", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "K", "V", "Mn", "Fe", "Co", "Ni", "Cu",
    "Se",
]  # fmt: skip
"""Elements of the Crystal-GFN paper."""


def make_crystal(**settings: Any) -> Crystal:
    """A crystal environment, without the warning about space groups that are left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Crystal(**settings)


@cache
def _pyxtal_group(number: int) -> Any:
    from pyxtal.symmetry import Group

    return Group(number)


@cache
def _fits(number: int, counts: tuple[int, ...]) -> bool:
    return bool(_pyxtal_group(number).check_compatible(list(counts))[0])


def fits_wyckoff(number: int, counts: Sequence[int]) -> bool:
    """Whether pyxtal can place the atoms, given as counts of each element, on Wyckoff positions of a group."""
    # Which element is which does not matter to the positions.
    return _fits(number, tuple(sorted(n for n in counts if n)))


@cache
def possible_charges(symbol: str, count: int, mixed_valence: bool, oxidation_states: str) -> frozenset[int]:
    """Total charges of some atoms of one element, by trying all choices of oxidation states for its atoms."""
    from pymatgen.core import Element

    element = Element(symbol)
    sets = {
        "pymatgen_common": element.common_oxidation_states,
        "pymatgen_icsd": element.icsd_oxidation_states,
        "pymatgen_all": element.oxidation_states,
    }
    known = [int(s) for s in sets[oxidation_states] if s]
    if not mixed_valence:
        return frozenset(s * count for s in known)
    totals = set()
    for choice in combinations_with_replacement(known, count):
        distinct = set(choice)
        if len(distinct) == 1 or (len(distinct) == 2 and min(distinct) * max(distinct) > 0):
            totals.add(sum(choice))
    return frozenset(totals)


def is_neutral(
    composition: Mapping[str, int], mixed_valence: bool = False, oxidation_states: str = "pymatgen_common"
) -> bool:
    """Whether some choice of oxidation states makes a composition neutral."""
    totals = {0}
    for symbol, count in composition.items():
        charges = possible_charges(symbol, count, mixed_valence, oxidation_states)
        totals = {total + charge for total in totals for charge in charges}
    return 0 in totals


def crystal_system(number: int) -> str:
    """Crystal system by the number of the space group, International Tables."""
    last = {2: "triclinic", 15: "monoclinic", 74: "orthorhombic", 142: "tetragonal", 167: "trigonal", 194: "hexagonal"}
    return next((name for end, name in last.items() if number <= end), "cubic")


def cell_fits_system(number: int, lattice: Sequence[float]) -> bool:
    """Whether lattice parameters are those of a conventional cell of a group's crystal system."""
    a, b, c, alpha, beta, gamma = lattice
    right = (alpha == 90, beta == 90, gamma == 90)
    return {
        "triclinic": True,
        "monoclinic": right[0] and right[2],
        "orthorhombic": all(right),
        "tetragonal": all(right) and a == b,
        "trigonal": right[:2] == (True, True) and gamma == 120 and a == b,
        "hexagonal": right[:2] == (True, True) and gamma == 120 and a == b,
        "cubic": all(right) and a == b == c,
    }[crystal_system(number)]


def problems(crystals: Crystals, settings: Mapping[str, Any], groups: Sequence[int]) -> list[str]:
    """What is wrong with each crystal, judged by the settings of its environment; empty if nothing is."""
    from pymatgen.core import Element, Lattice

    def setting(name: str, default: Any) -> Any:
        return settings.get(name, default)

    least, largest = setting("min_elements", 1), setting("max_elements", 5)
    per_element = setting("min_atoms_per_element", 1), setting("max_atoms_per_element", 16)
    atoms_range = setting("min_atoms", 1), setting("max_atoms", 80)
    elements = setting("elements", None) or [Element.from_Z(z).symbol for z in range(1, 95)]
    lengths, angles = setting("lengths", (0.9, 100.0)), setting("angles", (50.0, 150.0))
    margin = setting("angle_margin", 1.0) / 2
    found = []
    rows = zip(crystals.space_group.tolist(), crystals.counts.tolist(), crystals.lattice.tolist(), strict=True)
    for number, counts, lattice in rows:
        composition = {Element.from_Z(z).symbol: n for z, n in enumerate(counts, start=1) if n}
        atoms = sum(composition.values())
        checks = {
            "space group": number in groups,
            "elements": set(composition) <= set(elements),
            "number of elements": least <= len(composition) <= largest,
            "atoms of an element": all(per_element[0] <= n <= per_element[1] for n in composition.values()),
            "number of atoms": atoms_range[0] <= atoms <= atoms_range[1],
            "Wyckoff positions": fits_wyckoff(number, counts),
            "neutral": not setting("charge_neutral", True)
            or is_neutral(composition, setting("mixed_valence", False), setting("oxidation_states", "pymatgen_common")),
            "lattice system": cell_fits_system(number, lattice),
            # Intervals end within the last digits of the ranges that were asked for.
            "lengths": all(lengths[0] * (1 - 1e-8) <= x <= lengths[1] * (1 + 1e-8) for x in lattice[:3]),
            "angles": all(angles[0] - 1e-6 <= x <= angles[1] + 1e-6 for x in lattice[3:]),
        }
        if crystal_system(number) == "triclinic":
            half = sum(lattice[3:]) / 2
            keep = [half, *(half - angle for angle in lattice[3:])]
            checks["angle margin"] = all(margin - 1e-6 <= x <= 180 - margin + 1e-6 for x in keep)
        volume = Lattice.from_parameters(*lattice).volume
        checks["volume"] = volume > 0
        if setting("volume_per_atom", None) is not None:
            low, high = settings["volume_per_atom"]
            checks["volume per atom"] = low * (1 - 1e-6) <= volume / atoms <= high * (1 + 1e-6)
        found += [f"{what}: {number} {composition} {lattice}" for what, good in checks.items() if not good]
    return found


def reachable_compositions(env: Crystal, number: int) -> list[tuple[int, ...]]:
    """Counts, in the order of ``env.elements``, of all compositions that legal actions lead to in one space group."""
    stage = env.composition
    states = stage.start(torch.tensor([[float(number)]], dtype=torch.float64))

    for head in stage.schedule:
        due = stage.next_head(states) == stage.head_position(head)
        waiting, current = states[~due], states[due]
        rows, options = stage.support(head, current).nonzero(as_tuple=True)
        assert len(rows.unique()) == len(current), f"{len(current) - len(rows.unique())} dead ends at {head}"
        states = torch.cat([waiting, stage.step(head, current[rows], options.unsqueeze(1).to(torch.float64))])
    assert stage.is_terminal(states).all()
    reached = stage.decode(states)
    from pymatgen.core import Element

    columns = [Element(symbol).Z - 1 for symbol in env.elements]
    return [tuple(row) for row in reached[:, columns].tolist()]
