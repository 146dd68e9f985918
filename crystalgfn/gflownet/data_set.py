"""Known objects: the rows of a table as terminal states, to train on or to measure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn

from crystalgfn.checks import at_least, between
from crystalgfn.errors import InputError
from crystalgfn.gflownet.envs.base import Environment

if TYPE_CHECKING:
    import pandas as pd

BATCH = 2048
"""Rows that are worked on at once, to bound memory."""


@dataclass(frozen=True)
class KnownStates:
    """Objects of a table that an environment can build.

    Attributes:
        frame: the table.
        wanted: (rows of the table,) bool, the rows that were asked for.
        rows: (k,) int64, the rows, from 0, that can be built.
        states: (k, state_size) their terminal states.
        problems: for each other wanted row why it cannot.
    """

    frame: pd.DataFrame
    wanted: Tensor
    rows: Tensor
    states: Tensor
    problems: dict[int, str]


def read_states(
    env: Environment, table: Path, tolerance: float, only: Mapping[str, str] | None, field: str
) -> KnownStates:
    """Read the objects of a table as terminal states.

    Args:
        env: turns the objects into states.
        table: CSV or parquet file.
        tolerance: largest relative deviation of an object from one that can be built; it is moved there.
        only: values that columns of the table must have; None for all rows.
        field: the setting that named the table, for messages.

    Raises:
        InputError: if the table cannot be read, lacks a column, or the environment takes no objects.
    """
    try:
        content = env.read_table(table)
    except TypeError as error:
        raise InputError(f"{field}: not for this environment: {error}") from None
    wanted = torch.ones(len(content.frame), dtype=torch.bool)
    for column, value in (only or {}).items():
        if column not in content.frame.columns:
            present = ", ".join(map(str, content.frame.columns))
            raise InputError(f"{field}.only: {table} has no column {column!r}; it has: {present}")
        wanted &= torch.tensor((content.frame[column].astype(str) == value).to_numpy())
    problems = {row: problem for row, problem in content.problems.items() if wanted[row]}
    rows, states = [], [torch.zeros(0, env.state_size, dtype=torch.float64, device=env.device)]
    for chosen in wanted[content.rows].nonzero().squeeze(1).split(BATCH):
        found, reasons = env.states_of(content.objects[chosen], tolerance)
        places = content.rows[chosen].tolist()
        problems |= {row: reason for row, reason in zip(places, reasons, strict=True) if reason}
        rows += [row for row, reason in zip(places, reasons, strict=True) if not reason]
        states.append(found[torch.tensor([not reason for reason in reasons], device=found.device)])
    return KnownStates(content.frame, wanted, torch.tensor(rows, dtype=torch.int64), torch.cat(states), problems)


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
        at_least("data_set.batch_size", batch_size, 1)
        between("data_set.tolerance", tolerance, 0, 0.5, without=0.5)
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
        values = log_reward(known.states).to(torch.float64)
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
