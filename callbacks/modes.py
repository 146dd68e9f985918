"""Fraction of the known modes that occur among the samples."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from crystalgfn.callbacks.sink import Sink
from crystalgfn.callbacks.window import Metrics, WindowCallback, environment, proxies_of
from crystalgfn.errors import InputError
from crystalgfn.gflownet.metrics import Coverage
from crystalgfn.gflownet.proxies import Proxy


class LogModes(WindowCallback):
    """Logs how many of the known modes occur among the samples, for a proxy that knows its modes.

    Tags: ``modes/coverage``, the share of the modes that occur; ``modes/n``, the number of these modes;
    ``modes/share``, the share of the samples that lie in a mode.

    Args:
        every_n_steps: number of training steps between two logs.

    Raises:
        InputError: if the interval is not positive, no proxy knows modes, or the space has no modes.
    """

    def __init__(self, every_n_steps: int = 100) -> None:
        super().__init__(every_n_steps)

    def make_metrics(self, pl_module: LightningModule) -> Metrics:
        env = environment(pl_module)
        proxy = _proxy(pl_module)
        n = proxy.n_modes(env.decode(env.initial_states(0)))
        if not n:
            raise InputError(
                f"callback LogModes: {proxy.name} has no modes in this space; remove it from trainer.callbacks"
            )
        # The last class is for samples that are in no mode.
        return {"modes": Coverage(n + 1, torch.arange(n + 1) < n)}

    def update(self, metrics: Metrics, pl_module: LightningModule, outputs: Mapping[str, Tensor]) -> None:
        metric = metrics["modes"]
        assert isinstance(metric, Coverage)
        modes = _proxy(pl_module).modes(environment(pl_module).decode(outputs["states"]))
        metric.update(torch.where(modes < 0, metric.n_classes - 1, modes))

    def report(self, metrics: Metrics, pl_module: LightningModule, sink: Sink) -> None:
        found = metrics["modes"].compute()
        counts = found["counts"]
        if counts.sum() == 0:
            return
        share = counts[:-1].sum() / counts.sum()
        sink.scalars({"modes/coverage": found["fraction"], "modes/n": found["seen"], "modes/share": share})


def _proxy(pl_module: LightningModule) -> Proxy:
    """The first proxy that knows modes."""
    for proxy in proxies_of(pl_module):
        if proxy.knows_modes:
            assert isinstance(proxy, Proxy)
            return proxy
    raise InputError(
        "callback LogModes: no proxy of this run knows the modes of its property; remove it from trainer.callbacks"
    )
