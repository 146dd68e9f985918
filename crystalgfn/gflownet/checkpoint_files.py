"""Checkpoint files: written whole or not at all, read without running code, and what they hold.

A checkpoint holds the complete settings of its run. A compact one holds only what sampling needs.
"""

from __future__ import annotations

import copy
import io
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import nn

from crystalgfn import __version__
from crystalgfn.errors import InputError
from crystalgfn.files import atomic_path, write_through
from crystalgfn.settings import current

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


# Settings

CONFIG_KEY = "crystalgfn"
"""Where a checkpoint keeps the version and the settings it was made with."""


class SaveSettings(Callback):
    """Keeps a run's complete settings in its checkpoints, so that a checkpoint needs no config beside it.

    Args:
        config: the settings of the run: model, data and trainer.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[CONFIG_KEY] = {"version": __version__, "config": yaml.safe_dump(self._config, sort_keys=False)}


def read_settings(path: str | Path) -> tuple[dict[str, Any], str]:
    """The settings a checkpoint was made with, class paths brought up to date, and the version of the program.

    Raises:
        InputError: if the file is missing, is no checkpoint of this program, or is damaged.
    """
    checkpoint = read_checkpoint(path)
    try:
        stored = checkpoint[CONFIG_KEY]
        config = yaml.safe_load(stored["config"])
        version = str(stored["version"])
    except (KeyError, TypeError, AttributeError, yaml.YAMLError):
        raise InputError(f"ckpt_path: {path} is not a checkpoint that 'crystalgfn fit' has written") from None
    if not isinstance(config, dict) or "model" not in config:
        raise InputError(f"ckpt_path: {path}, written by version {version}, names no model")
    return current(config), version


# Networks of another run

NETWORKS = ("policy.", "flow.", "backward_policy.")
"""What the names of the networks' weights begin with, in the state of a `GFlowNet`."""


def start_networks(module: nn.Module, path: Path | str) -> None:
    """Give the networks of a model the weights that a checkpoint holds; all else stays as it is.

    Args:
        module: a `GFlowNet`.
        path: checkpoint of a run with the same decisions and policy.

    Raises:
        InputError: if the file is missing or damaged, or its networks are others than those of the model.
    """
    own = {name: value for name, value in module.state_dict().items() if name.startswith(NETWORKS)}
    given = {
        name: value
        for name, value in read_checkpoint(path, "model.start_from")["state_dict"].items()
        if name.startswith(NETWORKS)
    }
    for name in sorted(own.keys() | given.keys()):
        shapes = [tuple(state[name].shape) if name in state else None for state in (given, own)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"model.start_from: the networks in {path} do not fit: {name} has the shape {shapes[0]} there "
                f"and {shapes[1]} here; leave the environment's decisions and the policy as they were"
            )
        if not given[name].isfinite().all():
            raise InputError(f"model.start_from: the weights {name} in {path} are not finite")
    module.load_state_dict(given, strict=False)


# Small checkpoints

COMPACT = "compact"
"""Entry of a checkpoint that says that it is one of these."""

_KEPT = ("epoch", "global_step", "pytorch-lightning_version", CONFIG_KEY)


def write_compact(source: Path, out: Path, proxy: Any) -> None:
    """Write what is needed to sample from a model, in a quarter of the space or less.

    Weights of the policy's networks are rounded to half precision, so samples differ a little from those of the source.
    Everything else keeps its values: those of proxies' networks are in that precision anyway.

    Args:
        source: checkpoint of a run.
        out: the file, which appears complete or not at all.
        proxy: settings of the proxy, or a list of several, that make proxies of the same shapes anywhere: those in the
            source may name files of its own folder. Their weights come from the source.

    Raises:
        InputError: if the source cannot be read or the file not be written.
    """
    checkpoint = read_checkpoint(source)
    content: dict[str, Any] = {key: copy.deepcopy(checkpoint[key]) for key in _KEPT if key in checkpoint}
    config = yaml.safe_load(content[CONFIG_KEY]["config"])
    config["model"] |= {"proxy": proxy, "start_from": None}
    # What a run has of its own: where it logs and saves.
    config.pop("trainer", None)
    content[CONFIG_KEY]["config"] = yaml.safe_dump(config, sort_keys=False)
    content[COMPACT] = True
    content["state_dict"] = {
        name: value.half() if name.startswith(NETWORKS) or _is_half(value) else value
        for name, value in checkpoint["state_dict"].items()
        if not name.startswith("replay.")
    }
    CheckpointFiles().save_checkpoint(content, out)


def _is_half(value: torch.Tensor) -> bool:
    """Whether single-precision values lose nothing in half precision."""
    return value.dtype == torch.float32 and bool((value.half().float() == value).all())


def refuse_compact(path: str | Path) -> None:
    """Raise an `InputError` if a checkpoint cannot be trained on with, because it is compact."""
    if read_checkpoint(path).get(COMPACT):
        raise InputError(
            f"ckpt_path: {path} is for sampling only; to train from its networks use --model.start_from {path}"
        )
