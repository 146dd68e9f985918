"""The example of an environment of one's own: the contract, the exact distribution, and what its page says to type."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
import torch
from exact import sampling_floor, total_variation
from small import checkpoint_of, write_config
from trained import train

from crystalgfn.cli import main
from crystalgfn.errors import InputError
from crystalgfn.gflownet.envs import Sequence, Set, Stack
from crystalgfn.gflownet.losses import TrajectoryBalance
from crystalgfn.gflownet.proxies import HammingDistance, OfStage, Prediction
from crystalgfn.gflownet.rewards import Power
from crystalgfn.gflownet.rollout import sample_forward
from crystalgfn.random import generator
from crystalgfn.settings import read_config
from crystalgfn.testing import EnvironmentContract, ProxyContract, RandomPolicy

EXAMPLE = Path(__file__).parents[2] / "examples" / "three_stages"
PAGE = Path(__file__).parents[2] / "docs" / "new_environment.md"


def _module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("doped_film", EXAMPLE / "doped_film.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FILM = _module()


class TestDopedFilm(EnvironmentContract):
    @pytest.fixture
    def env(self) -> Any:
        return FILM.DopedFilm()


class TestThickness(EnvironmentContract):
    @pytest.fixture
    def env(self) -> Any:
        return FILM.Thickness(20.0, 500.0)


class TestFigureOfMerit(ProxyContract):
    @pytest.fixture
    def proxy(self) -> Any:
        return FILM.FigureOfMerit()

    @pytest.fixture
    def objects(self) -> Any:
        env = FILM.DopedFilm()
        trajectories, _ = sample_forward(env, RandomPolicy(env), 5, generator("films"))
        return env.decode(trajectories.states)


def _choices(env: Any) -> torch.Tensor:
    """States of all substrates and dopants, with the thickness still open."""
    states = env.initial_states(1)
    for head in ("substrate_item", "dopants_item", "dopants_item"):
        rows, options = env.support(head, states).nonzero(as_tuple=True)
        states = env.step(head, states[rows], options.unsqueeze(1).double()).unique(dim=0)
    return states


def test_learns_the_exact_distribution() -> None:
    """Of substrates and dopants, with the thickness integrated numerically."""
    env, proxy, reward = FILM.DopedFilm(), FILM.FigureOfMerit(), Power(2.0)
    states, n = _choices(env), 2000
    assert len(states) == 6 + 3 + 10
    low, high = env.support("thickness", states).unbind(1)
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    thickness = (low.unsqueeze(1) + (high - low).unsqueeze(1) * u).reshape(-1, 1)
    films = env.decode(env.step("thickness", states.repeat_interleave(n, 0), thickness))
    log_reward = reward({proxy.name: Prediction(proxy(films))}).reshape(-1, n)
    # Densities are measured in units of the whole range.
    log_weights = log_reward.logsumexp(1) - math.log(n) + ((high - low) / (max(FILM.CRITICAL) - 20.0)).log()
    exact = log_weights.softmax(0)

    settings = {"env": env, "proxy": proxy, "reward": reward, "lr": 1e-2}
    model = train(TrajectoryBalance(), 150, **settings)
    sampled, _ = sample_forward(env, model.policy, 10_000, generator("films"))
    drawn = sampled.states[:, :-2].contiguous()
    counts = (drawn.unsqueeze(1) == states[:, :-2]).all(2).double().sum(0)
    assert counts.sum() == 10_000
    assert total_variation(counts / 10_000, exact) < 3 * sampling_floor(exact)
    assert abs(model.log_z.item() - log_weights.logsumexp(0).item()) < 0.05
    # And of thicknesses on the most likely choice.
    best = int(exact.argmax())
    own = sampled.states[(drawn == states[best, :-2]).all(1), -2]
    of_cells = log_reward[best].softmax(0).reshape(10, -1).sum(1)
    cells = ((own - low[best]) / (high[best] - low[best]) * 10).long().clamp(0, 9).bincount(minlength=10)
    assert total_variation(cells / len(own), of_cells) < 3 * sampling_floor(of_cells, len(own))


def test_the_page_shows_the_example() -> None:
    """Every block of code on the page is in the example, so that the page cannot fall behind it."""
    code, page = (EXAMPLE / "doped_film.py").read_text(), PAGE.read_text()
    blocks = [block.split("```")[0] for block in page.split("```python\n")[1:]]
    shown = [block.strip("\n") for block in blocks if "EnvironmentContract" not in block]
    assert len(shown) >= 3
    for block in shown:
        assert block in code, block


@pytest.mark.long
def test_trains_by_module_and_class(tmp_path: Path) -> None:
    """In the folder of the module, through the program's own script and with nothing installed."""
    for file in EXAMPLE.glob("*.*"):
        (tmp_path / file.name).write_text(file.read_text())
    script = [str(Path(sys.executable).parent / "crystalgfn")]
    program = script if Path(script[0]).exists() else [sys.executable, "-m", "crystalgfn"]

    def run(*args: str) -> None:
        command = [*program, *args]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ, check=False)
        assert result.returncode == 0, result.stderr

    run("fit", "--config", "config.yaml", "--trainer.max_steps", "3", "--trainer.enable_progress_bar", "false")
    checkpoint = tmp_path / "logs" / "doped_film" / "version_0" / "checkpoints" / "last.ckpt"
    run("predict", "--ckpt_path", str(checkpoint), "--trust-checkpoint", "--data.num_samples", "20")
    table = pd.read_csv(tmp_path / "samples.csv")
    assert {"substrate", "dopants", "thickness", "figure_of_merit", "log_reward"} <= set(table.columns)
    assert set(table["substrate"]) <= set(FILM.SUBSTRATES)


def test_a_proxy_of_one_stage() -> None:
    env = Stack({"metals": Set(4, 2), "word": Sequence("ab", 2)})
    objects = env.decode(env.enumerate())
    proxy = OfStage("word", HammingDistance(["ab"], "ab"))
    assert (proxy.name, proxy.direction) == ("hamming_distance", "minimize")
    assert torch.equal(proxy(objects), HammingDistance(["ab"], "ab")(objects["word"]))
    with pytest.raises(InputError, match="stage: 'words' is not allowed; allowed: metals, word"):
        OfStage("words", HammingDistance(["ab"], "ab"))(objects)


def test_the_order_of_stages_stays_in_a_checkpoint(tmp_path: Path) -> None:
    """Names in another order than that of the alphabet."""
    config = read_config(EXAMPLE.parent.parent / "configs" / "stack.yaml")
    assert list(config["model"]["env"]["init_args"]["stages"]) == ["metals", "layers"]
    config["trainer"]["logger"]["init_args"]["save_dir"] = str(tmp_path)
    config["trainer"]["callbacks"] = config["trainer"]["callbacks"][:1]
    path = write_config(tmp_path, config)
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    assert main(["fit", "--config", str(path), "--trainer.max_steps", "1", *quiet]) == 0
    checkpoint = str(checkpoint_of(tmp_path, "stack"))
    assert (
        main(["predict", "--ckpt_path", checkpoint, "--data.num_samples", "5", "--data.out", str(tmp_path / "s.csv")])
        == 0
    )
    assert list(pd.read_csv(tmp_path / "s.csv").columns[:2]) == ["items", "word"]
