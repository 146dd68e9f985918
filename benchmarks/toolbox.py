"""Every loss with every source of trajectories, in environments whose exact distribution is known.

    python benchmarks/toolbox.py --out toolbox.json

After a fixed number of trajectories, the distribution that the policy samples from is compared with R / Z. It is
computed, not estimated from samples. The result is given as a ratio to the sampling floor: the total variation that
10,000 samples of a perfect sampler show.

Each loss is trained three times: on-policy (the policy samples all trajectories), and with half of the trajectories
from a replay buffer or from a data set. All runs have the same learning rates; they are not tuned for any loss or
environment.

With --torchgfn-python, torchgfn learns the grid too, with trajectory balance. The number of trajectories, the size of
the networks and the learning rates are the same. Both packages run in turns, once with a uniform and once with a
learned P_B.

Results: docs/results/losses.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from exact import sampling_floor, total_variation
from helpers import make_crystal
from spaces import BoxSpace, CompositionSpace, FiniteSpace, Space

from crystalgfn import GFlowNet
from crystalgfn.gflownet import losses as of
from crystalgfn.gflownet.data import Samples
from crystalgfn.gflownet.data_set import DataSet
from crystalgfn.gflownet.envs import Box, HyperGrid, Sequence, Set
from crystalgfn.gflownet.policies import MLP
from crystalgfn.gflownet.proxies import BoxCorners, HammingDistance, HyperGridModes, SetOverlap
from crystalgfn.gflownet.replay import ReplayBuffer
from crystalgfn.gflownet.rewards import Boltzmann, Identity, Power
from crystalgfn.gflownet.rollout import sample_forward
from crystalgfn.proxies import Density
from crystalgfn.random import generator
from crystalgfn.testing import RandomPolicy

BATCH = 128
LR, LR_LOG_Z = 2e-2, 0.5
LOSSES = {
    "TrajectoryBalance": of.TrajectoryBalance,
    "LogPartitionVariance": of.LogPartitionVariance,
    "SubTrajectoryBalance": of.SubTrajectoryBalance,
    "DetailedBalance": of.DetailedBalance,
    "ForwardLookingDetailedBalance": of.ForwardLookingDetailedBalance,
    "FlowMatching": of.FlowMatching,
}
SOURCES = ("on-policy", "replay", "data set")


@dataclass(frozen=True)
class Task:
    """An environment to learn, the number of steps, and the losses that can be used."""

    name: str
    make: Callable[[], Space]
    steps: int
    losses: tuple[str, ...] = tuple(LOSSES)
    settings: dict[str, Any] = field(default_factory=dict)


def crystals() -> CompositionSpace:
    env = make_crystal(
        space_groups=[123, 129, 221, 225], elements=["Na", "Mg", "O", "Cl"], max_elements=3, max_atoms=8,
        max_atoms_per_element=4, lengths=(3.0, 6.0), components=3,
    )  # fmt: skip
    return CompositionSpace(env, Density(), Power(1.5))


TASKS = {
    "grid": Task("HyperGrid, 8 x 8 cells", lambda: FiniteSpace(HyperGrid(2, 8), HyperGridModes(8), Identity()), 400),
    "set": Task(
        "Set, 5 of 12 items",
        lambda: FiniteSpace(
            Set(12, 5), SetOverlap([[0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [0, 8, 9, 10, 11]]), Boltzmann(-8.0)
        ),
        200,
    ),
    "sequence": Task(
        "Sequence, 10 bits, both ends",
        lambda: FiniteSpace(
            Sequence("01", 10, "both"),
            HammingDistance(["0000000000", "1111100000", "0011111100", "1100110011"], "01"),
            Boltzmann(1.0),
        ),
        200,
    ),
    "box": Task(
        "Box, unit square",
        lambda: BoxSpace(Box(2, 3, 0.25, 5), BoxCorners(0.2, 0.08, 0.01)),
        500,
        tuple(LOSSES)[:5],
        {"backward_policy": "learned"},
    ),
    "crystal": Task("Crystal, small space", crystals, 600, tuple(LOSSES)[:4]),
}


def write_table(space: Space, path: Path) -> None:
    """Write a data set: all objects if they can be listed, otherwise 5,000 random ones."""
    env = space.env
    if env.is_enumerable:
        states = env.enumerate()
    elif isinstance(env, Box):
        stream = generator("data set")
        points = torch.empty(5000, env.dimensions, dtype=torch.float64).uniform_(generator=stream)
        states, _ = env.states_of(points)
    else:
        states = sample_forward(env, RandomPolicy(env), 5000, generator("data set"))[0].states
    env.to_frame(states).to_csv(path, index=False)


def source(name: str, table: Path) -> dict[str, Any]:
    half = BATCH // 2
    if name == "replay":
        return {"batch_size": half, "replay": ReplayBuffer(2000, half, keep="newest")}
    if name == "data set":
        return {"batch_size": half, "data_set": DataSet(table, half)}
    return {"batch_size": BATCH}


def measure(task: Task, space: Space, loss: str, name: str, table: Path, seed: int, **settings: Any) -> dict[str, Any]:
    defaults = {"lr": LR, "lr_log_z": LR_LOG_Z, "epsilon": 0.05}
    model = GFlowNet(
        policy=lambda sizes: MLP(sizes, (64, 64)), loss=LOSSES[loss](), seed=seed, **space.settings,
        **source(name, table), **(defaults | task.settings | settings),
    )  # fmt: skip
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=task.steps, logger=False, enable_checkpointing=False, limit_val_batches=0,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    started, cpu = time.perf_counter(), time.process_time()
    trainer.fit(model, Samples())
    times = time.process_time() - cpu, time.perf_counter() - started
    log_z = model.log_z.item() - space.log_z
    return result(task, space, loss, name, seed, space.learned(model), log_z, *times)


def result(
    task: Task, space: Space, loss: str, name: str, seed: int, learned: torch.Tensor, log_z_error: float, cpu: float,
    seconds: float,
) -> dict[str, Any]:  # fmt: skip
    found, floor = total_variation(learned, space.exact), sampling_floor(space.exact)
    print(f"{task.name}, {loss}, {name}: {found:.4f}, {found / floor:.2f} floors, {cpu:.1f} s", file=sys.stderr)
    return {
        "environment": task.name,
        "loss": loss,
        "source": name,
        "seed": seed,
        "steps": task.steps,
        "trajectories": task.steps * BATCH,
        "total_variation": found,
        "sampling_floor": floor,
        "log_z_error": log_z_error,
        "cpu_seconds": cpu,
        "seconds": seconds,
    }


TORCHGFN = """
import json, sys, time, torch
from gfn.estimators import DiscretePolicyEstimator
from gfn.gflownet import TBGFlowNet
from gfn.gym import HyperGrid
from gfn.preprocessors import KHotPreprocessor
from gfn.utils.modules import MLP, UniformModule
steps, batch, seed = map(int, sys.argv[1:4])
learned_pb, lr, lr_log_z = sys.argv[4] == "learned", float(sys.argv[5]), float(sys.argv[6])
torch.manual_seed(seed)
torch.set_num_threads(1)
rewards = {"R0": 0.1, "R1": 0.5, "R2": 2.0}
env = HyperGrid(ndim=2, height=8, reward_fn_str="original", reward_fn_kwargs=rewards, store_all_states=True,
                calculate_partition=True)
