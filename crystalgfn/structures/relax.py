"""Relax positions and cell with CHGNet, first with the symmetry kept, then without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crystalgfn.structures import chgnet

if TYPE_CHECKING:
    import numpy as np
    from pymatgen.core import Structure

MAX_FORCE = 0.05
"""Relaxed when no force is larger [eV/Å]; for the cell, the virial divided by the number of atoms [eV]."""

MAX_STEPS = 150
"""Steps with the symmetry kept."""

FREE_STEPS = 100
"""Steps without constraint."""

RATTLE = 0.01
"""Standard deviation [Å] by which atoms are displaced before the constraint is dropped: forces that break the symmetry
are zero in a symmetric structure, also on a saddle."""

MAX_GROWTH = 3.0
"""A cell whose volume changes by more than this factor has fallen apart."""


@dataclass(frozen=True)
class Relaxed:
    """A relaxed structure.

    Attributes:
        structure: the end.
        energy: CHGNet's energy [eV/atom].
        steps: steps taken.
        converged: whether forces and stress ended below `MAX_FORCE`.
    """

    structure: Structure
    energy: float
    steps: int
    converged: bool


def relax(structure: Structure, symmetric: bool, random: np.random.Generator | None = None) -> Relaxed:
    """Relax a structure.

    Args:
        structure: the start.
        symmetric: keep the space group; otherwise atoms are displaced by `RATTLE` first and nothing is kept.
        random: draws the displacements.

    Raises:
        RuntimeError: if atoms or cell fly apart.
    """
    from ase.constraints import FixSymmetry
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS
    from pymatgen.io.ase import AseAtomsAdaptor

    with chgnet.silence():
        # msonable=False: plain Atoms, which ase's filters copy faster.
        atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
        atoms.calc = chgnet.calculator()
        if symmetric:
            atoms.set_constraint([FixSymmetry(atoms, symprec=1e-3)])
        elif random is not None:
            atoms.positions += random.normal(scale=RATTLE, size=atoms.positions.shape)
        start = atoms.get_volume()
        optimizer = BFGS(FrechetCellFilter(atoms), logfile=None)  # type: ignore[arg-type]
        steps = MAX_STEPS if symmetric else FREE_STEPS
        converged = False
        try:
            for done in optimizer.irun(fmax=MAX_FORCE, steps=steps):
                converged = bool(done)
                if not 1 / MAX_GROWTH < atoms.get_volume() / start < MAX_GROWTH:
                    raise RuntimeError(f"the volume changes by more than a factor of {MAX_GROWTH:g}")
        except ValueError as error:
            raise RuntimeError(f"falls apart: {error}") from None
        energy = float(atoms.get_potential_energy()) / len(atoms)
        atoms.set_constraint()
        atoms.calc = None
        end: Any = AseAtomsAdaptor.get_structure(atoms)
    return Relaxed(end, energy, int(optimizer.nsteps), converged)
