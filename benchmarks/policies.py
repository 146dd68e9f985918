"""Which policy network learns the main job faster in the same CPU time.

    python benchmarks/policies.py --out policies.json [--seeds 0 1] [--steps 1200] [--config configs/eform.yaml]

All runs use the settings of the config except for the policy. The CPU time of a step is measured first for each policy,
in turns in one process. The number of steps is then chosen so that every run takes as long as ``MLP`` needs for
``--steps``. The cosine of the learning rate and the exploration end with the run.

During training and at the end, the policy draws samples with separate random streams. This time is not counted. The
command writes the numbers to ``policies.json``, prints a Markdown table, and draws the curves to ``policies.png``.

Results: docs/results/policies.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jsonargparse import ArgumentParser
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from crystalgfn import Environment, GFlowNet, Proxy, Reward
from crystalgfn.gflownet.data import Samples
from crystalgfn.gflownet.metrics import LikelihoodAgreement, PartitionEstimate
from crystalgfn.gflownet.policies import MLP, EmbeddingMLP
from crystalgfn.plugins import load_everything
from crystalgfn.random import generator
from crystalgfn.settings import read_config

HIDDEN = (256, 256)
POLICIES = {
    "MLP": partial(MLP, hidden=HIDDEN),
    "EmbeddingMLP": partial(EmbeddingMLP, hidden=HIDDEN, shared=False),
    "EmbeddingMLP, shared": partial(EmbeddingMLP, hidden=HIDDEN, shared=True),
}
FIRST = "MLP"
"""Every policy gets the CPU time that this one needs for the given steps."""

LOOKS = 10
"""Number of measurements during training."""


class Curve(pl.Callback):
    """Measures the policy during training, and the CPU time [s] without these measurements."""

    def __init__(self, steps: int, n_samples: int) -> None:
        self.every = max(1, steps // LOOKS)
        self.steps, self.n_samples = steps, n_samples
        self.points: list[dict[str, float]] = []
        self.seconds, self._since = 0.0, 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._since = time.process_time()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        step = trainer.global_step
        if step % self.every and step != self.steps:
            return
        self.seconds += time.process_time() - self._since
        n = self.n_samples * (5 if step == self.steps else 1)
        self.points.append({"step": step, "seconds": self.seconds, **measure(pl_module, n)})
        self._since = time.process_time()


@torch.no_grad()
def measure(module: GFlowNet, n: int) -> dict[str, float]:
    """The numbers that docs/sampler.md explains, from n samples."""
    agreement, weights = LikelihoodAgreement(), PartitionEstimate()
    losses = []
    for part in range(-(-n // 1000)):
        samples = module.sample(min(n, 1000), generator("policies", part))
        agreement.update(samples["log_pf"], samples["log_reward"])
        weight = samples["log_reward"] - samples["log_pf"]
        weights.update(weight)
        losses.append((module.log_z - weight).square())
    found = agreement.compute() | weights.compute() | {"loss": torch.cat(losses).mean()}
    return {name: float(value) for name, value in found.items()}


def parts_of(config: Path) -> tuple[Environment, Proxy, Reward, dict[str, Any]]:
    """Environment, proxy, reward and the settings of training of a config."""
    load_everything()
    model = read_config(config)["model"]
    parser = ArgumentParser()
    for name, kind in (("env", Environment), ("proxy", Proxy), ("reward", Reward)):
        parser.add_argument(f"--{name}", type=kind)
    made = parser.instantiate_classes(parser.parse_object({name: model[name] for name in ("env", "proxy", "reward")}))
    names = ("batch_size", "lr", "lr_log_z", "lr_final", "epsilon")
    return made.env, made.proxy, made.reward, {name: model[name] for name in names}


def run(parts: tuple[Environment, Proxy, Reward, dict[str, Any]], policy: str, steps: int, seed: int, n: int) -> Curve:
    """Train one policy."""
    env, proxy, reward, settings = parts
    module = GFlowNet(env, proxy, reward, POLICIES[policy], exploration_steps=steps, seed=seed, **settings)
    curve = Curve(steps, n)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        callbacks=[curve],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(module, Samples())
    return curve


def step_seconds(parts: tuple[Environment, Proxy, Reward, dict[str, Any]], rounds: int = 4) -> dict[str, float]:
    """Median CPU time of a step of each policy [s], from runs of 25 steps in turns."""
    times: dict[str, list[float]] = {name: [] for name in POLICIES}
    for _ in range(rounds):
        for name in POLICIES:
            times[name].append(run(parts, name, 25, 0, 1).seconds / 25)
    return {name: float(torch.tensor(own).median()) for name, own in times.items()}


COLUMNS = {
    "loss": "loss",
    "pearson": "correlation of log p and log R",
    "log_reward_mean": "mean log R",
    "effective_share": "effective share",
}


def table(runs: list[dict[str, Any]], seconds: dict[str, float]) -> str:
    """A Markdown table with the numbers at the end of each run."""
    lines = [
        "| policy | seed | CPU ms/step | steps | CPU s | " + " | ".join(COLUMNS.values()) + " |",
        "|---|--:|--:|--:|--:|" + "--:|" * len(COLUMNS),
    ]
    for own in runs:
        last = own["curve"][-1]
        values = " | ".join(f"{last[name]:.3f}" for name in COLUMNS)
        lines.append(
            f"| {own['policy']} | {own['seed']} | {seconds[own['policy']] * 1000:.0f} | {last['step']:.0f} | "
            f"{last['seconds']:.0f} | {values} |"
        )
    return "\n".join(lines)


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Draw loss, correlation and effective share over CPU time."""
    figure = Figure(figsize=(11.0, 3.8), dpi=110, layout="constrained")
    names = ("loss", "pearson", "effective_share")
    colors = dict(zip(POLICIES, ("#444444", "#2a78b5", "#d9772b"), strict=True))
    seeds = sorted({own["seed"] for own in runs})
    for axes, name in zip(figure.subplots(1, len(names)), names, strict=True):
        for own in runs:
            x, y = ([point[key] for point in own["curve"]] for key in ("seconds", name))
            label = own["policy"] if own["seed"] == seeds[0] else None
            axes.plot(x, y, color=colors[own["policy"]], label=label, linewidth=1.3, marker=".")
        axes.set_xlabel("CPU time [s]")
        axes.set_title(COLUMNS[name])
        axes.spines[["top", "right"]].set_visible(False)
        if name == "loss":
            axes.set_yscale("log")
            axes.legend(frameon=False)
    FigureCanvasAgg(figure).print_png(str(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/eform.yaml"), help="config of the model")
    parser.add_argument(
        "--steps", type=int, default=1200, help=f"steps of {FIRST}; the others get the same CPU time (default 1200)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="seeds of training (default 0 1)")
    parser.add_argument(
        "--samples",
        type=int,
        default=1000,
        help="samples for each point of a curve; 5 times as many at the end (default 1000)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("policies.json"), help="file for the numbers (default policies.json)"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    parts = parts_of(options.config)
    seconds = step_seconds(parts)
    runs = []
    for seed in options.seeds:
        for policy in POLICIES:
            steps = round(options.steps * seconds[FIRST] / seconds[policy])
            curve = run(parts, policy, steps, seed, options.samples)
            runs.append({"policy": policy, "seed": seed, "curve": curve.points})
            result = {"config": str(options.config), "steps": options.steps, "step_seconds": seconds, "runs": runs}
            # Written after each run, so that a stopped benchmark keeps its results.
            options.out.write_text(json.dumps(result, indent=1) + "\n")
            print(table(runs[-1:], seconds).splitlines()[-1], flush=True)
    draw(runs, options.out.with_suffix(".png"))
    print(table(runs, seconds))


if __name__ == "__main__":
    main()
