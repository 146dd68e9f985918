"""Checkpoint files: written whole or not at all, read without running code, the newest whole one found."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.utilities.rank_zero import rank_zero_warn

from crystalgfn.errors import InputError
from crystalgfn.crystal.tables import atomic_path, write_through

LAST = "last.ckpt"
"""The newest checkpoint of a run, in its folder ``checkpoints``."""

PREVIOUS = "previous.ckpt"
"""The one before, for the case that a disk loses the newest."""


class CheckpointFiles(TorchCheckpointIO):
    """How Lightning writes and reads checkpoints here.

    A file is written beside its final name, forced to the disk, and renamed: whenever a process is killed or a disk is
    full, there is the whole old file or the whole new one. Lightning's own way writes to the folder of temporary files,
    which may be another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint, and keep the last one as the previous one.

        Raises:
            InputError: if it cannot be written; the files that were there stay as they were.
        """
        path = Path(path)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                write_through(temporary, content.getbuffer())
                if path.name == LAST and path.is_file():
                    _keep(path)
        except OSError as error:
            kept = "the checkpoint before it is whole" if path.is_file() else "there is none before it"
            raise InputError(
                f"checkpoint {path}: cannot be written ({error.strerror or error}); {kept}. Make room or choose "
                "another folder, then go on with --ckpt_path"
            ) from None

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a file; whatever is asked for, objects that would run code are refused."""
        content: dict[str, Any] = _load(Path(path))
        return content


def _keep(last: Path) -> None:
    """Give the last checkpoint the name of the previous one as well; no moment is without a whole file."""
    with atomic_path(last.with_name(PREVIOUS)) as temporary:
        link(last, temporary)


def link(source: Path, target: Path) -> None:
    """Give a file a second name, in place of what has it; a copy on a file system without links."""
    try:
        target.unlink(missing_ok=True)
        os.link(source, target)
    except OSError:
        write_through(target, source.read_bytes())


def read_checkpoint(path: str | Path, setting: str = "ckpt_path") -> dict[str, Any]:
    """The content of a checkpoint, on the CPU.

    Args:
        path: the file.
        setting: what names it, for messages.

    Raises:
        InputError: if the file is missing, is no checkpoint, is damaged, or holds objects that would run code.
    """
    checkpoint = _load(Path(path), setting)
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise InputError(f"{setting}: {path} is not a checkpoint that 'crystalgfn fit' has written")
    return checkpoint


def _load(path: Path, setting: str = "ckpt_path") -> Any:
    """What a file holds, on the CPU; see `read_checkpoint`."""
    if not path.is_file():
        raise InputError(f"{setting}: there is no file {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{setting}: {path} is damaged, is no checkpoint, or holds objects that are not loaded for safety"
        ) from None
    except Exception as error:  # zip, pickle and torch raise many kinds for damaged files
        reason = str(error).partition("\n")[0]
        raise InputError(f"{setting}: {path} cannot be read; it may be damaged ({reason})") from None


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint at any depth of a folder; damaged ones are left out with a warning.

    Returns:
        its path; None if there is none.
    """
    for path in _newest_first(folder):
        try:
            read_checkpoint(path)
        except InputError as error:
            rank_zero_warn(f"{error}; an older one is taken", stacklevel=2)
            continue
        return path
    return None


def _newest_first(folder: Path) -> Iterator[Path]:
    # Hidden files are what a killed process has left half written.
    found = [path for path in folder.rglob("*.ckpt") if path.is_file() and not path.name.startswith(".")]
    # Of a last and a previous one that are the same file the last comes first.
    yield from sorted(found, key=lambda path: (-path.stat().st_mtime_ns, path.name, str(path)))
