"""Everything that runs in a step stays on the model's device, and the host waits for it a bounded number of times."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from elsewhere import HostWork
from helpers import PAPER_ELEMENTS, make_crystal
from pytorch_lightning import Callback, Trainer
from small import small_config, write_config
from two_processes import trainer

from crystalgfn.callbacks import LogCoverage, LogHistograms, LogTopK, LogUniqueness
from crystalgfn.cli import main
from crystalgfn.crystal.envs import Crystal
from crystalgfn.crystal.restriction import Restriction
from crystalgfn.errors import InputError
from crystalgfn.gflownet.data import Samples, Ticket
from crystalgfn.gflownet.envs import HyperGrid
from crystalgfn.gflownet.losses import (
    FlowMatching,
    ForwardLookingDetailedBalance,
    LogPartitionVariance,
    SubTrajectoryBalance,
)
from crystalgfn.gflownet.module import GFlowNet
from crystalgfn.gflownet.policies import MLP
from crystalgfn.gflownet.proxies import HyperGridModes
from crystalgfn.gflownet.replay import ReplayBuffer
from crystalgfn.gflownet.rewards import Boltzmann, Identity, Product
from crystalgfn.gflownet.rollout import log_forward, sample_forward
from crystalgfn.proxies import BandGap, EnergyAboveHull, FormationEnergy
from crystalgfn.proxies.density import Density
from crystalgfn.random import generator


@cache
def crystals() -> Crystal:
    return make_crystal(elements=PAPER_ELEMENTS[:12], max_atoms=30, volume_per_atom=(7.0, 60.0))


def model(env: Any, proxy: Any, reward: Any, batch_size: int = 128, **settings: Any) -> GFlowNet:
    return GFlowNet(env, proxy, reward, lambda sizes: MLP(sizes, (16,)), batch_size=batch_size, **settings)


def grid(**settings: Any) -> GFlowNet:
    return model(HyperGrid(2, 8), HyperGridModes(8), Identity(), **settings)


MODELS = {
    "crystals": lambda: model(crystals(), FormationEnergy(), Boltzmann(8.0), epsilon=0.1, temperature=2.0),
    "crystals, replay and state flows": lambda: model(
        crystals(), Density(), Boltzmann(-1.0), replay=ReplayBuffer(200, 16, draw="loss", max_alike=2),
        loss=SubTrajectoryBalance(0.9),
    ),
    "crystals, several properties": lambda: model(
        crystals(), [BandGap(), EnergyAboveHull(), Density()],
        Product({"band_gap": Boltzmann(-1.0), "energy_above_hull": Boltzmann(8.0)}), on_bad_value="skip",
    ),
    "grid, flow matching": lambda: grid(loss=FlowMatching()),
    "grid, learned backward policy": lambda: grid(
        loss=LogPartitionVariance(), backward_policy="learned", replay=ReplayBuffer(40, 16, draw="reward")
    ),
    "grid, forward-looking": lambda: grid(loss=ForwardLookingDetailedBalance()),
}  # fmt: skip


class Watch(Callback):
    """Watches one step of training, with what callbacks do in it; the steps before fill caches."""

    def __init__(self, step: int) -> None:
        self.step, self.work = step, HostWork()

    def on_train_batch_start(self, trainer: Trainer, pl_module: GFlowNet, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.step:
            self.work.__enter__()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: GFlowNet, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == self.step:
            self.work.__exit__()


def watched(module: GFlowNet) -> HostWork:
    """What the third of three steps did on the host."""
    metrics = [LogUniqueness(), LogHistograms(), LogTopK()]
    if isinstance(module.env, Crystal):
        metrics.append(LogCoverage())
    watch = Watch(2)
    trainer(1, max_steps=3, callbacks=[*metrics, watch]).fit(module, Samples())
    return watch.work


@pytest.mark.parametrize("name", MODELS)
def test_training_makes_no_tensor_on_the_host(name: str) -> None:
    assert not watched(MODELS[name]()).made


def test_waits_for_the_device_do_not_grow_with_the_batch() -> None:
    counts = []
    for batch_size in (64, 1024):
        work = watched(model(crystals(), FormationEnergy(), Boltzmann(8.0), batch_size=batch_size))
        counts.append(work.waits.total())
    # Four a turn: which rows it is, which of them have a choice, which end a stage; the rest once a step.
    assert max(counts) <= 5 * len(crystals().schedule) + 40, work.waits
    # A small batch has turns that nobody takes; a large one has all of them.
    assert counts[1] <= counts[0] + 5 * len(crystals().schedule), counts


@pytest.mark.parametrize("restriction", [None, {"lengths": [2.0, 20.0], "max_elements": 2}])
def test_sampling_makes_no_tensor_on_the_host(restriction: dict[str, Any] | None) -> None:
    module = model(crystals(), FormationEnergy(), Boltzmann(8.0))
    if restriction is not None:
        module.env = module.env.restricted(Restriction.parse(restriction))
    ticket = Ticket((0, "predict", 0), 50, 50)
    with torch.no_grad():
        module.predict_step(ticket, 0)  # fills caches
        with HostWork() as work:
            module.predict_step(ticket, 0)
    assert not work.made


def test_host_work_is_found() -> None:
    """The watch itself: what it must and must not report."""

    class Careless(Density):
        def forward(self, objects: Any) -> torch.Tensor:
            from crystalgfn.crystal.crystals import Crystals

            # Through the package, whose lines alone are reported.
            Crystals.from_arrays([1], [{"Na": 1}], [[1.0, 1.0, 1.0, 90.0, 90.0, 90.0]])
            return super().forward(objects)

    work = watched(model(crystals(), Careless(), Boltzmann(-1.0)))
    assert any(place.startswith("zeros at formulas.py") for place in work.made)
    with HostWork() as work:
        mask = torch.ones(3, dtype=torch.bool)
        mask.any().item()
        mask.nonzero()
        mask[mask]
        torch.nn.functional.one_hot(mask.long(), 2)
    assert work.waits.total() == 3


def test_apple_gpus_are_refused(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(write_config(tmp_path, small_config(tmp_path)))
    assert main(["fit", "--config", config, "--trainer.accelerator", "mps"]) != 0
    assert "trainer.accelerator: mps is not allowed" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", MODELS)
def test_gpu(name: str) -> None:
    """Trains on a GPU, then gives the same trajectories the same probabilities and rewards as the CPU does."""
    module = MODELS[name]()
    runner = Trainer(
        accelerator="gpu", devices=1, max_steps=3, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[LogUniqueness(), LogTopK()],
    )  # fmt: skip
    runner.fit(module, Samples())
    values = {}
    trajectories = None
    for device in ("cuda", "cpu"):
        module = module.to(device)
        if trajectories is None:
            drawn, _ = sample_forward(module.env, module.policy, 100, generator("gpu", device=device))
            states = drawn.states.cpu()
        with torch.no_grad():
            trajectories = module._backward_from(states.to(device), generator("gpu", device=device))
            log_pf = log_forward(module.env, module.policy, trajectories)
            values[device] = log_pf.cpu(), module.evaluate(states.to(device))[1].cpu()
    if module.env.is_tree:  # else the generators of both devices choose other ways to a state
        torch.testing.assert_close(values["cuda"][0], values["cpu"][0], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(values["cuda"][1], values["cpu"][1], rtol=1e-4, atol=1e-3, equal_nan=True)


def test_a_module_on_an_apple_gpu_is_refused() -> None:
    class Strategy:
        root_device = torch.device("mps")

    class Runner:
        strategy = Strategy()

    module = grid()
    module._trainer = Runner()  # type: ignore[assignment]
    with pytest.raises(InputError, match="mps is not allowed"):
        module.setup("fit")
