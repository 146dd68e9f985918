"""How many of the sampled objects are different."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crystalgfn.gflownet.keys import hash_rows
from crystalgfn.gflownet.metrics.base import SampleMetric


def unique_fraction(keys: Tensor) -> Tensor:
    """Fraction of distinct rows.

    Args:
        keys: (n, k) int64, equal if and only if two rows are the same object.

    Returns:
        float64 scalar, 1 / n to 1; 0 if there are no rows.
    """
    return _summary(hash_rows(keys))["fraction"]


class Uniqueness(SampleMetric):
    """Fraction of distinct objects among those seen.

    A key identifies an object: a row of integers, from `crystalgfn.gflownet.keys`. Only a hash of the key is kept,
    8 bytes for each object.

    ``compute`` returns scalars: ``fraction`` (float64), ``distinct`` and ``total`` (int64).
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hashes: list[Tensor]
        self.add_rows("hashes", dtype=torch.int64)

    def update(self, keys: Tensor) -> None:
        """Add n objects, given by their keys (n, k) int64."""
        self.hashes.append(hash_rows(keys))

    def compute(self) -> dict[str, Tensor]:
        return _summary(self.rows("hashes"))


def _summary(hashes: Tensor) -> dict[str, Tensor]:
    distinct = torch.tensor(len(torch.unique(hashes)), device=hashes.device)
    total = torch.tensor(len(hashes), device=hashes.device)
    return {"fraction": distinct.to(torch.float64) / total.clamp_min(1), "distinct": distinct, "total": total}
