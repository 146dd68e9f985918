"""How many of the sampled objects are different."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crystalgfn.gflownet.keys import hash_rows
from crystalgfn.gflownet.metrics.base import SampleMetric


def unique_fraction(keys: Tensor) -> Tensor:
    """Share of distinct rows.

    Args:
        keys: (n, k) int64, equal exactly for the same object.

    Returns:
        float64 scalar, 1 / n to 1; 0 for no rows.
    """
    return _summary(hash_rows(keys))["fraction"]


class Uniqueness(SampleMetric):
    """Share of distinct objects among those seen.

    An object is known by a row of integers, from `crystalgfn.gflownet.keys`. Only a hash of it is kept: 8 bytes an
    object.

    ``compute`` returns scalars: ``fraction`` (float64), ``distinct`` and ``total`` (int64).
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hashes: list[Tensor]
        self.add_rows("hashes", dtype=torch.int64)

    def update(self, keys: Tensor) -> None:
        """Add n objects by their keys, (n, k) int64."""
        self.hashes.append(hash_rows(keys))

    def compute(self) -> dict[str, Tensor]:
        return _summary(self.rows("hashes"))


def _summary(hashes: Tensor) -> dict[str, Tensor]:
    distinct = torch.tensor(len(torch.unique(hashes)), device=hashes.device)
    total = torch.tensor(len(hashes), device=hashes.device)
    return {"fraction": distinct.to(torch.float64) / total.clamp_min(1), "distinct": distinct, "total": total}
