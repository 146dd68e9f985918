"""A trained model from its checkpoint, for commands that are not the Trainer's."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from crystalgfn.gflownet.module import GFlowNet


def load_model(path: str) -> GFlowNet:
    """The model of a checkpoint, with its weights, in evaluation mode.

    Raises:
        InputError: if the file is missing, damaged, or no checkpoint of this program.
    """
    from crystalgfn.gflownet.checkpoint_files import read_checkpoint
    from crystalgfn.commands.lightning import Parser, read_settings
    from crystalgfn.gflownet.compact import shipped_model
    from crystalgfn.errors import InputError
    from crystalgfn.plugins import load_everything

    load_everything()
    path = str(shipped_model(path) or path)
    settings, version = read_settings(path)
    parser = Parser(exit_on_error=False)
    parser.add_lightning_class_args(GFlowNet, "model")
    module = parser.instantiate_classes(parser.parse_object({"model": settings["model"]})).model
    assert isinstance(module, GFlowNet)
    checkpoint = read_checkpoint(path)
    module.on_load_checkpoint(checkpoint)
    try:
        module.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise InputError(
            f"ckpt_path: the weights in {path}, written by version {version}, do not fit its settings: {error}"
        ) from None
    return module.eval()


def check_fit(settings: Mapping[str, Any], name: str) -> None:
    """Refuse settings that `crystalgfn fit` could not train with; the model is made and forgotten.

    Args:
        settings: model, and perhaps trainer, data and threads.
        name: what they are called in messages.

    Raises:
        InputError: with what is wrong.
    """
    from pytorch_lightning import Trainer

    from crystalgfn.commands.lightning import Parser
    from crystalgfn.commands.quiet import quieten
    from crystalgfn.gflownet.data import Samples
    from crystalgfn.errors import InputError
    from crystalgfn.plugins import load_everything

    load_everything()
    quieten()
    parser = Parser(exit_on_error=False)
    for part, key in ((GFlowNet, "model"), (Samples, "data"), (Trainer, "trainer")):
        parser.add_lightning_class_args(part, key)
    parser.add_argument("--threads", type=int, default=1)
    # Logs of a run that is not one would be in the way.
    own = copy.deepcopy(dict(settings))  # the parser puts its own containers into what it reads
    own["trainer"] = {"accelerator": "cpu", **(own.get("trainer") or {}), "logger": False}
    InputError.latest = None
    try:
        threads = parser.instantiate_classes(parser.parse_object(own)).threads
    except Exception as error:  # the parser raises many kinds; what a class said of its settings is clearer
        raise InputError(f"{name}: {InputError.latest or ' '.join(str(error).split())}") from None
    if threads < 1:
        raise InputError(f"{name}.threads: {threads} is not allowed; it must be at least 1")
