"""Metrics of samples: `torchmetrics.Metric` subclasses and the pure functions that they use."""

from crystalgfn.gflownet.metrics.base import SampleMetric
from crystalgfn.gflownet.metrics.coverage import Coverage, class_coverage, merge_classes, seen
from crystalgfn.gflownet.metrics.exact_distance import ExactDistance, jensen_shannon, sampling_floor, total_variation
from crystalgfn.gflownet.metrics.likelihood import LikelihoodAgreement, PartitionEstimate, pearson, ranks
from crystalgfn.gflownet.metrics.top_k import TopK, top_k_rows
from crystalgfn.gflownet.metrics.uniqueness import Uniqueness, unique_fraction
from crystalgfn.gflownet.metrics.values import Values

__all__ = [
    "Coverage",
    "ExactDistance",
    "LikelihoodAgreement",
    "PartitionEstimate",
    "SampleMetric",
    "TopK",
    "Uniqueness",
    "Values",
    "class_coverage",
    "jensen_shannon",
    "merge_classes",
    "pearson",
    "ranks",
    "sampling_floor",
    "seen",
    "top_k_rows",
    "total_variation",
    "unique_fraction",
]
