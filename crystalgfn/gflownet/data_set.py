"""Known objects to train on: the rows of a table, as terminal states with their rewards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from crystalgfn.gflownet.envs.base import Environment
from crystalgfn.errors import InputError
from crystalgfn.gflownet.known_states import BATCH, check_tolerance, read_states


class DataSet(nn.Module):
    """Objects of a table, drawn uniformly; trajectories are sampled backward from them.

    The table is read when training starts. Rows that the environment cannot build are left out and counted by reason.
    A checkpoint keeps a fingerprint of what was read: a run is only continued with the same objects.

    Args:
        table: CSV or parquet file; for crystals with the columns of `crystalgfn.crystal.tables`.
        batch_size: trajectories added to each step of training.
        tolerance: largest relative deviation of an object from one that can be built, such as of lengths that must be
            equal, or of an angle from 90 degrees; the object is moved there.
        only: values that columns of the table must have, such as ``{split: train}``; None for all rows.

    Raises:
        InputError: if a setting is not usable.
    """

    def __init__(
        self, table: Path, batch_size: int, tolerance: float = 0.01, only: dict[str, str] | None = None
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise InputError(f"data_set.batch_size: {batch_size} is not allowed; it must be at least 1")
        check_tolerance("data_set.tolerance", tolerance)
        self.table, self.batch_size, self.tolerance, self.only = Path(table), batch_size, tolerance, only
        self.counts: Counter[str] = Counter()
        self.fingerprint: Tensor
        self.states: Tensor
        self.log_rewards: Tensor
        self.register_buffer("fingerprint", torch.zeros((), dtype=torch.int64))
        self.register_buffer("states", torch.zeros(0, 0, dtype=torch.float64), persistent=False)
        self.register_buffer("log_rewards", torch.zeros(0, dtype=torch.float64), persistent=False)

    def __len__(self) -> int:
        return len(self.log_rewards)

    @torch.no_grad()
    def load(self, env: Environment, log_reward: Callable[[Tensor], Tensor]) -> None:
        """Read the table.

        Args:
            env: turns the objects into states.
            log_reward: (n,) log R of n terminal states, NaN where it is not to be had.

        Raises:
            InputError: if the table cannot be read, none of its objects can be used, the environment takes no
                objects, or the table is not that of the checkpoint.
        """
        known = read_states(env, self.table, self.tolerance, self.only, "data_set")
        reasons = Counter(known.problems.values())
        rewards = [log_reward(part).to(torch.float64) for part in known.states.split(BATCH) if len(part)]
        values = torch.cat(rewards) if rewards else known.states[:, 0]
        good = values.isfinite()
        reasons["no finite prediction"] += int((~good).sum())
        self.counts = +reasons
        if not good.any():
            raise InputError(f"data_set: the environment can build none of the objects of {self.table}{self._why()}")
        self.states, self.log_rewards = known.states[good], values[good]
        # Sums of the bits, weighted by place: not proof against forgery, but against another table.
        bits = self.states.contiguous().view(torch.int64).flatten()
        fingerprint = (bits * (2 * torch.arange(len(bits), device=bits.device) + 1)).sum()
        if self.fingerprint not in (0, fingerprint):
            raise InputError(f"data_set: {self.table} gives other objects than those the checkpoint was trained on")
        self.fingerprint.copy_(fingerprint)

    def summary(self) -> str:
        """How many rows are used, and why the others are not."""
        return f"data set {self.table}: {len(self)} objects{self._why()}"

    def _why(self) -> str:
        left = [f"{reason} ({count})" for reason, count in self.counts.most_common()]
        return f"; rows left out: {', '.join(left)}" if left else ""

    def sample(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw ``batch_size`` objects with replacement: states (m, state_size) and their log R (m,)."""
        rows = torch.randint(len(self), (self.batch_size,), generator=generator, device=self.states.device)
        return self.states[rows], self.log_rewards[rows]