encode = KHotPreprocessor(height=8, ndim=2)
forward = MLP(input_dim=encode.output_dim, output_dim=env.n_actions, hidden_dim=64, n_hidden_layers=2)
backward = UniformModule(env.n_actions - 1)
if learned_pb:
    backward = MLP(input_dim=encode.output_dim, output_dim=env.n_actions - 1, hidden_dim=64, n_hidden_layers=2)
pf = DiscretePolicyEstimator(forward, env.n_actions, preprocessor=encode)
pb = DiscretePolicyEstimator(backward, env.n_actions, preprocessor=encode, is_backward=True)
model = TBGFlowNet(pf=pf, pb=pb, init_logZ=0.0)
groups = [{"params": model.pf_pb_parameters(), "lr": lr}, {"params": model.logz_parameters(), "lr": lr_log_z}]
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


def torchgfn(python: Path, task: Task, space: Space, backward: str, seed: int) -> dict[str, Any]:
    options = [str(x) for x in (task.steps, BATCH, seed, backward, LR, LR_LOG_Z)]
    output = subprocess.run([str(python), "-c", TORCHGFN, *options], capture_output=True, text=True, check=True).stdout
    learned, log_z, cpu, seconds = json.loads(output.splitlines()[-1])
    probabilities = torch.tensor(learned, dtype=torch.float64)
    name = f"torchgfn, {backward} P_B"
    return result(task, space, "TrajectoryBalance", name, seed, probabilities, log_z - space.log_z, cpu, seconds)


