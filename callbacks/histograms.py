"""Histograms of the properties and the reward of the samples."""

from __future__ import annotations

from collections.abc import Mapping

from pytorch_lightning import LightningModule
from torch import Tensor

from crystalgfn.callbacks.sink import Sink
from crystalgfn.callbacks.window import Metrics, WindowCallback, proxies_of
from crystalgfn.gflownet.metrics import Values


class LogHistograms(WindowCallback):
    """Logs TensorBoard histograms of the samples' properties and log R, for any environment.

    Tags: ``histograms/<property>`` and ``histograms/<property>_uncertainty`` for each proxy, in its unit, and
    ``histograms/log_reward``. Other loggers are ignored.

    Args:
        every_n_steps: number of training steps between two logs.

    Raises:
        InputError: if the interval is not positive.
    """

    def __init__(self, every_n_steps: int = 100) -> None:
        super().__init__(every_n_steps)

    def make_metrics(self, pl_module: LightningModule) -> Metrics:
        return {name: Values() for name in (*_names(pl_module), "log_reward")}

    def update(self, metrics: Metrics, pl_module: LightningModule, outputs: Mapping[str, Tensor]) -> None:
        for name, values in zip(_names(pl_module), outputs["properties"].unbind(1), strict=True):
            metrics[name].update(values)
        metrics["log_reward"].update(outputs["log_reward"])

    def report(self, metrics: Metrics, pl_module: LightningModule, sink: Sink) -> None:
        for name, metric in metrics.items():
            values = metric.compute()
            for board in sink.boards if len(values) else ():
                board.add_histogram(sink.tag(f"histograms/{name}"), values.cpu().numpy(), sink.step)


def _names(pl_module: LightningModule) -> list[str]:
    return [column.name for column in proxies_of(pl_module).columns]
