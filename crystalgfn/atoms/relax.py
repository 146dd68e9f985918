"""Relax positions and cell with CHGNet, first with the symmetry kept, then without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crystalgfn.atoms.potentials import chgnet
from crystalgfn.atoms.search import are_apart

if TYPE_CHECKING:
    import numpy as np
    from pymatgen.core import Structure

MAX_FORCE = 0.05
"""Relaxed when no force is larger [eV/Å]; for the cell, the virial divided by the number of atoms [eV]."""

MAX_STEPS = 100
"""Steps with the symmetry kept."""

FREE_STEPS = 60
"""Steps without constraint."""

SETTLED = 1e-3
"""A relaxation also ends when `SETTLED_STEPS` steps lower the energy by less than this [eV/atom]: much less than CHGNet
knows, and the tail of a relaxation is most of its steps."""

SETTLED_STEPS = 8

RATTLE = 0.01
"""Standard deviation [Å] by which atoms are displaced before the constraint is dropped: forces that break the symmetry
are zero in a symmetric structure, also on a saddle."""

MAX_GROWTH = 3.0
"""A cell whose volume changes by more than this factor has fallen apart."""


class Relaxation:
    """A structure on its way to the minimum; it can be stopped, compared with others, and go on.

    Args:
        structure: the start.
        symmetric: keep the space group; otherwise atoms are displaced by `RATTLE` first and nothing is kept.
        random: draws the displacements.

    Attributes:
        energy: CHGNet's energy after the last step [eV/atom].
        steps: steps taken.
        converged: whether no force or stress is above `MAX_FORCE`.
        settled: whether the energy hardly falls any more, see `SETTLED`.
    """

    def __init__(self, structure: Structure, symmetric: bool, random: np.random.Generator | None = None) -> None:
        from ase.constraints import FixSymmetry
        from ase.filters import FrechetCellFilter
        from ase.optimize import BFGS
        from pymatgen.io.ase import AseAtomsAdaptor

        with chgnet.silence():
            # msonable=False: plain Atoms, which ase's filters copy faster.
            self._atoms: Any = AseAtomsAdaptor.get_atoms(structure, msonable=False)
            self._atoms.calc = chgnet.calculator()
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
        """Go on for some steps, fewer if it converges or settles.

        Raises:
            RuntimeError: if the cell flies apart, or atoms end up closer than CHGNet can judge.
        """
        if self.converged or self.settled:
            return self
        with chgnet.silence():
            try:
                for done in self._optimizer.irun(fmax=MAX_FORCE, steps=steps):
                    self._look(bool(done))
                    if self.settled:
                        break
            except ValueError as error:
                raise RuntimeError(f"falls apart: {error}") from None
        self.steps = int(self._optimizer.nsteps)
        if not are_apart([self.structure()])[0]:
            raise RuntimeError("falls apart: atoms end up too close or too crowded")
        return self

    def _look(self, converged: bool) -> None:
        """Note where the relaxation stands after a step."""
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
