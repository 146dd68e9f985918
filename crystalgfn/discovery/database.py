"""Database of all evaluated crystals, in ASE's format: an SQLite file, or PostgreSQL if many machines write.

Each crystal is one row, written in one transaction. A process that is killed loses at most the crystal that it was
writing. The column ``unique_id`` holds the crystal's key; ASE's tables allow each value of this column only once.
Key-value pairs hold the values to filter by (``ase db labels.db status=relaxed,round=3``), and ``data`` holds the rest.
The atoms are those of the relaxed structure or, if there is none, of the structure built in the sampled cell. A crystal
that could not be built has no atoms.
"""

from __future__ import annotations

import math
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalgfn.atoms import require_extra
from crystalgfn.atoms.potentials import DEFAULT, Potential, make, runs_named_class
from crystalgfn.crystal.crystals import LATTICE_PARAMETERS, Crystals
from crystalgfn.discovery.candidate import Candidate
from crystalgfn.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from pymatgen.core import Structure

__all__ = ["Candidate", "LabelDatabase"]

CONTENT = "crystals evaluated by crystalgfn"
"""Title of the database; an ASE database with another title is refused."""

MAGIC = b"SQLite format 3\0"
"""First bytes of an SQLite file."""

LOCK = 7031
"""Number of the PostgreSQL advisory lock that a writer holds."""

_RELAXED = tuple(f"{name}_relaxed" for name in ("formula", "space_group", *LATTICE_PARAMETERS))
_FIRST = ("key", "round", "source", "formula", "space_group", *LATTICE_PARAMETERS)
_LAST = (
    "status", "reason", "gave_up_after", "potential", "energy_sampled", "energy_relaxed", *_RELAXED, "symmetry",
    "volume_change", "converged", "settled", "seconds", "cpu_seconds",
)  # fmt: skip
_TEXT = ("reason", "potential", "formula_relaxed", "symmetry")
_FLAGS = ("converged", "settled")
_WHOLE = ("round", "space_group", "space_group_relaxed")
_OWN = {*_FIRST, *_LAST, "formula_sampled"}
_RENAMED = {"energy_built": "energy_sampled"}


