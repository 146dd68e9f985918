"""Metrics of samples: `torchmetrics.Metric` subclasses and the pure functions behind them."""

from crystalgfn.gflownet.metrics.base import SampleMetric
from crystalgfn.gflownet.metrics.coverage import Coverage, class_coverage, merge_classes, seen
from crystalgfn.gflownet.metrics.exact_distance import ExactDistance, jensen_shannon, sampling_floor, total_variation
from crystalgfn.gflownet.metrics.keys import composition_keys, crystal_keys, hash_rows, object_keys, state_keys
from crystalgfn.gflownet.metrics.likelihood import LikelihoodAgreement, PartitionEstimate, pearson, ranks
from crystalgfn.crystal.group_classes import CRYSTAL_SYSTEMS, LATTICE_SYSTEMS, GroupClasses, group_classes
from crystalgfn.gflownet.metrics.top_k import TopK, top_k_rows
from crystalgfn.gflownet.metrics.uniqueness import Uniqueness, unique_fraction
from crystalgfn.gflownet.metrics.values import Values

__all__ = [
    "CRYSTAL_SYSTEMS",
    "LATTICE_SYSTEMS",
    "Coverage",
    "ExactDistance",
    "GroupClasses",
    "LikelihoodAgreement",
    "PartitionEstimate",
    "SampleMetric",
    "TopK",
    "Uniqueness",
    "Values",
    "class_coverage",
    "composition_keys",
    "crystal_keys",
    "group_classes",
    "hash_rows",
    "jensen_shannon",
    "merge_classes",
    "object_keys",
    "pearson",
    "ranks",
    "sampling_floor",
    "seen",
    "state_keys",
    "top_k_rows",
    "total_variation",
    "unique_fraction",
]
