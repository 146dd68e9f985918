"""Known objects to train on: the rows of a table, as terminal states with their rewards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from crystalgfn.envs.base import Environment
from crystalgfn.errors import InputError

BATCH = 2048
"""Rows that are worked on at once, to bound memory."""


class DataSet(nn.Module):
    """Objects of a table, drawn uniformly; trajectories are sampled backward from them.

    The table is read when training starts. Rows that the environment cannot build are left out and counted by reason.
    A checkpoint keeps a fingerprint of what was read: a run is only continued with the same objects.

    Args:
        table: CSV or parquet file; for crystals with the columns of `crystalgfn.tables`.
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
        if not 0 <= tolerance < 0.5:
            raise InputError(f"data_set.tolerance: {tolerance} is not allowed; it must be from 0 to below 0.5")
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
        try:
            content = env.read_table(self.table)
        except TypeError as error:
            raise InputError(f"data_set: not for this environment: {error}") from None
        wanted = torch.ones(len(content.frame), dtype=torch.bool)
        for column, value in (self.only or {}).items():
            if column not in content.frame.columns:
                present = ", ".join(map(str, content.frame.columns))
                raise InputError(f"data_set.only: {self.table} has no column {column!r}; it has: {present}")
            wanted &= torch.tensor((content.frame[column].astype(str) == value).to_numpy())
        reasons = Counter(problem for row, problem in content.problems.items() if wanted[row])
        states, rewards = [], []
        chosen = wanted[content.rows].nonzero().squeeze(1)
        for rows in chosen.split(BATCH):
            found, problems = env.encode_objects(content.objects[rows], self.tolerance)
            reasons.update(problem for problem in problems if problem)
            found = found[torch.tensor([not problem for problem in problems], device=found.device)]
            values = log_reward(found).to(torch.float64) if len(found) else found[:, 0]
            reasons["no finite prediction"] += int((~values.isfinite()).sum())
            states.append(found[values.isfinite()])
            rewards.append(values[values.isfinite()])
        self.counts = +reasons
        if not any(len(part) for part in states):
            raise InputError(f"data_set: the environment can build none of the objects of {self.table}{self._why()}")
        self.states, self.log_rewards = torch.cat(states), torch.cat(rewards)
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
