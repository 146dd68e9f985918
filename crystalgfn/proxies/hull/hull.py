"""The convex hull of formation energies as a maximum of linear functions, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from crystalgfn.checks import between
from crystalgfn.crystal.crystallography import N_ELEMENTS, element_symbols
from crystalgfn.crystal.crystallography.elements import atomic_numbers
from crystalgfn.crystal.formulas import symbol_counts
from crystalgfn.errors import InputError
from crystalgfn.files import is_table, read_plain, write_plain
from crystalgfn.proxies.hull.facets import systems_of
from crystalgfn.proxies.hull.packing import pack_facets, unpack_facets
from crystalgfn.proxies.hull.phases import Floats, Integers, Phases, ReferenceHull, ordered_elements

FILE_FORMAT = "crystalgfn hull 2"

NO_COMPOUND = 1e-6
"""A hull is at 0, where no compound competes, if it is not lower than this below 0 [eV/atom]; files round to 1e-7."""

_ROWS = 512
"""Number of compositions that are evaluated at once, to bound memory."""


class ConvexHull(nn.Module):
    """Energy of the hull at any composition of up to m of k elements, from the facets of each system of m elements.

    A facet is a set of chemical potentials that are not above any reference phase: ``mu_f · c_i <= e_i`` for each
    phase i. By duality, the largest ``mu_f · c`` over the facets of a system is the lowest energy of a mixture of the
    phases of the system.

    Args:
        elements: symbols of the k elements, in the order of atomic numbers.
        starts: (s + 1,) int64; facets of system i are the rows from ``starts[i]`` to ``starts[i + 1]``. Systems are all
            combinations of m elements in colexicographic order.
        potentials: (f, m) float64 chemical potentials [eV/atom] of the system's elements, in the order of atomic
            numbers.
        max_elements: largest number of elements in a composition; m is the smaller of this and k.

    Raises:
        InputError: if elements are unknown or out of order, or the tensors do not describe a hull.

    Source: the dual of the linear program for the mixture of lowest energy.
    """

    def __init__(self, elements: Sequence[str], starts: Tensor, potentials: Tensor, max_elements: int = 5) -> None:
        super().__init__()
        self.elements, size = _checked(elements, max_elements)
        self.max_elements = max_elements
        k = len(self.elements)
        _check_starts(starts, k, size)
        if potentials.ndim != 2 or potentials.shape[1] != size or not bool(potentials.isfinite().all()):
            raise InputError(f"potentials: must be finite, of shape (f, {size}), not {tuple(potentials.shape)}")
        if int(starts[-1]) != len(potentials):
            raise InputError(f"starts: must rise from 0 to the number of facets, {len(potentials)}")
        self.columns: Tensor
        self.starts: Tensor
        self.potentials: Tensor
        self.ranks: Tensor
        numbers = atomic_numbers()
        self.register_buffer("columns", torch.tensor([numbers[s] - 1 for s in self.elements]), persistent=False)
        self.register_buffer("starts", starts, persistent=False)
        self.register_buffer("potentials", potentials.to(torch.float64), persistent=False)
        ranks = torch.tensor([[comb(i, j + 1) for j in range(size)] for i in range(k)])
        self.register_buffer("ranks", ranks, persistent=False)

    @torch.no_grad()
    def forward(self, counts: Tensor) -> Tensor:
        """Energy of the hull at each composition.

        Args:
            counts: (n, 94) atoms of each element; column Z - 1 holds element Z.

        Returns:
            (n,) float64 energy [eV/atom].

        Raises:
            ValueError: if ``counts`` has another shape.
            InputError: if a composition is empty, has an element that is not in the hull, or has too many elements.
        """
        if counts.ndim != 2 or counts.shape[1] != N_ELEMENTS:
            raise ValueError(f"counts: shape {tuple(counts.shape)} is not allowed; it must be (n, {N_ELEMENTS})")
        known = counts[:, self.columns].to(torch.float64)
        atoms = counts.sum(1).to(torch.float64)
        if (known.sum(1) != atoms).any():
            other = torch.ones(N_ELEMENTS, dtype=torch.bool, device=counts.device)
            other[self.columns] = False
            found = ((counts != 0).any(0) & other).nonzero()[:, 0].tolist()
            symbols = element_symbols()
            raise InputError(
                f"hull: has no phases with {', '.join(symbols[z] for z in found)}; its elements: "
                f"{' '.join(self.elements)}. Use crystalgfn build-hull to make a hull for other elements"
            )
        if (atoms <= 0).any():
            raise InputError(f"hull: the composition in row {int((atoms <= 0).nonzero()[0])} has no atoms")
        return self.energy(known / atoms[:, None])

    def refused(self, counts: Tensor) -> list[str]:
        """Why compositions have no energy.

        Args:
            counts: (n, 94) atoms of each element; column Z - 1 holds element Z.

        Returns:
            the reason for each row, or an empty string if the composition has an energy.
        """
        known = torch.zeros(N_ELEMENTS, dtype=torch.bool, device=counts.device)
        known[self.columns] = True
        present, symbols = counts > 0, element_symbols()
        reasons = [""] * len(counts)
        for row in (present & ~known).any(1).nonzero()[:, 0].tolist():
            foreign = (present[row] & ~known).nonzero()[:, 0].tolist()
            reasons[row] = f"the hull has no phases with {', '.join(symbols[z] for z in foreign)}"
        for row in (present & known).sum(1).gt(self.max_elements).nonzero()[:, 0].tolist():
            reasons[row] = reasons[row] or f"the hull is made for up to {self.max_elements} elements in a composition"
        return reasons

    @torch.no_grad()
    def energy(self, fractions: Tensor) -> Tensor:
        """(n,) float64 energy [eV/atom] for (n, k) atomic fractions of the hull's elements; rows add up to 1.

        Raises:
            InputError: if a composition has more elements than the hull was made for.
        """
        fractions = fractions.to(torch.float64)
        size = self.potentials.shape[1]
        present = fractions > 0
        if (present.sum(1) > size).any():
            most = int(present.sum(1).max())
            raise InputError(f"hull: made for up to {size} elements in a composition, not for {most}")
        # The elements of each composition, filled up to m with elements that it does not contain.
        chosen = (~present).to(torch.int8).argsort(dim=1, stable=True)[:, :size].sort(1).values
        system = self.ranks[chosen, torch.arange(size, device=chosen.device)].sum(1)
        shares = fractions.gather(1, chosen)
        first, last = self.starts[system], self.starts[system + 1] - 1
        result = torch.empty_like(shares[:, 0])
        # Compositions with similar numbers of facets are processed together, so that little padding is needed.
        for rows in (last - first).argsort().split(_ROWS):
            width = int((last - first)[rows].max()) + 1 if len(rows) else 0
            place = first[rows, None] + torch.arange(width, device=rows.device)
            index = torch.minimum(place, last[rows, None])
            if len(rows):
                result[rows] = torch.bmm(self.potentials[index], shares[rows, :, None])[:, :, 0].amax(1)
        return result

    def facets(self, fractions: Tensor) -> tuple[list[int], Floats]:
        """The facets of the chemical system of a composition.

        Args:
            fractions: (k,) atomic fractions of the hull's elements.

        Returns:
            m elements as indices of the hull's elements, among them those of the composition; and the (f, m) chemical
            potentials [eV/atom] of the facets.
        """
        size = self.potentials.shape[1]
        chosen = (fractions <= 0).to(torch.int8).argsort(stable=True)[:size].sort().values
        system = int(self.ranks[chosen, torch.arange(size)].sum())
        rows = slice(int(self.starts[system]), int(self.starts[system + 1]))
        return chosen.tolist(), self.potentials[rows].cpu().numpy()

    def save(self, path: Path, about: dict[str, Any]) -> None:
        """Write the hull to a file of tensors and plain values; an interrupted write leaves no partial file.

        Chemical potentials are rounded to `crystalgfn.proxies.hull.packing.STEP`.

        Args:
            path: file to write.
            about: plain values that describe how the hull was made.
        """
        potentials, starts = self.potentials.cpu().numpy(), self.starts.cpu()
        content = {
            "elements": list(self.elements),
            "max_elements": self.max_elements,
            "facets": starts.diff().to(torch.int32),
            **pack_facets(potentials, _elements_of_facets(len(self.elements), potentials.shape[1], starts)),
            "about": about,
        }
        write_plain(path, FILE_FORMAT, content)


class JoinedHull:
    """The hull of a file together with further phases.

    Args:
        base: the hull of the file.
        phases: the further phases, on the elements of ``base``.

    Source: the dual of the linear program for the mixture of lowest energy; a facet of the file's hull stands for the
    mixtures of its phases.
    """

    def __init__(self, base: ConvexHull, phases: Phases) -> None:
        self.base, self.phases = base, phases

    def __call__(self, counts: Tensor) -> Tensor:
        """(n,) float64 energy [eV/atom] at (n, 94) counts, as for `ConvexHull`.

        Raises:
            RuntimeError: if a linear program fails.
        """
        from scipy.optimize import linprog

        energies = self.base(counts).cpu().numpy()
        fractions = (counts / counts.sum(1, keepdim=True))[:, self.base.columns].double().cpu().numpy()
        for row, target in enumerate(fractions):
            inside = (self.phases.fractions @ (target == 0) == 0) & (self.phases.energies < 0)
            if not inside.any():
                continue
            elements, potentials = self.base.facets(torch.from_numpy(target))
            own, e = self.phases.fractions[inside][:, elements], self.phases.energies[inside]
            # The unknowns are the shares of the further phases, and the energy of the rest by the file's hull.
            below = np.hstack([-potentials @ own.T, -np.ones((len(potentials), 1))])
            used = np.hstack([own.T, np.zeros((len(elements), 1))])
            solution = linprog(
                np.append(e, 1.0),
                A_ub=np.vstack([below, used]),
                b_ub=np.concatenate([-potentials @ target[elements], target[elements]]),
                bounds=[(0, None)] * len(e) + [(None, None)],
            )
            if solution.status != 0:
                raise RuntimeError(f"the linear program of composition {target.tolist()} failed: {solution.message}")
            energies[row] = min(energies[row], solution.fun)
        return torch.from_numpy(energies)

    def refused(self, counts: Tensor) -> list[str]:
        """Why compositions have no energy, as for `ConvexHull`."""
        return self.base.refused(counts)


AnyHull = ConvexHull | JoinedHull | ReferenceHull


def joined(hull: ConvexHull | ReferenceHull, counts: Tensor, energies: Floats) -> JoinedHull | ReferenceHull:
    """The hull of a reference and of further crystals together.

    Args:
        hull: the hull of the reference.
        counts: (n, 94) atoms of each element of the crystals.
        energies: (n,) their formation energies [eV/atom]. Crystals without a finite energy, and those with elements
            that the hull does not have, are left out.
    """
    has = np.isfinite(energies) & np.array([reason == "" for reason in hull.refused(counts)], dtype=np.bool_)
    compositions = symbol_counts(counts[torch.from_numpy(has)])
    if isinstance(hull, ReferenceHull):
        return hull.with_phases(compositions, energies[has].tolist())
    return JoinedHull(hull, Phases.of(compositions, energies[has].tolist(), hull.elements))


def hull_energies(counts: Tensor, hull: AnyHull) -> Floats:
    """(n,) energy of the hull [eV/atom] for (n, 94) counts; NaN if the hull does not have the elements."""
    known = torch.tensor([reason == "" for reason in hull.refused(counts)], dtype=torch.bool)
    energies = torch.full((len(counts),), float("nan"), dtype=torch.float64)
    if known.any():
        energies[known] = hull(counts[known]).cpu()
    return energies.numpy()


def has_competitor(counts: Tensor, energies: Floats) -> npt.NDArray[np.bool_]:
    """Whether a crystal competes with more than the pure elements.

    The hull lies below 0 exactly where it holds a compound of the crystal's elements or of some of them. Without such a
    compound, an energy above the hull is the formation energy: a negative value then says only that the crystal is more
    stable than the elements. For a crystal of one element, the pure element is the competitor.

    Args:
        counts: (n, 94) atoms of each element.
        energies: (n,) energies of the hull [eV/atom], as from `hull_energies`.

    Returns:
        (n,) bool; False if the hull does not have the elements.
    """
    return (energies < -NO_COMPOUND) | (((counts > 0).sum(1) == 1).cpu().numpy() & np.isfinite(energies))


def open_hull(path: Path | str) -> ConvexHull | ReferenceHull:
    """The hull of a file that `ConvexHull.save` wrote, or that of a table of phases.

    Args:
        path: the file; or a CSV or parquet table with the columns formula and formation_energy [eV/atom].

    Raises:
        InputError: if the file is missing, damaged or does not contain a hull or such a table.
    """
    return ReferenceHull(Path(path)) if is_table(Path(path)) else load_hull(path)


def load_hull(path: Path | str) -> ConvexHull:
    """Read a hull from a file.

    Args:
        path: file that `ConvexHull.save` wrote.

    Raises:
        InputError: if the file is missing, damaged or does not contain a hull.
    """
    path = Path(path)
    content = read_plain(path, FILE_FORMAT, "no such file with a hull", "a hull", "make it with crystalgfn build-hull")
    try:
        elements, max_elements = content["elements"], content["max_elements"]
        symbols, size = _checked(elements, max_elements)
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), content["facets"].cumsum(0)])
        _check_starts(starts, len(symbols), size)
        owners = _elements_of_facets(len(symbols), size, starts)
        return ConvexHull(elements, starts, torch.from_numpy(unpack_facets(content, owners)), max_elements)
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: holds no usable hull: {type(error).__name__}: {error}") from None


def _checked(elements: Sequence[str], max_elements: int) -> tuple[tuple[str, ...], int]:
    """The elements, checked, and the number of elements of a system."""
    symbols = ordered_elements(elements)
    if symbols != tuple(elements):
        raise InputError(
            f"elements: {' '.join(elements)} is not allowed; give each element once, in the order of atomic numbers"
        )
    between("max_elements", max_elements, 1, N_ELEMENTS)
    return symbols, min(max_elements, len(symbols))


def _check_starts(starts: Tensor, k: int, size: int) -> None:
    if starts.shape != (comb(k, size) + 1,) or starts.dtype != torch.int64:
        raise InputError(f"starts: shape {tuple(starts.shape)}, {starts.dtype} does not fit {k} elements")
    if int(starts[0]) != 0 or not bool((starts.diff() > 0).all()):
        raise InputError("starts: must rise from 0 to the number of facets, with a facet for every system")


def _elements_of_facets(k: int, size: int, starts: Tensor) -> Integers:
    """(f, m) indices, from 0, of the elements of each facet's system."""
    return np.repeat(systems_of(k, size), starts.diff().numpy(), axis=0)
