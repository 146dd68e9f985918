"""Train, load and sample models. The commands, the discovery loop and notebooks use these functions."""

from crystalgfn.gflownet.checkpoint_files import find_checkpoint
from crystalgfn.runs.model import Model, SampledObjects, fit, load
from crystalgfn.runs.runner import run

__all__ = ["Model", "SampledObjects", "find_checkpoint", "fit", "load", "run"]
