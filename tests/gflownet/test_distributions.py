"""Distributions of actions, against torch.distributions and by sampling."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Beta, Categorical, MixtureSameFamily

from crystalgfn.gflownet.distributions import BetaMixture, Determined, MaskedCategorical
from crystalgfn.random import generator

# Discrete


def _categorical(n: int = 50, k: int = 7) -> tuple[Tensor, Tensor]:
    stream = generator("categorical")
    logits = torch.empty(n, k).normal_(generator=stream) * 2
    mask = torch.empty(n, k).uniform_(generator=stream) < 0.5
    mask[:, 2] = True
    return logits, mask


def test_categorical_log_prob() -> None:
    logits, mask = _categorical()
    distribution = MaskedCategorical(logits, mask)
    reference = Categorical(logits=logits.masked_fill(~mask, float("-inf")))
    for option in range(logits.shape[1]):
        own = distribution.log_prob(torch.full((len(logits), 1), float(option)))
        assert (own[~mask[:, option]] == float("-inf")).all()
        expected = reference.log_prob(torch.tensor(option))
        torch.testing.assert_close(own[mask[:, option]], expected[mask[:, option]])


def test_categorical_frequencies() -> None:
    n, repeats = 20, 20_000
    logits, mask = _categorical(n)
    distribution = MaskedCategorical(logits.repeat(repeats, 1), mask.repeat(repeats, 1))
    samples = distribution.sample(generator("sample")).long().reshape(repeats, n)
    assert mask.gather(1, samples.T).all(), "an illegal option was drawn"
    frequencies = torch.stack([(samples == option).float().mean(0) for option in range(7)], 1)
    expected = logits.masked_fill(~mask, float("-inf")).softmax(1)
    # Five standard deviations of a frequency.
    assert ((frequencies - expected).abs() <= 5 * (expected * (1 - expected) / repeats).sqrt() + 1e-9).all()


def test_categorical_with_extreme_logits_stays_legal() -> None:
    mask = torch.tensor([[True, False, True]]).repeat(10_000, 1)
    logits = torch.tensor([[-1e30, 1e30, -60.0]]).repeat(10_000, 1)
    assert (MaskedCategorical(logits, mask).sample(generator(0)) == 2).all()
    assert (MaskedCategorical(logits, mask).uniform().sample(generator(0)) != 1).all()


def test_categorical_uniform() -> None:
    logits, mask = _categorical()
    uniform = MaskedCategorical(logits, mask).uniform()
    log_prob = uniform.log_prob(torch.full((len(logits), 1), 2.0))
    torch.testing.assert_close(log_prob.exp(), 1 / mask.sum(1))


def test_categorical_gradient_is_finite() -> None:
    logits, mask = _categorical()
    logits.requires_grad_()
    MaskedCategorical(logits, mask).log_prob(torch.full((len(logits), 1), 2.0)).sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert (logits.grad[~mask] == 0).all()


# Continuous


def _mixture(log_scale: bool, n: int = 40, scale: float = 2.0) -> BetaMixture:
    stream = generator("mixture")
    logits = torch.empty(n, 9).normal_(generator=stream) * scale
    ends = torch.empty(n, 2, dtype=torch.float64).uniform_(1.0, 9.0, generator=stream).sort(1).values
    return BetaMixture(logits, ends + torch.tensor([0.0, 0.1]), (0.5, 10.0), log_scale)


@pytest.mark.parametrize("log_scale", [False, True])
def test_mixture_log_prob(log_scale: bool) -> None:
    mixture = _mixture(log_scale)
    reference = MixtureSameFamily(Categorical(logits=mixture.log_weights), Beta(mixture.alpha, mixture.beta))
    low, high = mixture.support.unbind(1)
    for u in torch.linspace(0.01, 0.99, 9, dtype=torch.float64):
        if log_scale:
            x = low * (high / low) ** u
            slope = 1 / (x * (high / low).log())
        else:
            x = low + (high - low) * u
            slope = 1 / (high - low)
        # dx = span dt: densities count in units of the reference range.
        expected = reference.log_prob(u.expand(len(low))) + slope.log() + math.log(9.5)
        torch.testing.assert_close(mixture.log_prob(x.unsqueeze(1)), expected)


@pytest.mark.parametrize("log_scale", [False, True])
@pytest.mark.parametrize("scale", [0.0, 2.0, 8.0])
def test_mixture_samples_follow_the_density(log_scale: bool, scale: float) -> None:
    mixture = _mixture(log_scale, n=8, scale=scale)
    repeats = 20_000
    repeated = BetaMixture.__new__(BetaMixture)
    repeated.__dict__ |= mixture.__dict__
    for name in ("log_weights", "alpha", "beta", "support"):
        setattr(repeated, name, getattr(mixture, name).repeat(repeats, 1))
    repeated._low, repeated._high = repeated.support.unbind(1)
    samples = repeated.sample(generator("draw", scale)).reshape(repeats, 8)
    low, high = mixture.support.unbind(1)
    assert ((samples >= low) & (samples <= high)).all()
    for row in range(8):
        # Kolmogorov-Smirnov against the integral of the density; 1.95 / sqrt(n) is passed by all but 1 in 1000.
        x = samples[:, row].sort().values
        u = torch.linspace(0, 1, 40_001, dtype=torch.float64)
        grid = low[row] * (high[row] / low[row]) ** u if log_scale else low[row] + (high[row] - low[row]) * u
        one = BetaMixture.__new__(BetaMixture)
        one.__dict__ |= mixture.__dict__
        for name in ("log_weights", "alpha", "beta", "support"):
            setattr(one, name, getattr(mixture, name)[row : row + 1])
        one._low, one._high = one.support.unbind(1)
        density = one.log_prob(grid.unsqueeze(1)).exp() / 9.5
        cumulative = torch.cat([torch.zeros(1), torch.cumulative_trapezoid(density, grid)])
        position = torch.searchsorted(grid, x).clamp(1, len(grid) - 1)
        share = (x - grid[position - 1]) / (grid[position] - grid[position - 1])
        expected = cumulative[position - 1] * (1 - share) + cumulative[position] * share
        distance = (expected - (torch.arange(repeats) + 0.5) / repeats).abs().max()
        assert abs(cumulative[-1] - 1) < 1e-3
        assert distance < 2.5 / math.sqrt(repeats), f"row {row}: {distance}"


@pytest.mark.parametrize("log_scale", [False, True])
def test_mixture_outside_of_its_support(log_scale: bool) -> None:
    mixture = _mixture(log_scale)
    low, high = mixture.support.unbind(1)
    for x in (low - 0.01, high + 0.01, torch.full_like(low, -1.0), torch.zeros_like(low)):
        assert (mixture.log_prob(x.unsqueeze(1)) == float("-inf")).all()
    for x in (low, high):
        assert mixture.log_prob(x.unsqueeze(1)).isfinite().all()


def test_uniform_mixture_has_density_one_on_the_reference_range() -> None:
    support = torch.tensor([[0.5, 10.0], [1.0, 1.95]], dtype=torch.float64)
    uniform = BetaMixture(torch.randn(2, 6, generator=generator(0)), support, (0.5, 10.0), False).uniform()
    torch.testing.assert_close(uniform.log_prob(torch.tensor([[3.0], [1.5]])).exp(), torch.tensor([1.0, 10.0]).double())
    samples = torch.cat([uniform.sample(generator(i)) for i in range(50)], 1)
    assert ((samples >= support[:, :1]) & (samples <= support[:, 1:])).all()


@pytest.mark.parametrize("scale", [1.0, 50.0, 1e4])
@pytest.mark.parametrize("log_scale", [False, True])
def test_mixture_gradient_is_finite(scale: float, log_scale: bool) -> None:
    logits = torch.empty(200, 9).normal_(generator=generator("gradient")) * scale
    logits.requires_grad_()
    support = torch.tensor([[0.9, 100.0]], dtype=torch.float64).repeat(200, 1)
    mixture = BetaMixture(logits, support, (0.9, 100.0), log_scale)
    log_prob = mixture.log_prob(mixture.sample(generator(1)))
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert logits.grad is not None and logits.grad.isfinite().all()


# Determined


def test_determined() -> None:
    actions = torch.tensor([[1.5], [2.0]], dtype=torch.float64)
    determined = Determined(actions)
    assert torch.equal(determined.sample(generator(0)), actions)
    assert determined.log_prob(actions).tolist() == [0.0, 0.0]
    assert determined.log_prob(actions + 1).tolist() == [float("-inf")] * 2
    assert determined.uniform() is determined


@pytest.mark.parametrize("log_scale", [False, True])
def test_draws_come_from_the_generator_alone(log_scale: bool) -> None:
    before = torch.get_rng_state()
    logits, mask = _categorical()
    for distribution in (MaskedCategorical(logits, mask), _mixture(log_scale)):
        one, two = distribution.sample(generator(5)), distribution.sample(generator(5))
        assert torch.equal(one, two)
    assert torch.equal(torch.get_rng_state(), before)
