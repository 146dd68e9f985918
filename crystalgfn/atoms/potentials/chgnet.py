"""Energies and forces from CHGNet. Each process loads the model once and evaluates structures in batches.

CHGNet was trained on relaxation frames of the Materials Project. Their energies include the corrections of 2020
(MP2020: anions, and oxides and fluorides of transition metals with +U), so CHGNet's energies include them too.

Source: Deng et al., Nature Machine Intelligence 5, 1031 (2023), doi:10.1038/s42256-023-00716-3; the weights come with
the package chgnet.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from crystalgfn.atoms import require_extra

if TYPE_CHECKING:
    import numpy as np
    from pymatgen.core import Structure

MODEL = "0.3.0"
"""Version of the weights. Elemental references are valid for one version only."""

BATCH_ATOMS = 160
"""Atoms evaluated at once. Larger batches need more memory and are not faster on one core."""

FORBIDDEN = frozenset({"Po", "At", "Rn", "Fr", "Ra"})
"""Elements up to Pu that are not in CHGNet's training data."""


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Hide output and warnings of CHGNet, pymatgen and torch that do not point to a problem.

    CHGNet prints its size and device whenever it is loaded. torch warns about CHGNet's volume scalars, and pymatgen
    warns about rounded coordinates in CIF files.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        # CHGNet imports matplotlib, which reports its search for fonts.
        logging.getLogger("matplotlib").setLevel(logging.WARNING)
        yield


@cache
def load(device: str = "cpu") -> Any:
    """Load the model in evaluation mode; later calls return the same model.

    Args:
        device: torch device, such as ``cpu``.

    Raises:
        InputError: if CHGNet is not installed.
    """
    require_extra(("chgnet",))
    with silence():
        from chgnet.model import CHGNet

        model = CHGNet.load(model_name=MODEL, use_device=device, verbose=False)
        model.eval()
        for parameter in model.parameters():
            parameter.requires_grad_(False)  # forces need only gradients with respect to positions
        return model


def energies(structures: Sequence[Structure], device: str = "cpu") -> np.ndarray[Any, Any]:
    """Energy of each structure.

    Args:
        structures: ordered structures of n crystals, of any sizes.
        device: torch device, such as ``cpu``.

    Returns:
        (n,) float64 total energies in eV/atom, including the corrections of MP2020. The energy is NaN if CHGNet cannot
        evaluate the structure: an atom has no neighbours within 6 Å, or an element is not in the training data.

    Raises:
        InputError: if CHGNet is not installed.
    """
    import numpy as np

    values = np.full(len(structures), np.nan)
    for indices, result in _evaluate(structures, "e", device):
        values[indices] = result["e"].double().cpu().numpy().reshape(-1)
    return values


def energies_and_forces(structures: Sequence[Structure], device: str = "cpu") -> Any:
    """Energies and forces of n structures with N atoms each.

    Args:
        structures: n ordered structures, all with the same number of atoms.
        device: torch device, such as ``cpu``.

    Returns:
        (n,) float64 energies in eV/atom and (n, N, 3) float64 forces in eV/Å, NaN in the same cases as in `energies`.

    Raises:
        InputError: if CHGNet is not installed.
    """
    import numpy as np
    import torch

    values = np.full(len(structures), np.nan)
    forces = np.full((len(structures), len(structures[0]), 3), np.nan)
    for indices, result in _evaluate(structures, "ef", device):
        values[indices] = result["e"].detach().double().cpu().numpy().reshape(-1)
        forces[indices] = torch.stack(list(result["f"])).detach().double().cpu().numpy()
    return values, forces


def _evaluate(structures: Sequence[Structure], task: str, device: str) -> list[tuple[list[int], Any]]:
    """Results of each batch with the indices of its structures, without structures that CHGNet cannot evaluate."""
    import torch

    model = load(device)
    with silence():
        graphs = []
        for index, structure in enumerate(structures):
            if FORBIDDEN.isdisjoint(element.symbol for element in structure.composition.elements):
                with contextlib.suppress(ValueError):  # an atom without neighbours
                    graphs.append((index, model.graph_converter(structure)))
        with torch.set_grad_enabled(task != "e"):
            return [
                ([index for index, _ in batch], model([graph.to(device) for _, graph in batch], task=task))
                for batch in _batches(graphs)
            ]


def calculator() -> Any:
    """Make an ase calculator, with forces in eV/Å and stress in eV/Å³.

    The calculator raises a ValueError for a structure with an atom without neighbours.

    Raises:
        InputError: if CHGNet or ase is not installed.
    """
    require_extra(("chgnet", "ase"))
    model = load()
    with silence():
        from chgnet.model.dynamics import CHGNetCalculator

        return CHGNetCalculator(model, use_device="cpu", on_isolated_atoms="error")


def _batches(graphs: list[tuple[int, Any]]) -> Iterator[list[tuple[int, Any]]]:
    """Split graphs into batches of at most `BATCH_ATOMS` atoms; a larger structure is a batch of its own."""
    batch: list[tuple[int, Any]] = []
    size = 0
    for entry in graphs:
        n_atoms = len(entry[1].atomic_number)
        if batch and size + n_atoms > BATCH_ATOMS:
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += n_atoms
    if batch:
        yield batch
