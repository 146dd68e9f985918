"""Reference phases: the phases that a crystal can decompose into."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crystalgfn.checks import quoted
from crystalgfn.crystal.crystallography import element_symbols
from crystalgfn.crystal.crystallography.elements import atomic_numbers
from crystalgfn.crystal.formation_energies import check_energies
from crystalgfn.crystal.formulas import formula_text, parse_formula, reduced
from crystalgfn.errors import InputError
from crystalgfn.files import read_frame

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

BAD_ELEMENT = "a pure element with a negative formation energy, which contradicts its definition"
OUTSIDE = "has elements outside of the chosen ones"
TOO_MANY = "has more elements than a composition may have"
HIGHER = "not the lowest of its composition"


@dataclass(frozen=True)
class Phases:
    """Reference phases of a set of elements: one for each composition, including the pure elements at 0 eV/atom.

    Attributes:
        elements: symbols of the k elements, in the order of atomic numbers.
        fractions: (p, k) atomic fraction of each element in each phase.
        energies: (p,) formation energy [eV/atom].
    """

    elements: tuple[str, ...]
    fractions: Floats
    energies: Floats

    @classmethod
    def of(
        cls, compositions: Sequence[Mapping[str, int]], energies: Sequence[float], elements: Iterable[str]
    ) -> Phases:
        """The phase of lowest energy for each composition, and the pure elements.

        The formation energy of a pure element is 0 by definition, therefore phases of one element are ignored.

        Args:
            compositions: whole counts of the elements of each phase.
            energies: formation energy [eV/atom] of each phase.
            elements: symbols of all elements; a phase with other elements is an error.

        Raises:
            InputError: for an unknown element, one outside of ``elements``, or an energy that is not finite.
        """
        symbols = ordered_elements(elements)
        place = {symbol: i for i, symbol in enumerate(symbols)}
        lowest: dict[tuple[int, ...], float] = {}
        for composition, energy in zip(compositions, energies, strict=True):
            foreign = sorted(set(composition) - set(symbols))
            if foreign:
                raise InputError(
                    f"phases: {formula_text(composition)} has {', '.join(foreign)}; allowed: {', '.join(symbols)}"
                )
            if not math.isfinite(energy):
                name = formula_text(composition)
                raise InputError(f"phases: {name} has the energy {energy}; it must be a finite number")
            counts = [0] * len(symbols)
            for symbol, count in reduced(composition).items():
                counts[place[symbol]] = count
            key = tuple(counts)
            if len(composition) > 1:
                lowest[key] = min(energy, lowest.get(key, math.inf))
        table = np.array([*np.eye(len(symbols)), *lowest], dtype=np.float64)
        values = np.concatenate([np.zeros(len(symbols)), np.array(list(lowest.values()), dtype=np.float64)])
        return cls(symbols, table / table.sum(1, keepdims=True), values)

    def __len__(self) -> int:
        return len(self.energies)

    def hull_energy(self, fractions: Floats) -> Floats:
        """Exact energy of the hull, by a linear program for each composition (HiGHS).

        Args:
            fractions: (n, k) atomic fraction of each element; rows add up to 1.

        Returns:
            (n,) energy [eV/atom] of the lowest mixture of phases with that composition.

        Raises:
            RuntimeError: if a linear program fails.
        """
        from scipy.optimize import linprog

        result = np.zeros(len(fractions))
        for row, target in enumerate(fractions):
            # Phases with an element that the composition lacks cannot be part of the mixture.
            use = self.fractions @ (target == 0) == 0
            present = target > 0
            # The pure elements are phases, so a mixture always exists.
            solution = linprog(self.energies[use], A_eq=self.fractions[use][:, present].T, b_eq=target[present])
            if solution.status != 0:
                raise RuntimeError(f"the linear program of composition {target.tolist()} failed: {solution.message}")
            result[row] = solution.fun
        return result


@dataclass(frozen=True)
class PhaseTable:
    """Reference phases from a table, and how its rows were used.

    Attributes:
        phases: the phases.
        rows: number of rows of the table.
        used: number of rows that became a phase.
        dropped: number of rows left out, by reason.
        frame: the table as read.
        usable: indices of the rows, from 0, with a formula of the chosen elements and an energy.
    """

    phases: Phases
    rows: int
    used: int
    dropped: dict[str, int]
    frame: Any
    usable: list[int]


def read_phases(
    path: Path,
    label: str = "formation_energy",
    elements: Sequence[str] | None = None,
    max_elements: int = 5,
    strict: bool = False,
) -> PhaseTable:
    """Read reference phases from a table; rows that cannot be used are left out and counted.

    Args:
        path: CSV or parquet file with the columns ``formula`` and ``label``.
        label: column with the formation energy [eV/atom], relative to the elements' ground states.
        elements: symbols of the elements; rows with other elements are left out. None for all elements of the table.
        max_elements: phases with more elements are left out, because they cannot be part of a composition with at most
            this number of elements.
        strict: if true, a formula that cannot be read is an error, unless the row has no energy.

    Returns:
        the phases and the use of the rows.

    Raises:
        InputError: if the table cannot be read, lacks a column, has no usable row or an energy that is lower than
            chemistry allows, or an element is unknown.
    """
    import pandas as pd

    frame = read_frame(path, ["formula", label])
    allowed = None if elements is None else set(ordered_elements(elements))
    energies = pd.to_numeric(frame[label], errors="coerce").to_numpy(dtype="float64", na_value=np.nan)
    check_energies(path, label, energies)
    dropped: Counter[str] = Counter()
    usable: list[tuple[int, dict[str, int], float]] = []
    for row, (formula, energy) in enumerate(zip(frame["formula"].tolist(), energies.tolist(), strict=True)):
        try:
            composition = parse_formula(formula if isinstance(formula, str) else "")
        except InputError as error:
            if strict and math.isfinite(energy):
                raise InputError(f"{path}: row {row + 1}, column formula: value {quoted(formula)} {error}") from None
            dropped["formula is missing or cannot be read"] += 1
            continue
        reason = _reason(composition, energy, label, allowed, max_elements)
        if reason is None:
            usable.append((row, composition, energy))
        else:
            dropped[reason] += 1
    if not usable:
        reasons = "; ".join(f"{count} rows: {reason}" for reason, count in dropped.items())
        raise InputError(f"{path}: no usable row; {reasons}")
    chosen = elements if elements is not None else {symbol for _, c, _ in usable for symbol in c}
    phases = Phases.of([c for _, c, _ in usable], [e for _, _, e in usable], chosen)
    used = len(phases) - len(phases.elements)
    dropped[HIGHER] = len(usable) - used
    return PhaseTable(phases, len(frame), used, dict(dropped), frame, [row for row, _, _ in usable])


class ReferenceHull:
    """The hull of a table of known crystals.

    The pure elements are always part of it, at 0 eV/atom, even if the table does not contain them.

    Args:
        path: CSV or parquet table with the columns formula and formation_energy [eV/atom]; other columns and
            rows without an energy are ignored.

    Raises:
        InputError: if the table cannot be read, lacks a column, has a bad formula, an energy that is lower than
            chemistry allows, or no row with an energy.
    """

    def __init__(self, path: Path) -> None:
        symbols = element_symbols()
        self.phases = read_phases(path, elements=symbols, max_elements=len(symbols), strict=True).phases

    def with_phases(self, compositions: Sequence[Mapping[str, int]], energies: Sequence[float]) -> ReferenceHull:
        """The hull of this reference and of further phases.

        Args:
            compositions: counts of the elements of the further phases, by symbol.
            energies: their formation energies [eV/atom].
        """
        own = Phases.of(compositions, energies, self.phases.elements)
        hull = copy(self)
        hull.phases = Phases(
            own.elements,
            np.concatenate([self.phases.fractions, own.fractions]),
            np.concatenate([self.phases.energies, own.energies]),
        )
        return hull

    def __call__(self, counts: Tensor) -> Tensor:
        """Energy of the hull at each composition.

        Args:
            counts: (n, 94) atoms of each element, at least one atom in a row; column Z - 1 holds element Z.

        Returns:
            (n,) float64 energy [eV/atom]. A crystal itself is part of the hull only if the table contains it.
        """
        shares = counts.double() / counts.sum(1, keepdim=True)
        return torch.from_numpy(self.phases.hull_energy(shares.cpu().numpy()))

    def refused(self, counts: Tensor) -> list[str]:
        """Why compositions have no energy: n empty texts, because this hull has all elements."""
        return [""] * len(counts)


def ordered_elements(elements: Iterable[str]) -> tuple[str, ...]:
    """Symbols in the order of atomic numbers, each once.

    Raises:
        InputError: if a symbol is unknown, or there are no symbols.
    """
    given = set(elements)
    unknown = sorted(given - set(element_symbols()))
    if unknown or not given:
        what = f"unknown element(s) {', '.join(unknown)}" if given else "none given"
        raise InputError(f"elements: {what}; allowed: symbols of the elements 1 to {len(element_symbols())}")
    return tuple(sorted(given, key=atomic_numbers().__getitem__))


def _reason(
    composition: dict[str, int], energy: float, label: str, allowed: set[str] | None, max_elements: int
) -> str | None:
    """Why a row is left out; None if it is used."""
    if not math.isfinite(energy):
        return f"{label} is missing or not a finite number"
    if allowed is not None and not allowed.issuperset(composition):
        return OUTSIDE
    if len(composition) > max_elements:
        return TOO_MANY
    return BAD_ELEMENT if len(composition) == 1 and energy < 0 else None
