"""All values of a quantity, for histograms."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from crystalgfn.gflownet.metrics.base import SampleMetric


class Values(SampleMetric):
    """Keeps all values; ``compute`` returns them as (n,) float64, in the order of the processes."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.values: list[Tensor]
        self.add_rows("values")

    def update(self, values: Tensor) -> None:
        """Add (n,) values."""
        self.values.append(values.detach().double())

    def compute(self) -> Tensor:
        return self.rows("values")
