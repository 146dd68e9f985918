"""A crystal to evaluate, its key and its task."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from crystalgfn.atoms.build import Task
from crystalgfn.checks import between
from crystalgfn.crystal.crystallography.elements import atomic_numbers
from crystalgfn.crystal.crystals import Crystals
from crystalgfn.crystal.formulas import symbol_counts
from crystalgfn.errors import InputError

LENGTH_STEP = 0.01
"""Lengths [Å] are the same crystal's if they round to the same multiple of this."""

ANGLE_STEP = 0.1
"""Angles [degrees], likewise."""


@dataclass(frozen=True)
class Candidate:
    """A crystal to evaluate.

    Attributes:
        space_group: 1 to 230.
        counts: atoms of each element in the conventional cell.
        lattice: a, b, c [Å], alpha, beta, gamma [degrees] of the conventional standard cell.
        source: where it comes from, such as ``model``, ``random`` or ``perturbed``.
        round: of the loop; 0 before it.
        numbers: what was said of it before it was evaluated, such as ``predicted`` (energy above hull, eV/atom).

    Raises:
        InputError: for a crystal that cannot be one.
    """

    space_group: int
    counts: Mapping[str, int]
    lattice: tuple[float, ...]
    source: str
    round: int = 0
    numbers: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        between("space_group", self.space_group, 1, 230)
        unknown = [symbol for symbol in self.counts if symbol not in atomic_numbers()]
        if unknown or not self.counts or min(self.counts.values()) < 1:
            raise InputError(f"counts: {dict(self.counts)} is no composition; symbols up to Pu, counts of 1 or more")
        if len(self.lattice) != 6 or not all(math.isfinite(x) and x > 0 for x in self.lattice):
            raise InputError(f"lattice: {self.lattice} is no cell; a, b, c [Å], alpha, beta, gamma [degrees]")

    @property
    def key(self) -> str:
        """Name of the crystal, the same for crystals whose lengths and angles round to the same steps."""
        lengths = [round(x / LENGTH_STEP) for x in self.lattice[:3]]
        angles = [round(x / ANGLE_STEP) for x in self.lattice[3:]]
        content = f"{self.space_group} {sorted((s, int(n)) for s, n in self.counts.items())} {lengths} {angles}"
        # Begins with a letter that no number has: databases read text that looks like a number as one.
        return "x" + hashlib.sha256(content.encode()).hexdigest()[:24]

    def task(self, tries: int, seed: int) -> dict[str, Any]:
        """What `crystalgfn.atoms.build.build` needs to build and relax it; its id is the key."""
        task = Task(
            id=self.key,
            space_group=int(self.space_group),
            counts={symbol: int(n) for symbol, n in self.counts.items()},
            lattice=[float(x) for x in self.lattice],
            tries=tries,
            seed=seed,
            relax=True,
        )
        return dict(task)


def candidates(
    crystals: Crystals, source: str, round_: int = 0, numbers: Mapping[str, Iterable[float]] | None = None
) -> list[Candidate]:
    """A candidate for each crystal of a batch.

    Args:
        crystals: n crystals.
        source: where they come from.
        round_: of the loop.
        numbers: name to n numbers, one a crystal.
    """
    columns = {name: [float(x) for x in values] for name, values in (numbers or {}).items()}
    return [
        Candidate(
            group,
            counts,
            tuple(lattice),
            source,
            round_,
            {name: values[row] for name, values in columns.items()},
        )
        for row, (group, counts, lattice) in enumerate(
            zip(crystals.space_group.tolist(), symbol_counts(crystals.counts), crystals.lattice.tolist(), strict=True)
        )
    ]
