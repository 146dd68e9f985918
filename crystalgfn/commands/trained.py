"""A trained model from its checkpoint, for commands that are not the Trainer's."""

from __future__ import annotations

from typing import Any

from crystalgfn.envs.base import Environment
from crystalgfn.module import GFlowNet


def load_model(path: str) -> GFlowNet:
    """The model of a checkpoint, with its weights, in evaluation mode.

    Raises:
        InputError: if the file is missing, damaged, or no checkpoint of this program.
    """
    from crystalgfn.checkpoint_files import read_checkpoint
    from crystalgfn.commands.lightning import Parser, read_settings
    from crystalgfn.compact import shipped_model
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


def load_env(settings: dict[str, Any]) -> Environment:
    """The environment that a config describes.

    Args:
        settings: ``class_path`` and ``init_args``, as under ``model.env``.

    Raises:
        InputError: if the settings are not those of an environment.
    """
    from crystalgfn.commands.lightning import Parser
    from crystalgfn.errors import InputError
    from crystalgfn.plugins import load_everything

    load_everything()
    parser = Parser(exit_on_error=False)
    parser.add_argument("--env", type=Environment)
    try:
        env = parser.instantiate_classes(parser.parse_object({"env": settings})).env
    except Exception as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"model.env: {' '.join(str(error).split())}") from None
    assert isinstance(env, Environment)
    return env
