"""Rewards: from properties to log R."""

from __future__ import annotations

import math

import pytest
import torch

from crystalgfn.errors import InputError
from crystalgfn.rewards import Boltzmann, Identity, Power, Reward

VALUES = torch.tensor([-3.0, -0.5, 0.0, 0.5, 2.0])


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        (Boltzmann(2.0), lambda y: math.exp(-2 * y)),
        (Boltzmann(-0.7), lambda y: math.exp(0.7 * y)),
        (Boltzmann(0.0), lambda y: 1.0),
        (Power(2.5), lambda y: y**2.5 if y > 0 else 0.0),
        (Power(-1.0), lambda y: 1 / y if y > 0 else 0.0),
        (Identity(), lambda y: max(y, 0.0)),
    ],
    ids=repr,
)
def test_rewards(reward: Reward, expected: object) -> None:
    assert callable(expected)
    log_reward = reward(VALUES)
    assert log_reward.dtype == torch.float64 and log_reward.shape == VALUES.shape
    wanted = torch.tensor([math.log(max(expected(y), reward.floor)) for y in VALUES.tolist()], dtype=torch.float64)
    torch.testing.assert_close(log_reward, wanted)


@pytest.mark.parametrize("reward", [Boltzmann(50.0, 1e-3), Power(9.0, 1e-3), Identity(1e-3)], ids=repr)
def test_floor(reward: Reward) -> None:
    values = torch.linspace(-100, 100, 401)
    log_reward = reward(values)
    assert log_reward.isfinite().all()
    assert log_reward.min() == pytest.approx(math.log(1e-3))


def test_higher_rewards_are_not_clipped() -> None:
    # exp(1000) overflows; log R does not.
    assert Boltzmann(10.0)(torch.tensor([-100.0])).item() == pytest.approx(1000.0)


def test_empty_batch() -> None:
    assert Power()(torch.zeros(0)).shape == (0,)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Boltzmann(float("nan")), ["beta", "nan"]),
        (lambda: Boltzmann(float("inf")), ["beta", "inf"]),
        (lambda: Power(float("nan")), ["exponent", "nan"]),
        (lambda: Identity(0.0), ["floor", "0.0"]),
        (lambda: Identity(-1.0), ["floor", "-1.0"]),
        (lambda: Boltzmann(1.0, float("inf")), ["floor", "inf"]),
        (lambda: Boltzmann(1.0, float("nan")), ["floor", "nan"]),
    ],
)
def test_bad_settings(make: object, words: list[str]) -> None:
    assert callable(make)
    with pytest.raises(InputError) as caught:
        make()
    assert all(word in str(caught.value) for word in words)
