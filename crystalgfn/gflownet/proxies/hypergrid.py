"""The usual reward on a hypergrid: a mode near each corner, separated by valleys."""

from __future__ import annotations

import torch
from torch import Tensor

from crystalgfn.errors import InputError
from crystalgfn.gflownet.proxies.base import Proxy
from crystalgfn.registry import PROXIES


@PROXIES.register
class HyperGridModes(Proxy):
    """Reward of the hypergrid with a mode near each corner.

    With u the distance of each coordinate from the middle of its axis, 0 to 1/2 of the axis:
    R = r0 + r1 prod(u > 1/4) + r2 prod(3/10 < u < 2/5).

    Args:
        height: number of values of each coordinate.
        r0: reward everywhere.
        r1: additional reward in the outer quarters.
        r2: additional reward in a thin band of them.

    Source: Bengio et al., "Flow Network based Generative Models for Non-Iterative Diverse Candidate Generation",
    NeurIPS 2021.
    """

    name = "mode_reward"
    direction = "maximize"
    knows_modes = True
    valid_range = (0.0, float("inf"))

    def __init__(self, height: int, r0: float = 0.1, r1: float = 0.5, r2: float = 2.0) -> None:
        super().__init__()
        if height < 2:
            raise InputError(f"height: {height} is not allowed; it must be at least 2")
        self.height, self.r0, self.r1, self.r2 = height, r0, r1, r2

    def forward(self, objects: Tensor) -> Tensor:
        """(n,) float64 reward of cells (n, dimensions)."""
        outer = (self._distance(objects) > 0.25).all(1).to(torch.float64)
        return self.r0 + self.r1 * outer + self.r2 * self._in_band(objects).to(torch.float64)

    def n_modes(self, objects: Tensor) -> int:
        """One a corner, for cells (n, dimensions); none if the thin band lies between the values of the axis."""
        axis = torch.arange(self.height, device=objects.device).unsqueeze(1)
        return 2 ** objects.shape[1] if self._in_band(axis).any() else 0

    def modes(self, objects: Tensor) -> Tensor:
        """(n,) int64 the corner whose part of the thin band a cell lies in, -1 outside of the band."""
        is_high = (objects > (self.height - 1) / 2).long()
        corner = (is_high * 2 ** torch.arange(objects.shape[1], device=objects.device)).sum(1)
        return torch.where(self._in_band(objects), corner, -1)

    def _distance(self, objects: Tensor) -> Tensor:
        return (objects.to(torch.float64) / (self.height - 1) - 0.5).abs()

    def _in_band(self, objects: Tensor) -> Tensor:
        distance = self._distance(objects)
        # Rounding must not put a cell on the band's edge into it on one side of the axis only.
        return ((distance > 0.3 + 1e-9) & (distance < 0.4 - 1e-9)).all(1)
