"""Backward policies that are given: uniform over parents, and an environment's own."""

from __future__ import annotations

import math

import pytest
import torch

from crystalgfn.errors import InputError
from crystalgfn.gflownet.envs import Box, HyperGrid, Sequence, Set, Stack
from crystalgfn.gflownet.module import GFlowNet
from crystalgfn.gflownet.policies import MLP
from crystalgfn.gflownet.proxies import HyperGridModes
from crystalgfn.gflownet.rewards import Identity
from crystalgfn.gflownet.rollout import UniformBackward, sample_backward
from crystalgfn.random import generator

PATHS = HyperGrid(3, 4, backward="paths")


def test_paths_is_uniform_over_trajectories() -> None:
    cells = torch.tensor([[3, 1, 2], [0, 2, 2], [3, 0, 0]])
    states, _ = PATHS.states_of(cells)
    trajectories = sample_backward(PATHS, states.repeat(50, 1), generator("paths"))
    counts = [math.factorial(sum(c)) // math.prod(map(math.factorial, c)) for c in cells.tolist()]
    assert trajectories.log_pb.exp().reciprocal().tolist() == pytest.approx(counts * 50)


def test_uniform_is_over_parents() -> None:
    states, _ = PATHS.states_of(torch.tensor([[3, 1, 0]]))
    states[:, -1] = 0
    paths, uniform = PATHS.backward_distribution("move", states), PATHS.uniform_backward("move", states)
    for action, of_paths in ((0.0, 0.75), (1.0, 0.25)):
        actions = torch.full((1, 1), action, dtype=torch.float64)
        assert paths.log_prob(actions).exp().item() == pytest.approx(of_paths)
        assert uniform.log_prob(actions).exp().item() == pytest.approx(0.5)


@pytest.mark.parametrize(("chosen", "expected"), [("uniform", UniformBackward), ("fixed", type(None))])
def test_chosen_by_name(chosen: str, expected: type) -> None:
    def model(env: HyperGrid | Stack) -> GFlowNet:
        return GFlowNet(env, HyperGridModes(4), Identity(), lambda sizes: MLP(sizes, (8,)), backward_policy=chosen)

    assert isinstance(model(PATHS).backward_policy, expected)
    assert isinstance(model(Stack({"one": HyperGrid(2, 4), "two": PATHS})).backward_policy, expected)
    # Where the environment has no other, both are its own.
    assert model(HyperGrid(3, 4)).backward_policy is None


def test_sets_and_words_have_as_many_trajectories_as_orders() -> None:
    """Uniform over parents, log P_B is minus the logarithm of the number of trajectories."""
    for env, count in ((Set(6, 4), math.factorial(4)), (Sequence("abc", 5, "both"), 2**4), (Sequence("ab", 5), 1)):
        trajectories = sample_backward(env, env.enumerate(), generator("orders"))
        assert trajectories.log_pb.exp().reciprocal().tolist() == pytest.approx([count] * len(trajectories))


def test_steps_of_a_box_can_be_undone_exactly() -> None:
    env = Box(2, 5, 0.15)
    points, problems = env.states_of(torch.tensor([[0.0, 1.0], [0.123456789, 0.95], [1.5, 0.2]]))
    assert problems == ["", "", "point outside of the box"]
    trajectories = sample_backward(env, points[:2].repeat(100, 1), generator("box"), keep_states=True)
    first = [arrival for arrival in trajectories.arrivals if arrival.turn == 0]
    assert torch.equal(first[0].states[:, :1], first[0].actions)
    assert trajectories.log_pb.isfinite().all()
    assert env.kinds(points[:2]).tolist() == [[0, 9], [1, 9]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HyperGrid(2, 4, backward="down"), "backward: 'down' is not allowed; allowed: parents, paths"),
        (lambda: Set(3, 4), "size: 4 is not allowed; it must lie between 1 and 3"),
        (lambda: Sequence("aa", 4), "letters: 'aa' is not allowed"),
        (lambda: Sequence("ab", 4, "left"), "grow: 'left' is not allowed; allowed: append, both"),
        (lambda: Box(2, 2, 0.25), "max_step: 0.25 is not allowed"),
        (lambda: Stack({}), "stages: {} is not allowed"),
    ],
)
def test_bad_settings(make, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("{}", r"\{\}")):
        make()
