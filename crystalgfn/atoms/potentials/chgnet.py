"""CHGNet, loaded once a process, silent, in batches.

Source: Deng et al., Nature Machine Intelligence 5, 1031 (2023), doi:10.1038/s42256-023-00716-3; the weights come with
the package chgnet. It was trained on relaxation frames of the Materials Project whose energies carry the corrections of
2020 (MP2020: anions, and oxides and fluorides of transition metals with +U), so its energies carry them too.
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
"""Name of the weights; elemental references hold for these alone."""

BATCH_ATOMS = 160
"""Atoms evaluated at once: larger batches cost memory and gain no time on a core."""

FORBIDDEN = frozenset({"Po", "At", "Rn", "Fr", "Ra"})
"""Elements up to Pu that are not in CHGNet's training data."""


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep out what CHGNet, pymatgen and torch print and warn of while they work as they should.

    CHGNet prints its size and device at each loading, torch warns of CHGNet's volume scalars, and pymatgen of rounded
    coordinates in CIF files.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        # matplotlib, which CHGNet imports, reports font searches.
        logging.getLogger("matplotlib").setLevel(logging.WARNING)
        yield


@cache
def load(device: str = "cpu") -> Any:
    """The model, on a device, in evaluation mode.

    Raises:
        InputError: if CHGNet is not installed.
    """
    require_extra(("chgnet",))
    with silence():
        from chgnet.model import CHGNet

        model = CHGNet.load(model_name=MODEL, use_device=device, verbose=False)
        model.eval()
        for parameter in model.parameters():
            parameter.requires_grad_(False)  # forces need gradients by positions only
        return model


def energies(structures: Sequence[Structure], device: str = "cpu") -> np.ndarray[Any, Any]:
    """Energy of each structure.

    Args:
        structures: ordered structures of n crystals, of any sizes.
        device: where to compute.

    Returns:
        (n,) float64 energies in eV/atom, total energies with the corrections of MP2020; NaN for a structure that CHGNet
        cannot treat: an atom without neighbours within 6 Å, an element beyond its training data.
    """
    import numpy as np

    values = np.full(len(structures), np.nan)
    for indices, result in _evaluate(structures, "e", device):
        values[indices] = result["e"].double().cpu().numpy().reshape(-1)
    return values


def energies_and_forces(structures: Sequence[Structure], device: str = "cpu") -> Any:
    """Energies and forces of n structures with N atoms each.

    Returns:
        (n,) float64 energies in eV/atom and (n, N, 3) float64 forces in eV/Å; NaN as in `energies`.
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
    """CHGNet's results by batches, each with the indices of its structures; those that it cannot treat are left out."""
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
    """An ase calculator; forces in eV/Å, stress in eV/Å³. An atom without neighbours raises a ValueError."""
    require_extra(("chgnet", "ase"))
    model = load()
    with silence():
        from chgnet.model.dynamics import CHGNetCalculator

        return CHGNetCalculator(model, use_device="cpu", on_isolated_atoms="error")


def _batches(graphs: list[tuple[int, Any]]) -> Iterator[list[tuple[int, Any]]]:
    """Graphs in order, at most `BATCH_ATOMS` atoms together."""
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
