"""Losses as formulas, against values worked out in plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalgfn.errors import InputError
from crystalgfn.gflownet.losses import (
    DetailedBalance,
    SubTrajectoryBalance,
    detailed_balance,
    flow_matching,
    log_partition_variance,
    penalty,
    sub_trajectory_balance,
    trajectory_balance,
)
from crystalgfn.random import generator


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def random_steps(n=7, width=5, seed=0):
    """Steps of n trajectories of different lengths; what lies beyond an end is noise that must not matter."""
    stream = generator("losses", seed)
    log_flow, log_pf, log_pb = (
        torch.randn(n, size, generator=stream, dtype=torch.float64) for size in (width + 1, width, width)
    )
    length = torch.arange(n) % (width + 1)
    return log_flow, log_pf, log_pb, length


def expected_parts(log_flow, log_pf, log_pb, length, weight):
    """Weighted mean of the squared residuals of all parts, by loops over the definition."""
    losses = []
    for flow, forward, backward, end in zip(log_flow, log_pf, log_pb, length.tolist(), strict=True):
        total = norm = 0.0
        for i in range(end):
            for j in range(i + 1, end + 1):
                residual = flow[i] + forward[i:j].sum() - flow[j] - backward[i:j].sum()
                total += weight(j - i) * residual.item() ** 2
                norm += weight(j - i)
        losses.append(total / norm if norm else 0.0)
    return double(losses)


def test_penalties_agree_near_zero_and_differ_far_away():
    near, far = double([-1e-3, 0.0, 2e-3]), double([-50.0, 800.0])
    for kind in ("squared", "huber", "log_cosh"):
        assert torch.allclose(penalty(near, kind), near.square(), rtol=1e-5, atol=0)
    assert torch.equal(penalty(far), far.square())
    assert torch.allclose(penalty(far, "huber"), 2 * far.abs() - 1)
    assert torch.allclose(penalty(far, "log_cosh"), 2 * (far.abs() - math.log(2)))


@settings(deadline=None, derandomize=True, max_examples=100)
@given(value=st.floats(-30, 30))
def test_log_cosh(value):
    assert penalty(double(value), "log_cosh").item() == pytest.approx(2 * math.log(math.cosh(value)), abs=1e-9)


def test_trajectory_balance():
    loss = trajectory_balance(double(1.0), double([-2.0, -3.0]), double([-0.5, 0.0]), double([0.25, -1.0]))
    assert torch.equal(loss, double([(1 - 2 - 0.25 + 0.5) ** 2, (1 - 3 + 1) ** 2]))


def test_log_partition_variance_is_the_variance():
    log_pf, log_pb, log_reward = (torch.randn(9, generator=generator(i), dtype=torch.float64) for i in range(3))
    loss = log_partition_variance(log_pf, log_pb, log_reward)
    assert torch.allclose(loss.mean(), (log_reward + log_pb - log_pf).var(correction=0))
    assert torch.allclose(loss, log_partition_variance(log_pf, log_pb, log_reward + 7.0))


def test_detailed_balance_is_the_mean_over_steps():
    steps = random_steps()
    expected = expected_parts(*steps, weight=lambda k: float(k == 1))
    assert torch.allclose(detailed_balance(*steps), expected)


@pytest.mark.parametrize("lamda", [0.3, 0.9, 1.0, 2.5])
def test_parts_of_trajectories(lamda):
    steps = random_steps()
    expected = expected_parts(*steps, weight=lambda k: lamda**k)
    assert torch.allclose(sub_trajectory_balance(*steps, lamda), expected)


def test_limits_of_lambda():
    log_flow, log_pf, log_pb, length = steps = random_steps()
    assert torch.allclose(sub_trajectory_balance(*steps, 1e-9), detailed_balance(*steps), rtol=1e-6)
    whole = length == log_pf.shape[1]
    expected = trajectory_balance(
        log_flow[whole, 0], log_pf[whole].sum(1), log_pb[whole].sum(1), log_flow[whole, log_pf.shape[1]]
    )
    assert torch.allclose(sub_trajectory_balance(*steps, 1e9)[whole], expected, rtol=1e-6)


def test_long_trajectories_do_not_overflow():
    log_flow, log_pf, log_pb, _ = random_steps(2, 400)
    for lamda in (1e-3, 50.0):
        assert sub_trajectory_balance(log_flow, log_pf, log_pb, torch.tensor([400, 3]), lamda).isfinite().all()


def test_what_lies_beyond_the_end_has_no_gradient():
    log_flow, log_pf, log_pb, length = random_steps()
    log_pf.requires_grad_()
    for loss in (detailed_balance, lambda *steps: sub_trajectory_balance(*steps, 0.9)):
        (gradient,) = torch.autograd.grad(loss(log_flow, log_pf, log_pb, length).sum(), log_pf)
        beyond = torch.arange(5) >= length.unsqueeze(1)
        assert (gradient[beyond] == 0).all() and (gradient[~beyond] != 0).all()


def test_flow_matching():
    loss = flow_matching(double([1.0, 2.0, 0.5]), double([0.0, 2.5, 0.5]), torch.tensor([0, 0, 2]), 3)
    assert torch.equal(loss, double([(1.0 + 0.25) / 2, 0.0, 0.0]))


def test_bad_settings():
    with pytest.raises(InputError, match=r"lamda: 0 is not allowed"):
        SubTrajectoryBalance(lamda=0)
    with pytest.raises(InputError, match=r"regression: 'cubic' is not allowed; allowed: squared, huber, log_cosh"):
        DetailedBalance(regression="cubic")
