"""The lowest formation energy that chemistry allows, for the commands that read formation energies from tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crystalgfn.errors import InputError

FORMATION_ENERGY = "formation_energy"
"""Name of the property."""

LEAST = -6.0
"""Lowest formation energy that is accepted [eV/atom]. The lowest one of 57,746 known crystals is -4.5 eV/atom; energies
in kJ/mol, kcal/mol or meV are far below."""

TOO_LOW = f"is below {LEAST:g} eV/atom, lower than that of any compound"
"""What is wrong with such an energy, for messages."""

ALLOWED = (
    f"formation energies in eV per atom, {LEAST:g} or higher; 1 eV/atom is 96.485 kJ/mol of atoms, and energies of a "
    "cell or formula unit must be divided by its atoms"
)
"""What is allowed, for messages."""


def too_low(energies: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether energies [eV/atom] are lower than chemistry allows; False for NaN.

    Args:
        energies: formation energies, of any shape.

    Returns:
        bool of the same shape.
    """
    with np.errstate(invalid="ignore"):
        return np.asarray(np.isfinite(energies) & (energies < LEAST), dtype=np.bool_)


def check_energies(path: Path, column: str, energies: NDArray[np.float64]) -> None:
    """Raise an `InputError` if a column of a table has formation energies lower than chemistry allows.

    Args:
        path: the table.
        column: name of the column.
        energies: (n,) its values [eV/atom]; NaN for a row without one.
    """
    bad = too_low(energies).nonzero()[0]
    if len(bad):
        raise InputError(
            f"{path}: row {bad[0] + 1} (counted from 1, without the header), column {column}: value "
            f"{energies[bad[0]]:g} {TOO_LOW} ({len(bad)} of {len(energies)} rows); allowed: {ALLOWED}"
        )
