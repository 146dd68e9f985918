"""The usual reward on a hypergrid: a mode near each corner, separated by valleys."""

from __future__ import annotations

import torch
from torch import Tensor

from crystalgfn.errors import InputError
from crystalgfn.proxies.base import Proxy
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
    valid_range = (0.0, float("inf"))

    def __init__(self, height: int, r0: float = 0.1, r1: float = 0.5, r2: float = 2.0) -> None:
        super().__init__()
        if height < 2:
            raise InputError(f"height: {height} is not allowed; it must be at least 2")
        self.height, self.r0, self.r1, self.r2 = height, r0, r1, r2

    def forward(self, objects: Tensor) -> Tensor:
        """(n,) float64 reward of cells (n, dimensions)."""
        distance = (objects.to(torch.float64) / (self.height - 1) - 0.5).abs()
        outer = (distance > 0.25).all(1).to(torch.float64)
        band = ((distance > 0.3) & (distance < 0.4)).all(1).to(torch.float64)
        return self.r0 + self.r1 * outer + self.r2 * band
