"""Every loss with every source of trajectories, on spaces whose exact distribution is known.

    python benchmarks/toolbox.py --out toolbox.json

After a fixed number of trajectories the distribution that the policy samples from is computed, not estimated, and
compared with R / Z. The yardstick is the sampling floor: the total variation that 10,000 samples of a perfect sampler
show. Beside on-policy training (every trajectory sampled with the policy) half of the trajectories come from a replay
buffer or from a data set. All runs have the same learning rates: none is tuned for its loss.

With --torchgfn-python, the interpreter of an environment with torchgfn, the same grid is learned by torchgfn with
trajectory balance, networks of the same size and as many trajectories.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from exact import CrystalSpace, sampling_floor, terminating_distribution, total_variation
from helpers import make_crystal

from crystalgfn import losses as of
from crystalgfn.data import Samples
from crystalgfn.data_set import DataSet
from crystalgfn.envs import HyperGrid
from crystalgfn.module import GFlowNet
from crystalgfn.policies import MLP
from crystalgfn.proxies import Prediction
from crystalgfn.proxies.density import Density
from crystalgfn.proxies.hypergrid import HyperGridModes
from crystalgfn.random import generator
from crystalgfn.replay import ReplayBuffer
from crystalgfn.rewards import Identity, Power
from crystalgfn.rollout import log_forward, sample_backward, sample_forward
from crystalgfn.testing import RandomPolicy

BATCH = 128
LOSSES = {
    "TrajectoryBalance": of.TrajectoryBalance,
    "LogPartitionVariance": of.LogPartitionVariance,
    "DetailedBalance": of.DetailedBalance,
    "SubTrajectoryBalance": of.SubTrajectoryBalance,
    "ForwardLookingDetailedBalance": of.ForwardLookingDetailedBalance,
    "FlowMatching": of.FlowMatching,
}
SOURCES = ("on-policy", "replay", "data set")


class Grid:
    """The hypergrid with 8 x 8 cells and a mode near each corner."""

    name = "HyperGrid 8 x 8"
    losses = tuple(LOSSES)
    steps = 400

    def __init__(self, table: Path) -> None:
        self.env, self.proxy, self.reward, self.table = HyperGrid(2, 8), HyperGridModes(8), Identity(), table
        cells = self.env.enumerate()
        self.env.to_frame(cells).to_csv(table, index=False)
        log_reward = self.reward({self.proxy.name: Prediction(self.proxy(self.env.decode(cells)))})
        self.exact, self.log_z = log_reward.softmax(0), log_reward.logsumexp(0).item()

    def learned(self, model: GFlowNet) -> torch.Tensor:
        return terminating_distribution(self.env, model.policy)


class Crystals:
    """Crystals of four space groups and four elements; their lattice parameters are integrated numerically."""

    name = "Crystal, small space"
    losses = tuple(LOSSES)[:4]
    steps = 300

    def __init__(self, table: Path) -> None:
        self.env = make_crystal(
            space_groups=[123, 129, 221, 225], elements=["Na", "Mg", "O", "Cl"], max_elements=3, max_atoms=8,
            max_atoms_per_element=4, lengths=(3.0, 6.0), components=3,
        )  # fmt: skip
        self.proxy, self.reward, self.table = Density(), Power(1.5), table
        self.space = CrystalSpace.of(
            self.env, lambda crystals: self.reward({"density": Prediction(self.proxy(crystals))})
        )
        log_weights = self.space.log_weights()
        self.exact, self.log_z = log_weights.softmax(0), log_weights.logsumexp(0).item()
        known, _ = sample_forward(self.env, RandomPolicy(self.env), 5000, generator("data set"))
        self.env.to_frame(known.states).to_csv(table, index=False)

    def learned(self, model: GFlowNet) -> torch.Tensor:
        trajectories = sample_backward(self.env, self.space.states, generator("backward"))
        with torch.no_grad():
            return log_forward(self.env, model.policy, trajectories).exp()


def source(name: str, table: Path) -> dict:
    half = BATCH // 2
    if name == "replay":
        return {"batch_size": half, "replay": ReplayBuffer(2000, half, keep="newest")}
    if name == "data set":
        return {"batch_size": half, "data_set": DataSet(table, half)}
    return {"batch_size": BATCH}


def measure(space: Grid | Crystals, loss: str, name: str, seed: int) -> dict:
    model = GFlowNet(
        space.env, space.proxy, space.reward, lambda sizes: MLP(sizes, (64, 64)), loss=LOSSES[loss](), lr=1e-2,
        lr_log_z=0.1, epsilon=0.05, seed=seed, **source(name, space.table),
    )  # fmt: skip
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=space.steps, logger=False, enable_checkpointing=False, limit_val_batches=0,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    started, cpu = time.perf_counter(), time.process_time()
    trainer.fit(model, Samples())
    return {
        "environment": space.name,
        "loss": loss,
        "source": name,
        "seed": seed,
        "total_variation": total_variation(space.learned(model), space.exact),
        "sampling_floor": sampling_floor(space.exact),
        "log_z_error": model.log_z.item() - space.log_z,
        "trajectories": space.steps * BATCH,
        "cpu_seconds": time.process_time() - cpu,
        "seconds": time.perf_counter() - started,
    }


TORCHGFN = """
import json, sys, time, torch
from gfn.estimators import DiscretePolicyEstimator
from gfn.gflownet import TBGFlowNet
from gfn.gym import HyperGrid
from gfn.preprocessors import KHotPreprocessor
from gfn.utils.modules import MLP
steps, batch, seed = map(int, sys.argv[1:])
torch.manual_seed(seed)
torch.set_num_threads(1)
rewards = {"R0": 0.1, "R1": 0.5, "R2": 2.0}
env = HyperGrid(ndim=2, height=8, reward_fn_str="original", reward_fn_kwargs=rewards, store_all_states=True,
                calculate_partition=True)
