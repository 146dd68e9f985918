"""Results that take seconds to derive, kept for the next run in a folder of the user's cache.

A file's name holds the versions of what it was derived with, so a result of other versions is never read. Files are
written completely or not at all; one that cannot be read is derived again, and a folder that cannot be written to is no
reason to stop. The caller says how to read and write: a format that runs no code, such as JSON or numpy's without
pickle.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

Value = TypeVar("Value")

_DAMAGED = (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, EOFError, RuntimeError)
"""What readers raise for a file that is missing, cut off, or holds something else."""


def cached(
    path: Path,
    derive: Callable[[], Value],
    read: Callable[[Path], Value],
    write: Callable[[Path, Value], None],
) -> Value:
    """A result from its file; derived, and written there, if the file is absent or damaged.

    Args:
        path: the file, from `cache_path`.
        derive: computes the result.
        read: reads it; raises an ordinary error, such as ValueError, if the file does not hold it.
        write: writes it to the given path, which ends like ``path``.
    """
    try:
        return read(path)
    except _DAMAGED:
        pass
    value = derive()
    # Not `mkstemp`, whose files nobody else can read: a folder may be shared.
    temporary = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary, value)
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
    return value


def cache_path(name: str, suffix: str, *packages: str) -> Path:
    """Where a result is kept.

    Args:
        name: what it is, with a number that is raised when the format or the derivation changes.
        suffix: ending of the file, with its dot.
        packages: distributions on whose version it depends.
    """
    return cache_folder() / ("_".join([name, *(f"{package}-{_version(package)}" for package in packages)]) + suffix)


def cache_folder() -> Path:
    """``crystalgfn`` in the first of ``CRYSTALGFN_CACHE``, ``XDG_CACHE_HOME`` and ``~/.cache``."""
    root = os.environ.get("CRYSTALGFN_CACHE") or os.environ.get("XDG_CACHE_HOME")
    if not root:
        try:
            root = str(Path.home() / ".cache")
        except RuntimeError:  # no home is known, as in some containers
            root = tempfile.gettempdir()
    return Path(root) / "crystalgfn"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from its sources
        return "unknown"
