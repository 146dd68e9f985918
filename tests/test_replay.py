"""The buffer of terminal states."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crystalgfn.errors import InputError
from crystalgfn.random import generator
from crystalgfn.replay import ReplayBuffer


def offer(buffer: ReplayBuffer, values: list[int]) -> None:
    """Offer states that are one number, with a reward that depends on it alone."""
    states = torch.tensor(values, dtype=torch.float64).reshape(-1, 1)
    buffer.add(states, reward(states))


def reward(states: Tensor) -> Tensor:
    # One to one, so that it is known which states are the best.
    return -(states[:, 0] - 40.3).abs()


def contents(buffer: ReplayBuffer) -> list[float]:
    return buffer.states[torch.isfinite(buffer.log_rewards), 0].tolist()


@settings(deadline=None, derandomize=True, max_examples=60)
@given(capacity=st.integers(1, 12), batches=st.lists(st.lists(st.integers(0, 80), max_size=15), max_size=6))
def test_keeps_the_best_once(capacity: int, batches: list[list[int]]) -> None:
    buffer = ReplayBuffer(capacity, 1)
    for batch in batches:
        offer(buffer, batch)
    seen = {value for batch in batches for value in batch}
    best = sorted(seen, key=lambda value: abs(value - 40.3))[:capacity]
    assert sorted(contents(buffer)) == sorted(best)
    assert len(buffer) == len(best)
    held = torch.isfinite(buffer.log_rewards)
    assert torch.equal(buffer.log_rewards[held], reward(buffer.states[held]))


def test_a_state_of_zeros_is_a_state() -> None:
    buffer = ReplayBuffer(4, 3)
    buffer.add(torch.zeros(1, 3, dtype=torch.float64), torch.tensor([-2.0]))
    assert len(buffer) == 1
    states, rewards = buffer.sample(3, generator(0))
    assert torch.equal(states, torch.zeros(3, 3, dtype=torch.float64)) and rewards.tolist() == [-2.0] * 3


def test_sampling_is_uniform_and_from_the_generator_alone() -> None:
    buffer = ReplayBuffer(10, 1)
    offer(buffer, [1, 2, 3, 4])
    before = torch.get_rng_state()
    states, rewards = buffer.sample(8000, generator(0))
    assert torch.equal(states, buffer.sample(8000, generator(0))[0])
    assert torch.equal(torch.get_rng_state(), before)
    counts = states[:, 0].long().bincount()[1:]
    assert len(counts) == 4 and (counts - 2000).abs().max() < 200
    assert torch.equal(rewards, reward(states))


def test_nothing_comes_out_of_an_empty_buffer() -> None:
    states, rewards = ReplayBuffer(3, 2).sample(5, generator(0))
    assert states.shape == (0, 2) and rewards.shape == (0,)


def test_contents_are_in_the_checkpoint() -> None:
    buffer, other = ReplayBuffer(5, 1), ReplayBuffer(5, 1)
    offer(buffer, [3, 50, 41])
    other.load_state_dict(buffer.state_dict())
    assert contents(other) == contents(buffer) and len(other) == 3


@pytest.mark.parametrize("capacity", [0, -1])
def test_bad_capacity(capacity: int) -> None:
    with pytest.raises(InputError, match=f"replay_capacity: {capacity} "):
        ReplayBuffer(capacity, 1)
