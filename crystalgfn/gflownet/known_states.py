"""Known objects as terminal states: which rows of a table an environment can build, and why not the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from crystalgfn.gflownet.envs.base import Environment
from crystalgfn.errors import InputError

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


def check_tolerance(field: str, tolerance: float) -> None:
    """Raise InputError unless a relative deviation is one that `read_states` takes."""
    if not 0 <= tolerance < 0.5:
        raise InputError(f"{field}: {tolerance} is not allowed; it must be from 0 to below 0.5")


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
        found, reasons = env.encode_objects(content.objects[chosen], tolerance)
        places = content.rows[chosen].tolist()
        problems |= {row: reason for row, reason in zip(places, reasons, strict=True) if reason}
        rows += [row for row, reason in zip(places, reasons, strict=True) if not reason]
        states.append(found[torch.tensor([not reason for reason in reasons], device=found.device)])
    return KnownStates(content.frame, wanted, torch.tensor(rows, dtype=torch.int64), torch.cat(states), problems)
