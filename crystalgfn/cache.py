"""Cache for results that take seconds to compute, in a folder of the user's cache.

The name of a file contains the versions of the packages that the result depends on; a result of other versions is
therefore never read. Files are written completely or not at all. If a file cannot be read, the result is computed
again. If the folder cannot be written to, the result is not kept. The caller provides functions to read and write; use
a format that cannot run code, such as JSON, or numpy's format without pickle.
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
"""Errors that readers raise if a file is missing, incomplete, or contains something else."""


def cached(
    path: Path,
    derive: Callable[[], Value],
    read: Callable[[Path], Value],
    write: Callable[[Path, Value], None],
) -> Value:
    """Read a result from its file; if the file is missing or damaged, compute the result and write the file.

    Args:
        path: the file, from `cache_path`.
        derive: function that computes the result.
        read: function that reads the result from a path. It must raise an ordinary error, such as ValueError, if the
            file does not contain the result.
        write: function that writes the result to a path, which has the same suffix as ``path``.

    Returns:
        the result.
    """
    try:
        return read(path)
    except _DAMAGED:
        pass
    value = derive()
    # `mkstemp` is not used, because only the owner can read its files, and a cache folder may be shared.
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
    """Path of the file for a result.

    Args:
        name: name of the result, with a number to be raised whenever the format or the computation changes.
        suffix: suffix of the file, with its dot.
        packages: names of the distributions whose versions the result depends on.
    """
    return cache_folder() / ("_".join([name, *(f"{package}-{_version(package)}" for package in packages)]) + suffix)


def cache_folder() -> Path:
    """Folder ``crystalgfn`` in the first folder that is set of ``CRYSTALGFN_CACHE``, ``XDG_CACHE_HOME``, ``~/.cache``.

    It is in the folder for temporary files if no home folder is known.
    """
    root = os.environ.get("CRYSTALGFN_CACHE") or os.environ.get("XDG_CACHE_HOME")
    if not root:
        try:
            root = str(Path.home() / ".cache")
        except RuntimeError:  # no home folder is known, as in some containers
            root = tempfile.gettempdir()
    return Path(root) / "crystalgfn"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # not installed, for example if it is run from its source folder
        return "unknown"
