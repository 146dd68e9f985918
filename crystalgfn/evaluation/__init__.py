"""Evaluation of samples: compares them with each other and with known crystals, and writes a page and numbers."""

from crystalgfn.evaluation.checks import (
    assignment_is_right,
    cell_volumes,
    fits_lattice_system,
    fits_wyckoff,
    is_neutral,
    passes_smact,
)
from crystalgfn.evaluation.known import known_levels, novelty, same_cells
from crystalgfn.evaluation.measures import (
    coverage,
    diversity,
    entropy,
    mean_distance,
    sampler_quality,
    statistics,
    uniqueness,
    validity,
)
from crystalgfn.evaluation.pools import Pool, read_pool
from crystalgfn.evaluation.report import evaluate
from crystalgfn.evaluation.results import Evaluation

__all__ = [
    "Evaluation",
    "Pool",
    "assignment_is_right",
    "cell_volumes",
    "coverage",
    "diversity",
    "entropy",
    "evaluate",
    "fits_lattice_system",
    "fits_wyckoff",
    "is_neutral",
    "known_levels",
    "mean_distance",
    "novelty",
    "passes_smact",
    "read_pool",
    "same_cells",
    "sampler_quality",
    "statistics",
    "uniqueness",
    "validity",
]
