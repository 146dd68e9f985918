"""Many training steps of a small model, to check that memory does not grow and that all losses are finite.

    python benchmarks/soak.py --steps 100000

At equal intervals, the command prints the resident memory (RSS) of the process, the loss, log Z, and the numbers of bad
steps and gradient spikes. At the end it prints the growth of memory after the first tenth of the steps.

Results: docs/results/reliability.md.
"""

import argparse
import math
import time
from pathlib import Path

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from crystalgfn import Crystal, GFlowNet
from crystalgfn.gflownet.data import Ticks
from crystalgfn.gflownet.envs import HyperGrid
from crystalgfn.gflownet.policies import MLP
from crystalgfn.gflownet.proxies import HyperGridModes
from crystalgfn.gflownet.replay import ReplayBuffer
from crystalgfn.gflownet.rewards import Boltzmann, Identity
from crystalgfn.proxies import Density


def resident() -> float:
    """Resident memory of this process [MiB]."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS in /proc/self/status")


class Watch(Callback):
    """Checks the loss of each step, and prints memory and counts at intervals."""

    def __init__(self, every: int) -> None:
        self.every, self.rows, self.not_finite, self.began = every, [], 0, time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs, *_) -> None:
        loss = outputs["loss"].item()
        self.not_finite += not math.isfinite(loss)
        if trainer.global_step % self.every == 0:
            values = trainer.callback_metrics
            row = [trainer.global_step, resident(), loss, float(pl_module.log_z)]
            counts = [int(values[f"train/{name}"]) for name in ("bad_steps", "gradient_spikes")]
            self.rows.append(row)
            print("{:>8} {:>9.1f} {:>10.4f} {:>8.3f}".format(*row), *(f"{count:>6}" for count in counts), end="")
            print(f" {time.monotonic() - self.began:>7.0f}", flush=True)


def model(setting: str) -> GFlowNet:
    if setting == "hypergrid":
        parts = {"env": HyperGrid(2, 4), "proxy": HyperGridModes(4, 0.1, 0.5, 2.0), "reward": Identity()}
    else:
        env = Crystal(space_groups=[2, "221-225"], elements=["Li", "O", "F", "Na"], max_elements=3)
        parts = {"env": env, "proxy": Density(), "reward": Boltzmann(-0.5)}
    replay = ReplayBuffer(200, 4, draw="loss")
    return GFlowNet(**parts, policy=lambda sizes: MLP(sizes, [32]), batch_size=8, replay=replay, epsilon=0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000, help="training steps (default 100,000)")
    parser.add_argument("--setting", choices=["hypergrid", "crystal"], default="hypergrid", help="what is trained")
    options = parser.parse_args()
    torch.set_num_threads(1)
    watch = Watch(max(options.steps // 20, 1))
    trainer = Trainer(
        accelerator="cpu", max_steps=options.steps, logger=False, enable_checkpointing=False, callbacks=[watch],
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    print("    step RSS [MiB]       loss    log Z    bad spikes time [s]")
    trainer.fit(model(options.setting), DataLoader(Ticks(), batch_size=None))
    settled = [memory for step, memory, *_ in watch.rows if step >= options.steps / 10]
    growth = settled[-1] - settled[0]
    print(f"steps with a loss that is not finite: {watch.not_finite}")
    print(
        f"growth of memory after the first tenth: {growth:+.1f} MiB, {growth * 2**20 / options.steps:+.0f} bytes a step"
    )


if __name__ == "__main__":
    main()
