"""Crystals with atoms from files: CIF files, tables of CIF texts, folders of ``crystalgfn build``, extxyz files."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalgfn.atoms.outputs import TABLE
from crystalgfn.atoms.potentials.quiet import silence
from crystalgfn.atoms.run import CRYSTALS
from crystalgfn.checks import listed
from crystalgfn.crystal.crystallography import atomic_numbers
from crystalgfn.crystal.formulas import parse_formula, reduced
from crystalgfn.errors import InputError
from crystalgfn.files import read_frame

if TYPE_CHECKING:
    import pandas as pd
    from pymatgen.core import Structure

GIVEN = "as given"
"""Name of the structures before relaxation."""

NAMES = ("id", "material_id")
"""Columns that may hold the names of a table's crystals."""

_FORMULA = re.compile(r"^_chemical_formula_sum\s+(?:'([^']*)'|\"([^\"]*)\"|(\S+))", re.MULTILINE)


class Unusable(Exception):
    """A crystal cannot be used; the message is the reason."""


@dataclass(frozen=True)
class Given:
    """A crystal as its generator made it.

    Attributes:
        id: name of the crystal.
        structure: the structure; None if there is none.
        space_group: the space group that the generator meant; None for that of the structure.
        cpu_seconds: processor time to make the crystal [s]; NaN if unknown.
        reason: why there is no structure; empty if there is one.
    """

    id: str
    structure: Structure | None
    space_group: int | None = None
    cpu_seconds: float = math.nan
    reason: str = ""


@dataclass(frozen=True)
class Texts:
    """Structures as texts, which are read when they are needed.

    Attributes:
        ids: names of the n structures.
        read: for each one, a function without arguments that returns the text of a CIF file.
    """

    ids: list[str]
    read: list[Callable[[], str]]

    def __len__(self) -> int:
        return len(self.ids)

    def structure(self, index: int) -> Structure:
        """The structure of this index.

        Raises:
            Unusable: if it cannot be read, or is not an ordered structure of known elements.
        """
        return read_cif(self.read[index]())

    def formula(self, index: int) -> dict[str, int]:
        """Counts of the reduced formula that the text names, or else of the structure.

        Raises:
            Unusable: if neither can be read.
        """
        match = _FORMULA.search(self.read[index]())
        if match is not None:
            try:
                return reduced(parse_formula(match[1] or match[2] or match[3]))
            except InputError:
                pass
        return reduced(counts_of(self.structure(index)))


def read_cif(text: str) -> Structure:
    """The first structure of a CIF file's text.

    Raises:
        Unusable: if it cannot be read, or is not an ordered structure of known elements.
    """
    from pymatgen.core import Structure

    with silence():
        try:
            structure = Structure.from_str(text, fmt="cif")
        except Exception as error:  # pymatgen raises many types
            reason = str(error).strip().partition("\n")[0]
            raise Unusable(f"cannot be read as CIF: {reason or type(error).__name__}") from None
    return plain(structure)


def plain(structure: Structure) -> Structure:
    """The structure without oxidation states and other properties of its sites.

    Raises:
        Unusable: if a site is not fully occupied by one element, or an element is beyond Pu.
    """
    from pymatgen.core import Structure

    if not structure.is_ordered:
        raise Unusable("has sites that are shared by elements or not fully occupied")
    symbols = [site.specie.symbol for site in structure]
    unknown = sorted({symbol for symbol in symbols if symbol not in atomic_numbers()})
    if unknown:
        raise Unusable(f"has elements that are unknown or beyond Pu: {', '.join(unknown)}")
    return Structure(structure.lattice, symbols, structure.frac_coords)


def counts_of(structure: Structure) -> dict[str, int]:
    """Atoms of each element in the cell of a structure, by symbol, in the order of atomic numbers."""
    found = structure.composition.get_el_amt_dict()
    return {symbol: round(found[symbol]) for symbol in sorted(found, key=atomic_numbers().__getitem__)}


def read_texts(path: Path, option: str) -> Texts:
    """Structures of a table with the column ``cif``, or of the CIF files of a folder, in the order of their names.

    Args:
        path: CSV or parquet table, or folder.
        option: the option that names it, for messages.

    Raises:
        InputError: if there is no such file or folder, the table has no column ``cif``, or there are no CIF files.
    """
    if not path.exists():
        raise InputError(f"{option}: {path}: no such file or folder")
    if path.is_dir():
        files = sorted(path.glob("*.cif"))
        if not files:
            raise InputError(f"{option}: {path} has no CIF files")
        return Texts([file.stem for file in files], [file.read_text for file in files])
    return texts_of(read_frame(path, ["cif"]))


def texts_of(frame: pd.DataFrame) -> Texts:
    """The texts in the column ``cif`` of a table."""
    texts = [_text(text) for text in frame["cif"].tolist()]
    return Texts(names(frame), [text.__str__ for text in texts])


