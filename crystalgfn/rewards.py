"""Rewards: from a predicted property to log R, clipped from below at a floor."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from crystalgfn.errors import InputError
from crystalgfn.registry import REWARDS


class Reward(nn.Module, ABC):
    """Turns a property y into log R(y), at least log(floor).

    Args:
        floor: smallest reward, above 0; it bounds how hard bad objects are avoided.

    Raises:
        InputError: if the floor is not positive.
    """

    def __init__(self, floor: float = 1e-8) -> None:
        super().__init__()
        if not 0 < floor < math.inf:
            raise InputError(f"floor: {floor} is not allowed; it must be a positive number")
        self.floor = floor

    @abstractmethod
    def unclipped(self, values: Tensor) -> Tensor:
        """(n,) log R before clipping, -inf where R is 0."""

    def forward(self, values: Tensor) -> Tensor:
        """(n,) float64 log R of (n,) property values."""
        return self.unclipped(values.to(torch.float64)).clamp_min(math.log(self.floor))


@REWARDS.register
class Boltzmann(Reward):
    """R = exp(-beta y): low values are good.

    Args:
        beta: inverse temperature, in 1 / unit of y; negative to look for high values.
        floor: smallest reward.
    """

    def __init__(self, beta: float, floor: float = 1e-8) -> None:
        super().__init__(floor)
        if not math.isfinite(beta):
            raise InputError(f"beta: {beta} is not allowed; it must be a finite number")
        self.beta = beta

    def unclipped(self, values: Tensor) -> Tensor:
        return -self.beta * values


@REWARDS.register
class Power(Reward):
    """R = y ** exponent for y > 0, else 0: high values are good.

    Args:
        exponent: how strongly high values are preferred.
        floor: smallest reward.
    """

    def __init__(self, exponent: float = 1.0, floor: float = 1e-8) -> None:
        super().__init__(floor)
        if not math.isfinite(exponent):
            raise InputError(f"exponent: {exponent} is not allowed; it must be a finite number")
        self.exponent = exponent

    def unclipped(self, values: Tensor) -> Tensor:
        positive = values > 0
        log = torch.where(positive, values, 1.0).log()
        return torch.where(positive, self.exponent * log, float("-inf"))


@REWARDS.register
class Identity(Power):
    """R = y for y > 0, else 0.

    Args:
        floor: smallest reward.
    """

    def __init__(self, floor: float = 1e-8) -> None:
        super().__init__(1.0, floor)
