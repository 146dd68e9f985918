"""The proxy: the share of hexagonal layers."""

from __future__ import annotations

import torch
from torch import Tensor

from crystalgfn import PROXIES, Proxy


@PROXIES.register
class Hexagonality(Proxy):
    """Share of hexagonal layers in a stacking sequence."""

    name = "hexagonality"
    direction = "maximize"
    valid_range = (0.0, 1.0)

    def forward(self, objects: Tensor) -> Tensor:
        """Share of hexagonal layers.

        Args:
            objects: (n, layers) bool, True for hexagonal layers.

        Returns:
            (n,) float64.
        """
        return objects.to(torch.float64).mean(1)
