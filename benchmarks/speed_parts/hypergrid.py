"""HyperGrid in crystalgfn, torchgfn and gfnx, in turns: 4 dimensions, height 8, an MLP 256 x 2, one thread."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from crystalgfn import GFlowNet
from crystalgfn.gflownet.balance import Balance
from crystalgfn.gflownet.envs import HyperGrid
from crystalgfn.gflownet.policies import MLP
from crystalgfn.gflownet.proxies import HyperGridModes
from crystalgfn.gflownet.rewards import Identity
from crystalgfn.gflownet.rollout import sample_to_learn
from crystalgfn.random import generator


class Ours:
    """Sampling and training with crystalgfn, in a plain loop as in the other programs."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, int], tuple[GFlowNet, Any, torch.Generator]] = {}

    def run(self, what: str, batch: int, calls: int) -> tuple[float, float]:
        """CPU time [s] of some batches, and the mean number of actions of a trajectory."""
        if (what, batch) not in self._models:
            model = GFlowNet(
                HyperGrid(4, 8), HyperGridModes(8), Identity(), policy=lambda sizes: MLP(sizes, hidden=(256, 256))
            )
            groups = [{"params": model.policy.parameters(), "lr": 1e-3}, {"params": [model.log_z], "lr": 0.1}]
            self._models[what, batch] = model, torch.optim.Adam(groups, fused=True), generator("hypergrid", batch)
        model, optimizer, stream = self._models[what, batch]
        actions = 0.0
        started = time.process_time()
        for _ in range(calls):
            drawn = sample_to_learn(model.env, model.policy, batch, stream)
            if what == "train":
                _, log_reward, _ = model.evaluate(drawn.states)
                optimizer.zero_grad()
                balance = Balance(model.env, model.policy, drawn, log_reward, model.log_z)
                model.loss(balance).mean().backward()
                optimizer.step()
            actions += drawn.states.sum(1).mean().item()
        return time.process_time() - started, actions / calls


class Theirs:
    """Another library, in a separate process that reads commands.

    Args:
        python: Python interpreter with the library.
        script: the program; a file in this folder.
    """

    def __init__(self, python: Path, script: str) -> None:
        self._process = subprocess.Popen(
            [str(python), str(Path(__file__).parent / script)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        if self._line() != "ready":
            raise SystemExit(f"{python} cannot run {script}; is the library installed there?")

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def run(self, what: str, batch: int, calls: int) -> tuple[float, float]:
        """The same as `Ours.run`."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what} {batch} {calls}\n")
        self._process.stdin.flush()
        seconds, actions = map(float, self._line().split())
        return seconds, actions

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


def hypergrid(torchgfn: Path | None, gfnx: Path | None, batches: list[int], rounds: int) -> list[dict[str, Any]]:
    """A row for each batch size, for sampling and for training: trajectories per second of each program."""
    torch.set_num_threads(1)
    programs: dict[str, Ours | Theirs] = {"crystalgfn": Ours()}
    for name, python in (("torchgfn", torchgfn), ("gfnx", gfnx)):
        if python is not None:
            programs[name] = Theirs(python, f"with_{name}.py")
    rows = []
    for batch in batches:
        for what in ("sample", "train"):
            calls = max(2, 1024 // batch)
            for program in programs.values():
                program.run(what, batch, 2)
            times = [{name: p.run(what, batch, calls) for name, p in programs.items()} for _ in range(rounds)]
            row: dict[str, Any] = {"what": what, "batch": batch}
            for name in programs:
                row[name] = {
                    "per_second": batch * calls / statistics.median(t[name][0] for t in times),
                    "actions": statistics.mean(t[name][1] for t in times),
                    "times_slower": statistics.median(t[name][0] / t["crystalgfn"][0] for t in times),
                }
            rows.append(row)
    for program in programs.values():
        if isinstance(program, Theirs):
            program.close()
    return rows
