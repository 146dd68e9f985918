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
"""Step [Å] to which lengths are rounded in a crystal's key."""

ANGLE_STEP = 0.1
"""Step [degrees] to which angles are rounded in a crystal's key."""


@dataclass(frozen=True)
class Candidate:
    """A crystal to evaluate.

    Attributes:
        space_group: 1 to 230.
        counts: symbol to number of atoms in the conventional cell.
        lattice: a, b, c [Å], alpha, beta, gamma [degrees] of the conventional standard cell.
        source: where the crystal comes from, such as ``model``, ``random`` or ``perturbed``.
        round: round of the discovery loop; 0 before the first one.
        numbers: numbers known before the evaluation, such as ``predicted`` (energy above the hull, eV/atom).

    Raises:
        InputError: if the space group, the counts or the lattice is not allowed.
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
            raise InputError(f"counts: {dict(self.counts)} is not allowed; symbols up to Pu, counts of 1 or more")
        if len(self.lattice) != 6 or not all(math.isfinite(x) and x > 0 for x in self.lattice):
            raise InputError(
                f"lattice: {self.lattice} is not allowed; it must be a, b, c [Å], alpha, beta, gamma [degrees], all "
                "positive"
            )

    @property
    def key(self) -> str:
        """Identifier of the crystal: a hash of space group, counts, and lengths and angles, rounded to the steps."""
        lengths = [round(x / LENGTH_STEP) for x in self.lattice[:3]]
        angles = [round(x / ANGLE_STEP) for x in self.lattice[3:]]
        content = f"{self.space_group} {sorted((s, int(n)) for s, n in self.counts.items())} {lengths} {angles}"
        # The first letter occurs in no number, because databases convert text that looks like a number.
        return "x" + hashlib.sha256(content.encode()).hexdigest()[:24]

    def task(self, tries: int, seed: int, potential: str) -> dict[str, Any]:
        """Task for `crystalgfn.atoms.build.build`, with the key as its id.

        Args:
            tries: number of arrangements that are relaxed in the sampled cell.
            seed: seed of the arrangements.
            potential: name of the potential.

        Returns:
            the keys of `crystalgfn.atoms.build.Task`.
        """
        task = Task(
            id=self.key,
            space_group=int(self.space_group),
            counts={symbol: int(n) for symbol, n in self.counts.items()},
            lattice=[float(x) for x in self.lattice],
            tries=tries,
            seed=seed,
            relax=True,
            potential=potential,
        )
        return dict(task)


def candidates(
    crystals: Crystals, source: str, round_: int = 0, numbers: Mapping[str, Iterable[float]] | None = None
) -> list[Candidate]:
    """A candidate for each crystal of a batch.

    Args:
        crystals: n crystals.
        source: where the crystals come from.
        round_: round of the discovery loop.
        numbers: name to n numbers, one per crystal.
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
