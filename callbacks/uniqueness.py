"""Fraction of samples that are distinct."""

from __future__ import annotations

from collections.abc import Mapping

from pytorch_lightning import LightningModule
from torch import Tensor

from crystalgfn.callbacks.sink import Sink
from crystalgfn.callbacks.window import Metrics, WindowCallback, builds_crystals, environment
from crystalgfn.crystal.keys import composition_keys
from crystalgfn.gflownet.metrics import Uniqueness


class LogUniqueness(WindowCallback):
    """Logs the share of distinct objects among the samples, for any environment.

    Tags: ``samples/uniqueness``; for crystals also ``samples/composition_uniqueness``, the share of distinct pairs of
    space group and composition, and ``samples/distinct_compositions``, the number of distinct pairs.

    Args:
        every_n_steps: number of training steps between two logs.

    Raises:
        InputError: if the interval is not positive.
    """

    def __init__(self, every_n_steps: int = 100) -> None:
        super().__init__(every_n_steps)

    def make_metrics(self, pl_module: LightningModule) -> Metrics:
        metrics: Metrics = {"objects": Uniqueness()}
        if builds_crystals(environment(pl_module)):
            metrics["compositions"] = Uniqueness()
        return metrics

    def update(self, metrics: Metrics, pl_module: LightningModule, outputs: Mapping[str, Tensor]) -> None:
        env = environment(pl_module)
        objects = env.decode(outputs["states"])
        metrics["objects"].update(env.object_keys(objects, outputs["states"]))
        if "compositions" in metrics:
            metrics["compositions"].update(composition_keys(objects))

    def report(self, metrics: Metrics, pl_module: LightningModule, sink: Sink) -> None:
        objects = metrics["objects"].compute()
        if not objects["total"]:
            return
        values = {"samples/uniqueness": objects["fraction"]}
        if "compositions" in metrics:
            compositions = metrics["compositions"].compute()
            values["samples/composition_uniqueness"] = compositions["fraction"]
            values["samples/distinct_compositions"] = compositions["distinct"]
        sink.scalars(values)
