"""Small checkpoints that a model samples from, to pass on: networks in half precision, nothing to train on with."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import yaml

from crystalgfn.gflownet.checkpoint_files import CheckpointFiles, read_checkpoint
from crystalgfn.errors import InputError
from crystalgfn.gflownet.start import NETWORKS

COMPACT = "compact"
"""Entry of a checkpoint that says that it is one of these."""

MODELS = Path(__file__).parent / "models"
"""Folder of the trained models that come with the package."""

_KEPT = ("epoch", "global_step", "pytorch-lightning_version", "crystalgfn")


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
    config = yaml.safe_load(content["crystalgfn"]["config"])
    config["model"] |= {"proxy": proxy, "start_from": None}
    # What a run has of its own: where it logs and saves.
    config.pop("trainer", None)
    content["crystalgfn"]["config"] = yaml.safe_dump(config, sort_keys=False)
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


def refuse_compact(path: str) -> None:
    """Raise an `InputError` if a checkpoint cannot be trained on with, because it is compact."""
    if read_checkpoint(path).get(COMPACT):
        raise InputError(
            f"ckpt_path: {path} is for sampling only; to train from its networks use --model.start_from {path}"
        )


def shipped_model(name: str) -> Path | None:
    """The checkpoint of a model that comes with the package, such as ``discovered``; None if there is no such one.

    A file or folder of that name comes first.
    """
    path = MODELS / f"{name}.ckpt"
    return path if Path(name).name == name and not Path(name).exists() and path.is_file() else None
