"""Start training with the networks of another run."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from crystalgfn.gflownet.checkpoint_files import read_checkpoint
from crystalgfn.errors import InputError

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
