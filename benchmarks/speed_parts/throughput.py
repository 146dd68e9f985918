"""Trajectories per second in sampling and in training, their parts, and the network alone on the same rows."""

from __future__ import annotations

import logging
import resource
import statistics
import time
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer

from crystalgfn import GFlowNet
from crystalgfn.gflownet.data import Samples
from crystalgfn.gflownet.rollout import sample_forward
from crystalgfn.random import generator
from crystalgfn.runs.quiet import quieten
from speed_parts.model import Parts, build, clock, floor_inputs, seconds


class Stopwatch(Callback):
    """Measures the time of every step of a training run, and after each step the time of the network alone.

    Args:
        floor: runs the network once without and once with gradients.
        warm_up: number of steps at the start that are not counted.
    """

    def __init__(self, floor: Any, warm_up: int) -> None:
        self._floor, self._warm_up = floor, warm_up
        self.steps: list[tuple[float, float]] = []
        self.floors: list[float] = []
        self._started = 0.0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._started = clock(), time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        spent = clock() - self._started[0], time.perf_counter() - self._started[1]
        floor = seconds(self._floor)
        if trainer.global_step > self._warm_up:
            self.steps.append(spent)
            self.floors.append(floor)
        self._started = clock(), time.perf_counter()


def throughput(settings: dict[str, Any], batch: int, rounds: int, threads: int) -> dict[str, Any]:
    """The row of one batch size. It reports the peak memory of its process, so run it in a new process."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    quieten()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    model = build(settings, batch)
    stream = generator("benchmark", batch)
    inputs = floor_inputs(model, batch, stream)

    def forward() -> None:
        with torch.no_grad():
            for head, rows in inputs.items():
                model.policy(head, rows)

    def sample() -> None:
        sample_forward(model.env, model.policy, batch, stream)

    def forward_and_backward() -> None:
        forward()  # sampling is part of training
        sum(model.policy(head, rows).sum() for head, rows in inputs.items()).backward()

    repeats = max(1, min(25, 400 // batch))  # a short call is too short to be measured alone
    sampling, floors, walls = [], [], []
    for i in range(rounds + 1):
        wall = time.perf_counter()
        spent = sum(seconds(sample) for _ in range(repeats)) / repeats
        wall = (time.perf_counter() - wall) / repeats
        floor = sum(seconds(forward) for _ in range(repeats)) / repeats
        if i:  # the first round is slower
            sampling.append(spent)
            walls.append(wall)
            floors.append(floor)
    of_sampling = Parts(model)
    with of_sampling.measured():
        whole = sum(seconds(sample) for _ in range(repeats * max(2, rounds // 3)))
    row: dict[str, Any] = {
        "batch": batch,
        "rows": {head: len(rows) for head, rows in inputs.items()},
        "sampling": {
            **_figures(batch, sampling, walls, floors),
            "shares": of_sampling.shares(whole),
        },
    }
    steps = rounds * repeats
    warm_up = max(2, repeats)
    watch = Stopwatch(forward_and_backward, warm_up)
    _fit(model, steps + warm_up, watch)
    row["training"] = _figures(batch, [s for s, _ in watch.steps], [w for _, w in watch.steps], watch.floors)
    row["training"]["shares"] = _training_shares(build(settings, batch), steps)
    row["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return row


def _training_shares(model: GFlowNet, steps: int) -> dict[str, float]:
    """Shares of the parts in training. Backward passes count as network, and the optimizer as bookkeeping."""
    parts = Parts(model)
    whole = [0.0]
    original = model.backward

    class Whole(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            self.started = clock()

        def on_train_batch_end(self, *_: Any) -> None:
            whole[0] += clock() - self.started

    def backward(*args: Any, **kwargs: Any) -> None:
        with parts.within("network"):
            original(*args, **kwargs)

    model.backward = backward  # type: ignore[method-assign]
    with parts.measured():
        _fit(model, max(5, steps // 3), Whole())
    return parts.shares(whole[0])


def _fit(model: GFlowNet, steps: int, callback: Callback) -> None:
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[callback], limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(model, datamodule=Samples())


def _figures(batch: int, spent: list[float], walls: list[float], floors: list[float]) -> dict[str, float]:
    """Medians of the measured times [s] of batches, and of their ratios to the floors."""
    return {
        "per_second": batch / statistics.median(spent),
        "per_second_wall": batch / statistics.median(walls),
        "seconds_per_trajectory": statistics.median(spent) / batch,
        "floor_per_second": batch / statistics.median(floors),
        "ratio_to_floor": statistics.median(s / f for s, f in zip(spent, floors, strict=True)),
    }
