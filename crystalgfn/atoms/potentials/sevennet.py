"""SevenNet: energies, forces and stresses in batches. Each process loads a model once.

SevenNet was trained on the same relaxation frames of the Materials Project as CHGNet, but on their energies without
corrections. 7net-l3i5 is more accurate than 7net-0 and takes more than twice the time.

Source: Park et al., Journal of Chemical Theory and Computation 20, 4857 (2024), doi:10.1021/acs.jctc.4c00190; the
weights come with the package sevenn (MIT licence).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from crystalgfn.atoms import require_extra
from crystalgfn.atoms.potentials.base import DATA, Evaluation, Potential, batches
from crystalgfn.atoms.potentials.quiet import silence
from crystalgfn.checks import one_of
from crystalgfn.crystal.crystallography.elements import element_symbols
from crystalgfn.registry import POTENTIALS

if TYPE_CHECKING:
    from pymatgen.core import Structure

VERSIONS = {"7net-l3i5": "7net-l3i5", "7net-0": "7net-0_11jul2024"}
"""Name of a model to the name of its weights in sevenn. Other models are not in the wheel, or need more settings."""

FORBIDDEN = frozenset({"Po", "At", "Rn", "Fr", "Ra"})
"""Elements up to Pu that are not in SevenNet's training data."""

VOIGT = ((0, 3, 5), (3, 1, 4), (5, 4, 2))
"""Places of sevenn's six stresses (xx, yy, zz, xy, yz, zx) in the matrix."""


@POTENTIALS.register
class SevenNet(Potential):
    """SevenNet 7net-l3i5 or 7net-0. Its energies lack the corrections of the Materials Project, which are added.

    A structure with an atom without neighbours within 5 Å cannot be evaluated.

    Args:
        model: ``7net-l3i5`` (accurate) or ``7net-0`` (fast).

    Raises:
        InputError: if there is no such model.
    """

    corrections = "MP2020"
    elements = frozenset(element_symbols()) - FORBIDDEN
    packages = ("sevenn",)
    install = "crystalgfn[sevennet]"

    def __init__(self, model: Literal["7net-l3i5", "7net-0"] = "7net-l3i5") -> None:
        one_of("SevenNet: model", model, tuple(VERSIONS))
        self.model = model
        self.version = VERSIONS[model]
        self.references = DATA / f"{model}_references.json"

    @property
    def name(self) -> str:
        return f"SevenNet:{self.model}"

    def prepare(self) -> None:
        _load(self.version)

    def _evaluate(self, structures: Sequence[Structure], forces: bool, stresses: bool) -> Evaluation:
        import sevenn._keys as key
        import torch
        from sevenn.atom_graph_data import AtomGraphData
        from sevenn.train.dataload import unlabeled_atoms_to_graph
        from torch_geometric.data import Batch

        full, energies_only, cutoff = _load(self.version)
        derivatives = forces or stresses
        found = Evaluation.empty(structures, forces, stresses)
        with silence():
            graphs = [(row, unlabeled_atoms_to_graph(_atoms(s), cutoff)) for row, s in enumerate(structures)]
            graphs = [(row, g) for row, g in graphs if np.bincount(g[key.EDGE_IDX][0], minlength=len(g[key.POS])).all()]
            for batch in batches([len(graph[key.POS]) for _, graph in graphs]):
                rows = [graphs[i][0] for i in batch]
                data = Batch.from_data_list([AtomGraphData.from_numpy_dict(graphs[i][1]) for i in batch])
                with torch.set_grad_enabled(derivatives):
                    result = (full if derivatives else energies_only)(data)
                found.energies[rows] = result[key.PRED_TOTAL_ENERGY].detach().double().numpy().reshape(-1)
                if found.forces is not None:
                    ends = np.cumsum([len(structures[row]) for row in rows])[:-1]
                    parts = np.split(result[key.PRED_FORCE].detach().double().numpy(), ends)
                    for row, part in zip(rows, parts, strict=True):
                        found.forces[row] = part
                if found.stresses is not None:
                    # sevenn's model gives the negative of ase's stress.
                    found.stresses[rows] = -result[key.PRED_STRESS].detach().double().numpy()[:, VOIGT]
        return found


def _atoms(structure: Structure) -> Any:
    from ase import Atoms

    return Atoms(structure.atomic_numbers, structure.cart_coords, cell=structure.lattice.matrix, pbc=True)


@cache
def _load(version: str) -> tuple[Any, Any, float]:
    """Load a model in evaluation mode; later calls return the same model.

    Args:
        version: name of the weights in sevenn.

    Returns:
        the model, the model without forces and stresses, and its cutoff [Å].
    """
    require_extra(("sevenn", "ase"), SevenNet.install)
    with silence():
        from sevenn.calculator import SevenNetCalculator

        loaded = SevenNetCalculator(version, device="cpu")
    model = loaded.model
    model.set_is_batch_data(True)
    for parameter in model.parameters():
        parameter.requires_grad_(False)  # forces need only gradients with respect to distances
    energies_only = copy.deepcopy(model)
    energies_only.delete_module_by_key("force_output")
    return model, energies_only, loaded.cutoff
