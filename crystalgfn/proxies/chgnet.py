"""Formation energy of structures with atoms, from CHGNet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from crystalgfn.crystal.crystals import Crystals
from crystalgfn.gflownet.proxies.base import Proxy
from crystalgfn.registry import PROXIES
from crystalgfn.atoms import require_extra
from crystalgfn.atoms.potentials.chgnet import energies
from crystalgfn.atoms.potentials.references import SHIPPED, References

if TYPE_CHECKING:
    from pymatgen.core import Structure


@PROXIES.register
class CHGNetEnergy(Proxy):
    """Formation energy [eV/atom] of full structures, by CHGNet. Not for crystals without atoms.

    CHGNet's energy of the structure as it is, not relaxed, less elemental references fitted for the same weights
    (docs/structures.md). It is for structures that ``crystalgfn build`` makes, or any others; the crystals that the
    environment samples have no atoms.

    Args:
        references: file that ``crystalgfn chgnet-references`` wrote; the shipped one if None.

    Raises:
        InputError: if CHGNet is not installed or the file cannot be used.

    Source: Deng et al., Nature Machine Intelligence 5, 1031 (2023); PBE(+U) with the corrections of MP2020.
    """

    name = "chgnet_formation_energy"
    unit = "eV/atom"
    direction = "minimize"
    valid_range = (-5.0, 5.0)

    def __init__(self, references: Path | str | None = None) -> None:
        super().__init__()
        require_extra(("chgnet",))
        self.references = References.load(SHIPPED if references is None else references)
        # Says on which device the proxy is; CHGNet itself is shared by the process and has no part in checkpoints.
        self.register_buffer("_place", torch.zeros(0), persistent=False)

    def forward(self, structures: Sequence[Structure]) -> Tensor:
        """Formation energy of each structure.

        Args:
            structures: n ordered pymatgen structures of any sizes.

        Returns:
            (n,) float64 formation energy in eV/atom.

        Raises:
            TypeError: for crystals without atoms.
            ValueError: if CHGNet or the references cannot treat a structure: an atom without neighbours within 6 Å, an
                unknown element.
        """
        if isinstance(structures, Crystals):
            raise TypeError("CHGNet needs structures with atoms, and crystals have none; 'crystalgfn build' makes them")
        place = next(self.buffers()).device
        values = energies(structures, str(place))
        result = [
            self.references.formation_energy(float(value), structure.composition)
            for value, structure in zip(values, structures, strict=True)
        ]
        tensor = torch.tensor(result, dtype=torch.float64, device=place)
        bad = (~tensor.isfinite()).nonzero()[:, 0].tolist()
        if bad:
            raise ValueError(f"CHGNet has no formation energy for the structures in rows {bad}")
        return tensor
