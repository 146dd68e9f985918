"""Histograms of the property and the reward of the samples."""

from __future__ import annotations

from collections.abc import Mapping

from pytorch_lightning import LightningModule
from torch import Tensor

from crystalgfn.callbacks.sink import Sink
from crystalgfn.callbacks.window import Metrics, WindowCallback, proxy_of
from crystalgfn.metrics import Values


class LogHistograms(WindowCallback):
    """Logs TensorBoard histograms of the samples' property and log R, for any environment.

    Tags: ``histograms/<property>``, in the proxy's unit, and ``histograms/log_reward``. Other loggers get nothing.

    Args:
        every_n_steps: training steps in a window.
    """

    def __init__(self, every_n_steps: int = 100) -> None:
        super().__init__(every_n_steps)

    def make_metrics(self, pl_module: LightningModule) -> Metrics:
        return {"property": Values(), "log_reward": Values()}

    def update(self, metrics: Metrics, pl_module: LightningModule, outputs: Mapping[str, Tensor]) -> None:
        for name, metric in metrics.items():
            metric.update(outputs[name])

    def report(self, metrics: Metrics, pl_module: LightningModule, sink: Sink) -> None:
        for name, metric in metrics.items():
            values = metric.compute()
            tag = sink.tag(f"histograms/{proxy_of(pl_module).name if name == 'property' else name}")
            for board in sink.boards if len(values) else ():
                board.add_histogram(tag, values.cpu().numpy(), sink.step)
