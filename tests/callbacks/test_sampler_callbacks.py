"""Callbacks that measure the sampler, run by a Trainer; what they log is compared with what was sampled."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from crystalgfn.callbacks import LogExactDistance, LogLikelihood, LogModes
from crystalgfn.crystal.envs import Crystal
from crystalgfn.crystal.restriction import Restriction
from crystalgfn.errors import InputError
from crystalgfn.gflownet.data import Samples
from crystalgfn.gflownet.envs import Box, HyperGrid
from crystalgfn.gflownet.likelihood import log_likelihood
from crystalgfn.gflownet.metrics import sampling_floor
from crystalgfn.gflownet.module import GFlowNet
from crystalgfn.gflownet.policies import MLP
from crystalgfn.gflownet.proxies import BoxCorners, HammingDistance, HyperGridModes, SetOverlap
from crystalgfn.gflownet.rewards import Boltzmann, Identity
from crystalgfn.proxies.density import Density
from crystalgfn.random import generator

TABLE = """\
formula,space_group,a,b,c,alpha,beta,gamma,split
Li4 F4,225,4.03,4.03,4.03,90,90,90,val
Mg4 O4,225,4.21,4.21,4.22,90,90,90,val
Na4 Cl4,225,5.6,5.6,5.6,90,90,90,val
Li8 O4,225,4.6,4.6,4.6,90,90,90,train
Li4 F4,221,4.0,4.0,4.0,90,90,90,val
"""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


def grid_module(**settings: Any) -> GFlowNet:
    policy = partial(MLP, hidden=(32,))
    settings = {"batch_size": 64, "lr": 0.01, "lr_log_z": 0.1} | settings
    return GFlowNet(HyperGrid(2, 8), HyperGridModes(8), Identity(), policy, **settings)


def crystal_module() -> GFlowNet:
    env = Crystal(space_groups=[1, 2, 225], elements=["Li", "Mg", "O", "F"], max_atoms=20, lengths=(3, 12))
    return GFlowNet(env, Density(), Boltzmann(beta=-1.0), partial(MLP, hidden=(16,)), batch_size=32)


def trainer(*callbacks: Callback, logger: Any = False, steps: int = 4) -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=logger,
        callbacks=list(callbacks),
        max_steps=steps,
        val_check_interval=steps,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
    )


class Recorder(Callback):
    """Keeps the samples of the test."""

    def __init__(self) -> None:
        self.outputs: list[dict[str, torch.Tensor]] = []

    def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.outputs.append(outputs)

    def __getitem__(self, name: str) -> torch.Tensor:
        return torch.cat([own[name] for own in self.outputs])


def evaluated(module: GFlowNet, *callbacks: Callback, n: int = 1500) -> tuple[dict[str, float], Recorder]:
    recorder = Recorder()
    (values,) = trainer(recorder, *callbacks).test(module, Samples(num_samples=n), verbose=False)
    return {name: float(value) for name, value in values.items()}, recorder


def test_grid_against_its_samples() -> None:
    module = grid_module()
    module.log_z.data.fill_(1.5)
    values, samples = evaluated(module, LogLikelihood(trajectories=200), LogExactDistance(), LogModes())
    env = module.env
    exact_log_z = module.evaluate(env.enumerate())[1].logsumexp(0).item()
    weights = (samples["log_reward"] + samples["log_pb"] - samples["log_pf"]).exp()
    assert values["test/likelihood/log_z"] == pytest.approx(weights.mean().log().item())
    error = weights.std() / weights.mean() / len(weights) ** 0.5
    assert values["test/likelihood/log_z_standard_error"] == pytest.approx(error.item())
    assert abs(values["test/likelihood/log_z"] - exact_log_z) < 4 * error
    assert values["test/likelihood/log_z_error"] == pytest.approx(1.5 - values["test/likelihood/log_z"])
    share = weights.sum() ** 2 / weights.square().sum() / len(weights)
    assert values["test/likelihood/effective_share"] == pytest.approx(share.item())
    log_p = log_likelihood(env, module.policy, samples["states"], generator("test"), 200).log_p
    pearson = torch.corrcoef(torch.stack([log_p, samples["log_reward"]]))[0, 1].item()
    assert values["test/likelihood/pearson"] == pytest.approx(pearson, abs=0.02)

    assert values["test/exact/log_z"] == pytest.approx(exact_log_z, abs=1e-5)
    assert values["test/exact/log_z_error"] == pytest.approx(1.5 - exact_log_z, abs=1e-5)
    cells = (samples["states"][:, 0] * 8 + samples["states"][:, 1]).long()
    share = torch.bincount(cells, minlength=64) / 1500
    p = module.evaluate(env.enumerate())[1].softmax(0)
    assert values["test/exact/total_variation"] == pytest.approx((share - p).abs().sum().item() / 2, abs=1e-5)
    floors = [values[f"test/exact/{name}_floor"] for name in ("total_variation", "jensen_shannon")]
    assert floors == pytest.approx([value.item() for value in sampling_floor(p, 1500)], rel=1e-5)
    assert values["test/exact/total_variation"] > 3 * floors[0]  # nothing is learned yet

    objects = env.decode(samples["states"])
    inside = module.evaluate(samples["states"])[1].exp() > 2
    modes = {tuple(cell) for cell in (objects[inside] > 3).tolist()}
    assert values["test/modes/n"] == len(modes) and values["test/modes/coverage"] == len(modes) / 4
    assert values["test/modes/share"] == pytest.approx(inside.double().mean().item())


@pytest.mark.long
def test_a_trained_sampler_is_near_the_floor(tmp_path: Path) -> None:
    module = grid_module(backward_policy="learned")
    run = trainer(
        LogModes(50), LogExactDistance(), logger=TensorBoardLogger(tmp_path, name=None, version=""), steps=300
    )
    run.fit(module, Samples(num_val_samples=100))
    values, _ = evaluated(module, LogLikelihood(), LogExactDistance(), LogModes(), n=4000)
    for name in ("total_variation", "jensen_shannon"):
        assert values[f"test/exact/{name}"] < 2 * values[f"test/exact/{name}_floor"]
    assert values["test/likelihood/pearson"] > 0.99 and values["test/likelihood/effective_share"] > 0.98
    assert values["test/likelihood/slope"] == pytest.approx(1, abs=0.05)
    assert abs(values["test/likelihood/log_z_error"]) < 0.05
    assert values["test/modes/coverage"] == 1
    board = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in board.Scalars("modes/coverage")] == [50, 100, 150, 200, 250, 300]
    assert board.Scalars("modes/coverage")[-1].value == 1
    assert "val/exact/total_variation" in board.Tags()["scalars"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(TABLE)
    return path


def test_known_crystals(table: Path, tmp_path: Path) -> None:
    module = crystal_module()
    callback = LogLikelihood(table, {"split": "val"})
    values, samples = evaluated(module, callback, n=50)
    log_p, log_reward = samples["log_pf"], samples["log_reward"]
    pearson = torch.corrcoef(torch.stack([log_p, log_reward]))[0, 1].item()
    assert values["test/likelihood/pearson"] == pytest.approx(pearson, abs=1e-5)
    assert values["test/known/n"] == 2 and values["test/known/left_out"] == 2
    assert abs(values["test/known/pearson"]) == pytest.approx(1)
    content = module.env.read_table(table)
    states, problems = module.env.states_of(content.objects[torch.tensor([0, 1])], 0.01)
    assert problems == ["", ""]
    expected = log_likelihood(module.env, module.policy, states, generator("unused")).log_p.mean().item()
    assert values["test/known/log_p_mean"] == pytest.approx(expected, abs=1e-4)

    # In training it changes nothing, and draws its picture.
    plain, measured = crystal_module(), crystal_module()
    trainer(steps=3).fit(plain, Samples(num_val_samples=30))
    board = TensorBoardLogger(tmp_path, name=None, version="")
    trainer(callback, logger=board, steps=3).fit(measured, Samples(num_val_samples=30))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), measured.parameters(), strict=True))
    tags = EventAccumulator(str(tmp_path)).Reload().Tags()
    assert tags["images"] == ["val/likelihood/known"] and "val/known/spearman" in tags["scalars"]


def test_two_tables(table: Path) -> None:
    both = [LogLikelihood(table, {"split": "val"}), LogLikelihood(table, {"split": "train"}, name="train")]
    values, _ = evaluated(crystal_module(), *both, n=20)
    assert values["test/known/n"] == 2 and values["test/train/n"] == 1
    assert both[0].state_key != both[1].state_key
    with pytest.raises(InputError, match="name: 'a/b' is not allowed"):
        LogLikelihood(name="a/b")


def test_a_table_of_which_nothing_fits_is_counted(table: Path) -> None:
    table.write_text("\n".join(TABLE.splitlines()[i] for i in (0, 3)) + "\n")
    values, _ = evaluated(crystal_module(), LogLikelihood(table), n=20)
    assert values["test/known/n"] == 0 and values["test/known/left_out"] == 1
    assert "test/known/pearson" not in values


def test_a_restricted_sampler_is_measured_in_its_space(table: Path) -> None:
    module = crystal_module()
    run = trainer(LogLikelihood(table, {"split": "val"}))
    data = Samples(num_samples=20, restrict=Restriction.parse({"elements": ["Mg", "O"]}))
    (values,) = run.test(module, data, verbose=False)
    assert values["test/known/n"] == 1 and values["test/known/left_out"] == 3


def test_a_continuous_space_with_many_trajectories() -> None:
    module = GFlowNet(Box(), BoxCorners(), Identity(), partial(MLP, hidden=(16,)), batch_size=32)
    values, samples = evaluated(module, LogLikelihood(), LogModes(), n=200)
    assert math.isfinite(values["test/likelihood/pearson"])
    near = samples["log_reward"].exp() > 0.5
    assert values["test/modes/share"] >= near.double().mean().item()


def test_modes() -> None:
    sets = SetOverlap([[0, 1], [2]])
    objects = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 0, 0]]).bool()
    assert sets.n_modes(objects) == 2 and sets.modes(objects).tolist() == [0, 1, -1]
    words = HammingDistance(["ab", "bb"], "ab")
    assert words.n_modes(torch.zeros(0, 2)) == 2
    assert words.modes(torch.tensor([[0, 1], [1, 1], [0, 0]])).tolist() == [0, 1, -1]
    corners = BoxCorners(0.2, 0.05)
    points = torch.tensor([[0.2, 0.2], [0.79, 0.11], [0.8, 0.85], [0.5, 0.2]])
    assert corners.modes(points).tolist() == [0, 1, 3, -1]
    grid = HyperGridModes(8)
    cells = torch.tensor([[1, 1], [6, 1], [1, 6], [0, 0]])
    assert grid.n_modes(cells) == 4 and grid.modes(cells).tolist() == [0, 1, 2, -1]
    with pytest.raises(TypeError, match="Density has no known modes"):
        Density().n_modes(None)


def test_what_cannot_be_measured_stops_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(words: str, module: GFlowNet, callback: Callback) -> None:
        with pytest.raises(InputError, match=words):
            evaluated(module, callback, n=10)

    refused("LogExactDistance: Crystal cannot list its objects", crystal_module(), LogExactDistance())
    refused("LogModes: no proxy of this run knows", crystal_module(), LogModes())
    odd = GFlowNet(HyperGrid(2, 6), HyperGridModes(6), Identity(), partial(MLP, hidden=(8,)))
    refused("LogModes: mode_reward has no modes in this space", odd, LogModes())
    refused("no such file", crystal_module(), LogLikelihood(tmp_path / "none.csv"))
    (tmp_path / "table.csv").write_text(TABLE)
    refused("has no column 'group'", crystal_module(), LogLikelihood(tmp_path / "table.csv", {"group": "1"}))
    monkeypatch.setattr("crystalgfn.callbacks.exact_distance.MOST", 30)
    refused("has 64 objects, more than 30", grid_module(), LogExactDistance())
    with pytest.raises(InputError, match="trajectories: 0 "):
        LogLikelihood(trajectories=0)
    with pytest.raises(InputError, match=r"tolerance: 0\.5 "):
        LogLikelihood(tolerance=0.5)
