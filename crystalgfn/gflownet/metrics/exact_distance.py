"""Distance of samples from an exactly known distribution, and the distance that perfect samples would have."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from crystalgfn.gflownet.metrics.base import SampleMetric

_REACH = 12.0
"""Sums over a binomial count cover this many standard deviations; the rest is negligible in double precision."""


def total_variation(p: Tensor, q: Tensor) -> Tensor:
    """Half the sum of the absolute differences of two distributions (..., m): (...) values from 0 to 1."""
    return (p - q).abs().sum(-1) / 2


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence of two distributions (..., m) in nats: (...) values from 0 to ln 2.

    Source: Lin, "Divergence measures based on the Shannon entropy", IEEE Transactions on Information Theory 37, 1991.
    """
    return _jensen_shannon_terms(p, q).sum(-1)


def _jensen_shannon_terms(p: Tensor, q: Tensor) -> Tensor:
    middle = (p + q) / 2
    # x log x is 0 at x = 0, and so is torch's xlogy(0, 0).
    return (torch.xlogy(p, p) + torch.xlogy(q, q)) / 2 - torch.xlogy(middle, middle)


def sampling_floor(p: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Expected total variation and Jensen-Shannon divergence between p and the empirical distribution of n samples.

    The values are exact: both distances are sums over the outcomes, and each term depends only on the outcome's count,
    which has a binomial distribution.

    Args:
        p: (m,) float64 probabilities.
        n: number of independent samples of p.

    Returns:
        two float64 scalars: the expected total variation and the expected Jensen-Shannon divergence in nats.
    """
    totals = [torch.zeros((), dtype=torch.float64, device=p.device) for _ in range(2)]
    # Outcomes of similar probability are handled together, so that their counts span few values.
    for part in p.sort().values.split(256):
        spread = _REACH * (n * part * (1 - part)).sqrt() + 60
        low = int((n * part - spread).min().clamp_min(0).item())
        high = int((n * part + spread).max().clamp_max(n).item())
        for counts in torch.arange(low, high + 1, dtype=torch.float64, device=p.device).split(4096):
            own = part.unsqueeze(1)
            log_mass = (
                math.lgamma(n + 1)
                - torch.lgamma(counts + 1)
                - torch.lgamma(n - counts + 1)
                + torch.xlogy(counts, own)
                + torch.special.xlog1py(n - counts, -own)
            )
            mass, share = log_mass.exp(), counts / n
            totals[0] += (mass * (share - own).abs()).sum() / 2
            totals[1] += (mass * _jensen_shannon_terms(own, share)).sum()
    return totals[0], totals[1]


class ExactDistance(SampleMetric):
    """Distances between the samples' distribution over m outcomes and the exact one.

    ``compute`` returns float64 scalars: ``total_variation`` and ``jensen_shannon`` (nats); ``total_variation_floor``
    and ``jensen_shannon_floor``, the averages for the same number of independent samples of the exact distribution;
    and ``n``, the number of samples. Distances are NaN if there are no samples.

    Args:
        probabilities: (m,) the exact distribution; it is normalised.
    """

    def __init__(self, probabilities: Tensor, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.probabilities: Tensor
        self.counts: Tensor
        self.register_buffer("probabilities", probabilities.double() / probabilities.double().sum(), persistent=False)
        self.add_sum("counts", torch.zeros(len(probabilities), dtype=torch.int64))

    def update(self, outcomes: Tensor) -> None:
        """Add (n,) int64 outcomes, 0 to m - 1."""
        # Not in place, because a tensor made in inference mode cannot be changed outside of it.
        self.counts = self.counts + torch.bincount(outcomes, minlength=len(self.probabilities))

    def compute(self) -> dict[str, Tensor]:
        n, p = int(self.counts.sum()), self.probabilities
        undefined = torch.full((), float("nan"), dtype=torch.float64, device=p.device)
        values = [undefined] * 4
        if n:
            q = self.counts / n
            values = [total_variation(p, q), jensen_shannon(p, q), *sampling_floor(p, n)]
        names = ("total_variation", "jensen_shannon", "total_variation_floor", "jensen_shannon_floor")
        return {**dict(zip(names, values, strict=True)), "n": torch.tensor(float(n), dtype=torch.float64)}