class LabelDatabase:
    """Database of all evaluated crystals.

    Args:
        url: SQLite file, or ``postgresql://USER:PASSWORD@HOST:PORT/NAME``.
        create: whether an SQLite file that does not exist is created; if not, it is an error.
        potential: the potential that evaluates the crystals; None for that of the database, and for `DEFAULT` in a new
            database.

    Attributes:
        potential: the potential of the database.

    Raises:
        InputError: if the database cannot be opened or written, or has other content or energies of another potential.
    """

    def __init__(self, url: str | Path, create: bool = True, potential: Potential | None = None) -> None:
        require_extra(("ase",))
        self.url = str(url)
        self._lock = threading.Lock()
        self._postgres = self.url.startswith(("postgresql://", "postgres://"))
        if not self._postgres and re.match(r"\w+://", self.url):
            raise InputError(f"{self}: is not allowed; allowed: a file for SQLite, or postgresql://USER@HOST:PORT/NAME")
        if self._postgres and (find_spec("ase_db_backends") is None or find_spec("psycopg2") is None):
            raise InputError(f"{self}: PostgreSQL needs: pip install 'crystalgfn[postgres]'")
        if not self._postgres:
            self._check_file(Path(self.url), create)
        from ase.db import connect

        # No lock file: that of a killed process would block all others forever. Transactions are enough.
        kind = "postgresql" if self._postgres else "db"
        name = self.url if self._postgres else str(Path(self.url).absolute())
        self._db: Any = connect(name, type=kind, use_lock_file=False)
        with self._transaction(write=True):
            self.potential = self._check_content(potential)
        self._is_named_here_alone = potential is None and runs_named_class(self.potential)

    def __str__(self) -> str:
        return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", self.url)

    def potential_to_run(self) -> Potential:
        """The potential, for evaluations.

        Raises:
            InputError: if only the database names the class of the calculator, because to use it runs its code.
        """
        if self._is_named_here_alone:
            raise InputError(
                f"{self}: names the calculator {self.potential.name}, which is not part of crystalgfn or of an "
                "installed plugin. A database from someone else could run code on your machine. If you trust this one, "
                f"name the calculator yourself: --potential '{self.potential.name}'"
            )
        return self.potential

    def keys(self, timeout: float | None = None) -> set[str]:
        """Keys of all crystals.

        Args:
            timeout: leave out crystals that were given up after less time [s] than this, so that they are tried again.
        """
        with self._transaction():
            rows = self._rows()
        return {
            row.unique_id for row in rows
            if timeout is None or row.key_value_pairs.get("gave_up_after", math.inf) >= timeout
        }  # fmt: skip

    def add(self, candidate: Candidate, result: Mapping[str, Any]) -> bool:
        """Write a crystal.

        Args:
            candidate: the crystal.
            result: what `crystalgfn.atoms.build.build` returned for its task, or the failure that
                `crystalgfn.atoms.isolated.attempt` made of it.

        Returns:
            whether the crystal was written. A crystal that is in the database already is not written, unless it was
            given up before and now has a result or was given up after a longer time.

        Raises:
            InputError: if the database cannot be written, or a number of the candidate has a name that cannot be used.
        """
        pairs, data, atoms = _content(candidate, result, self.potential.name)
        from ase.db.core import now
        from ase.db.row import AtomsRow, atoms2dict

        row: Any = AtomsRow(atoms2dict(atoms) | {"unique_id": candidate.key})
        row.ctime, row.user = now(), os.getenv("USER")
        with self._transaction(write=True):
            there = list(self._db.select(unique_id=candidate.key, include_data=False))
            if there:
                before = there[0].key_value_pairs.get("gave_up_after", math.inf)
                if before >= pairs.get("gave_up_after", math.inf):
                    return False
            self._db.write(row, pairs, data, id=there[0].id if there else None)
        return True

    def frame(self) -> pd.DataFrame:
        """All crystals, one row per crystal, in the order in which they were written.

        Returns:
            key, round, source, formula, space_group, a, b, c [Å], alpha, beta, gamma [degrees]; the candidates'
            numbers; status (``relaxed``, ``built``: not relaxed, ``failed``), reason, gave_up_after [s] (NaN if not
            given up); potential, and its total energies with corrections [eV/atom]: energy_sampled with positions
            relaxed in the sampled cell and symmetry, energy_relaxed with positions and cell relaxed; formula_relaxed to
            gamma_relaxed, pymatgen's conventional standard cell of the relaxed crystal; symmetry, volume_change,
            converged, settled, seconds, cpu_seconds. A missing value is NaN, an empty text, group 0, or False.
        """
        import pandas as pd

        with self._transaction():
            rows = sorted(self._rows(), key=lambda row: row.id)
        frame = pd.DataFrame([{"key": row.unique_id, **row.key_value_pairs} for row in rows])
        frame = frame.rename(columns={"formula_sampled": "formula"})
        numbers = [name for name in frame.columns if name not in _OWN and name != "formula"]
        frame = frame.reindex(columns=[*_FIRST, *numbers, *_LAST])
        frame["potential"] = frame["potential"].fillna(DEFAULT)
        texts = {"key", "source", "formula", "status", *_TEXT}
        for name in frame.columns:
            if name in texts:
                frame[name] = frame[name].astype(object).where(frame[name].notna(), "")
            elif name in _FLAGS:
                frame[name] = frame[name] == True  # noqa: E712  (NaN is no True)
            else:
                frame[name] = pd.to_numeric(frame[name]).astype(float)
                if name in _WHOLE:
                    frame[name] = frame[name].fillna(0).astype("int64")
        return frame

    def structure(self, key: str) -> Structure | None:
        """The relaxed structure of a crystal; None if the crystal is unknown or was not relaxed."""
        with self._transaction():
            rows = list(self._db.select(unique_id=key, include_data=False))
        if not rows or rows[0].key_value_pairs.get("status") != "relaxed":
            return None
        from pymatgen.io.ase import AseAtomsAdaptor

        atoms = rows[0].toatoms()
        atoms.calc = None
        return AseAtomsAdaptor.get_structure(atoms)

    def sampled_structures(self) -> dict[str, Structure]:
        """The structures in the sampled cells before relaxation, by key, of all crystals that were built."""
        from pymatgen.core import Structure

        with self._transaction():
            rows = list(self._db.select())
        sampled = {row.unique_id: row.data.get("structure_sampled") for row in rows}
        return {
            key: Structure(cell["cell"], cell["numbers"], cell["scaled_positions"])
            for key, cell in sampled.items() if cell is not None
        }  # fmt: skip

    def _rows(self) -> list[Any]:
        """All rows without atoms and data, so that thousands of rows are read in less than a second."""
        return list(self._db.select(columns=["id", "unique_id", "key_value_pairs"], include_data=False))

    def _check_file(self, path: Path, create: bool) -> None:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; give the name of a file")
        if not create and not path.exists():
            raise InputError(f"{path}: no such database")
        try:
            # SQLite treats a short file of another kind as an empty database and would overwrite it.
            if path.exists() and _first_bytes(path) not in (b"", MAGIC):
                raise InputError(f"{path}: file is not a database; give another name")
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error}") from None

    def _check_content(self, potential: Potential | None) -> Potential:
        """Create the tables if there are none, and refuse a database with other content.

        Returns:
            the potential of the database.
        """
        if not self._postgres:
            tables = {row[0] for row in self._db.connection.execute("SELECT name FROM sqlite_master")}
            if tables and "systems" not in tables:
                raise InputError(f"{self}: an SQLite file, but not an ASE database; give another name")
        about = self._db.metadata  # makes the tables
        there = about.get("potential", DEFAULT)
        if not about and not len(self._db):
            shown = ["formula", "status", "source", "round", "energy_sampled", "energy_relaxed", "space_group_relaxed"]
            potential = potential or make()
            self._db.metadata = {
                "title": CONTENT, "potential": potential.name, "model": potential.version,
                "default_columns": ["id", *shown],
            }  # fmt: skip
            return potential
        if about.get("title") != CONTENT:
            raise InputError(f"{self}: an ASE database with other content; give another name")
        potential = potential or make(there)
        if (there, about.get("model")) != (potential.name, potential.version):
            raise InputError(
                f"{self}: has energies of {there} {about.get('model')}, not of {potential.name} {potential.version}; "
                "give another name, or the same potential"
            )
        return potential

    @contextmanager
    def _transaction(self, write: bool = False) -> Iterator[None]:
        """Everything done inside is written together or not at all. Only one writer is active at a time.

        Raises:
            InputError: if the database reports an error, with its message.
        """
        import sqlite3

        errors: tuple[type[Exception], ...] = (sqlite3.Error, OSError)
        if self._postgres:
            import psycopg2

            errors = (psycopg2.Error, OSError)
        with self._lock:
            try:
                self._db.__enter__()
                if write and self._postgres:
                    # ASE reads the id of its row from a sequence, which another writer could change in between.
                    self._db.connection.cursor().execute(f"SELECT pg_advisory_xact_lock({LOCK})")
                elif write:
                    self._db.connection.execute("BEGIN IMMEDIATE")
                yield
                self._db.__exit__(None, None, None)
            except errors as error:
                text = str(error).strip().splitlines()
                raise InputError(f"{self}: {text[0] if text else type(error).__name__}") from None
            finally:
                if self._db.connection is not None:
                    self._db.connection.close()  # undoes everything that is not committed
                    self._db.connection = None


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(MAGIC))


