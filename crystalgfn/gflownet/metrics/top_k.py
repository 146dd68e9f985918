"""The best distinct objects among those seen."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crystalgfn.checks import at_least
from crystalgfn.gflownet.keys import hash_rows
from crystalgfn.gflownet.metrics.base import SampleMetric


def top_k_rows(log_reward: Tensor, hashes: Tensor, k: int) -> Tensor:
    """Indices of the k best distinct objects, best first; if rewards are equal, the earlier row comes first.

    Args:
        log_reward: (n,) log R.
        hashes: (n,) int64, equal if and only if two rows are the same object.
        k: largest number of indices.

    Returns:
        (m,) int64 indices, m at most k.
    """
    order = torch.argsort(log_reward, descending=True, stable=True)
    by_object = torch.argsort(hashes[order], stable=True)
    ordered = hashes[order][by_object]
    is_first = torch.ones_like(ordered, dtype=torch.bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    # The sort is stable, so the first row of each object is its best one.
    return order[by_object[is_first].sort().values[:k]]


class TopK(SampleMetric):
    """Keeps the k best distinct objects by log R.

    ``compute`` returns up to k rows, best first: ``states`` (m, state_size), ``properties`` (m, n_properties),
    ``log_reward`` (m,), all float64.

    Args:
        k: number of objects to keep, at least 1.
        state_size: number of columns of a state.
        n_properties: number of columns of the properties.

    Raises:
        InputError: if k is below 1.
    """

    def __init__(self, k: int, state_size: int, n_properties: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        at_least("k", k, 1)
        self.k = k
        self.states: list[Tensor]
        self.properties: list[Tensor]
        self.log_reward: list[Tensor]
        self.hashes: list[Tensor]
        self.add_rows("states", (state_size,))
        self.add_rows("properties", (n_properties,))
        self.add_rows("log_reward")
        self.add_rows("hashes", dtype=torch.int64)

    def contenders(self, log_reward: Tensor) -> Tensor:
        """(m,) indices of the rows of (n,) log R that can be among the k best; `update` needs only these rows."""
        kept = self.rows("log_reward")
        if len(kept) < self.k:
            return torch.arange(len(log_reward), device=log_reward.device)
        return torch.nonzero(log_reward > kept.min()).squeeze(1)

    def update(self, states: Tensor, properties: Tensor, log_reward: Tensor, keys: Tensor) -> None:
        """Add n objects.

        Args:
            states: (n, state_size) terminal states.
            properties: (n, n_properties) values that are kept with each object.
            log_reward: (n,) log R.
            keys: (n, k) int64, equal if and only if objects count as the same; the best of equal objects is kept.
        """
        new = {"states": states, "properties": properties, "log_reward": log_reward, "hashes": hash_rows(keys)}
        merged = {
            name: torch.cat([self.rows(name), value.detach().to(self._no_rows[name].dtype)])
            for name, value in new.items()
        }
        best = top_k_rows(merged["log_reward"], merged["hashes"], self.k)
        for name, value in merged.items():
            setattr(self, name, [value[best]])

    def compute(self) -> dict[str, Tensor]:
        best = top_k_rows(self.rows("log_reward"), self.rows("hashes"), self.k)
        return {name: self.rows(name)[best] for name in ("states", "properties", "log_reward")}
