"""What changes over the steps of a training: exploration and learning rates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from crystalgfn.errors import InputError

Schedule = Literal["linear", "cosine"]


@dataclass(frozen=True)
class Exploration:
    """Random decisions and a temperature, which may fade. Losses hold for any way of sampling.

    Args:
        epsilon: probability at the start of a decision drawn uniformly from what is legal.
        temperature: at the start, of all other decisions; above 1 they are more alike.
        steps: steps of training over which epsilon falls to 0 and the temperature goes to 1; 0 keeps both.
        schedule: how they do: ``linear`` or along half a ``cosine``.

    Raises:
        InputError: if a value is not usable.
    """

    epsilon: float
    temperature: float
    steps: int
    schedule: Schedule

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon <= 1:
            raise InputError(f"epsilon: {self.epsilon} is not allowed; it must lie between 0 and 1")
        if not 0 < self.temperature < math.inf:
            raise InputError(f"temperature: {self.temperature} is not allowed; it must be a positive number")
        if self.steps < 0:
            raise InputError(f"exploration_steps: {self.steps} is not allowed; it must be 0 or more")
        if self.schedule not in ("linear", "cosine"):
            raise InputError(f"exploration_schedule: {self.schedule!r} is not allowed; allowed: linear, cosine")

    def at(self, step: int) -> tuple[float, float]:
        """Epsilon and temperature at a step of training."""
        share = 1.0
        if self.steps:
            done = min(1.0, step / self.steps)
            share = 1 - done if self.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.epsilon * share, 1 + (self.temperature - 1) * share


def cosine_fall(step: int, steps: int, final: float) -> float:
    """Share of the learning rate at a step: along half a cosine from 1 to ``final`` at ``steps``, then constant."""
    # In single precision, as it has been since the first checkpoints: the last digits decide whether runs repeat.
    done = torch.tensor(min(step / steps, 1.0) * torch.pi)
    return final + (1 - final) * (1 + torch.cos(done).item()) / 2
