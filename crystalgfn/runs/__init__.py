"""Train, sample and load models: what the commands, the discovery loop and notebooks call."""

from crystalgfn.runs.model import Model, SampledObjects, fit, load
from crystalgfn.runs.runner import find_checkpoint, run

__all__ = ["Model", "SampledObjects", "find_checkpoint", "fit", "load", "run"]
