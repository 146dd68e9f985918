"""Relax positions and cell with a potential, first with fixed symmetry, then without constraint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crystalgfn.atoms.potentials.quiet import silence
from crystalgfn.atoms.search import are_apart

if TYPE_CHECKING:
    import numpy as np
    from pymatgen.core import Structure

    from crystalgfn.atoms.potentials import Potential

MAX_FORCE = 0.05
"""A structure is relaxed if no force on an atom exceeds this [eV/Å], and nor does the virial of the cell divided by the
number of atoms [eV]."""

MAX_STEPS = 100
"""Largest number of steps with fixed symmetry."""

FREE_STEPS = 60
"""Largest number of steps without constraint."""

SETTLED = 1e-3
"""A relaxation also ends when `SETTLED_STEPS` steps lower the energy by less than this [eV/atom]. The value is much
smaller than the error of a potential, and the last small decreases would take most of the steps."""

SETTLED_STEPS = 8

RATTLE = 0.01
"""Standard deviation [Å] of the random displacements of atoms before the relaxation without constraint. In a symmetric
structure the forces that break the symmetry are zero, even at a saddle point."""

MAX_GROWTH = 3.0
"""A relaxation fails if the volume of the cell changes by more than this factor."""


class Relaxation:
    """The relaxation of one structure. It can be interrupted, compared with others and continued.

    Args:
        potential: the potential.
        structure: the initial structure.
        symmetric: whether the space group is kept.
        random: random number generator for the displacements (`RATTLE`) before a relaxation without constraint; None
            for no displacements.

    Attributes:
        energy: the potential's energy after the last step [eV/atom].
        steps: number of steps so far.
        converged: whether no force or stress is above `MAX_FORCE`.
        settled: whether the energy hardly decreases any more, see `SETTLED`.
    """

    def __init__(
        self, potential: Potential, structure: Structure, symmetric: bool, random: np.random.Generator | None = None
    ) -> None:
        from ase.constraints import FixSymmetry
        from ase.filters import FrechetCellFilter
        from ase.optimize import BFGS
        from pymatgen.io.ase import AseAtomsAdaptor

        with silence():
            # With msonable=False the atoms are ase's plain Atoms, which its filters copy faster.
            self._atoms: Any = AseAtomsAdaptor.get_atoms(structure, msonable=False)
            self._atoms.calc = potential.calculator()
            if symmetric:
                self._atoms.set_constraint([FixSymmetry(self._atoms, symprec=1e-3)])
            elif random is not None:
                self._atoms.positions += random.normal(scale=RATTLE, size=self._atoms.positions.shape)
            self._optimizer = BFGS(FrechetCellFilter(self._atoms), logfile=None)  # type: ignore[arg-type]
        self._start = self._atoms.get_volume()
        self._energies: list[float] = []
        self.energy = float("nan")
        self.steps = 0
        self.converged = self.settled = False

    def run(self, steps: int) -> Relaxation:
        """Continue the relaxation.

        Args:
            steps: largest number of further steps; fewer are taken if the relaxation converges or settles.

        Returns:
            this relaxation.

        Raises:
            RuntimeError: if the volume changes too much, an atom loses its neighbours, or atoms come too close to each
                other.
        """
        if self.converged or self.settled:
            return self
        with silence():
            try:
                for done in self._optimizer.irun(fmax=MAX_FORCE, steps=steps):
                    self._look(bool(done))
                    if self.settled:
                        break
            except ValueError as error:
                raise RuntimeError(f"the structure falls apart: {error}") from None
        self.steps = int(self._optimizer.nsteps)
        if not are_apart([self.structure()])[0]:
            raise RuntimeError("atoms are too close or too crowded after relaxation")
        return self

    def _look(self, converged: bool) -> None:
        """Update energy and status after a step."""
        if not 1 / MAX_GROWTH < self._atoms.get_volume() / self._start < MAX_GROWTH:
            raise RuntimeError(f"the volume changes by more than a factor of {MAX_GROWTH:g}")
        self.converged = converged
        self.energy = float(self._atoms.get_potential_energy()) / len(self._atoms)
        self._energies.append(self.energy)
        before = self._energies[:-SETTLED_STEPS]
        self.settled = bool(before) and min(before) - min(self._energies) < SETTLED

    def structure(self) -> Structure:
        """The structure as it is now."""
        from pymatgen.io.ase import AseAtomsAdaptor

        plain = self._atoms.copy()
        plain.set_constraint()
        plain.calc = None
        return AseAtomsAdaptor.get_structure(plain)
