"""The model of a config, and a clock for its parts."""

from __future__ import annotations

import os
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from crystalgfn import Environment, GFlowNet
from crystalgfn.gflownet.losses import TrajectoryBalance
from crystalgfn.gflownet.policies import MLP
from crystalgfn.plugins import load_everything
from crystalgfn.random import generator

clock = time.process_time if int(os.environ.get("OMP_NUM_THREADS", "1")) == 1 else time.perf_counter
"""CPU time with one thread, so that other programs do not change it; wall time with several threads."""

OF_ENVIRONMENT = (
    "initial_states", "next_head", "due", "encode", "support", "step", "advance", "decode", "backward_distribution",
    "parent_actions",
)  # fmt: skip


def build(settings: dict[str, Any], batch: int) -> GFlowNet:
    """The model of a config, with trajectory balance and a policy that is not uniform."""
    environments, proxies, rewards, *_ = load_everything()
    parts = []
    for registry, field in ((environments, "env"), (proxies, "proxy"), (rewards, "reward")):
        spec = settings[field]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parts.append(registry.get(spec["class_path"])(**spec.get("init_args", {})))
    hidden = settings["policy"]["init_args"]["hidden"]
    names = ("lr", "lr_log_z", "lr_final", "epsilon", "seed")
    own = {name: settings[name] for name in names if name in settings}
    model = GFlowNet(
        *parts, policy=lambda sizes: MLP(sizes, hidden=hidden), loss=TrajectoryBalance(), batch_size=batch, **own
    )
    stream = generator("benchmark")
    for parameter in model.policy.parameters():
        if not parameter.any():
            # Parameters that are zero at the start get random values, so that the logits differ as in a trained policy.
            parameter.data.normal_(0, 0.05, generator=stream)
    return model


class Parts:
    """Sums the time that a model spends in each part.

    Args:
        model: the model.
    """

    def __init__(self, model: GFlowNet) -> None:
        self.model = model
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside: list[float] = []

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measure while the block runs. Afterwards the model is as it was before."""
        model = self.model
        self._wrap(model.policy, "forward", "network")
        for name in OF_ENVIRONMENT:
            if hasattr(Environment, name):
                self._wrap(model.env, name, "environment")
        self._wrap(model.proxies, "predict", "proxy")
        self._wrap(model.reward, "parts", "proxy")
        self._wrap(model.reward, "total", "proxy")
        try:
            yield
        finally:
            for thing in (model.policy, model.env, model.proxies, model.reward):
                for name in [n for n, value in vars(thing).items() if hasattr(value, "measures")]:
                    delattr(thing, name)

    def _wrap(self, thing: object, name: str, part: str) -> None:
        original = getattr(thing, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.within(part):
                return original(*args, **kwargs)

        timed.measures = part  # type: ignore[attr-defined]
        setattr(thing, name, timed)

    @contextmanager
    def within(self, part: str) -> Iterator[None]:
        """Add the time of the block to a part, without the time of other parts inside of the block."""
        started = clock()
        self._inside.append(0.0)
        try:
            yield
        finally:
            spent = clock() - started
            self.seconds[part] += spent - self._inside.pop()
            if self._inside:
                self._inside[-1] += spent

    def shares(self, whole: float) -> dict[str, float]:
        """The share of each part in a whole time [s]; bookkeeping is the rest."""
        found = {name: self.seconds[name] / whole for name in ("network", "environment", "proxy")}
        return found | {"bookkeeping": 1 - sum(found.values())}


def seconds(call: Callable[[], object]) -> float:
    """The time of a call [s], measured with `clock`."""
    started = clock()
    call()
    return clock() - started


def floor_inputs(model: GFlowNet, batch: int, stream: torch.Generator) -> dict[str, torch.Tensor]:
    """The inputs of the network in one batch of trajectories, by decision."""
    from crystalgfn.gflownet.rollout import sample_forward

    trajectories, _ = sample_forward(model.env, model.policy, batch, stream)
    found: dict[str, list[torch.Tensor]] = {}
    for step in trajectories.steps:
        found.setdefault(step.head, []).append(step.inputs)
    return {head: torch.cat(parts) for head, parts in found.items()}
