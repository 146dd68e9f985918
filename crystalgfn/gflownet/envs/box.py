"""Points of a unit box, reached from its middle in a fixed number of steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from crystalgfn.checks import at_least
from crystalgfn.errors import InputError
from crystalgfn.gflownet.distributions import Distribution
from crystalgfn.gflownet.envs.base import BetaMixtureHead, ObjectTable, first_faults
from crystalgfn.gflownet.envs.stage import Stage
from crystalgfn.registry import ENVIRONMENTS

if TYPE_CHECKING:
    import pandas as pd

_UNIT = 2.0**-40
"""Coordinates and changes are multiples of this unit, so that their sums and differences are exact."""

_SLIVER = 2.0**-20
"""The reach of a step is this much smaller than ``max_step``, so that the legal interval never has zero length."""


class _OnLattice(Distribution):
    """A continuous distribution whose samples are rounded to multiples of `_UNIT`."""

    def __init__(self, inner: Distribution) -> None:
        self.inner = inner

    def sample(self, generator: Generator) -> Tensor:
        return (self.inner.sample(generator) / _UNIT).round() * _UNIT

    def log_prob(self, actions: Tensor) -> Tensor:
        return self.inner.log_prob(actions)

    def uniform(self) -> Distribution:
        return _OnLattice(self.inner.uniform())

    def tempered(self, temperature: float) -> Distribution:
        return _OnLattice(self.inner.tempered(temperature))


@dataclass(frozen=True)
class IncrementHead(BetaMixtureHead):
    """The change of a coordinate: a mixture of Betas on the legal interval; samples are multiples of 2^-40."""

    def distribution(self, logits: Tensor, support: Tensor) -> Distribution:  # type: ignore[override]
        return _OnLattice(super().distribution(logits, support))


@ENVIRONMENTS.register
class Box(Stage):
    """Points of the unit box, reached from its middle in a fixed number of steps.

    A step moves the coordinates one after the other. Each coordinate moves by up to ``max_step`` in either direction
    and stays in the box. After two or more steps, infinitely many trajectories lead to each point. P_B is then a
    density: uniform over the changes that can have led to a state, or learned. After the first step, the only way back
    is to the middle.

    Densities are relative to the uniform density on the box, so Z is the integral of R over the box.

    State: the coordinates minus 1/2, then the number of changes so far.

    Args:
        dimensions: number of coordinates.
        steps: number of steps.
        max_step: largest change of a coordinate in one step; all steps together must reach beyond a distance of 1/2.
        components: number of Betas in each mixture.

    Raises:
        InputError: if a setting is not allowed.

    Source: after Lahlou et al., "A theory of continuous generative flow networks", ICML 2023. There, steps have a
    fixed length and a free direction away from a corner, and the walk may stop anywhere. Here, the change of each
    coordinate is bounded and the number of steps is fixed, so that each coordinate is one decision and each point is
    one terminal state.
    """

    is_tree = False
    has_partial_objects = True

    def __init__(self, dimensions: int = 2, steps: int = 3, max_step: float = 0.25, components: int = 5) -> None:
        super().__init__()
        for name, value in (("dimensions", dimensions), ("steps", steps), ("components", components)):
            at_least(name, value, 1)
        if not 0.5 / steps + 2 * _SLIVER < max_step <= 1:
            raise InputError(
                f"max_step: {max_step} is not allowed; it must be above {0.5 / steps:.4g} and at most 1, so that "
                f"{steps} step(s) reach beyond the faces of the box, at a distance of 1/2"
            )
        self.dimensions, self.steps = dimensions, steps
        self.max_step = round(max_step / _UNIT) * _UNIT
        self.state_size, self.encoding_size = dimensions + 1, dimensions
        # Heads of the first step lead to states with one parent.
        self._first = tuple(f"first_x{i}" for i in range(dimensions))
        later = tuple(f"x{i}" for i in range(dimensions)) if steps > 1 else ()
        self.heads = {
            name: IncrementHead(dimensions + steps, components, (0.0, 1.0)) for name in (*self._first, *later)
        }
        self.schedule = self._first + later * (steps - 1)
        # Largest distance of a coordinate from the middle after each number of steps.
        reach = [min(step * (self.max_step - _SLIVER), 0.5) for step in range(steps + 1)]
        self._reach: Tensor
        self._turns: Tensor
        self.register_buffer("_reach", torch.tensor(reach, dtype=torch.float64), persistent=False)
        names = list(self.heads)
        turns = torch.tensor([names.index(head) for head in self.schedule])
        self.register_buffer("_turns", turns, persistent=False)

    def start(self, condition: Tensor) -> Tensor:
        return torch.zeros(len(condition), self.state_size, dtype=torch.float64, device=condition.device)

    def next_head(self, states: Tensor) -> Tensor:
        return F.pad(self._turns, (0, 1), value=-1)[states[:, -1].long()]

    def previous_head(self, states: Tensor) -> Tensor:
        return F.pad(self._turns, (1, 0), value=-1)[states[:, -1].long()]

    def encode(self, head: str, states: Tensor) -> Tensor:
        """(n, dimensions + steps) float32, coordinates relative to the middle, then the current step as one-hot."""
        return self._encode(states, states[:, -1])

    def encode_backward(self, head: str, states: Tensor) -> Tensor:
        return self._encode(states, states[:, -1] - 1)

    def _encode(self, states: Tensor, turn: Tensor) -> Tensor:
        step = F.one_hot((turn / self.dimensions).long(), self.steps)
        return torch.cat([states[:, :-1], step], 1).float()

    def encode_terminal(self, states: Tensor) -> Tensor:
        """(n, dimensions) float32, coordinates relative to the middle."""
        return states[:, :-1].float()

    def _axis(self, head: str) -> int:
        return int(head.rpartition("x")[2])

    def support(self, head: str, states: Tensor) -> Tensor:
        """(n, 2) smallest and largest change."""
        x = states[:, self._axis(head)]
        reach = self._reach[(states[:, -1] / self.dimensions).long() + 1]
        return torch.stack([-reach - x, reach - x], 1).clamp(-self.max_step, self.max_step)

    def step(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        return self._moved(head, states, actions, 1.0)

    def step_back(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        return self._moved(head, states, actions, -1.0)

    def _moved(self, head: str, states: Tensor, actions: Tensor, sign: float) -> Tensor:
        states = states.clone()
        states[:, self._axis(head)] += sign * actions[:, 0]
        states[:, -1] += sign
        return states

    def has_one_parent(self, head: str) -> bool:
        return head in self._first

    def parent_actions(self, head: str, states: Tensor) -> Tensor:
        """(n, 1) the change for a first step, otherwise (n, 2) smallest and largest change that can have led here."""
        axis = self._axis(head)
        x = states[:, axis]
        if self.has_one_parent(head):
            return x.unsqueeze(1)
        reach = self._reach[((states[:, -1] - 1) / self.dimensions).long()]
        return torch.stack([x - reach, x + reach], 1).clamp(-self.max_step, self.max_step)

    def decode(self, states: Tensor) -> Tensor:
        """(n, dimensions) float64 coordinates, 0 to 1."""
        return states[:, :-1] + 0.5

    def decode_partial(self, states: Tensor) -> Tensor:
        """(n, dimensions) float64 coordinates of intermediate points, 0 to 1."""
        return self.decode(states)

    def kinds(self, states: Tensor) -> Tensor:
        """(n, dimensions) the cell of each point, in a grid with ten cells along each axis."""
        return (self.decode(states) * 10).floor().clamp_max(9)

    def states_of(self, objects: Tensor, tolerance: float = 0.0) -> tuple[Tensor, list[str]]:
        points = objects.to(self.device, torch.float64)
        outside = ((points < -tolerance) | (points > 1 + tolerance)).any(1)
        inside = ((points.clamp(0.0, 1.0) - 0.5) / _UNIT).round() * _UNIT
        states = torch.cat([inside, torch.full_like(inside[:, :1], len(self.schedule))], 1)
        return states, first_faults(("point outside of the box", outside))

    def read_table(self, path: Path) -> ObjectTable:
        from crystalgfn.files import read_numbers

        frame, points = read_numbers(path, [f"x{i}" for i in range(self.dimensions)])
        finite = points.isfinite().all(1)
        problems = dict.fromkeys((~finite).nonzero().squeeze(1).tolist(), "coordinate is not a number")
        return ObjectTable(frame, finite.nonzero().squeeze(1), points[finite], problems)

    def to_frame(self, states: Tensor) -> pd.DataFrame:
        """One row for each point, with its coordinates x0, x1, ..."""
        import pandas as pd

        return pd.DataFrame(self.decode(states).tolist(), columns=[f"x{i}" for i in range(self.dimensions)])
