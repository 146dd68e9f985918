"""Values that change during training: exploration and learning rates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from crystalgfn.checks import at_least, between, one_of, positive

Schedule = Literal["linear", "cosine"]


@dataclass(frozen=True)
class Exploration:
    """Uniformly random decisions and a sampling temperature, which can both fade during training.

    Losses are valid for any way of sampling trajectories.

    Args:
        epsilon: probability, at the start, that a decision is drawn uniformly from the legal actions.
        temperature: temperature, at the start, of all other decisions; above 1, their probabilities are more equal.
        steps: training steps over which epsilon falls to 0 and the temperature goes to 1; 0 keeps both constant.
        schedule: shape of this change: ``linear``, or ``cosine`` for half a cosine.

    Raises:
        InputError: if a value is not allowed.
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
        """Epsilon and temperature at a training step, counted from 0."""
        share = 1.0
        if self.steps:
            done = min(1.0, step / self.steps)
            share = 1 - done if self.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.epsilon * share, 1 + (self.temperature - 1) * share


def cosine_fall(step: int, steps: int, final: float) -> float:
    """Factor on the learning rate at a step: half a cosine from 1 to ``final`` at ``steps``, then constant."""
    # Single precision, as in all earlier versions: other last digits would change the results of a seed.
    done = torch.tensor(min(step / steps, 1.0) * torch.pi)
    return final + (1 - final) * (1 + torch.cos(done).item()) / 2
