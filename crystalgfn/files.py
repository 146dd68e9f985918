"""Read and write files: tables, and files of tensors and plain values.

A file is written completely or not at all. No function here runs code that a file contains.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import pickle
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from crystalgfn.checks import listed, quoted, shortened
from crystalgfn.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

_SUFFIXES = {".csv": "CSV", ".parquet": "parquet", ".pq": "parquet"}

_CSV = {
    # All columns are read as text: otherwise, pandas reads the formula NaN (sodium nitride) as a missing value.
    "dtype": str,
    "keep_default_na": False,
    "encoding": "utf-8-sig",
    "skipinitialspace": True,
}

_FORMULA = r"'*[=+\-@\t\r].+"
"""Texts that a spreadsheet program calculates, and such texts after one or more apostrophes."""

_FIRST = tuple("'=+-@\t\r")
"""The first characters of these texts."""


# Tables


def read_frame(path: str | Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Read a table without checking its values; the values of a CSV file stay text.

    A named index of a parquet file becomes the first column. The apostrophe that `write_frame` puts before texts that
    look like formulas of spreadsheets is removed.

    Args:
        path: CSV or parquet file.
        columns: columns that the table must have; other columns are allowed.

    Returns:
        the table, with at least one row.

    Raises:
        InputError: if the file is missing, cannot be read, is neither CSV nor parquet, has no rows, lacks a column, has
            two columns of one name, or has a row with more fields than the header.
    """
    import pandas as pd

    path = Path(path)
    kind = table_kind(path)
    if not path.is_file():
        raise InputError(f"{path}: {'is not a file' if path.exists() else 'no such file'}")
    try:
        frame = _read_csv(path) if kind == "CSV" else _read_parquet(path)
    except InputError:
        raise
    except pd.errors.EmptyDataError:
        raise InputError(f"{path}: the file is empty") from None
    except Exception as error:  # pandas and arrow raise many types for damaged files
        reason = shortened(str(error).strip().partition("\n")[0], 200)
        raise InputError(f"{path}: cannot be read as {kind}: {type(error).__name__}: {reason}") from None
    if frame.empty:
        raise InputError(f"{path}: the table has no rows")
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise InputError(f"{path}: missing column(s) {listed(missing)}; the table has: {listed(frame.columns)}")
    return frame


def _read_csv(path: Path) -> pd.DataFrame:
    """Read a CSV file as text; see `read_frame`."""
    import pandas as pd

    header = pd.read_csv(path, header=None, nrows=1, **_CSV).iloc[0].astype(str)  # type: ignore[call-overload]
    _check_names(path, [_without_apostrophe(name) for name in header if name])
    remedy = "is there a comma at the end of the row, or a comma in a field without quotes, or a column without a name?"
    try:
        frame: pd.DataFrame = pd.read_csv(path, **_CSV)  # type: ignore[call-overload]
    except pd.errors.ParserError as error:
        numbers = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
        if numbers is None:
            raise
        raise InputError(
            f"{path}: cannot be read as CSV: line {numbers[2]} has {numbers[3]} fields, the lines before it have "
            f"{numbers[1]}; {remedy}"
        ) from None
    if not isinstance(frame.index, pd.RangeIndex):
        # pandas takes the first fields as names of the rows, so that each value would be in the wrong column.
        fields = frame.shape[1] + frame.index.nlevels
        raise InputError(
            f"{path}: cannot be read as CSV: row 1 (counted from 1, without the header) has {fields} fields, the "
            f"header has {frame.shape[1]}; {remedy}"
        )
    frame = frame.rename(columns=_without_apostrophe)
    for column in frame.columns[[bool(frame[name].str.startswith("'").any()) for name in frame.columns]]:
        texts = frame[column].where(frame[column].str.startswith("'").fillna(False).astype(bool)).dropna()
        texts = texts[texts.str.fullmatch("'" + _FORMULA, flags=re.S).astype(bool)].str[1:]
        frame.loc[_not_numbers(texts).index, column] = _not_numbers(texts)
    return frame


def _without_apostrophe(name: str) -> str:
    """The name of a column before `write_frame` put an apostrophe before it."""
    return name[1:] if re.fullmatch("'" + _FORMULA, name, re.S) else name


def _read_parquet(path: Path) -> pd.DataFrame:
    """Read a parquet file; see `read_frame`."""
    import pandas as pd
    from pyarrow.parquet import read_schema

    _check_names(path, read_schema(path).names)
    frame = pd.read_parquet(path)
    if any(name is not None for name in frame.index.names):
        _check_names(path, [*frame.index.names, *frame.columns])
        frame = frame.reset_index()
    return frame


