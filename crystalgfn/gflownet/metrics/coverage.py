"""How many of the possible classes (elements, space groups, crystal systems) occur in the samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crystalgfn.gflownet.metrics.base import SampleMetric


def class_coverage(counts: Tensor, possible: Tensor) -> Tensor:
    """Fraction of the possible classes that were seen at least once.

    Args:
        counts: (n_classes,) how often each class was seen.
        possible: (n_classes,) bool, the classes that can occur.

    Returns:
        float64 scalar, 0 to 1; 0 if no class is possible.
    """
    return seen(counts, possible).to(torch.float64) / possible.sum().clamp_min(1)


def seen(counts: Tensor, possible: Tensor) -> Tensor:
    """Number of possible classes that were seen at least once, int64 scalar."""
    return ((counts > 0) & possible).sum()


def merge_classes(counts: Tensor, class_of: Tensor, n_classes: int) -> Tensor:
    """(n_classes,) counts of coarser classes.

    Args:
        counts: (m,) counts of fine classes, such as space groups; or a bool mask of the fine classes.
        class_of: (m,) int64, the coarse class of each fine one.
        n_classes: number of coarse classes.
    """
    merged = torch.zeros(n_classes, dtype=torch.int64, device=counts.device)
    return merged.index_add(0, class_of.to(counts.device), counts.long())


class Coverage(SampleMetric):
    """Fraction of the possible classes that were seen at least once.

    ``compute`` returns ``fraction`` (float64 scalar), ``seen`` (int64 scalar) and ``counts`` ((n_classes,) int64).

    Args:
        n_classes: number of classes.
        possible: (n_classes,) bool, the classes that can occur; the fraction refers to these. None for all classes.

    Raises:
        ValueError: if ``possible`` has another shape.
    """

    def __init__(self, n_classes: int, possible: Tensor | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if possible is None:
            possible = torch.ones(n_classes, dtype=torch.bool)
        if possible.shape != (n_classes,):
            raise ValueError(f"possible must have shape ({n_classes},), not {tuple(possible.shape)}")
        self.n_classes = n_classes
        self.possible: Tensor
        self.counts: Tensor
        self.register_buffer("possible", possible.bool(), persistent=False)
        self.add_sum("counts", torch.zeros(n_classes, dtype=torch.int64))

    def update(self, classes: Tensor) -> None:
        """Add n objects.

        Args:
            classes: (n,) int64, the class of each object; or (n, n_classes) bool, all classes of each object.
        """
        new = classes.sum(0) if classes.ndim == 2 else torch.bincount(classes, minlength=self.n_classes)
        # Not in place, because a tensor made in inference mode cannot be changed outside of it.
        self.counts = self.counts + new

    def compute(self) -> dict[str, Tensor]:
        return {
            "fraction": class_coverage(self.counts, self.possible),
            "seen": seen(self.counts, self.possible),
            "counts": self.counts,
        }
