"""Distance between the samples and the exact distribution, for environments that can list their objects."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from crystalgfn.callbacks.sink import Sink
from crystalgfn.callbacks.window import Metrics, WindowCallback, gflownet
from crystalgfn.errors import InputError
from crystalgfn.gflownet.keys import hash_rows, state_keys
from crystalgfn.gflownet.metrics import ExactDistance

MOST = 1_000_000
"""Largest number of objects for which the distance is calculated."""


class LogExactDistance(WindowCallback):
    """Logs the distance between the samples of validations and tests and the exact distribution R(x) / Z.

    The environment must be able to list its objects. Tags: ``exact/total_variation`` and ``exact/jensen_shannon``
    (nats); the same with ``_floor``, the average distance of as many samples from the exact distribution;
    ``exact/log_z``, the exact value; and ``exact/log_z_error``, the learned log Z minus the exact one.

    Raises:
        InputError: if the environment cannot list its objects, or has more than a million objects.
    """

    def __init__(self) -> None:
        super().__init__(None)
        self._log_z = float("nan")
        self._hashes = torch.zeros(0, dtype=torch.int64)
        self._order = self._hashes

    def make_metrics(self, pl_module: LightningModule) -> Metrics:
        module = gflownet(pl_module)
        env = module.env
        if not env.is_enumerable:
            raise InputError(
                f"callback LogExactDistance: {type(env).__name__} cannot list its objects; remove it from "
                "trainer.callbacks"
            )
        states = env.enumerate()
        if len(states) > MOST:
            raise InputError(
                f"callback LogExactDistance: {type(env).__name__} has {len(states):,} objects, more than {MOST:,}; "
                "remove it from trainer.callbacks"
            )
        log_reward = module.log_rewards(states).nan_to_num(float("-inf"))
        self._log_z = float(log_reward.logsumexp(0))
        self._hashes, self._order = hash_rows(state_keys(states)).sort()
        return {"distance": ExactDistance(log_reward.softmax(0))}

    def update(self, metrics: Metrics, pl_module: LightningModule, outputs: Mapping[str, Tensor]) -> None:
        hashes = hash_rows(state_keys(outputs["states"]))
        place = torch.searchsorted(self._hashes.to(hashes.device), hashes)
        metrics["distance"].update(self._order.to(hashes.device)[place])

    def report(self, metrics: Metrics, pl_module: LightningModule, sink: Sink) -> None:
        values = metrics["distance"].compute()
        if not values.pop("n"):
            return
        values |= {
            "log_z": torch.tensor(self._log_z),
            "log_z_error": gflownet(pl_module).log_z.detach() - self._log_z,
        }
        sink.scalars({f"exact/{name}": value for name, value in values.items()})
