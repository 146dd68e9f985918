"""Several processes: the same training as one with all their trajectories, the same samples and the same measures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from exact import terminating_distribution
from test_exactness import Result
from two_processes import Recorder, recorded, trainer

from crystalgfn.callbacks import LogTopK, LogUniqueness, SampleWriter
from crystalgfn.gflownet.data import Samples
from crystalgfn.gflownet.data_set import DataSet
from crystalgfn.gflownet.distributed import n_processes
from crystalgfn.gflownet.envs import HyperGrid, Sequence
from crystalgfn.gflownet.losses import (
    FlowMatching,
    ForwardLookingDetailedBalance,
    LogPartitionVariance,
    Loss,
    MaximumLikelihood,
    SubTrajectoryBalance,
)
from crystalgfn.gflownet.module import GFlowNet
from crystalgfn.gflownet.policies import MLP
from crystalgfn.gflownet.prior import Prior
from crystalgfn.gflownet.proxies import HyperGridModes
from crystalgfn.gflownet.replay import ReplayBuffer
from crystalgfn.gflownet.rewards import Identity
from crystalgfn.gflownet.rollout import Trajectories, sample_forward
from crystalgfn.random import generator

pytestmark = pytest.mark.long


class Holes(HyperGridModes):
    """Predicts no number for some cells."""

    def forward(self, objects: torch.Tensor) -> torch.Tensor:
        return super().forward(objects).masked_fill(objects.sum(1) % 3 == 1, torch.nan)


class OnlyFirst(HyperGridModes):
    """Predicts no number in the second process."""

    def forward(self, objects: torch.Tensor) -> torch.Tensor:
        values = super().forward(objects)
        is_second = n_processes() > 1 and torch.distributed.get_rank() == 1
        return values * torch.nan if is_second else values


def model(
    loss: Loss | None = None, proxy: HyperGridModes | None = None, hidden: tuple[int, ...] = (32,), **settings
) -> GFlowNet:
    settings = {"batch_size": 24, "lr": 1e-2, "epsilon": 0.1, **settings}
    return GFlowNet(
        HyperGrid(2, 8), proxy or HyperGridModes(8), Identity(), lambda sizes: MLP(sizes, hidden), loss, **settings
    )


RUNS = {
    "trajectory balance": {},
    "skipped": {"proxy": Holes(8), "on_bad_value": "skip"},
    "nothing in one process": {"proxy": OnlyFirst(8), "on_bad_value": "skip"},
    "nothing in one process, states": {
        "loss": SubTrajectoryBalance(0.9), "proxy": OnlyFirst(8), "on_bad_value": "skip"
    },
    "nothing in one process, edges": {"loss": FlowMatching(), "proxy": OnlyFirst(8), "on_bad_value": "skip"},
    "variance": {"loss": LogPartitionVariance("huber")},
    "variance, skipped": {"loss": LogPartitionVariance(), "proxy": Holes(8), "on_bad_value": "skip"},
    "variance, nothing in one process": {
        "loss": LogPartitionVariance(), "proxy": OnlyFirst(8), "on_bad_value": "skip"
    },
    "forward-looking": {"loss": ForwardLookingDetailedBalance()},
    "learned backward policy and replay": {
        "backward_policy": "learned", "replay": ReplayBuffer(50, 8, draw="loss"), "loss": SubTrajectoryBalance(0.9)
    },
}  # fmt: skip


def known(folder: Path) -> GFlowNet:
    """A model that learns from the words of a table; one of four is set aside."""
    env = Sequence("abc", 4)
    env.to_frame(env.enumerate()).to_csv(folder / "words.csv", index=False)
    data = DataSet(folder / "words.csv", 12, validate=0.25)
    return GFlowNet(env, policy=lambda sizes: MLP(sizes, (32,)), loss=MaximumLikelihood(), data_set=data, lr=1e-2)


def made(name: str, folder: Path) -> GFlowNet:
    """A model for a run of this name."""
    if name == "maximum likelihood":
        return known(folder)
    if name != "prior":
        return model(**RUNS[name])
    state = {f"policy.{key}": value + 0.1 for key, value in model(seed=1).policy.state_dict().items()}
    torch.save({"state_dict": state}, folder / "prior.ckpt")
    return model(prior=Prior(folder / "prior.ckpt"))


# The first step is special for log Z only.
FIRST = ("trajectory balance", "skipped", "variance, skipped")


@pytest.mark.parametrize(
    ("name", "step"), [(name, 2) for name in (*RUNS, "prior", "maximum likelihood")] + [(name, 0) for name in FIRST]
)
def test_gradients_are_those_of_one_process_with_all_trajectories(name: str, step: int, tmp_path: Path) -> None:
    trainer(max_steps=step + 1, callbacks=[Recorder(tmp_path, step)]).fit(made(name, tmp_path), Samples())
    parts = recorded(tmp_path)
    states = [part["trajectories"].states for part in parts]
    assert len(states[0]) != len(states[1]) or not torch.equal(*states), "both processes drew the same"

    one = made(name, tmp_path)
    one.load_state_dict(parts[0]["state_dict"])
    one.log_z.data = parts[0]["log_z"]
    trajectories = Trajectories.cat([part["trajectories"] for part in parts])
    log_reward = torch.cat([part["log_reward"] for part in parts])
    balance = one._balance(trajectories, log_reward)
    estimates = log_reward + balance.log_pb - balance.log_pf
    if (step == 0 or not one.loss.learns_log_z) and name != "maximum likelihood":
        assert torch.isclose(estimates.mean(), one.log_z, rtol=0, atol=1e-9)
    loss = one.loss(balance).mean()
    loss.backward()
    for rank, part in enumerate(parts):
        assert torch.isclose(part["metrics"]["train/loss"].double(), loss, rtol=1e-5), rank
        for key, parameter in one.named_parameters():
            if not parameter.requires_grad:
                continue
            expected = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            torch.testing.assert_close(part["gradients"][key], expected, rtol=1e-4, atol=1e-6, msg=f"{rank} {key}")


def test_likelihood_of_objects_set_aside_is_that_of_one_process(tmp_path: Path) -> None:
    values = []
    for processes in (1, 2):
        run = trainer(processes, max_steps=1, val_check_interval=1)
        trained = known(tmp_path)
        # Without a change of the weights, both see the same policy.
        trained.lr = 1e-30
        run.fit(trained, Samples(num_val_samples=4))
        values.append({k: v.item() for k, v in run.callback_metrics.items() if "held_out" in k})
    assert values[0] == pytest.approx(values[1]) and values[0]["val/held_out/uniform_bits_per_decision"] > 1.5


def test_heads_that_no_trajectory_visits() -> None:
    from helpers import make_crystal

    from crystalgfn.gflownet.rewards import Boltzmann
    from crystalgfn.proxies.density import Density

    # Two trajectories rarely meet triclinic cells, whose heads for angles stay without gradients in most steps.
    env = make_crystal(space_groups=[1, *range(195, 231)], elements=["Li", "O", "F"], max_elements=2)
    crystals = GFlowNet(env, Density(), Boltzmann(-0.5), lambda sizes: MLP(sizes, (8,)), batch_size=2)
    trainer(max_steps=8).fit(crystals, Samples())
    assert all(torch.isfinite(parameter).all() for parameter in crystals.parameters())


def test_the_distribution_is_exact() -> None:
    trained = model(hidden=(64, 64), batch_size=64, lr_log_z=0.1, epsilon=0.05)
    trainer(max_steps=300).fit(trained, Samples())
    env, exact = trained.env, trained.evaluate(trained.env.enumerate())[1]
    sampled, _ = sample_forward(env, trained.policy, 10_000, generator("samples"))
    index = env.decode(sampled.states) @ torch.tensor([env.height, 1])
    result = Result(
        exact=exact.softmax(0),
        learned=terminating_distribution(env, trained.policy),
        sampled=index.bincount(minlength=len(exact)) / 10_000,
        log_z_exact=exact.logsumexp(0).item(),
        log_z=trained.log_z.item(),
    )
    assert result.flaws() == []


@pytest.mark.parametrize("n", [1000, 2500])
def test_validation_measures_every_sample_once(n: int) -> None:
    # One ticket leaves a process without any; three leave it with one less.
    values = []
    for processes in (1, 2):
        runner = trainer(processes, callbacks=[LogUniqueness(), LogTopK(5)])
        values.append(runner.validate(model(proxy=HyperGridModes(8)), Samples(num_val_samples=n), verbose=False)[0])
    one, two = values
    assert one.keys() == two.keys()
    assert one == pytest.approx(two, rel=1e-5)


@pytest.mark.parametrize("n", [700, 2500])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_tables_of_samples_are_the_same_bytes(n: int, ending: str, tmp_path: Path) -> None:
    tables = []
    for processes in (1, 2):
        out = tmp_path / f"{processes}.{ending}"
        runner = trainer(processes, callbacks=[SampleWriter()])
        runner.predict(model(), Samples(num_samples=n, out=out), return_predictions=False)
        tables.append(out.read_bytes())
    assert tables[0] == tables[1]
    assert len(list(tmp_path.iterdir())) == 2, "parts are left behind"


def test_command_line(tmp_path: Path) -> None:
    """Two processes, started as a user does it; the second one starts itself from the first one's command."""
    from small import checkpoint_of, small_config

    config = small_config(tmp_path)
    config["trainer"] |= {"strategy": "ddp", "devices": 2, "val_check_interval": 2}
    config["trainer"]["callbacks"].append({"class_path": "crystalgfn.callbacks.LogCoverage"})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "crystalgfn", "fit", "--config", str(tmp_path / "config.yaml")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert torch.load(checkpoint_of(tmp_path), weights_only=True)["global_step"] == 3
