"""Mixtures of Betas that are cut to a smaller interval and renormalised.

If a model samples under a restriction, the mixtures of its policy stay on the interval of the training, and are cut to
the legal interval. This needs the mass of a Beta in any interval, even far out in its tail, with gradients. `torch` has
no incomplete beta function, and SciPy's underflows in the tails. Therefore the mass is integrated numerically, in log
space.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Generator, Tensor

from crystalgfn.gflownet.distributions import BetaMixture, MaskedCategorical

_DROP = 45.0
"""Mass is not counted where the log-density is more than this below its maximum (a factor of e^-45)."""

_TINY = 1e-300


def _tanh_sinh() -> tuple[Tensor, Tensor]:
    """Nodes in (0, 1) of tanh-sinh quadrature and the logarithms of their weights; singular ends are allowed.

    Source: Takahasi and Mori, "Double exponential formulas for numerical integration", Publ. RIMS 9, 721 (1974).
    """
    step = 0.1
    t = torch.arange(-33, 34, dtype=torch.float64) * step
    y = math.pi * torch.sinh(t)
    log_weights = math.log(step * math.pi) + torch.cosh(t).log() + torch.nn.functional.logsigmoid(y)
    return torch.sigmoid(y), log_weights + torch.nn.functional.logsigmoid(-y)


_NODES, _LOG_WEIGHTS = _tanh_sinh()


def _log_shape(u: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Log-density of a Beta without its normalisation; concave in u for alpha, beta >= 1."""
    u = u.clamp(_TINY, 1 - 2**-53)
    return (alpha - 1) * torch.log(u) + (beta - 1) * torch.log1p(-u)


