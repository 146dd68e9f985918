"""The buffer of terminal states."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crystalgfn.errors import InputError
from crystalgfn.gflownet.replay import ReplayBuffer
from crystalgfn.random import generator

if TYPE_CHECKING:
    from crystalgfn.gflownet.envs import Environment


def make(capacity: int, size: int = 1, batch_size: int = 3, **settings: Any) -> ReplayBuffer:
    """A buffer for states of ``size`` numbers, of which the first says the kind."""
    env = SimpleNamespace(state_size=size, kinds=lambda states: (states[:, :1] / 10).floor())
    buffer = ReplayBuffer(capacity, batch_size, **settings)
    buffer.prepare(cast("Environment", env))
    return buffer


def offer(buffer: ReplayBuffer, values: list[int]) -> None:
    """Offer states that are one number, with a reward and a loss that depend on it alone."""
    states = torch.tensor(values, dtype=torch.float64).reshape(-1, 1)
    buffer.add(states, reward(states), states[:, 0] ** 2)


def reward(states: Tensor) -> Tensor:
    # One to one, so that it is known which states are the best.
    return -(states[:, 0] - 40.3).abs()


def contents(buffer: ReplayBuffer) -> list[float]:
    return buffer.states[torch.isfinite(buffer.log_rewards), 0].tolist()


@settings(deadline=None, derandomize=True, max_examples=60)
@given(capacity=st.integers(1, 12), batches=st.lists(st.lists(st.integers(0, 80), max_size=15), max_size=6))
def test_keeps_the_best_once(capacity: int, batches: list[list[int]]) -> None:
    buffer = make(capacity)
    for batch in batches:
        offer(buffer, batch)
    seen = {value for batch in batches for value in batch}
    best = sorted(seen, key=lambda value: abs(value - 40.3))[:capacity]
    assert sorted(contents(buffer)) == sorted(best)
    assert len(buffer) == len(best)
    held = torch.isfinite(buffer.log_rewards)
    assert torch.equal(buffer.log_rewards[held], reward(buffer.states[held]))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(capacity=st.integers(1, 12), batches=st.lists(st.lists(st.integers(0, 80), max_size=15), max_size=6))
def test_keeps_the_newest_once(capacity: int, batches: list[list[int]]) -> None:
    buffer = make(capacity, keep="newest")
    recent: list[int] = []
    for batch in batches:
        offer(buffer, batch)
        recent = list(dict.fromkeys(batch + recent))[:capacity]
    assert contents(buffer) == recent


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    batches=st.lists(st.lists(st.integers(0, 80), max_size=15), max_size=6), cap=st.integers(1, 4),
    keep=st.sampled_from(["best", "newest"]),
)  # fmt: skip
def test_no_more_than_some_of_a_kind(batches: list[list[int]], cap: int, keep: Any) -> None:
    buffer = make(100, keep=keep, max_alike=cap)
    for batch in batches:
        offer(buffer, batch)
    kinds = Counter(int(value // 10) for value in contents(buffer))
    seen = Counter(value // 10 for value in {value for batch in batches for value in batch})
    assert kinds == {kind: min(count, cap) for kind, count in seen.items()}
    if keep == "best":
        for kind in seen:
            own = sorted({v for batch in batches for v in batch if v // 10 == kind}, key=lambda v: abs(v - 40.3))
            assert sorted(own[:cap]) == sorted(v for v in contents(buffer) if v // 10 == kind)


def test_a_state_of_zeros_is_a_state() -> None:
    buffer = make(4, size=3)
    buffer.add(torch.zeros(1, 3, dtype=torch.float64), torch.tensor([-2.0]), torch.tensor([1.0]))
    assert len(buffer) == 1
    # The same state with another sign of zero is the same state.
    buffer.add(-torch.zeros(1, 3, dtype=torch.float64), torch.tensor([-2.0]), torch.tensor([1.0]))
    assert len(buffer) == 1
    places, states, rewards = buffer.sample(generator(0))
    assert places.tolist() == [0] * 3
    assert torch.equal(states, torch.zeros(3, 3, dtype=torch.float64)) and rewards.tolist() == [-2.0] * 3


def test_sampling_is_uniform_and_from_the_generator_alone() -> None:
    buffer = make(10, batch_size=8000)
    offer(buffer, [1, 2, 3, 4])
    before = torch.get_rng_state()
    places, states, rewards = buffer.sample(generator(0))
    assert torch.equal(states, buffer.sample(generator(0))[1])
    assert torch.equal(torch.get_rng_state(), before)
    counts = states[:, 0].long().bincount()[1:]
    assert len(counts) == 4 and (counts - 2000).abs().max() < 200
    assert torch.equal(rewards, reward(states)) and torch.equal(buffer.states[places], states)


@pytest.mark.parametrize("keep", ["best", "newest"])
def test_half_from_the_best_tenth(keep: Any) -> None:
    buffer = make(40, batch_size=8000, keep=keep, draw="reward")
    offer(buffer, list(range(40)))
    counts = buffer.sample(generator(0))[1][:, 0].long().bincount(minlength=40)
    # States 36 to 39 are the best tenth of 40.
    assert counts[36:].sum() == 4000 and (counts[36:] - 1000).abs().max() < 150
    assert (counts[:36] - 4000 / 36).abs().max() < 60 and counts.min() > 0


def test_draws_by_loss() -> None:
    buffer = make(10, batch_size=20_000, draw="loss")
    offer(buffer, [1, 2, 3])
    shares = torch.tensor([1 / 3, 1 / 2, 1]) / (1 + 1 / 2 + 1 / 3)
    _, states, _ = buffer.sample(generator(0))
    assert torch.allclose(states[:, 0].long().bincount()[1:] / 20_000, shares, atol=0.02)
    # What has been learned comes less often.
    buffer.update(torch.arange(3), 1 / buffer.states[:3, 0])
    again = buffer.sample(generator(0))[1][:, 0].long().bincount()[1:]
    assert torch.allclose(again / 20_000, shares.flip(0), atol=0.02)


@pytest.mark.parametrize("draw", ["uniform", "reward", "loss"])
def test_nothing_comes_out_of_an_empty_buffer(draw: Any) -> None:
    places, states, rewards = make(3, size=2, draw=draw).sample(generator(0))
    assert places.shape == (0,) and states.shape == (0, 2) and rewards.shape == (0,)


@pytest.mark.parametrize("draw", ["uniform", "reward", "loss"])
def test_a_single_state_is_drawn(draw: Any) -> None:
    buffer = make(3, draw=draw)
    offer(buffer, [5])
    assert buffer.sample(generator(0))[1].tolist() == [[5.0]] * 3


def test_contents_are_in_the_checkpoint() -> None:
    buffer, other = make(5), make(5)
    offer(buffer, [3, 50, 41])
    other.load_state_dict(buffer.state_dict())
    assert contents(other) == contents(buffer) and len(other) == 3
    assert torch.equal(other.losses, buffer.losses) and other.losses.any()


@pytest.mark.parametrize(
    ("setting", "value"), [("capacity", 0), ("batch_size", -1), ("max_alike", 0), ("keep", "all"), ("draw", "first")]
)
def test_bad_settings(setting: str, value: Any) -> None:
    settings: dict[str, Any] = {"capacity": 3, "batch_size": 3} | {setting: value}
    with pytest.raises(InputError, match=f"replay.{setting}: {value!r} "):
        ReplayBuffer(**settings)
