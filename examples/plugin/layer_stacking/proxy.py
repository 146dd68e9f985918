"""The proxy: how hexagonal a stacking is."""

from __future__ import annotations

import torch
from torch import Tensor

from crystalgfn.gflownet.proxies import Proxy
from crystalgfn.registry import PROXIES


@PROXIES.register
class Hexagonality(Proxy):
    """Share of hexagonal layers in a stacking sequence."""

    name = "hexagonality"
    direction = "maximize"
    valid_range = (0.0, 1.0)

    def forward(self, objects: Tensor) -> Tensor:
        """(n,) float64 share of True in (n, layers) bool."""
        return objects.to(torch.float64).mean(1)
