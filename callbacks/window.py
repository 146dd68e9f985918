"""Base class of callbacks that log samples. It collects samples over a window of steps and logs metrics of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from crystalgfn.callbacks.sink import Sink
from crystalgfn.checks import at_least
from crystalgfn.crystal.envs import Crystal
from crystalgfn.errors import InputError
from crystalgfn.gflownet.envs import Environment
from crystalgfn.gflownet.metrics import SampleMetric
from crystalgfn.gflownet.proxies import ProxySet

if TYPE_CHECKING:
    from crystalgfn.gflownet.module import GFlowNet

Metrics = dict[str, SampleMetric]

ROWS_AT_ONCE = 4096
"""Number of training samples to collect before an update. Few large updates are faster than one update per step."""

_OUTPUTS = ("states", "properties", "log_reward")


class WindowCallback(Callback, ABC):
    """Calculates metrics of the samples of training and of evaluation, and logs them.

    Training samples are the objects that the policy samples in each step. They are collected from one log to the next.
    Samples of a validation or test are collected until its end and logged then, with ``val/`` or ``test/`` before the
    tags. Checkpoints contain the metrics of training; with several processes, the combined metrics of all processes.

    Args:
        every_n_steps: number of training steps between two logs of training samples; None for evaluation samples only.

    Raises:
        InputError: if the interval is not positive.
    """

    starts_anew: ClassVar[bool] = True
    """Whether training metrics are reset after each log. If not, they cover the whole run."""

    def __init__(self, every_n_steps: int | None) -> None:
        if every_n_steps is not None:
            at_least("every_n_steps", every_n_steps, 1)
        self.every_n_steps = every_n_steps
        self._training: Metrics = {}
        self._evaluation: Metrics = {}
        self._last_log = -1
        self._loaded: Mapping[str, Any] | None = None
        self._is_first_process = True
        self._waiting: list[dict[str, Tensor]] = []
        self._n_waiting = 0
        self._pl_module: LightningModule | None = None

    @abstractmethod
    def make_metrics(self, pl_module: LightningModule) -> Metrics:
        """Make new metrics, by name. Raises InputError if the module's environment is not usable with this callback."""

    @abstractmethod
    def update(self, metrics: Metrics, pl_module: LightningModule, outputs: Mapping[str, Tensor]) -> None:
        """Add samples to the metrics. This must be fast and must not draw random numbers."""

    @abstractmethod
    def report(self, metrics: Metrics, pl_module: LightningModule, sink: Sink) -> None:
        """Compute the metrics and log them; called on every process.

        The method is not called ``log`` because Lightning sets an attribute of this name on callbacks.
        """

    def prepare(self, pl_module: LightningModule) -> None:
        """Read and check everything else before a run starts; by default nothing."""

    @property
    def state_key(self) -> str:
        return self._generate_state_key(every_n_steps=self.every_n_steps)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "predict":
            return
        self._is_first_process = trainer.is_global_zero
        self._evaluation = self.make_metrics(pl_module)
        self.prepare(pl_module)
        if stage == "fit" and self.every_n_steps is not None:
            self._training = self.make_metrics(pl_module)
            self._waiting, self._n_waiting, self._pl_module = [], 0, pl_module
            self._last_log = -1
            self._restore()

    @torch.no_grad()
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # A checkpoint may also be saved after the run.
        self._take_waiting()
        self._pl_module = None

    # Training

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # A step that learns from known objects alone samples nothing.
        if self.every_n_steps is None or not isinstance(outputs, Mapping) or "states" not in outputs:
            return
        self._waiting.append({name: outputs[name] for name in _OUTPUTS})
        self._n_waiting += len(outputs["states"])
        step = trainer.global_step
        # With accumulated gradients several batches belong to the same step.
        is_due = step % self.every_n_steps == 0 and step != self._last_log
        if is_due or self._n_waiting >= ROWS_AT_ONCE:
            self._take_waiting()
        if not is_due:
            return
        self._last_log = step
        self.report(self._training, pl_module, Sink(trainer, pl_module, ""))
        if self.starts_anew:
            _reset(self._training)

    def _take_waiting(self) -> None:
        """Add the waiting training samples to the metrics."""
        if self._waiting and self._pl_module is not None:
            rows = {name: torch.cat([outputs[name] for outputs in self._waiting]) for name in _OUTPUTS}
            self._update(self._training, self._pl_module, rows)
            self._waiting, self._n_waiting = [], 0

    def _update(self, metrics: Metrics, pl_module: LightningModule, outputs: Mapping[str, Tensor]) -> None:
        if not len(outputs["states"]):
            return
        device = outputs["states"].device
        for metric in metrics.values():
            if metric.device != device:
                metric.to(device)
        self.update(metrics, pl_module, outputs)

    # Validation and test

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _reset(self._evaluation)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if isinstance(outputs, Mapping) and not trainer.sanity_checking:
            self._update(self._evaluation, pl_module, outputs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.report(self._evaluation, pl_module, Sink(trainer, pl_module, "val"))
            _reset(self._evaluation)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _reset(self._evaluation)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if isinstance(outputs, Mapping):
            self._update(self._evaluation, pl_module, outputs)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.report(self._evaluation, pl_module, Sink(trainer, pl_module, "test"))
        _reset(self._evaluation)

    # Checkpoints

    @torch.no_grad()
    def state_dict(self) -> dict[str, Any]:
        if not self._training:
            return {}
        self._take_waiting()
        metrics = {name: metric.merged_state() for name, metric in self._training.items()}
        return {"last_log": self._last_log, "metrics": metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded = state_dict
        self._restore()

    def _restore(self) -> None:
        """Load the metrics of a checkpoint, as soon as both the checkpoint and the metrics are available."""
        if not self._loaded or not self._training:
            return
        self._last_log = int(self._loaded["last_log"])
        # A checkpoint holds the combined metrics of all processes, so only one process may load them.
        if self._is_first_process:
            for name, state in self._loaded["metrics"].items():
                self._training[name].load_merged_state(state)
        self._loaded = None


def environment(pl_module: LightningModule) -> Environment:
    """The environment of a module."""
    return cast(Environment, pl_module.env)


def gflownet(pl_module: LightningModule) -> GFlowNet:
    """The module with its own type, because Lightning passes it as a LightningModule."""
    return cast("GFlowNet", pl_module)


def proxies_of(pl_module: LightningModule) -> ProxySet:
    """The proxies of a module."""
    return cast(ProxySet, pl_module.proxies)


def builds_crystals(env: Environment) -> bool:
    """Whether an environment builds crystals and lists its elements and space groups."""
    # Callbacks need only these attributes, so an environment need not be a `Crystal`.
    return hasattr(env, "space_groups") and hasattr(env, "elements")


def crystal_environment(pl_module: LightningModule, callback: Callback) -> Crystal:
    """The environment of a module, for a callback that needs an environment of crystals.

    Args:
        pl_module: the module.
        callback: the callback, for the message.

    Raises:
        InputError: if the environment builds something else.
    """
    env = environment(pl_module)
    if not builds_crystals(env):
        raise InputError(
            f"callback {type(callback).__name__}: needs an environment of crystals, such as Crystal, not "
            f"{type(env).__name__}; remove it from trainer.callbacks"
        )
    return cast(Crystal, env)


def _reset(metrics: Metrics) -> None:
    for metric in metrics.values():
        metric.reset()
