"""Base class of the metrics: its states merge across processes and are stored in checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class SampleMetric(Metric):
    """A metric of samples whose states are sums or rows.

    Subclasses declare their states with `add_sum` and `add_rows`. Both kinds merge correctly across processes, even if
    a process has seen no samples.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = None

    def __init__(self, **kwargs: Any) -> None:
        # With a cache, a process without new samples would skip the merge, and the other processes would wait for it.
        super().__init__(**{"compute_with_cache": False, **kwargs})
        self._no_rows: dict[str, Tensor] = {}

    def add_sum(self, name: str, default: Tensor) -> None:
        """Declare a tensor state that is summed over processes."""
        self.add_state(name, default, dist_reduce_fx="sum")

    def add_rows(self, name: str, width: tuple[int, ...] = (), dtype: torch.dtype = torch.float64) -> None:
        """Declare a list state of tensors (m, *width), which are concatenated over processes."""
        self.add_state(name, [], dist_reduce_fx="cat")
        self._no_rows[name] = torch.zeros(0, *width, dtype=dtype)

    def rows(self, name: str) -> Tensor:
        """All rows of a list state, (m, *width), on the metric's device."""
        value: Tensor | list[Tensor] = getattr(self, name)
        if isinstance(value, Tensor):  # while states are merged, a list state is one tensor
            return value
        return torch.cat(value) if value else self._no_rows[name].to(self.device)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        # A process without rows must still send a tensor of the type and shape that the others send.
        for name in self._no_rows:
            setattr(self, name, [self.rows(name)])
        super().sync(*args, **kwargs)

    def merged_state(self) -> dict[str, Tensor]:
        """The merged states of all processes, as tensors on the CPU that a checkpoint can contain."""
        with self.sync_context():
            return {
                name: (self.rows(name) if name in self._no_rows else getattr(self, name)).detach().cpu().clone()
                for name in self._defaults
            }

    def load_merged_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from the result of `merged_state`; with several processes, only one of them may load it."""
        self.reset()
        for name, value in state.items():
            tensor = value.to(self.device)
            setattr(self, name, [tensor] if name in self._no_rows else tensor)
        self._update_count = 1  # otherwise `compute` warns that there were no updates