def _check_names(path: Path, names: Sequence[Any]) -> None:
    """Raise an `InputError` if two columns have the same name."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"{path}: more than one column is called {listed(twice)}; each name must be unique")


def read_numbers(path: str | Path, columns: Sequence[str]) -> tuple[pd.DataFrame, torch.Tensor]:
    """Read a table, and some of its columns as numbers.

    Args:
        path: CSV or parquet file.
        columns: the columns with numbers.

    Returns:
        the table of n rows, and the (n, len(columns)) float64 numbers; NaN if a value is not a number.

    Raises:
        InputError: if the table cannot be read or lacks a column.
    """
    import pandas as pd

    frame = read_frame(path, columns)
    numbers = frame[list(columns)].apply(pd.to_numeric, errors="coerce")
    return frame, torch.tensor(numbers.to_numpy(dtype="float64", na_value=float("nan")))


def is_table(path: Path) -> bool:
    """Whether the name of a file has the ending of a table."""
    return path.suffix.lower() in _SUFFIXES


def table_kind(path: Path) -> str:
    """``CSV`` or ``parquet``, depending on the ending of a file's name.

    Raises:
        InputError: if the name has another ending.
    """
    kind = _SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise InputError(
            f"{path}: the name of a table must end in {', '.join(_SUFFIXES)}, not in {path.suffix or 'nothing'!r}"
        )
    return kind


def write_frame(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV or parquet, depending on the ending of the file's name.

    The file is written completely or not at all. A spreadsheet program calculates texts that begin with ``=``, ``+``,
    ``-`` or ``@``. In CSV files, such texts get an apostrophe before them, unless they are numbers; `read_frame`
    removes it.

    Raises:
        InputError: if the name has another ending.
    """
    with atomic_path(path) as temporary:
        if table_kind(path) == "CSV":
            _without_formulas(frame).to_csv(temporary, index=False)
        else:
            frame.to_parquet(temporary, index=False)


def _without_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """A table in which no text or name of a column is a formula for a spreadsheet program."""
    import pandas as pd

    names = [f"'{name}" if re.fullmatch(_FORMULA, str(name), re.S) else name for name in frame.columns]
    result = frame.set_axis(names, axis=1).reset_index(drop=True)
    for place, name in enumerate(names):
        column = result.iloc[:, place]
        if not (pd.api.types.is_object_dtype(column) or pd.api.types.is_string_dtype(column)):
            continue
        suspects = column[column.map(lambda value: isinstance(value, str) and value[:1] in _FIRST)]
        formulas = _not_numbers(suspects[suspects.astype(str).str.fullmatch(_FORMULA, flags=re.S).astype(bool)])
        if len(formulas):
            changed = column.astype(object)
            changed[formulas.index] = "'" + formulas.astype(object)
            result[name] = changed
    return result


def _not_numbers(texts: pd.Series[Any]) -> pd.Series[Any]:
    """The texts that cannot be read as numbers."""
    import pandas as pd

    return texts[pd.to_numeric(texts, errors="coerce").isna()]


# Writing completely or not at all


def check_writable(path: Path) -> None:
    """Check that a file can be written, before its content is computed. Nothing is left behind, not even a folder.

    Raises:
        InputError: if the path is a folder or its folder cannot be made or written to.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the name of a file")
    # A folder that does not exist yet is made when the file is written. Until then, the nearest one above it decides.
    folder = next((parent for parent in path.parents if parent.exists()), path.parent)
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{path.name}."):
            pass
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error}") from None


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Context with a temporary file to write to; it is moved to ``path`` if the block succeeds, or else deleted.

    The folder of ``path`` is made if it does not exist.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # only the owner can read a file made by mkstemp
        _to_disk(temporary)
        temporary.replace(path)
        _to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_through(path: Path, content: bytes | memoryview) -> None:
    """Write bytes to a file; raises OSError if the disk is full."""
    with path.open("wb") as file:
        file.write(content)


def _to_disk(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is stored on the disk and would survive a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems do not support this for folders
            raise
    finally:
        os.close(handle)


def checksum(path: Path) -> str:
    """SHA-256 of a file's content, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Plain values


def write_plain(path: Path, file_format: str, content: dict[str, Any]) -> None:
    """Write tensors and plain values to a file, with the name of its format.

    The file is written completely or not at all. Equal content gives identical files.

    Args:
        path: the file.
        file_format: name of the format.
        content: tensors and plain values, by name.
    """
    # The content is first saved to memory, because torch stores the name of a file in it, and here this name is random.
    buffer = io.BytesIO()
    torch.save({"format": file_format, **content}, buffer)
    with atomic_path(path) as temporary:
        write_through(temporary, buffer.getbuffer())


def read_plain(path: Path, file_format: str, missing: str, kind: str, remedy: str) -> dict[str, Any]:
    """Read a file that was written by `write_plain`; its tensors are put on the CPU.

    Args:
        path: the file.
        file_format: name of the expected format.
        missing: end of the message if the file does not exist.
        kind: what the file should contain, for messages.
        remedy: what the user can do if the file has another format, for messages.

    Returns:
        the content, with its key ``format``.

    Raises:
        InputError: if the file is missing, is damaged, would run code, or has another format.
    """
    if not path.is_file():
        raise InputError(f"{path}: {missing}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path}: cannot be read as {kind}: it is damaged, or holds objects, which could run code when read"
        ) from None
    except Exception as error:  # zip, pickle and torch raise many types for damaged files
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: cannot be read as {kind}: {type(error).__name__}: {reason}") from None
    if not isinstance(content, dict) or content.get("format") != file_format:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise InputError(f"{path}: holds {quoted(found)}, not a {file_format!r}; {remedy}")
    return content
