"""Every loss learns the exact distribution of sets, words, points of a box, and stacks of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from exact import box_density
from spaces import BoxSpace, FiniteSpace, Space
from torch import Tensor
from trained import train

from crystalgfn.gflownet.data_set import DataSet
from crystalgfn.gflownet.envs import Box, HyperGrid, Parts, Sequence, Set, Stack
from crystalgfn.gflownet.losses import (
    DetailedBalance,
    FlowMatching,
    ForwardLookingDetailedBalance,
    LogPartitionVariance,
    Loss,
    SubTrajectoryBalance,
    TrajectoryBalance,
)
from crystalgfn.gflownet.proxies import BoxCorners, HammingDistance, Proxy, SetOverlap
from crystalgfn.gflownet.replay import ReplayBuffer
from crystalgfn.gflownet.rewards import Boltzmann
from crystalgfn.testing import RandomPolicy

pytestmark = pytest.mark.long


class Sum(Proxy):
    """Of what a stack of a grid, a set and a word is made of."""

    name = "sum"

    def forward(self, objects: Parts) -> Tensor:
        first = objects["grid"][:, 0] * objects["set"][:, 0]
        return 0.5 * first + objects["word"].sum(1) * objects["set"][:, 1]


class Graded(Stack):
    """Far out on the grid, item 2 cannot be chosen."""

    def __init__(self) -> None:
        super().__init__({"grid": HyperGrid(1, 3), "set": Set(4, 2), "word": Sequence("ab", 2, "both")})

    def condition(self, name: str, states: Tensor) -> Tensor:
        condition = super().condition(name, states).clone()
        if name == "set":
            condition[:, 2] = (self.part("grid", states)[:, 0] < 2).double()
        return condition


SPACES: dict[str, Space] = {
    "set": FiniteSpace(Set(6, 3), SetOverlap([[0, 1, 2], [2, 3, 4]]), Boltzmann(-3.0)),
    "word": FiniteSpace(Sequence("01", 5), HammingDistance(["00000", "11100"], "01"), Boltzmann(1.0)),
    "word, both ends": FiniteSpace(
        Sequence("01", 5, "both"), HammingDistance(["00000", "11100"], "01"), Boltzmann(1.0)
    ),
    "box": BoxSpace(Box(1, 2, 0.3, 4), BoxCorners(0.25, 0.12, 0.1)),
    "stack": FiniteSpace(Graded(), Sum(), Boltzmann(-0.7)),
}

LOSSES: dict[type[Loss], int] = {
    TrajectoryBalance: 60,
    LogPartitionVariance: 60,
    SubTrajectoryBalance: 80,
    DetailedBalance: 120,
    ForwardLookingDetailedBalance: 120,
    FlowMatching: 120,
}


def fits(loss: type[Loss], space: Space) -> bool:
    if loss is FlowMatching:
        return not isinstance(space, BoxSpace)
    return loss is not ForwardLookingDetailedBalance or space.env.has_partial_objects


def learned(loss: Loss, space: Space, **settings: Any) -> tuple[float, float]:
    """How far from R / Z a short run ends, and its error of log Z."""
    steps = LOSSES[type(loss)]
    if isinstance(space, BoxSpace):
        # A density has more to it than a few logits.
        return space.distance(train(loss, steps + 120, **space.settings, **({"lr": 1e-2} | settings)))
    return space.distance(train(loss, steps, **space.settings, **({"batch_size": 64} | settings)))


# Words written from left to right are a tree, as in other tests; one loss of each kind does.
CASES = [(name, loss) for name, space in SPACES.items() for loss in LOSSES if fits(loss, space) and name != "word"]
CASES += [("word", loss) for loss in (TrajectoryBalance, DetailedBalance, FlowMatching)]


@pytest.mark.parametrize(("name", "loss"), CASES, ids=lambda x: x if isinstance(x, str) else x.__name__)
def test_learns_the_exact_distribution(name: str, loss: type[Loss]) -> None:
    floors, log_z = learned(loss(), SPACES[name])
    assert floors < 3, f"{floors:.2f} times the sampling floor from R / Z"
    assert abs(log_z) < 0.1


@pytest.mark.parametrize("name", ["set", "word, both ends", "box", "stack"])
def test_with_a_learned_backward_policy(name: str) -> None:
    floors, log_z = learned(TrajectoryBalance(), SPACES[name], backward_policy="learned")
    assert floors < 3, f"{floors:.2f} times the sampling floor from R / Z"
    assert abs(log_z) < 0.1


@pytest.mark.parametrize("name", ["set", "word, both ends", "box", "stack"])
def test_from_a_buffer_and_a_table(name: str, tmp_path: Path) -> None:
    env = SPACES[name].env
    if isinstance(env, Box):
        states, problems = env.states_of(torch.linspace(0, 1, 200, dtype=torch.float64).unsqueeze(1))
        assert not any(problems)
    else:
        states = env.enumerate()
    env.to_frame(states).to_csv(tmp_path / "table.csv", index=False)
    data_set = DataSet(tmp_path / "table.csv", 24)
    replay = ReplayBuffer(200, 24, keep="newest")
    floors, log_z = learned(TrajectoryBalance(), SPACES[name], batch_size=32, replay=replay, data_set=data_set)
    assert len(data_set) == len(states) and not data_set.counts
    assert floors < 3, f"{floors:.2f} times the sampling floor from R / Z"
    assert abs(log_z) < 0.1


@pytest.mark.parametrize(("dimensions", "steps"), [(1, 1), (1, 3), (2, 2)])
def test_density_of_a_box_integrates_to_one(dimensions: int, steps: int) -> None:
    env = Box(dimensions, steps, 0.6 if steps == 1 else 0.3)
    for scale in (0.0, 1.0):
        _, density = box_density(env, RandomPolicy(env, scale=scale))
        assert density.mean().item() == pytest.approx(1, abs=0.01)


def test_log_z_of_the_corners_is_known() -> None:
    proxy = BoxCorners(0.2, 0.08, 0.01)
    axis = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    for dimensions in (1, 2):
        points = torch.cartesian_prod(*[axis] * dimensions).reshape(-1, dimensions)
        assert proxy(points).mean().log().item() == pytest.approx(proxy.log_z(dimensions), abs=1e-4)


def test_rows_that_do_not_fit_are_counted(tmp_path: Path) -> None:
    tables = {
        "items\n0 1 2\n0 1\n0 1 9\n0 1 1\n": (Set(6, 3), {"number of items": 1, "unknown item": 1, "item twice": 1}),
        "word\n00110\n001\n00112\n": (Sequence("01", 5), {"length of the word": 1, "unknown letter": 1}),
        "x0\n0.5\n1.5\n\na\n": (Box(1), {"point outside of the box": 1, "coordinate is not a number": 1}),
    }
    for text, (env, counts) in tables.items():
        (tmp_path / "table.csv").write_text(text)
        data_set = DataSet(tmp_path / "table.csv", 4)
        data_set.load(env, lambda states: states[:, 0])
        assert len(data_set) == 1
        assert data_set.counts == counts
