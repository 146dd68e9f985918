"""Known objects: the rows of a table as terminal states, for training or evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn

from crystalgfn.checks import at_least, between, listed, quoted
from crystalgfn.errors import InputError
from crystalgfn.gflownet.envs.base import Environment
from crystalgfn.gflownet.keys import hash_rows, state_keys

if TYPE_CHECKING:
    import pandas as pd

BATCH = 2048
"""Number of rows that are processed at once, to bound memory."""


@dataclass(frozen=True)
class KnownStates:
    """Objects of a table that an environment can build.

    Attributes:
        frame: the table.
        wanted: (number of rows,) bool, the rows that were selected.
        rows: (k,) int64, numbers of the rows, from 0, whose objects can be built.
        states: (k, state_size) terminal states of these objects.
        problems: for each other selected row, the reason why its object cannot be built.
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
        tolerance: largest relative deviation of an object from one that can be built; the object is changed to the one
            that can be built.
        only: values that columns of the table must have; None for all rows.
        field: name of the setting that gives the table, for messages.

    Returns:
        the objects that can be built, and the reasons why others cannot.

    Raises:
        InputError: if the table cannot be read or lacks a column, or if the environment cannot read tables.
    """
    try:
        content = env.read_table(table)
    except TypeError as error:
        raise InputError(f"{field}: not possible with this environment: {error}") from None
    wanted = torch.ones(len(content.frame), dtype=torch.bool)
    for column, value in (only or {}).items():
        if column not in content.frame.columns:
            present = listed(content.frame.columns)
            raise InputError(f"{field}.only: {table} has no column {quoted(column)}; it has: {present}")
        wanted &= torch.tensor((content.frame[column].astype(str) == value).to_numpy())
    problems = {row: problem for row, problem in content.problems.items() if wanted[row]}
    rows, states = [], [torch.zeros(0, env.state_size, dtype=torch.float64, device=env.device)]
    for chosen in wanted[content.rows].nonzero().squeeze(1).split(BATCH):
        found, reasons = env.states_of(content.objects[chosen], tolerance)
        places = content.rows[chosen].tolist()
        problems |= {row: reason for row, reason in zip(places, reasons, strict=True) if reason}
        rows += [row for row, reason in zip(places, reasons, strict=True) if not reason]
        good = [not reason for reason in reasons]
        states.append(found[torch.tensor(good, dtype=torch.bool, device=found.device)])
    return KnownStates(content.frame, wanted, torch.tensor(rows, dtype=torch.int64), torch.cat(states), problems)


class DataSet(nn.Module):
    """Objects of a table, drawn uniformly; trajectories are sampled backward from them.

    The table is read when training starts. Rows that the environment cannot build are left out and counted by reason.
    A checkpoint contains a fingerprint of the objects, so that a run can only continue with the same objects.

    Args:
        table: CSV or parquet file; for crystals with the columns of `crystalgfn.crystal.tables`.
        batch_size: number of trajectories added to each training step.
        tolerance: largest relative deviation of an object from one that can be built, such as of lengths that must be
            equal, or of an angle from 90 degrees; the object is changed to the one that can be built.
        only: values that columns of the table must have, such as ``{split: train}``; None for all rows.
        validate: objects that are not trained on, and whose likelihood each validation logs: the values of columns,
            such as ``{split: val}``, or the share of the kinds of objects (for crystals compositions of the cell), such
            as 0.1, that are set aside. The choice depends on the kinds alone. None for no such objects.

    Raises:
        InputError: if a setting is not allowed.
    """

    def __init__(
        self,
        table: Path,
        batch_size: int,
        tolerance: float = 0.01,
        only: dict[str, str] | None = None,
        validate: dict[str, str] | float | None = None,
    ) -> None:
        super().__init__()
        at_least("data_set.batch_size", batch_size, 1)
        between("data_set.tolerance", tolerance, 0, 0.5, without=0.5)
        if isinstance(validate, int | float):
            between("data_set.validate", validate, 0, 1, without=1)
        self.table, self.batch_size, self.tolerance, self.only = Path(table), batch_size, tolerance, only
        self.validate = validate
        self.counts: Counter[str] = Counter()
        self.fingerprint: Tensor
        self.states: Tensor
        self.log_rewards: Tensor
        self.register_buffer("fingerprint", torch.zeros((), dtype=torch.int64))
        self.register_buffer("states", torch.zeros(0, 0, dtype=torch.float64), persistent=False)
        self.register_buffer("log_rewards", torch.zeros(0, dtype=torch.float64), persistent=False)
        self.held_out: Tensor
        self.register_buffer("held_out", torch.zeros(0, 0, dtype=torch.float64), persistent=False)

    def __len__(self) -> int:
        return len(self.log_rewards)

    @torch.no_grad()
    def load(self, env: Environment, log_reward: Callable[[Tensor], Tensor]) -> None:
        """Read the table.

        Args:
            env: turns the objects into states.
            log_reward: function for (n,) log R of n terminal states, NaN if it is not available.

        Raises:
            InputError: if the table cannot be read, if none of its objects can be used, if the environment cannot read
                tables, or if the objects are not those of the checkpoint.
        """
        known = read_states(env, self.table, self.tolerance, self.only, "data_set")
        states = known.states
        if isinstance(self.validate, Mapping):
            self.held_out = read_states(env, self.table, self.tolerance, self.validate, "data_set.validate").states
        elif self.validate:
            is_held = _shares(env.kinds(states)) < self.validate
            self.held_out, states = states[is_held], states[~is_held]
        if self.validate and not len(self.held_out):
            raise InputError(f"data_set.validate: {self.validate} leaves no object of {self.table} for validation")
        reasons = Counter(known.problems.values())
        values = log_reward(states).to(torch.float64)
        good = values.isfinite()
        reasons["no finite prediction"] += int((~good).sum())
        self.counts = +reasons
        if not good.any():
            raise InputError(f"data_set: the environment can build none of the objects of {self.table}{self._why()}")
        self.states, self.log_rewards = states[good], values[good]
        # A sum of the bits, weighted by position: it detects another table, but not a deliberate forgery.
        objects = torch.cat([self.states, self.held_out]) if len(self.held_out) else self.states
        bits = objects.contiguous().view(torch.int64).flatten()
        fingerprint = (bits * (2 * torch.arange(len(bits), device=bits.device) + 1)).sum()
        if self.fingerprint not in (0, fingerprint):
            raise InputError(f"data_set: {self.table} gives other objects than those in the training of the checkpoint")
        self.fingerprint.copy_(fingerprint)

    def summary(self) -> str:
        """Text with the number of objects that are used, and the reasons why other rows are left out."""
        held = f", and {len(self.held_out)} for validation" if len(self.held_out) else ""
        return f"data set {self.table}: {len(self)} objects{held}{self._why()}"

    def _why(self) -> str:
        left = [f"{reason} ({count})" for reason, count in self.counts.most_common()]
        return f"; rows left out: {', '.join(left)}" if left else ""

    def sample(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw m = ``batch_size`` objects with replacement: states (m, state_size) and their log R (m,)."""
        rows = torch.randint(len(self), (self.batch_size,), generator=generator, device=self.states.device)
        return self.states[rows], self.log_rewards[rows]


def _shares(kinds: Tensor) -> Tensor:
    """(n,) float64, a number in [0, 1) for each row of (n, k) kinds, which depends on the row alone."""
    return hash_rows(state_keys(kinds)).remainder(2**24).to(torch.float64) / 2**24
