"""The tables that the priors need: functions to count known crystals, and to write and read the tables."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from crystalgfn.crystal.crystallography import N_ELEMENTS, atomic_numbers, element_symbols
from crystalgfn.crystal.crystals import Crystals
from crystalgfn.crystal.formulas import anonymous_counts, reduced, reduced_counts
from crystalgfn.proxies.network.features import fit_atomic_volumes

if TYPE_CHECKING:
    from collections.abc import Iterable

DATA = Path(__file__).parent / "data"
"""Folder of the shipped tables."""

Formula = tuple[int, ...]
"""An anonymous composition: counts in descending order, such as (3, 1, 1) for ABX3."""


def anonymous(crystals: Crystals) -> list[Formula]:
    """Counts of each conventional cell in descending order, without the names of the elements."""
    return [tuple(count for count in row if count) for row in anonymous_counts(crystals.counts).tolist()]


def count_prototypes(crystals: Crystals) -> tuple[Counter[Formula], Counter[tuple[int, Formula]]]:
    """How often each anonymous formula and each prototype occurs.

    A formula counts once for each composition. A prototype, which is a space group with an anonymous cell, counts once
    for each composition that has it.

    Args:
        crystals: known crystals.

    Returns:
        counts of the reduced anonymous formulas, and counts of the prototypes as (space group, anonymous counts of the
        conventional cell).
    """
    compositions, prototypes = set(), set()
    parts = (crystals.space_group.tolist(), anonymous(crystals), map(tuple, reduced_counts(crystals.counts).tolist()))
    for group, cell, composition in zip(*parts, strict=True):
        compositions.add((reduced(cell), composition))
        prototypes.add((group, cell, composition))
    return Counter(formula for formula, _ in compositions), Counter((group, cell) for group, cell, _ in prototypes)


def write_tables(crystals: Crystals, folder: Path = DATA) -> None:
    """Count known crystals and write ``formulas.csv``, ``prototypes.csv`` and ``atomic_volumes.csv``.

    Args:
        crystals: known crystals.
        folder: folder of the tables; it is made if it does not exist.
    """
    formulas, prototypes = count_prototypes(crystals)
    folder.mkdir(parents=True, exist_ok=True)
    rows = sorted(formulas.items(), key=lambda item: (-item[1], item[0]))
    _write(folder / "formulas.csv", "counts,n", ((_text(formula), n) for formula, n in rows))
    cells = sorted(prototypes.items(), key=lambda item: (item[0][0], -item[1], item[0][1]))
    _write(folder / "prototypes.csv", "space_group,counts,n", ((group, _text(cell), n) for (group, cell), n in cells))
    volumes = fit_atomic_volumes(crystals).tolist()
    lines = ((symbol, f"{volume:.3f}") for symbol, volume in zip(element_symbols(), volumes, strict=True))
    _write(folder / "atomic_volumes.csv", "element,volume", lines)


def read_formulas(folder: Path = DATA) -> dict[Formula, int]:
    """Number of known compositions of each reduced anonymous formula."""
    return {_formula(row["counts"]): int(row["n"]) for row in _read(folder / "formulas.csv")}


def read_prototypes(folder: Path = DATA) -> dict[tuple[int, Formula], int]:
    """Number of known compositions of each space group and anonymous cell."""
    rows = _read(folder / "prototypes.csv")
    return {(int(row["space_group"]), _formula(row["counts"])): int(row["n"]) for row in rows}


def read_atomic_volumes(folder: Path = DATA) -> Tensor:
    """(94,) float64 volume of an atom of each element [Å³]."""
    volumes = torch.zeros(N_ELEMENTS, dtype=torch.float64)
    for row in _read(folder / "atomic_volumes.csv"):
        volumes[atomic_numbers()[row["element"]] - 1] = float(row["volume"])
    return volumes


def _text(formula: Formula) -> str:
    return " ".join(map(str, formula))


def _formula(text: str) -> Formula:
    return tuple(map(int, text.split()))


def _write(path: Path, header: str, rows: Iterable[tuple[object, ...]]) -> None:
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