def names(frame: pd.DataFrame) -> list[str]:
    """Names of a table's rows: the first of the columns `NAMES` that it has, or else ``row-000001`` and so on."""
    for column in NAMES:
        if column in frame.columns:
            return [str(name) for name in frame[column]]
    return [f"row-{row:06d}" for row in range(1, len(frame) + 1)]


def read_given(path: Path) -> list[Given]:
    """Crystals to judge.

    Args:
        path: a folder of ``crystalgfn build``, whose structures before relaxation are used; a folder of CIF files; one
            CIF file; an extxyz file with one or more structures; or a CSV or parquet table with the column ``cif`` and,
            if there are such columns, ``id`` or ``material_id``, ``space_group``, ``cpu_seconds`` and ``reason``.

    Returns:
        all crystals, also those without a usable structure, with the reason.

    Raises:
        InputError: if there is no such file or folder, or it has no crystals.
    """
    if path.is_dir() and (path / TABLE).is_file():
        return _built(path)
    if path.suffix.lower() == ".cif" and path.is_file():
        return [_from_text(path.stem, path.read_text(errors="replace"))]
    if path.suffix.lower() in (".xyz", ".extxyz") and path.is_file():
        return _frames(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_dir():
        texts = read_texts(path, "structures")
        return [_from_text(name, read()) for name, read in zip(texts.ids, texts.read, strict=True)]
    frame = read_frame(path, ["cif"])
    texts = texts_of(frame)
    given = [_from_text(name, read()) for name, read in zip(texts.ids, texts.read, strict=True)]
    return [
        Given(
            crystal.id,
            crystal.structure,
            _whole(row.get("space_group")),
            _number(row.get("cpu_seconds")),
            crystal.reason if crystal.structure is None and not _text(row.get("reason")) else _text(row.get("reason")),
        )
        for crystal, row in zip(given, frame.to_dict("records"), strict=True)
    ]


def from_structures(structures: Iterable[Structure]) -> list[Given]:
    """Crystals of structures, with the names ``row-000001`` and so on."""
    return [_checked(f"row-{row:06d}", structure) for row, structure in enumerate(structures, start=1)]


def check_names(given: Sequence[Given]) -> None:
    """Raise an `InputError` if two crystals have the same name, or if there are no crystals."""
    if not given:
        raise InputError("structures: there are no crystals")
    twice = [name for name, count in Counter(crystal.id for crystal in given).items() if count > 1]
    if twice:
        raise InputError(f"structures: more than one crystal is called {listed(twice)}; each name must be unique")


def _from_text(name: str, text: str) -> Given:
    if not text.strip():
        return Given(name, None, reason="no structure")
    try:
        return Given(name, read_cif(text))
    except Unusable as error:
        return Given(name, None, reason=str(error))


def _checked(name: str, structure: Structure) -> Given:
    try:
        return Given(name, plain(structure))
    except Unusable as error:
        return Given(name, None, reason=str(error))


def _frames(path: Path) -> list[Given]:
    from ase.io import read
    from pymatgen.io.ase import AseAtomsAdaptor

    try:
        frames: Any = read(str(path), index=":", format="extxyz")
    except Exception as error:  # ase raises many types
        raise InputError(f"{path}: cannot be read as extxyz: {type(error).__name__}: {error}") from None
    given = []
    for row, atoms in enumerate(frames, start=1):
        name = str(atoms.info.get("id", f"frame-{row:06d}"))
        if not atoms.pbc.all() or atoms.cell.rank < 3:
            given.append(Given(name, None, reason="has no cell that is periodic in three directions"))
            continue
        atoms.calc = None
        given.append(_checked(name, AseAtomsAdaptor.get_structure(atoms)))
    return given


def _built(folder: Path) -> list[Given]:
    """Crystals of a folder of ``crystalgfn build``: each in its sampled cell, before relaxation."""
    frame = read_frame(folder / TABLE, ["id", "space_group"])
    given = []
    for row in frame.to_dict("records"):
        name, group = str(row["id"]), _whole(row["space_group"])
        path = folder / CRYSTALS / f"{name}.json"
        try:
            result = json.loads(path.read_text()) if path.is_file() else {}
            if not isinstance(result, dict):
                raise ValueError("not a result of build")
            structure = _of_plain(result["structure_built"]) if "structure_built" in result else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: cannot be read: {type(error).__name__}: {error}") from None
        reason = "" if structure is not None else _text(row.get("reason")) or "not built"
        seconds = result.get("cpu_seconds") if "structure_relaxed" not in result else None
        given.append(Given(name, structure, group, _number(seconds), reason))
    return given


def _of_plain(content: Mapping[str, Any]) -> Structure:
    """A structure from what ``as_dict`` wrote.

    ``Structure.from_dict`` would import whatever module the properties of a site name, and run its code.
    """
    from pymatgen.core import Structure

    symbols = [site["species"][0]["element"] for site in content["sites"]]
    return Structure(content["lattice"]["matrix"], symbols, [site["abc"] for site in content["sites"]])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _whole(value: Any) -> int | None:
    """A number of a space group; None if the value is none."""
    number = _number(value)
    return int(number) if number in range(1, 231) else None
