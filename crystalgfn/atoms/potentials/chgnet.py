"""CHGNet: energies, forces and stresses in batches. Each process loads the model once.

CHGNet was trained on relaxation frames of the Materials Project. Their energies include the corrections of 2020
(MP2020: anions, and oxides and fluorides of transition metals with +U), so CHGNet's energies include them too.

Source: Deng et al., Nature Machine Intelligence 5, 1031 (2023), doi:10.1038/s42256-023-00716-3; the weights come with
the package chgnet.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from crystalgfn.atoms import require_extra
from crystalgfn.atoms.potentials.base import DATA, Evaluation, Potential, batches
from crystalgfn.atoms.potentials.quiet import silence
from crystalgfn.crystal.crystallography.elements import element_symbols
from crystalgfn.registry import POTENTIALS

if TYPE_CHECKING:
    from pymatgen.core import Structure

MODEL = "0.3.0"
"""Version of the weights."""

FORBIDDEN = frozenset({"Po", "At", "Rn", "Fr", "Ra"})
"""Elements up to Pu that are not in CHGNet's training data."""


@POTENTIALS.register
class CHGNet(Potential):
    """CHGNet 0.3.0. Its energies include the corrections of the Materials Project.

    A structure with an atom without neighbours within 6 Å cannot be evaluated.
    """

    version = MODEL
    elements = frozenset(element_symbols()) - FORBIDDEN
    references = DATA / "chgnet_references.json"
    packages = ("chgnet",)

    def prepare(self) -> None:
        _load()

    def calculator(self) -> Any:
        require_extra(("chgnet", "ase"))
        model = _load()
        with silence():
            from chgnet.model.dynamics import CHGNetCalculator

            return CHGNetCalculator(model, use_device="cpu", on_isolated_atoms="error")

    def _evaluate(self, structures: Sequence[Structure], forces: bool, stresses: bool) -> Evaluation:
        import torch
        from ase.units import GPa

        model = _load()
        task = "efs" if stresses else "ef" if forces else "e"
        found = Evaluation.empty(structures, forces, stresses)
        with silence():
            graphs = []
            for index, structure in enumerate(structures):
                with contextlib.suppress(ValueError):  # an atom without neighbours
                    graphs.append((index, model.graph_converter(structure)))
            with torch.set_grad_enabled(task != "e"):
                for batch in batches([len(graph.atomic_number) for _, graph in graphs]):
                    rows = [graphs[i][0] for i in batch]
                    result = model([graphs[i][1] for i in batch], task=task)
                    sizes = [len(structures[row]) for row in rows]
                    found.energies[rows] = result["e"].detach().double().numpy().reshape(-1) * sizes
                    for place, row in enumerate(rows):
                        if found.forces is not None:
                            found.forces[row] = result["f"][place].detach().double().numpy()
                        if found.stresses is not None:
                            found.stresses[row] = result["s"][place].detach().double().numpy() * GPa
        return found


@cache
def _load() -> Any:
    """Load the model in evaluation mode; later calls return the same model."""
    require_extra(("chgnet",))
    with silence():
        from chgnet.model import CHGNet as Network

        model = Network.load(model_name=MODEL, use_device="cpu", verbose=False)
        model.eval()
        for parameter in model.parameters():
            parameter.requires_grad_(False)  # forces need only gradients with respect to positions
        return model
