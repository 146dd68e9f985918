"""The values themselves, for histograms."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from crystalgfn.gflownet.metrics.base import SampleMetric


class Values(SampleMetric):
    """Keeps every value it sees; ``compute`` returns them, (n,) float64, one process after the other."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.values: list[Tensor]
        self.add_rows("values")

    def update(self, values: Tensor) -> None:
        """Add (n,) values."""
        self.values.append(values.detach().double())

    def compute(self) -> Tensor:
        return self.rows("values")