def _content(
    candidate: Candidate, result: Mapping[str, Any], potential: str
) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Key-value pairs, data and atoms of a row."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.db.core import reserved_keys
    from pymatgen.core import Structure
    from pymatgen.io.ase import AseAtomsAdaptor

    taken = sorted(
        name for name in candidate.numbers if name in _OWN or name in reserved_keys or not name.isidentifier()
    )
    if taken:
        raise InputError(f"numbers: the name {taken[0]!r} cannot be used for a number of a candidate")
    crystal = Crystals.from_arrays([candidate.space_group], [dict(candidate.counts)], [list(candidate.lattice)])
    pairs: dict[str, Any] = {
        "round": candidate.round,
        "source": candidate.source,
        "formula_sampled": crystal.formulas()[0],
        "space_group": candidate.space_group,
        **dict(zip(LATTICE_PARAMETERS, candidate.lattice, strict=True)),
        **candidate.numbers,
    }
    built, relaxed = (
        Structure.from_dict(result[f"structure_{stage}"]) if result.get(f"structure_{stage}") else None
        for stage in ("built", "relaxed")
    )
    pairs["status"] = "relaxed" if relaxed is not None else "built" if built is not None else "failed"
    scalars = {_RENAMED.get(k, k): v for k, v in result.items() if k != "id" and not k.startswith("structure_")}
    pairs |= {name: scalars.pop(name) for name in _LAST if name in scalars}
    pairs["potential"] = potential
    if relaxed is not None:
        pairs |= _standard_cell(relaxed)
        pairs["symmetry"] = _symmetry(relaxed, candidate)
    data: dict[str, Any] = scalars
    if built is not None:
        data["structure_sampled"] = {
            "numbers": list(built.atomic_numbers),
            "cell": built.lattice.matrix.tolist(),
            "scaled_positions": built.frac_coords.tolist(),
        }
    final = relaxed if relaxed is not None else built
    atoms = Atoms()
    if final is not None:
        atoms = AseAtomsAdaptor.get_atoms(final, msonable=False)
        energy = pairs["energy_relaxed" if relaxed is not None else "energy_sampled"]
        atoms.calc = SinglePointCalculator(atoms, energy=energy * len(atoms))
        atoms.calc.name = potential.lower()
    return {name: value for name, value in pairs.items() if _is_value(value)}, data, atoms


def _is_value(value: Any) -> bool:
    """Whether a value is stored: None, an empty text, NaN and infinite numbers are not."""
    if isinstance(value, str):
        return value != ""
    return value is not None and math.isfinite(value)


def _standard_cell(structure: Structure) -> dict[str, Any]:
    """Formula, group and cell of the relaxed crystal; empty if its symmetry cannot be determined."""
    from crystalgfn.atoms.build import SYMPREC

    try:
        crystal = Crystals.from_structures([structure], symprec=SYMPREC)
    except (ValueError, TypeError):  # spglib finds nothing if atoms coincide
        return {}
    cell = zip(LATTICE_PARAMETERS, crystal.lattice[0].tolist(), strict=True)
    row = {"formula": crystal.formulas()[0], "space_group": int(crystal.space_group[0]), **dict(cell)}
    return {f"{name}_relaxed": value for name, value in row.items()}


def _symmetry(structure: Structure, candidate: Candidate) -> str:
    from crystalgfn.atoms.outputs import symmetry

    return symmetry(structure, candidate.space_group, candidate.counts)
