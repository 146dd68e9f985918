"""Files of tensors and plain values, which are read without running code: weights and hulls."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from crystalgfn.errors import InputError
from crystalgfn.crystal.tables import atomic_path, write_through


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
