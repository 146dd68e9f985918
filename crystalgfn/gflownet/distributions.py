"""Distributions over the actions of one decision, for a batch of states at once.

A policy's logits and the environment's support (which actions are legal) define a distribution. Illegal actions have
probability zero by construction. Every draw takes an explicit generator.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cache, cached_property

import torch
from torch import Generator, Tensor

_NEGATIVE_INFINITY = float("-inf")


class Distribution(ABC):
    """Distributions over actions, one row for each state. Actions are (n, 1) float64: an index or a value."""

    @abstractmethod
    def sample(self, generator: Generator) -> Tensor:
        """(n, 1) float64, one action drawn for each row."""

    @abstractmethod
    def log_prob(self, actions: Tensor) -> Tensor:
        """(n,) log-probability, or log-density, of one action for each row; -inf for an illegal action."""

    @abstractmethod
    def uniform(self) -> Distribution:
        """The uniform distribution over the same legal actions."""

    @abstractmethod
    def tempered(self, temperature: float) -> Distribution:
        """The same distribution, flatter (temperature > 1) or sharper (temperature < 1), for exploration."""


class MaskedCategorical(Distribution):
    """Softmax over the legal options.

    Args:
        logits: (n, k) unnormalised log-probabilities.
        mask: (n, k) bool, True for legal options; at least one in each row.
    """

    def __init__(self, logits: Tensor, mask: Tensor) -> None:
        self.mask = mask
        self.logits = logits.masked_fill(~mask, _NEGATIVE_INFINITY)

    def sample(self, generator: Generator) -> Tensor:
        return _draw_index(self.logits, generator).to(torch.float64)

    def log_prob(self, actions: Tensor) -> Tensor:
        log_probs = self.logits.log_softmax(1)
        return log_probs.gather(1, actions.to(torch.int64)).squeeze(1)

    def uniform(self) -> MaskedCategorical:
        return MaskedCategorical(torch.zeros_like(self.logits), self.mask)

    def tempered(self, temperature: float) -> MaskedCategorical:
        return MaskedCategorical(self.logits / temperature, self.mask)


class UniformCategorical(MaskedCategorical):
    """Uniform distribution over the legal options.

    Args:
        mask: (n, k) bool, True for legal options; at least one in each row.
    """

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    @cached_property
    def logits(self) -> Tensor:  # type: ignore[override]
        """(n, k) float64, 0 for legal options, -inf for others."""
        return torch.where(self.mask, 0.0, _NEGATIVE_INFINITY).to(torch.float64)

    def log_prob(self, actions: Tensor) -> Tensor:
        log_probs = -self.mask.sum(1).to(torch.float64).log()
        legal = self.mask.gather(1, actions.to(torch.int64)).squeeze(1)
        return log_probs.masked_fill(~legal, _NEGATIVE_INFINITY)


def _draw_index(logits: Tensor, generator: Generator) -> Tensor:
    """(n, 1) int64, one option drawn for each row of unnormalised log-probabilities (n, k)."""
    # Gumbel-argmax, because `torch.multinomial` can return options of probability zero.
    exponential = torch.empty_like(logits).exponential_(generator=generator)
    return (logits - exponential.log_()).argmax(1, keepdim=True)


@cache
def _spread(components: int, device: torch.device) -> Tensor:
    """(components,) offsets of the logit of mu, which spread the components over the interval at the start."""
    with torch.inference_mode(False):  # a tensor made during prediction may later be used in training
        return torch.linspace(-2.0, 2.0, components, dtype=torch.float64, device=device)


class BetaMixture(Distribution):
    """Mixture of Beta densities; each row has its own interval.

    With u the position of x in its interval [low, high] (0 to 1, measured linearly or in the logarithm of x), the
    density of x is sum_k w_k Beta(u; alpha_k, beta_k) du/dt. It is measured relative to t = (x - reference_low) /
    (reference_high - reference_low), so that rows with different intervals share one measure.

    Each component has alpha = 1 + kappa mu and beta = 1 + kappa (1 - mu), so its mean is (1 + kappa mu) / (2 + kappa).
    Its density is bounded and has one mode.

    Args:
        logits: (n, 3 k) for k components: weight logits, logits of mu, and log kappa, k columns each.
        support: (n, 2) low and high end of each row's interval, low < high.
        reference: low and high end of the range in which densities are measured.
        log_scale: whether u is measured in log x; this requires low > 0.
    """

    _MAX_LOG_KAPPA = 9.0
    """Limit of log kappa: the sharpest component has a standard deviation of 0.6 % of the interval at mu = 1/2."""

    _MARGIN = 1e-6
    """u keeps this distance from 0 and 1, where densities vanish and logarithms overflow."""

    def __init__(self, logits: Tensor, support: Tensor, reference: tuple[float, float], log_scale: bool) -> None:
        weights, mean, log_kappa = logits.to(torch.float64).chunk(3, dim=1)
        self.log_weights = weights.log_softmax(1)
        # Components are spread over the interval at the start. tanh keeps gradients near the limit of log kappa.
        mu = torch.sigmoid(mean + _spread(weights.shape[1], logits.device))
        kappa = torch.exp(self._MAX_LOG_KAPPA * torch.tanh(log_kappa / self._MAX_LOG_KAPPA))
        self.alpha, self.beta = 1 + kappa * mu, 1 + kappa * (1 - mu)
        self.support = support
        self.reference = reference
        self.log_scale = log_scale
        self._low, self._high = support.unbind(1)

    def _position(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Position u of each x in its interval, and log du/dt."""
        span = self.reference[1] - self.reference[0]
        if self.log_scale:
            width = torch.log(self._high / self._low)
            return torch.log(x / self._low) / width, math.log(span) - torch.log(x * width)
        width = self._high - self._low
        return (x - self._low) / width, math.log(span) - torch.log(width)

    def _value(self, u: Tensor) -> Tensor:
        low, high = self._low, self._high
        x = low * (high / low) ** u if self.log_scale else low + (high - low) * u
        return torch.minimum(torch.maximum(x, self._low), self._high).unsqueeze(1)

    def sample(self, generator: Generator) -> Tensor:
        index = _draw_index(self.log_weights, generator)
        # The public samplers of torch.distributions take no generator; the function that they call does.
        x = torch._standard_gamma(self.alpha.gather(1, index).squeeze(1), generator=generator)
        y = torch._standard_gamma(self.beta.gather(1, index).squeeze(1), generator=generator)
        return self._value((x / (x + y)).clamp(self._MARGIN, 1 - self._MARGIN))

    def log_prob(self, actions: Tensor) -> Tensor:
        x = actions.squeeze(1)
        u, log_slope = self._position(x)
        inside = (u >= -1e-9) & (u <= 1 + 1e-9)
        u = u.clamp(self._MARGIN, 1 - self._MARGIN).unsqueeze(1)
        log_beta = (
            (self.alpha - 1) * torch.log(u)
            + (self.beta - 1) * torch.log1p(-u)
            + torch.lgamma(self.alpha + self.beta)
            - torch.lgamma(self.alpha)
            - torch.lgamma(self.beta)
        )
        log_density = torch.logsumexp(self.log_weights + log_beta, dim=1) + log_slope
        return torch.where(inside, log_density, _NEGATIVE_INFINITY)

    def uniform(self) -> BetaMixture:
        ones = torch.ones_like(self._low).unsqueeze(1)
        return self._with(ones, ones, torch.zeros_like(ones))

    def tempered(self, temperature: float) -> BetaMixture:
        # A Beta density to the power of 1 / temperature is again a Beta density, with kappa / temperature.
        alpha, beta = (1 + (x - 1) / temperature for x in (self.alpha, self.beta))
        return self._with(alpha, beta, (self.log_weights / temperature).log_softmax(1))

    def _with(self, alpha: Tensor, beta: Tensor, log_weights: Tensor) -> BetaMixture:
        """Another mixture on the same intervals."""
        other = object.__new__(BetaMixture)
        other.support, other.reference, other.log_scale = self.support, self.reference, self.log_scale
        other._low, other._high = self._low, self._high
        other.alpha, other.beta, other.log_weights = alpha, beta, log_weights
        return other


class Determined(Distribution):
    """The only possible action of each row, with probability one.

    Args:
        actions: (n, 1) the action of each row.
    """

    def __init__(self, actions: Tensor) -> None:
        self.actions = actions

    def sample(self, generator: Generator) -> Tensor:
        return self.actions

    def log_prob(self, actions: Tensor) -> Tensor:
        same = (actions == self.actions).all(1)
        return torch.where(same, 0.0, _NEGATIVE_INFINITY).to(torch.float64)

    def uniform(self) -> Determined:
        return self

    def tempered(self, temperature: float) -> Determined:
        return self
