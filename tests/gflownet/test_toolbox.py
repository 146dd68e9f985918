"""Every loss, with every source of trajectories, learns the exact distribution; wrong ones do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import make_crystal
from small import checkpoint_of, small_config, write_config
from spaces import CompositionSpace, FiniteSpace
from trained import train

from crystalgfn.cli import main
from crystalgfn.errors import InputError
from crystalgfn.gflownet.balance import Balance
from crystalgfn.gflownet.data_set import DataSet
from crystalgfn.gflownet.envs import HyperGrid
from crystalgfn.gflownet.exploration import Exploration
from crystalgfn.gflownet.losses import (
    DetailedBalance,
    FlowMatching,
    ForwardLookingDetailedBalance,
    LogPartitionVariance,
    Loss,
    SubTrajectoryBalance,
    TrajectoryBalance,
)
from crystalgfn.gflownet.module import GFlowNet
from crystalgfn.gflownet.policies import MLP
from crystalgfn.gflownet.proxies import HyperGridModes
from crystalgfn.gflownet.replay import ReplayBuffer
from crystalgfn.gflownet.rewards import Identity, Power
from crystalgfn.gflownet.rollout import sample_forward
from crystalgfn.proxies.density import Density
from crystalgfn.random import generator
from crystalgfn.testing import RandomPolicy

pytestmark = pytest.mark.long

HEIGHT = 6

LOSSES: dict[str, tuple[type[Loss], int]] = {
    "trajectory balance": (TrajectoryBalance, 120),
    "variance": (LogPartitionVariance, 120),
    "detailed balance": (DetailedBalance, 200),
    "parts": (SubTrajectoryBalance, 120),
    "forward looking": (ForwardLookingDetailedBalance, 200),
    "flow matching": (FlowMatching, 250),
}
"""Each loss, and the steps it gets: those that see one step of a trajectory at a time need more."""

SOURCES = ("on-policy", "replay", "data set", "learned P_B")


SPACE = FiniteSpace(HyperGrid(2, HEIGHT), HyperGridModes(HEIGHT, r2=0.0), Identity())


def source(name: str, directory: Path) -> dict[str, Any]:
    if name == "replay":
        return {"batch_size": 48, "replay": ReplayBuffer(36, 48, keep="newest", draw="loss")}
    if name == "data set":
        env, table = HyperGrid(2, HEIGHT), directory / "cells.csv"
        env.to_frame(env.enumerate()).to_csv(table, index=False)
        return {"batch_size": 48, "data_set": DataSet(table, 48)}
    return {"backward_policy": "learned"} if name == "learned P_B" else {}


CASES = [(loss, name) for loss in LOSSES for name in SOURCES if (loss, name) != ("flow matching", "learned P_B")]


@pytest.mark.parametrize(("loss", "name"), CASES)
def test_learns_the_exact_distribution(loss: str, name: str, tmp_path: Path) -> None:
    kind, steps = LOSSES[loss]
    floors, log_z = SPACE.distance(train(kind(), steps, **SPACE.settings, **source(name, tmp_path)))
    assert floors < 3, f"{floors:.2f} times the sampling floor from R / Z"
    assert abs(log_z) < 0.1


class Blind(DetailedBalance):
    """Detailed balance that forgets the backward policy."""

    def __call__(self, balance: Balance) -> torch.Tensor:
        steps = balance.steps
        residual = steps.log_flow[:, :-1] + steps.log_pf - steps.log_flow[:, 1:]
        inside = torch.arange(residual.shape[1]) < steps.length.unsqueeze(1)
        return torch.where(inside, residual.square(), 0.0).sum(1)


def test_a_wrong_loss_is_found() -> None:
    floors, _ = SPACE.distance(train(Blind(), 200, **SPACE.settings))
    assert floors > 6


def test_hot_policies_stay_exact() -> None:
    """What explores is not what log P_F is of."""
    floors, log_z = SPACE.distance(train(TrajectoryBalance(), 150, **SPACE.settings, epsilon=0.2, temperature=3.0))
    assert floors < 3
    assert abs(log_z) < 0.1


GRID = {
    "env": HyperGrid(2, HEIGHT),
    "proxy": HyperGridModes(HEIGHT),
    "reward": Identity(),
    "policy": lambda sizes: MLP(sizes, (8,)),
}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": FlowMatching()}, r"loss: FlowMatching .* Crystal has continuous decisions \(alpha, beta"),
        ({"loss": ForwardLookingDetailedBalance()}, r"loss: ForwardLooking.* objects of Crystal have none"),
        ({"backward_policy": "learned"}, r"backward_policy: 'learned' is not allowed; Crystal is a tree"),
    ],
)
def test_what_crystals_cannot_do(settings: dict[str, Any], message: str) -> None:
    crystal = {"env": make_crystal(space_groups=[225], elements=["Na", "Cl"]), "proxy": Density()}
    with pytest.raises(InputError, match=message):
        GFlowNet(**(GRID | crystal | settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": FlowMatching(), "backward_policy": "learned"}, "FlowMatching does not use a backward policy"),
        ({"backward_policy": "free"}, "backward_policy: 'free' is not allowed; allowed: uniform, fixed, learned"),
        ({"loss": LogPartitionVariance(), "batch_size": 1}, "batch_size: 1 is not allowed; LogPartitionVariance"),
        ({"temperature": 0.0}, "temperature: 0.0 is not allowed"),
        ({"exploration_steps": -1}, "exploration_steps: -1 is not allowed"),
        ({"exploration_schedule": "steep"}, "exploration_schedule: 'steep' is not allowed; allowed: linear, cosine"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GFlowNet(**(GRID | settings))


def test_exploration_fades() -> None:
    linear, cosine = (Exploration(0.4, 3.0, 10, schedule) for schedule in ("linear", "cosine"))
    assert [linear.at(step) for step in (0, 5, 10, 20)] == [(0.4, 3.0), (0.2, 2.0), (0.0, 1.0), (0.0, 1.0)]
    assert cosine.at(0) == (0.4, 3.0) and cosine.at(30) == (0.0, 1.0)
    assert cosine.at(5) == pytest.approx((0.2, 2.0)) and cosine.at(2)[0] > linear.at(2)[0]
    assert Exploration(0.4, 3.0, 0, "linear").at(1000) == (0.4, 3.0)


def config(directory: Path, **model: Any) -> Path:
    """Settings of a short run on crystals."""
    settings = small_config(directory)
    settings["model"] |= {name: {"class_path": path, "init_args": args} for name, (path, args) in model.items()}
    return write_config(directory, settings)


@pytest.mark.parametrize("loss", ["LogPartitionVariance", "DetailedBalance", "SubTrajectoryBalance"])
def test_chosen_in_a_config(loss: str, tmp_path: Path) -> None:
    path = config(tmp_path, loss=(loss, {"regression": "huber"}))
    assert main(["fit", "--config", str(path)]) == 0
    out = tmp_path / "samples.csv"
    assert main(["predict", "--ckpt_path", str(checkpoint_of(tmp_path)), "--data.out", str(out)]) == 0
    assert out.is_file()


def table_of_samples(directory: Path) -> Path:
    """A table of crystals of the short run's space, and one row outside of it."""
    run = small_config(directory)["model"]["env"]["init_args"]
    env = make_crystal(**run)
    states, _ = sample_forward(env, RandomPolicy(env), 20, generator("table"))
    frame = env.to_frame(states.states)
    frame.loc[3, "formula"] = "Na4 Cl4"
    frame.to_csv(directory / "table.csv", index=False)
    return directory / "table.csv"


