"""Reading and writing files: tables, files of tensors and plain values, and files that appear complete or not at all.

Nothing here runs code that a file holds.
"""

from __future__ import annotations

import errno
import io
import os
import pickle
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from crystalgfn.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

_SUFFIXES = {".csv": "CSV", ".parquet": "parquet", ".pq": "parquet"}


# Tables


def read_frame(path: str | Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """The table in a file, its values unchecked; those of a CSV file stay text.

    Args:
        path: the file.
        columns: that it must have, beside any others.

    Raises:
        InputError: if the file is missing, cannot be read, is neither CSV nor parquet, has no rows or lacks a column.
    """
    import pandas as pd

    path = Path(path)
    kind = table_kind(path)
    if not path.is_file():
        raise InputError(f"{path}: {'is not a file' if path.exists() else 'no such file'}")
    try:
        if kind == "CSV":
            # As text: pandas would otherwise take the formula NaN (sodium nitride) for a missing value.
            frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True)
        else:
            frame = pd.read_parquet(path)
    except pd.errors.EmptyDataError:
        raise InputError(f"{path}: the file is empty") from None
    except Exception as error:  # pandas and arrow raise many kinds for damaged files
        raise InputError(f"{path}: cannot be read as {kind}: {type(error).__name__}: {error}") from None
    if frame.empty:
        raise InputError(f"{path}: the table has no rows")
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        present = ", ".join(str(column) for column in frame.columns)
        raise InputError(f"{path}: missing column(s) {', '.join(missing)}; the table has: {present}")
    return frame


def read_numbers(path: str | Path, columns: Sequence[str]) -> tuple[pd.DataFrame, torch.Tensor]:
    """The table in a file, and the numbers (n, len(columns)) float64 of some columns, NaN where there is none.

    Raises:
        InputError: if the table cannot be read or lacks a column.
    """
    import pandas as pd

    frame = read_frame(path, columns)
    numbers = frame[list(columns)].apply(pd.to_numeric, errors="coerce")
    return frame, torch.tensor(numbers.to_numpy(dtype="float64", na_value=float("nan")))


def table_kind(path: Path) -> str:
    """``CSV`` or ``parquet``, from the name of a file.

    Raises:
        InputError: for any other ending.
    """
    kind = _SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"{path}: a table ends in {', '.join(_SUFFIXES)}, not in {path.suffix or 'nothing'!r}")
    return kind


def write_frame(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV or parquet, by the ending of the name; the file appears complete or not at all."""
    with atomic_path(path) as temporary:
        if table_kind(path) == "CSV":
            frame.to_csv(temporary, index=False)
        else:
            frame.to_parquet(temporary, index=False)


# Complete or not at all


def check_writable(path: Path) -> None:
    """Make sure that a file can be written, before the work whose result it will hold; makes its folder.

    Raises:
        InputError: if the path is a folder or its folder cannot be made or written to.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the name of a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
            pass
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error}") from None


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A name to write to; the file moves to ``path`` when the block ends well and vanishes when it does not."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files that only their owner can read
        _to_disk(temporary)
        temporary.replace(path)
        _to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_through(path: Path, content: bytes | memoryview) -> None:
    """Write a file's bytes; raises OSError where the disk is full."""
    with path.open("wb") as file:
        file.write(content)


def _to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, would survive a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot do that for folders
            raise
    finally:
        os.close(handle)


# Plain values


def write_plain(path: Path, file_format: str, content: dict[str, Any]) -> None:
    """Write a file that names its format; it appears complete or not at all. Equal content makes equal files."""
    # Given a file, torch would write its name, here a random one, into it.
    buffer = io.BytesIO()
    torch.save({"format": file_format, **content}, buffer)
    with atomic_path(path) as temporary:
        write_through(temporary, buffer.getbuffer())


def read_plain(path: Path, file_format: str, missing: str, kind: str, remedy: str) -> dict[str, Any]:
    """The content of a file that `write_plain` wrote, on the CPU.

    Args:
        path: the file.
        file_format: the format it has to name.
        missing: end of the message for a file that is not there.
        kind: what the file should hold, for messages.
        remedy: what to do about another format, for messages.

    Raises:
        InputError: if the file is missing, damaged, would run code, or is of another format.
    """
    if not path.is_file():
        raise InputError(f"{path}: {missing}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path}: cannot be read as {kind}: it is damaged, or holds objects, which could run code when read"
        ) from None
    except Exception as error:  # zip, pickle and torch raise many kinds for damaged files
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: cannot be read as {kind}: {type(error).__name__}: {reason}") from None
    if not isinstance(content, dict) or content.get("format") != file_format:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise InputError(f"{path}: holds {found!r}, not a {file_format!r}; {remedy}")
    return content
