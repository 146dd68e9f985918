"""Penalties of a residual: equal near zero, and different in how fast they grow far from zero."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Regression = Literal["squared", "huber", "log_cosh"]
REGRESSIONS: tuple[Regression, ...] = ("squared", "huber", "log_cosh")


def penalty(residual: Tensor, regression: Regression = "squared") -> Tensor:
    """Penalty of each residual d; all kinds approach d² for small d.

    Args:
        residual: numbers of any shape.
        regression: ``squared`` d²; ``huber`` d² up to 1, then 2 |d| - 1; ``log_cosh`` 2 log cosh d. The last two grow
            linearly for large d, so that single trajectories with large residuals have less influence.

    Returns:
        the penalties, in the same shape.
    """
    if regression == "squared":
        return residual.square()
    if regression == "huber":
        return 2 * F.huber_loss(residual, torch.zeros_like(residual), reduction="none")
    # log cosh d = |d| + log(1 + exp(-2 |d|)) - log 2; this form does not overflow.
    size = residual.abs()
    return 2 * (size + F.softplus(-2 * size) - math.log(2))
