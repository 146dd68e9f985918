"""A trained model from its checkpoint, for commands that are not the Trainer's."""

from __future__ import annotations

from crystalgfn.module import GFlowNet


def load_model(path: str) -> GFlowNet:
    """The model of a checkpoint, with its weights, in evaluation mode.

    Raises:
        InputError: if the file is missing, damaged, or no checkpoint of this program.
    """
    import torch

    from crystalgfn.commands.lightning import Parser, read_settings
    from crystalgfn.errors import InputError
    from crystalgfn.plugins import load_everything

    load_everything()
    settings = read_settings(path)
    parser = Parser(exit_on_error=False)
    parser.add_lightning_class_args(GFlowNet, "model")
    module = parser.instantiate_classes(parser.parse_object({"model": settings["model"]})).model
    assert isinstance(module, GFlowNet)
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"ckpt_path: the weights in {path} do not fit its settings: {error}") from None
    return module.eval()