@torch.no_grad()
def _counted(alpha: Tensor, beta: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Left end, point of highest density, and right end of the part of [low, high] where density is not negligible."""
    peak = ((alpha - 1) / (alpha + beta - 2).clamp_min(_TINY)).clamp(0, 1)
    peak = torch.minimum(torch.maximum(peak, low), high)
    floor = _log_shape(peak, alpha, beta) - _DROP
    ends = []
    for end in (low, high):
        outside, inside = end.expand_as(peak).clone(), peak.clone()
        for _ in range(30):
            middle = (outside + inside) / 2
            counts = _log_shape(middle, alpha, beta) >= floor
            inside = torch.where(counts, middle, inside)
            outside = torch.where(counts, outside, middle)
        ends.append(torch.where(_log_shape(end, alpha, beta) >= floor, end, outside))
    return ends[0], peak, ends[1]


def log_beta_mass(alpha: Tensor, beta: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Log of the probability of an interval under a Beta, with gradients with respect to its parameters.

    Args:
        alpha: first parameters, at least 1.
        beta: second parameters, at least 1.
        low: lower ends, at least 0; shapes broadcast.
        high: upper ends, above low and at most 1.

    Returns:
        float64, accurate to about 1e-10 at any distance from the mode.
    """
    alpha, beta, low, high = torch.broadcast_tensors(alpha, beta, low, high)
    return _log_mass_between(alpha, beta, *_counted(alpha, beta, low, high))


def _log_mass_between(alpha: Tensor, beta: Tensor, left: Tensor, peak: Tensor, right: Tensor) -> Tensor:
    """Log of the probability of [left, right]; the density is highest at ``peak``."""
    nodes, log_weights = _NODES.to(alpha.device), _LOG_WEIGHTS.to(alpha.device)
    # The interval is split at the peak, so that the integrand is monotone on each part.
    start, width = torch.stack([left, peak]), torch.stack([peak - left, right - peak])
    u = start.unsqueeze(-1) + width.unsqueeze(-1) * nodes
    values = _log_shape(u, alpha.unsqueeze(-1), beta.unsqueeze(-1)) + log_weights
    parts = torch.logsumexp(values, -1) + width.clamp_min(_TINY).log()
    log_normaliser = torch.lgamma(alpha + beta) - torch.lgamma(alpha) - torch.lgamma(beta)
    return torch.logsumexp(parts, 0) + log_normaliser


@torch.no_grad()
def beta_quantile(alpha: Tensor, beta: Tensor, low: Tensor, high: Tensor, log_share: Tensor) -> Tensor:
    """Points at which a given share of the probability of an interval is reached.

    Args:
        alpha: (n,) first parameters, at least 1.
        beta: (n,) second parameters, at least 1.
        low: (n,) lower ends.
        high: (n,) upper ends.
        log_share: (n,) logarithm of the share, below 0.

    Returns:
        (n,) float64 u with P(low to u) = share * P(low to high).
    """
    left, peak, upper = _counted(alpha, beta, low, high)
    lower = left
    target = _log_mass_between(alpha, beta, left, peak, upper) + log_share
    log_normaliser = torch.lgamma(alpha + beta) - torch.lgamma(alpha) - torch.lgamma(beta)
    u = peak.clone()
    # The log of the distribution function is concave, so Newton's steps approach from one side and do not overshoot.
    # If a step leaves the bracket, the bracket is halved instead.
    for _ in range(50):
        log_cdf = _log_mass_between(alpha, beta, left, torch.minimum(peak, u), u)
        above = log_cdf > target
        upper, lower = torch.where(above, u, upper), torch.where(above, lower, u)
        slope = torch.exp(_log_shape(u, alpha, beta) + log_normaliser - log_cdf)
        newton = u - (log_cdf - target) / slope
        inside = (newton > lower) & (newton < upper)
        following = torch.where(inside, newton, (lower + upper) / 2)
        moved = (following - u).abs()
        u = following
        if bool((moved <= 1e-10 * (high - low)).all()):
            break
    return u


class TruncatedBetaMixture(BetaMixture):
    """A `BetaMixture` on a wide interval, cut to a narrower one and renormalised.

    Args:
        logits: (n, 3 k) as for `BetaMixture`.
        support: (n, 4) low and high end of the legal interval, then low and high end of the mixture's interval, which
            contains the legal one.
        reference: low and high end of the range in which densities are measured.
        log_scale: whether the mixture is a distribution of the logarithm of the value.
    """

    def __init__(self, logits: Tensor, support: Tensor, reference: tuple[float, float], log_scale: bool) -> None:
        super().__init__(logits, support[:, 2:], reference, log_scale)
        self.legal = support[:, :2]
        low, high = (self._position(end)[0].clamp(0, 1) for end in self.legal.unbind(1))
        self._ends = low, torch.maximum(high, low + 1e-15)
        self._log_masses = log_beta_mass(self.alpha, self.beta, *(end.unsqueeze(1) for end in self._ends))

    def sample(self, generator: Generator) -> Tensor:
        logits = self.log_weights + self._log_masses
        component = MaskedCategorical(logits, torch.ones_like(logits, dtype=torch.bool)).sample(generator)
        index = component.to(torch.int64)
        share = torch.empty_like(self._ends[0]).uniform_(generator=generator).clamp(_TINY, 1 - 2**-53)
        alpha, beta = self.alpha.gather(1, index).squeeze(1), self.beta.gather(1, index).squeeze(1)
        value = self._value(beta_quantile(alpha, beta, *self._ends, share.log())).squeeze(1)
        low, high = self.legal.unbind(1)
        return torch.minimum(torch.maximum(value, low), high).unsqueeze(1)

    def log_prob(self, actions: Tensor) -> Tensor:
        x = actions.squeeze(1)
        low, high = self.legal.unbind(1)
        slack = 1e-9 * (high - low)
        inside = (x >= low - slack) & (x <= high + slack)
        u, log_slope = self._position(x)
        log_shape = _log_shape(u.unsqueeze(1), self.alpha, self.beta)
        log_beta = log_shape + torch.lgamma(self.alpha + self.beta) - torch.lgamma(self.alpha) - torch.lgamma(self.beta)
        log_density = torch.logsumexp(self.log_weights + log_beta, 1)
        log_mass = torch.logsumexp(self.log_weights + self._log_masses, 1)
        return torch.where(inside, log_density - log_mass + log_slope, float("-inf"))

    def uniform(self) -> BetaMixture:
        legal = object.__new__(BetaMixture)
        legal.support, legal.reference, legal.log_scale = self.legal, self.reference, self.log_scale
        legal._low, legal._high = self.legal.unbind(1)
        return BetaMixture.uniform(legal)

    def _with(self, alpha: Tensor, beta: Tensor, log_weights: Tensor) -> TruncatedBetaMixture:
        other = copy.copy(self)
        other.alpha, other.beta, other.log_weights = alpha, beta, log_weights
        other._log_masses = log_beta_mass(alpha, beta, *(end.unsqueeze(1) for end in self._ends))
        return other