def compare(python: Path, task: Task, space: Space, table: Path, repeats: int) -> list[dict[str, Any]]:
    """Run crystalgfn and torchgfn in turns, with uniform and learned P_B and several seeds."""
    results = []
    for backward in ("uniform", "learned"):
        for seed in range(repeats):
            own = measure(task, space, "TrajectoryBalance", "on-policy", table, seed, backward_policy=backward)
            results.append(own | {"source": f"crystalgfn, {backward} P_B"})
            results.append(torchgfn(python, task, space, backward, seed))
    return results


def markdown(results: list[dict[str, Any]]) -> str:
    """A table of total variation, its ratio to the floor and the error of log Z, with a column for each source."""
    lines = [
        "| environment (floor; trajectories) | loss | on-policy | replay | data set |",
        "|---|---|--:|--:|--:|",
    ]
    for environment, loss in dict.fromkeys((r["environment"], r["loss"]) for r in results):
        own = {r["source"]: r for r in results if (r["environment"], r["loss"]) == (environment, loss)}
        cells = []
        for r in (own[name] for name in SOURCES):
            ratio = r["total_variation"] / r["sampling_floor"]
            cells.append(f"{r['total_variation']:.4f} ({ratio:.2f}; {r['log_z_error']:+.3f})")
        first = own[SOURCES[0]]
        label = f"{environment} ({first['sampling_floor']:.3f}; {first['trajectories']:,})"
        lines.append(f"| {label} | `{loss}` | {' | '.join(cells)} |")
    worst = max(results, key=lambda r: r["total_variation"] / r["sampling_floor"])
    lines.append(
        f"\nIn brackets: ratio to the floor, error of log Z. Largest ratio: "
        f"{worst['total_variation'] / worst['sampling_floor']:.2f} ({worst['environment']}, {worst['loss']}, "
        f"{worst['source']}). CPU time of all runs: {sum(r['cpu_seconds'] for r in results):.0f} s."
    )
    return "\n".join(lines)


def comparison(results: list[dict[str, Any]]) -> str:
    """A table of the total variation on the grid and the CPU time of each package, as medians over seeds."""
    lines = ["| package, P_B | total variation (range) | CPU seconds (range) |", "|---|--:|--:|"]
    for name in dict.fromkeys(r["source"] for r in results):
        own = [r for r in results if r["source"] == name]
        cells = []
        for key, digits in (("total_variation", 4), ("cpu_seconds", 1)):
            values = [r[key] for r in own]
            low, middle, high = min(values), statistics.median(values), max(values)
            cells.append(f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of training (default 0)")
    parser.add_argument("--environments", nargs="*", choices=list(TASKS), default=list(TASKS), help="default: all")
    parser.add_argument("--losses", nargs="+", choices=list(LOSSES), default=list(LOSSES), help="default: all")
    parser.add_argument("--lr", type=float, default=LR, help=f"learning rate of the networks (default {LR})")
    parser.add_argument("--torchgfn-python", type=Path, help="Python interpreter with torchgfn 2.4")
    parser.add_argument(
        "--repeats", type=int, default=3, help="number of seeds of the comparison with torchgfn (default 3)"
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    results, compared = [], []
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "objects.csv"
        for kind in options.environments:
            task = TASKS[kind]
            space = task.make()
            write_table(space, table)
            for loss in (loss for loss in task.losses if loss in options.losses):
                for name in SOURCES:
                    results.append(measure(task, space, loss, name, table, options.seed, lr=options.lr))
                    options.out.write_text(json.dumps({"table": results}, indent=1) + "\n")
        if options.torchgfn_python:
            task = TASKS["grid"]
            space = task.make()
            compared = compare(options.torchgfn_python, task, space, table, options.repeats)
    if results:
        print(markdown(results))
    if compared:
        print("\n" + comparison(compared))
    options.out.write_text(json.dumps({"table": results, "torchgfn": compared}, indent=1) + "\n")


if __name__ == "__main__":
    main()
