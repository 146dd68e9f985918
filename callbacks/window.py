"""What the callbacks that log samples share: collect over a window of steps, log, start anew."""

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
"""Training samples wait until they are this many: a few large updates cost less than one in every step."""

_OUTPUTS = ("states", "properties", "log_reward")


class WindowCallback(Callback, ABC):
    """Feeds metrics with the samples of training and of evaluation, and logs them.

    Training samples are those that each step draws with the policy; they are collected since the last log. Samples
    of a validation or test are collected over all of it and logged at its end, with ``val/`` or ``test/`` before the
    tags. Metrics of training are part of checkpoints; with several processes, of all of them together.

    Args:
        every_n_steps: training steps between two logs of training samples; None for evaluation samples only.

    Raises:
        InputError: if the interval is not positive.
    """

    starts_anew: ClassVar[bool] = True
    """Whether training metrics are reset after each log; otherwise they cover the whole run."""

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
        """New metrics, by name; raises InputError if the module's environment does not fit."""

    @abstractmethod
    def update(self, metrics: Metrics, pl_module: LightningModule, outputs: Mapping[str, Tensor]) -> None:
        """Add the samples of one step to the metrics; must be cheap and draw no random numbers."""

    @abstractmethod
    def report(self, metrics: Metrics, pl_module: LightningModule, sink: Sink) -> None:
        """Compute the metrics and send them off; called on every process.

        Not called ``log``, a name that Lightning sets on callbacks itself.
        """

    def prepare(self, pl_module: LightningModule) -> None:
        """Whatever else must be read and checked before a run starts."""

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
        # A checkpoint can be saved after the run too.
        self._take_waiting()
        self._pl_module = None

    # Training

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.every_n_steps is None or not isinstance(outputs, Mapping):
            return
        self._waiting.append({name: outputs[name] for name in _OUTPUTS})
        self._n_waiting += len(outputs["states"])
        step = trainer.global_step
        # With accumulated gradients several batches end at one step.
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
        """Continue from what a checkpoint holds, once there are metrics to continue with."""
        if not self._loaded or not self._training:
            return
        self._last_log = int(self._loaded["last_log"])
        # A checkpoint holds the metrics of all processes together, so that one of them goes on with it.
        if self._is_first_process:
            for name, state in self._loaded["metrics"].items():
                self._training[name].load_merged_state(state)
        self._loaded = None


def environment(pl_module: LightningModule) -> Environment:
    """The environment of a module."""
    return cast(Environment, pl_module.env)


def gflownet(pl_module: LightningModule) -> GFlowNet:
    """The module as what it is; Lightning hands it over as any module."""
    return cast("GFlowNet", pl_module)


def proxies_of(pl_module: LightningModule) -> ProxySet:
    """The proxies of a module."""
    return cast(ProxySet, pl_module.proxies)


def builds_crystals(env: Environment) -> bool:
    """Whether an environment builds crystals, from elements and space groups that it names."""
    # What callbacks need of it, so that an environment that is no `Crystal` can serve as well.
    return hasattr(env, "space_groups") and hasattr(env, "elements")


def crystal_environment(pl_module: LightningModule, callback: Callback) -> Crystal:
    """The environment of a module, for a callback that needs one of crystals.

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