encode = KHotPreprocessor(height=8, ndim=2)
forward = MLP(input_dim=encode.output_dim, output_dim=env.n_actions, hidden_dim=64, n_hidden_layers=2)
backward = MLP(input_dim=encode.output_dim, output_dim=env.n_actions - 1, hidden_dim=64, n_hidden_layers=2,
               trunk=forward.trunk)
pf = DiscretePolicyEstimator(forward, env.n_actions, preprocessor=encode)
pb = DiscretePolicyEstimator(backward, env.n_actions, preprocessor=encode, is_backward=True)
model = TBGFlowNet(pf=pf, pb=pb, init_logZ=0.0)
groups = [{"params": model.pf_pb_parameters(), "lr": 1e-2}, {"params": model.logz_parameters(), "lr": 0.1}]
optimizer = torch.optim.Adam(groups)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
started, cpu = time.perf_counter(), time.process_time()
for _ in range(steps):
    drawn = model.sample_trajectories(env, n=batch, save_logprobs=False, save_estimator_outputs=False, epsilon=0.05)
    optimizer.zero_grad()
    loss = model.loss_from_trajectories(env, drawn, recalculate_all_logprobs=True)
    loss.backward()
    optimizer.step()
    schedule.step()
times = time.process_time() - cpu, time.perf_counter() - started
# The distribution that the policy samples from, level by level.
flow, stops = torch.zeros(8, 8, dtype=torch.float64), torch.zeros(8, 8, dtype=torch.float64)
flow[0, 0] = 1
cells = torch.cartesian_prod(torch.arange(8), torch.arange(8))
with torch.no_grad():
    logits = forward(torch.nn.functional.one_hot(cells, 8).flatten(1).float()).double()
for (i, j), row in sorted(zip(cells.tolist(), logits), key=lambda pair: sum(pair[0])):
    share = row.masked_fill(torch.tensor([i == 7, j == 7, False]), -torch.inf).softmax(0) * flow[i, j]
    stops[i, j] = share[2]
    if i < 7:
        flow[i + 1, j] += share[0]
    if j < 7:
        flow[i, j + 1] += share[1]
print(json.dumps([stops.flatten().tolist(), model.logZ.item(), *times]))
"""


def torchgfn(python: Path, grid: Grid, seed: int) -> dict:
    command = [str(python), "-c", TORCHGFN, str(grid.steps), str(BATCH), str(seed)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    learned, log_z, cpu, seconds = json.loads(output.splitlines()[-1])
    return {
        "environment": grid.name,
        "loss": "TrajectoryBalance, torchgfn (learned P_B)",
        "source": "on-policy",
        "seed": seed,
        "total_variation": total_variation(torch.tensor(learned, dtype=torch.float64), grid.exact),
        "sampling_floor": sampling_floor(grid.exact),
        "log_z_error": log_z - grid.log_z,
        "trajectories": grid.steps * BATCH,
        "cpu_seconds": cpu,
        "seconds": seconds,
    }


def markdown(results: list[dict]) -> str:
    lines = [
        "| environment | loss | source | total variation | sampling floor | error of log Z | CPU seconds |",
        "|---|---|---|--:|--:|--:|--:|",
    ]
    for r in results:
        lines.append(
            f"| {r['environment']} | {r['loss']} | {r['source']} | {r['total_variation']:.4f} | "
            f"{r['sampling_floor']:.4f} | {r['log_z_error']:+.3f} | {r['cpu_seconds']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--environments", nargs="+", choices=["grid", "crystal"], default=["grid", "crystal"])
    parser.add_argument("--torchgfn-python", type=Path, help="interpreter of an environment with torchgfn 2.4")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in options.environments:
            space = (Grid if kind == "grid" else Crystals)(Path(folder) / f"{kind}.csv")
            for loss in space.losses:
                for name in SOURCES:
                    results.append(measure(space, loss, name, options.seed))
                    print(markdown(results[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
            if options.torchgfn_python and isinstance(space, Grid):
                results.append(torchgfn(options.torchgfn_python, space, options.seed))
    print(markdown(results))
    options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
