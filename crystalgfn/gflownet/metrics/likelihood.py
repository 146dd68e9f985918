"""Agreement of log p(x) with log R(x), and estimates of log Z."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crystalgfn.gflownet.metrics.base import SampleMetric


def pearson(x: Tensor, y: Tensor) -> Tensor:
    """Pearson correlation of two (n,) tensors; NaN for fewer than two values, or if one tensor is constant."""
    if len(x) < 2:
        return torch.full((), float("nan"), dtype=torch.float64, device=x.device)
    dx, dy = x - x.mean(), y - y.mean()
    return (dx * dy).sum() / (dx.square().sum() * dy.square().sum()).sqrt()


def ranks(values: Tensor) -> Tensor:
    """(n,) float64 ranks, counted from 1; equal values all get their mean rank."""
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).to(torch.float64)
    return (last - (counts - 1) / 2)[inverse]


class LikelihoodAgreement(SampleMetric):
    """Agreement of log p(x) and log R(x) over objects from any source.

    ``compute`` returns float64 scalars, NaN where undefined: ``n``, the number of objects for which both are finite;
    ``pearson`` and ``spearman``, the correlations; ``slope`` of log p against log R by least squares; ``log_p_mean``
    and ``log_reward_mean``. For p = R / Z, both correlations and the slope are 1.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.log_p: list[Tensor]
        self.log_reward: list[Tensor]
        self.add_rows("log_p")
        self.add_rows("log_reward")

    def update(self, log_p: Tensor, log_reward: Tensor) -> None:
        """Add n objects, given by (n,) log p and (n,) log R; objects with a value that is not finite are left out."""
        good = log_p.isfinite() & log_reward.isfinite()
        self.log_p.append(log_p[good].detach().double())
        self.log_reward.append(log_reward[good].detach().double())

    def pairs(self) -> tuple[Tensor, Tensor]:
        """(n,) log p and (n,) log R of all objects that were not left out."""
        return self.rows("log_p"), self.rows("log_reward")

    def compute(self) -> dict[str, Tensor]:
        log_p, log_reward = self.pairs()
        n = torch.tensor(float(len(log_p)), dtype=torch.float64, device=log_p.device)
        away = log_reward - log_reward.mean()
        return {
            "n": n,
            "pearson": pearson(log_p, log_reward),
            "spearman": pearson(ranks(log_p), ranks(log_reward)),
            "slope": (away * log_p).sum() / away.square().sum(),
            "log_p_mean": log_p.mean(),
            "log_reward_mean": log_reward.mean(),
        }


class PartitionEstimate(SampleMetric):
    """Estimate of log Z from samples of the policy, and their effective sample size.

    A trajectory τ that the policy sampled has the weight w = R(x) P_B(τ | x) / P_F(τ). The mean of w is Z.

    ``compute`` returns float64 scalars, NaN where undefined: ``log_z`` = ln mean w; ``standard_error`` of ``log_z``,
    which is the standard deviation of w divided by the mean of w and by √n; ``bound`` = mean of ln w, which is at most
    log Z on average; ``effective_share`` = (Σw)² / (n Σw²), the effective sample size divided by n. For a perfect
    sampler, every w is Z.

    Source: Kong, "A note on importance sampling using standardized weights", Technical Report 348, University of
    Chicago, 1992.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.log_weights: list[Tensor]
        self.add_rows("log_weights")

    def update(self, log_weights: Tensor) -> None:
        """Add (n,) ln w = log R + log P_B - log P_F; values that are not finite are left out."""
        self.log_weights.append(log_weights[log_weights.isfinite()].detach().double())

    def compute(self) -> dict[str, Tensor]:
        log_weights = self.rows("log_weights")
        n = len(log_weights)
        undefined = torch.full((), float("nan"), dtype=torch.float64, device=log_weights.device)
        if not n:
            return dict.fromkeys(("log_z", "standard_error", "bound", "effective_share"), undefined)
        log_z = log_weights.logsumexp(0) - torch.tensor(float(n), dtype=torch.float64).log()
        relative = (log_weights - log_z).exp()
        return {
            "log_z": log_z,
            "standard_error": relative.std() / n**0.5 if n > 1 else undefined,
            "bound": log_weights.mean(),
            "effective_share": 1 / relative.square().mean(),
        }
