"""The convex hull of formation energies as a maximum of linear functions, in batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import comb
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from crystalgfn.crystallography import N_ELEMENTS, element_symbols
from crystalgfn.crystallography.elements import atomic_numbers
from crystalgfn.errors import InputError
from crystalgfn.plain_files import read_plain, write_plain
from crystalgfn.stability.phases import ordered_elements

FILE_FORMAT = "crystalgfn hull 1"

_GROUP = 8
"""Facets that are compared exactly together. Groups of 8 are about as fast as of 16, faster than of 4 or 32."""

_ROWS = 128
"""Compositions that are evaluated at once: their products with 10,000 facets stay in the cache of a core."""

_SYSTEM_ROWS = 512
"""Compositions whose facets are gathered at once."""


class Hull(nn.Module, ABC):
    """Energy of the hull at any composition of some elements.

    Args:
        elements: symbols of the k elements, by atomic number.
        max_elements: number of elements in a composition up to which the hull was made.

    Raises:
        InputError: for elements that are unknown or out of order.
    """

    kind: ClassVar[str]

    def __init__(self, elements: Sequence[str], max_elements: int) -> None:
        super().__init__()
        self.elements = ordered_elements(elements)
        if self.elements != tuple(elements):
            raise InputError(f"elements: {' '.join(elements)} are not in the order of atomic numbers, each once")
        if not 1 <= max_elements <= N_ELEMENTS:
            raise InputError(f"max_elements: {max_elements} is not allowed; it must be from 1 to {N_ELEMENTS}")
        self.max_elements = max_elements
        self.columns: Tensor
        numbers = atomic_numbers()
        self.register_buffer("columns", torch.tensor([numbers[s] - 1 for s in self.elements]), persistent=False)

    @torch.no_grad()
    def forward(self, counts: Tensor) -> Tensor:
        """Energy of the hull at each composition.

        Args:
            counts: (n, 94) atoms of each element; column Z - 1 holds element Z.

        Returns:
            (n,) float64 energy [eV/atom].

        Raises:
            InputError: if a composition is empty or has an element that the hull does not know.
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
                f"{' '.join(self.elements)}. crystalgfn build-hull makes one for other elements"
            )
        if (atoms <= 0).any():
            raise InputError(f"hull: the composition in row {int((atoms <= 0).nonzero()[0])} has no atoms")
        return self.energy(known / atoms[:, None])

    @abstractmethod
    def energy(self, fractions: Tensor) -> Tensor:
        """(n,) float64 energy [eV/atom] for (n, k) shares of the hull's elements, rows adding up to 1."""

    def save(self, path: Path, about: dict[str, Any]) -> None:
        """Write the hull to a file of tensors and plain values; it appears complete or not at all.

        Args:
            path: file to write.
            about: plain values that say how the hull was made.
        """
        content = {
            "kind": self.kind,
            "elements": list(self.elements),
            "max_elements": self.max_elements,
            "tensors": self.tensors(),
            "about": about,
        }
        write_plain(path, FILE_FORMAT, content)

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What the file holds: the arguments of the class that are tensors, by name."""


class ConvexHull(Hull):
    """A hull as the highest of ``mu_f · c`` over facets f of all elements together.

    Each facet is a set of chemical potentials that no reference phase undercuts: ``mu_f · c_i <= e_i`` for each phase
    i. By duality the highest ``mu_f · c`` over all such sets is the energy of the cheapest mixture of phases. A
    table that lacks some facets gives a hull that is too low, never one that is too high.

    The best group of facets is found in single precision; the value is the highest of that group in double precision.
    Where two facets are so close that single precision picks the wrong one, the value is low by at most 3e-6 eV/atom
    for energies down to -4 eV/atom (rounding of five products of one sign), and in practice by less than 1e-7.

    Args:
        elements: symbols of the k elements, by atomic number.
        facets: (m, k) float64 chemical potentials [eV/atom], at least one row.
        max_elements: number of elements in a composition up to which the facets were chosen.

    Raises:
        InputError: for elements or facets that make no hull.

    Source: the dual of the linear program for the lowest mixture.
    """

    kind = "facets of all elements"

    def __init__(self, elements: Sequence[str], facets: Tensor, max_elements: int = 5) -> None:
        super().__init__(elements, max_elements)
        if facets.ndim != 2 or facets.shape[1] != len(self.elements) or not len(facets):
            raise InputError(
                f"facets: shape {tuple(facets.shape)} is not allowed; it must be (m, {len(self.elements)}), m > 0"
            )
        if not bool(facets.isfinite().all()):
            raise InputError("facets: some chemical potentials are not finite")
        self.facets: Tensor
        self.groups: Tensor
        self.fast: Tensor
        self.register_buffer("facets", facets.to(torch.float64), persistent=False)
        # Group g holds the facets g, g + G, g + 2 G, ...: the maximum within a group then runs along contiguous rows.
        n_groups = -(-len(facets) // _GROUP)
        index = torch.arange(n_groups * _GROUP) % len(facets)
        groups = self.facets[index].view(_GROUP, n_groups, -1)
        self.register_buffer("groups", groups.transpose(0, 1).contiguous(), persistent=False)
        self.register_buffer("fast", self.facets[index].float().T.contiguous(), persistent=False)

    @torch.no_grad()
    def energy(self, fractions: Tensor) -> Tensor:
        result = fractions.new_empty(len(fractions), dtype=torch.float64)
        for start in range(0, len(fractions), _ROWS):
            part = fractions[start : start + _ROWS].to(torch.float64)
            highest = (part.float() @ self.fast).view(len(part), _GROUP, -1).amax(1)
            best = self.groups[highest.argmax(1)]
            result[start : start + _ROWS] = torch.bmm(best, part[:, :, None])[:, :, 0].amax(1)
        return result

    def tensors(self) -> dict[str, Tensor]:
        return {"facets": self.facets.cpu()}


class SystemHull(Hull):
    """A hull by chemical system: for every system of m elements all its facets, so it is exact up to m elements.

    Args:
        elements: symbols of the k elements, by atomic number.
        starts: (s + 1,) int64; facets of system i are the rows from ``starts[i]`` to ``starts[i + 1]``. Systems are all
            combinations of m elements in colexicographic order.
        potentials: (f, m) float64 chemical potentials [eV/atom] of the system's elements, in the order of atomic
            numbers.
        max_elements: most elements of a composition.

    Raises:
        InputError: for elements or tensors that make no hull.
    """

    kind = "facets by chemical system"

    def __init__(self, elements: Sequence[str], starts: Tensor, potentials: Tensor, max_elements: int = 5) -> None:
        super().__init__(elements, max_elements)
        k, size = len(self.elements), min(max_elements, len(self.elements))
        if starts.shape != (comb(k, size) + 1,) or starts.dtype != torch.int64:
            raise InputError(f"starts: shape {tuple(starts.shape)}, {starts.dtype} does not fit {k} elements")
        if potentials.ndim != 2 or potentials.shape[1] != size or not bool(potentials.isfinite().all()):
            raise InputError(f"potentials: must be finite, of shape (f, {size}), not {tuple(potentials.shape)}")
        if int(starts[0]) != 0 or int(starts[-1]) != len(potentials) or not bool((starts.diff() > 0).all()):
            raise InputError("starts: must rise from 0 to the number of facets, with a facet for every system")
        self.starts: Tensor
        self.potentials: Tensor
        self.ranks: Tensor
        self.register_buffer("starts", starts, persistent=False)
        self.register_buffer("potentials", potentials.to(torch.float64), persistent=False)
        ranks = torch.tensor([[comb(i, j + 1) for j in range(size)] for i in range(k)])
        self.register_buffer("ranks", ranks, persistent=False)

    @torch.no_grad()
    def energy(self, fractions: Tensor) -> Tensor:
        fractions = fractions.to(torch.float64)
        size = self.potentials.shape[1]
        present = fractions > 0
        if (present.sum(1) > size).any():
            most = int(present.sum(1).max())
            raise InputError(f"hull: made for up to {size} elements in a composition, not for {most}")
        # The elements of each composition, filled up with others that it lacks.
        chosen = (~present).to(torch.int8).argsort(dim=1, stable=True)[:, :size].sort(1).values
        system = self.ranks[chosen, torch.arange(size, device=chosen.device)].sum(1)
        shares = fractions.gather(1, chosen)
        first, last = self.starts[system], self.starts[system + 1] - 1
        result = torch.empty_like(shares[:, 0])
        # Compositions with about the same number of facets are padded together.
        for rows in (last - first).argsort().split(_SYSTEM_ROWS):
            width = int((last - first)[rows].max()) + 1 if len(rows) else 0
            place = first[rows, None] + torch.arange(width, device=rows.device)
            index = torch.minimum(place, last[rows, None])
            if len(rows):
                result[rows] = torch.bmm(self.potentials[index], shares[rows, :, None])[:, :, 0].amax(1)
        return result

    def tensors(self) -> dict[str, Tensor]:
        return {"starts": self.starts.cpu(), "potentials": self.potentials.cpu()}


def load_hull(path: Path | str) -> Hull:
    """Read a hull from a file that `Hull.save` wrote.

    Raises:
        InputError: if the file is missing, damaged or something else.
    """
    path = Path(path)
    content = read_plain(path, FILE_FORMAT, "no such file with a hull", "a hull", "make it with crystalgfn build-hull")
    classes: dict[object, type[Hull]] = {cls.kind: cls for cls in (ConvexHull, SystemHull)}
    try:
        cls = classes[content["kind"]]
        return cls(content["elements"], **content["tensors"], max_elements=content["max_elements"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path}: holds no usable hull: {type(error).__name__}: {error}") from None
