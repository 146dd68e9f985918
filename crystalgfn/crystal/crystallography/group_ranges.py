"""Ranges of space-group numbers: reading them from settings, and writing them in messages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from numbers import Integral
from typing import Any

from crystalgfn.crystal.crystallography.space_groups import N_SPACE_GROUPS

GROUPS_ALLOWED = f"a number from 1 to {N_SPACE_GROUPS} or a rising range such as '195-206'"
"""Entries that `group_range` accepts, for messages."""

_RANGE = re.compile(r"\s*([0-9]{1,3})\s*(?:-\s*([0-9]{1,3})\s*)?")


def group_range(entry: Any) -> range:
    """The space groups that an entry such as 225 or ``195-206`` stands for; an empty range if it is not allowed."""
    low = high = 0
    if isinstance(entry, Integral) and not isinstance(entry, bool):
        low = high = int(entry)
    elif isinstance(entry, str) and (text := _RANGE.fullmatch(entry)):
        low, high = int(text[1]), int(text[2] or text[1])
    return range(low, high + 1) if 1 <= low <= high <= N_SPACE_GROUPS else range(0)


def as_ranges(numbers: Sequence[int]) -> str:
    """Rising numbers as text, such as ``1-3, 7``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
