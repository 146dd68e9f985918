"""Which crystals are the same, which of them a reference has, and which prototypes it has."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalgfn.atoms.build import SYMPREC
from crystalgfn.cache import cache_path, cached
from crystalgfn.crystal.crystallography import atomic_numbers
from crystalgfn.crystal.formulas import formula_text, reduced
from crystalgfn.judging.sources import Texts, Unusable, counts_of, read_texts

if TYPE_CHECKING:
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure


_SYMMETRY = re.compile(r"-?\d(?:/m)?|m")
"""One symmetry element of a site's symbol; dots in the symbol are directions without one."""


def formula_key(structure: Structure) -> str:
    """The reduced formula, elements in the order of atomic numbers; structures of the same crystal have the same."""
    return formula_text(reduced(counts_of(structure)))


def anonymous_key(counts: Sequence[int]) -> str:
    """The anonymous formula of the counts of a reduced formula, such as ``1-1-3``."""
    return "-".join(map(str, sorted(counts)))


def matcher() -> StructureMatcher:
    """Decides whether two structures are the same crystal; pymatgen's default tolerances."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    return StructureMatcher()


def prototype(structure: Structure) -> str:
    """Space group and occupied sites without the elements, such as ``225: 4 -3mm, 4 -3mm`` for rock salt.

    Each element's sites are given by multiplicity in the conventional cell and the symmetry elements of the site in
    alphabetical order, without their directions; sites of one element are joined by ``+``. Wyckoff letters are not used
    because they depend on the choice of the origin. So a few different prototypes have one name, and rather too few
    than too many count as new.

    Returns:
        the name; empty if spglib finds no symmetry with `SYMPREC`.
    """
    import spglib

    os.environ.setdefault("SPGLIB_WARNING", "OFF")  # spglib reports each tolerance that it tries
    cell: Any = (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers)
    try:
        data: Any = spglib.get_symmetry_dataset(cell, symprec=SYMPREC)
    except spglib.SpglibError:  # with spglib 3; older versions return None
        data = None
    if data is None:
        return ""
    copies = len(data.std_types) / len(structure)
    orbits: dict[int, list[int]] = defaultdict(list)
    for atom, orbit in enumerate(data.crystallographic_orbits.tolist()):
        orbits[orbit].append(atom)
    sites: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for atoms in orbits.values():
        elements = sorted(_SYMMETRY.findall(data.site_symmetry_symbols[atoms[0]]))
        site = (round(len(atoms) * copies), "".join(elements))
        sites[structure.atomic_numbers[atoms[0]]].append(site)
    names = sorted("+".join(f"{count} {symbol}" for count, symbol in sorted(found)) for found in sites.values())
    return f"{data.number}: {', '.join(names)}"


def first_of_each(structures: Sequence[Structure | None]) -> list[int]:
    """For each structure the index of the first one that is the same crystal, which may be its own; -1 for None."""
    same = matcher()
    firsts: dict[str, list[tuple[int, Structure]]] = defaultdict(list)
    found = []
    for index, structure in enumerate(structures):
        if structure is None:
            found.append(-1)
            continue
        earlier = firsts[formula_key(structure)]
        first = next((i for i, other in earlier if same.fit(other, structure)), index)
        if first == index:
            earlier.append((index, structure))
        found.append(first)
    return found


class Reference:
    """Known crystals with atoms. Structures are read when a crystal with their formula is looked up.

    Prototypes of the reference are determined for the anonymous formulas that are asked for and kept in the user's
    cache, because this takes about a minute for the most frequent formulas of a reference of 60,000 structures.

    Args:
        path: CSV or parquet table with the column ``cif`` and, if there is one, ``id`` or ``material_id``; or a folder
            of CIF files. Structures that cannot be read are left out and counted.

    Raises:
        InputError: if there is no such file or folder, or it has no structures.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._texts: Texts = read_texts(path, "--reference")
        self._prototypes: dict[str, frozenset[str]] = {}
        self._unusable: set[int] = set()
        self._matcher = matcher()

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def unusable(self) -> int:
        """Number of structures that could not be read so far."""
        return len(self._unusable)

    @cached_property
    def _rows(self) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
        """Rows by reduced formula and by anonymous formula."""
        formulas: dict[str, list[int]] = defaultdict(list)
        anonymous: dict[str, list[int]] = defaultdict(list)
        order = atomic_numbers()
        for row in range(len(self)):
            try:
                counts = self._texts.formula(row)
            except Unusable:
                self._unusable.add(row)
                continue
            ordered = {symbol: counts[symbol] for symbol in sorted(counts, key=order.__getitem__)}
            formulas[formula_text(ordered)].append(row)
            anonymous[anonymous_key(list(counts.values()))].append(row)
        return formulas, anonymous

    def known_as(self, structure: Structure) -> str:
        """Name of the first structure of the reference that is the same crystal; empty if there is none."""
        rows = self._rows[0].get(formula_key(structure), [])
        return next(
            (self._texts.ids[row] for row, known in self._read(rows) if self._matcher.fit(known, structure)), ""
        )

    def prototypes(self, structure: Structure) -> frozenset[str]:
        """Prototypes of the reference's structures with the anonymous formula of a structure."""
        key = anonymous_key(list(reduced(counts_of(structure)).values()))
        if key not in self._prototypes:
            rows = self._rows[1].get(key, [])
            content = sha256("\0".join(self._texts.read[row]() for row in rows).encode()).hexdigest()[:16]
            path = cache_path(f"prototypes-1-{key}-{content}", ".json", "spglib", "pymatgen")
            names: list[str] = cached(path, lambda: self._derive(rows), _read_names, _write_names)
            self._prototypes[key] = frozenset(names)
        return self._prototypes[key]

    def _derive(self, rows: Sequence[int]) -> list[str]:
        return sorted({prototype(structure) for _, structure in self._read(rows)} - {""})

    def _read(self, rows: Sequence[int]) -> Iterator[tuple[int, Structure]]:
        for row in rows:
            if row in self._unusable:
                continue
            try:
                yield row, self._texts.structure(row)
            except Unusable:
                self._unusable.add(row)


def _read_names(path: Path) -> list[str]:
    names = json.loads(path.read_text())
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("not a list of prototypes")
    return names


def _write_names(path: Path, names: list[str]) -> None:
    path.write_text(json.dumps(names))