def test_a_run_with_a_data_set_is_continued_exactly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = table_of_samples(tmp_path)
    ends = {}
    for name, options in {
        "whole": [],
        "first": ["--trainer.callbacks+", "stop.StopAt"],
        "second": ["--ckpt_path", str(checkpoint_of(tmp_path / "first"))],
    }.items():
        (tmp_path / name).mkdir()
        path = config(tmp_path / name, data_set=("DataSet", {"table": str(table), "batch_size": 4}))
        assert main(["fit", "--config", str(path), "--trainer.max_steps", "6", *options]) == 0
        ends[name] = torch.load(checkpoint_of(tmp_path / name), weights_only=True)
    assert ends["first"]["global_step"] == 3
    for key, value in ends["whole"]["state_dict"].items():
        assert torch.equal(value, ends["second"]["state_dict"][key]), key
    # The table is only needed for training.
    table.unlink()
    out = tmp_path / "samples.csv"
    checkpoint = str(checkpoint_of(tmp_path / "second"))
    assert main(["predict", "--ckpt_path", checkpoint, "--data.out", str(out)]) == 0
    capsys.readouterr()
    assert main(["fit", "--ckpt_path", checkpoint, "--trainer.max_steps", "8"]) == 2
    assert "no such file" in capsys.readouterr().err


class Word(HyperGrid):
    """A tree with objects on the way: one coordinate, so each cell has one parent."""

    is_tree = True

    def parent_actions(self, head: str, states: torch.Tensor) -> torch.Tensor:
        return super().parent_actions(head, states).to(torch.uint8).argmax(1, keepdim=True).to(torch.float64)


@pytest.mark.parametrize("loss", [ForwardLookingDetailedBalance(), FlowMatching()])
def test_states_on_the_way_are_kept_in_trees(loss: Loss, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(GFlowNet, "_log_partial", lambda self, states: seen.append(states) or states[:, 0] * 0)
    model = train(loss, 2, **(SPACE.settings | {"env": Word(1, HEIGHT)}))
    assert model.env.is_tree
    assert bool(seen) == loss.forward_looking


@pytest.fixture(scope="module")
def space() -> CompositionSpace:
    env = make_crystal(
        space_groups=[123, 221, 225], elements=["Na", "O", "Cl"], max_elements=2, max_atoms=8, max_atoms_per_element=4,
        lengths=(3.0, 6.0), components=3,
    )  # fmt: skip
    return CompositionSpace(env, Density(), Power(1.5))


@pytest.mark.parametrize("kind", [TrajectoryBalance, DetailedBalance, SubTrajectoryBalance])
def test_learns_the_exact_distribution_of_crystals(kind: type[Loss], space: CompositionSpace) -> None:
    floors, log_z = space.distance(train(kind(), 200, **space.settings))
    assert floors < 3
    assert abs(log_z) < 0.1
