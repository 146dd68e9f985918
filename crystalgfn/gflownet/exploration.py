"""What changes over the steps of a training: exploration and learning rates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from crystalgfn.checks import at_least, between, one_of, positive

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
        between("epsilon", self.epsilon, 0, 1)
        positive("temperature", self.temperature)
        at_least("exploration_steps", self.steps, 0)
        one_of("exploration_schedule", self.schedule, get_args(Schedule))

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
