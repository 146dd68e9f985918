"""An ase calculator for any potential."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from crystalgfn.atoms.potentials.quiet import silence

if TYPE_CHECKING:
    from crystalgfn.atoms.potentials.base import Potential


class PotentialCalculator(Calculator):
    """Energies, forces and stresses of a potential for ase.

    Args:
        potential: the potential.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012 - as in ase

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self._potential = potential

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        """Compute energy [eV], forces [eV/Å] and stress [eV/Å³].

        Raises:
            ValueError: if the potential cannot evaluate the structure.
        """
        from pymatgen.io.ase import AseAtomsAdaptor

        super().calculate(atoms, properties, system_changes)
        with silence():
            structure = AseAtomsAdaptor.get_structure(atoms)
        found = self._potential.evaluate([structure], forces=True, stresses=True)
        assert found.forces is not None and found.stresses is not None
        energy = float(found.energies[0])
        if math.isnan(energy):
            raise ValueError(f"{self._potential.name} cannot evaluate this structure")
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "forces": found.forces[0],
            "stress": full_3x3_to_voigt_6_stress(found.stresses[0]),
        }
