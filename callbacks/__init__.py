"""Callbacks, which log, draw and write what a run samples. They are packaged as ``crystalgfn.callbacks``."""

from crystalgfn.callbacks.checkpoints import Checkpoints
from crystalgfn.callbacks.coverage import LogCoverage
from crystalgfn.callbacks.exact_distance import LogExactDistance
from crystalgfn.callbacks.figures import LogFigures
from crystalgfn.callbacks.histograms import LogHistograms
from crystalgfn.callbacks.likelihood import LogLikelihood
from crystalgfn.callbacks.modes import LogModes
from crystalgfn.callbacks.sample_writer import SampleWriter
from crystalgfn.callbacks.top_k import LogTopK
from crystalgfn.callbacks.uniqueness import LogUniqueness

__all__ = [
    "Checkpoints",
    "LogCoverage",
    "LogExactDistance",
    "LogFigures",
    "LogHistograms",
    "LogLikelihood",
    "LogModes",
    "LogTopK",
    "LogUniqueness",
    "SampleWriter",
]
