"""The hypergrid: the standard small environment for exact checks of a sampler."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from crystalgfn.checks import at_least, one_of
from crystalgfn.gflownet.distributions import Distribution, MaskedCategorical
from crystalgfn.gflownet.envs.base import CategoricalHead, ObjectTable, first_faults
from crystalgfn.gflownet.envs.stage import Stage
from crystalgfn.registry import ENVIRONMENTS

if TYPE_CHECKING:
    import pandas as pd


@ENVIRONMENTS.register
class HyperGrid(Stage):
    """A walk on a grid: it starts at the origin and increases one coordinate by one at a time, until it stops.

    Several trajectories lead to most cells, so the environment is not a tree.

    State: the coordinates (``dimensions`` columns), 0 to height - 1, then 1 if the walk has stopped, otherwise 0.

    Args:
        dimensions: number of coordinates.
        height: number of values of each coordinate.
        backward: the grid's own P_B: ``parents`` is uniform over the parents of a cell, ``paths`` is uniform over the
            trajectories to a cell. With ``paths``, the probability to lower a coordinate is proportional to its value.

    Raises:
        InputError: if a setting is not allowed.

    Source: Bengio et al., "Flow Network based Generative Models for Non-Iterative Diverse Candidate Generation",
    NeurIPS 2021; for ``paths``, the P_B of largest entropy, Mohammadpour et al., "Maximum entropy GFlowNets with soft
    Q-learning", AISTATS 2024.
    """

    is_tree = False
    is_enumerable = True
    has_partial_objects = True

    def __init__(self, dimensions: int = 2, height: int = 8, backward: Literal["parents", "paths"] = "parents") -> None:
        super().__init__()
        at_least("dimensions", dimensions, 1)
        at_least("height", height, 2)
        one_of("backward", backward, ("parents", "paths"))
        self.dimensions, self.height, self.backward = dimensions, height, backward
        self.state_size = dimensions + 1
        self.encoding_size = dimensions * height
        self.heads = {"move": CategoricalHead(dimensions * height, dimensions + 1)}
        self.schedule = ("move",) * (dimensions * (height - 1) + 1)
        self.register_buffer("_origin", torch.zeros(dimensions + 1, dtype=torch.float64), persistent=False)
        self.register_buffer("_is_stop", torch.arange(dimensions + 1) == dimensions, persistent=False)
        self._origin: Tensor
        self.register_buffer("_values", torch.arange(height, dtype=torch.float64), persistent=False)
        self._is_stop: Tensor
        self._values: Tensor

    def start(self, condition: Tensor) -> Tensor:
        return self._origin.repeat(len(condition), 1)

    def next_head(self, states: Tensor) -> Tensor:
        return torch.where(states[:, -1] > 0, -1, 0)

    def due(self, head: str, states: Tensor) -> Tensor:
        return torch.nonzero(states[:, -1] == 0).squeeze(1)

    def previous_head(self, states: Tensor) -> Tensor:
        return torch.where((states > 0).any(1), 0, -1)

    def encode(self, head: str, states: Tensor) -> Tensor:
        return self.encode_terminal(states)

    def encode_terminal(self, states: Tensor) -> Tensor:
        """(n, encoding_size) float32 one-hot coordinates."""
        return (states[:, :-1].unsqueeze(2) == self._values).flatten(1).float()

    def support(self, head: str, states: Tensor) -> Tensor:
        # The last column is 0 until the walk stops, so stopping is always legal.
        return states < self.height - 1

    def step(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        # Option d increases column d by one: a coordinate or, for the last option, the mark of a stopped walk.
        return states.scatter_add(1, actions.long(), torch.ones_like(actions))

    def advance(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        return states.scatter_add_(1, actions.long(), torch.ones_like(actions))

    def parent_actions(self, head: str, states: Tensor) -> Tensor:
        raised = states > 0
        # If the walk has stopped, the last action was to stop.
        return raised & ((states[:, -1:] == 0) | self._is_stop)

    @property
    def has_own_backward(self) -> bool:
        return self.backward == "paths"

    def backward_distribution(self, head: str, states: Tensor) -> Distribution:
        if not self.has_own_backward:
            return self.uniform_backward(head, states)
        parents = self.parent_actions(head, states)
        # There are (x_1 + ... + x_d)! / (x_1! ... x_d!) paths to a cell. A fraction x_i / (x_1 + ... + x_d) of them
        # ends with a move along axis i.
        return MaskedCategorical(states.clamp_min(1.0).log(), parents)

    def step_back(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        return states.scatter_add(1, actions.long(), -torch.ones_like(actions))

    def decode(self, states: Tensor) -> Tensor:
        """(n, dimensions) int64 coordinates."""
        return states[:, :-1].long()

    def decode_partial(self, states: Tensor) -> Tensor:
        """(n, dimensions) int64 coordinates of the cells of intermediate states."""
        return self.decode(states)

    def encode_backward(self, head: str, states: Tensor) -> Tensor:
        return self.encode(head, states)

    def states_of(self, objects: Tensor, tolerance: float = 0.0) -> tuple[Tensor, list[str]]:
        outside = ((objects < 0) | (objects >= self.height)).any(1)
        cells = objects.to(self.device, torch.float64)
        states = torch.cat([cells, torch.ones_like(cells[:, :1])], 1)
        return states, first_faults(("cell outside of the grid", outside))

    def read_table(self, path: Path) -> ObjectTable:
        from crystalgfn.files import read_numbers

        frame, cells = read_numbers(path, [f"x{i}" for i in range(self.dimensions)])
        whole = (cells == cells.floor()).all(1)
        problems = dict.fromkeys((~whole).nonzero().squeeze(1).tolist(), "coordinate is not a whole number")
        return ObjectTable(frame, whole.nonzero().squeeze(1), cells[whole].long(), problems)

    def to_frame(self, states: Tensor) -> pd.DataFrame:
        """One row for each cell, with its coordinates x0, x1, ..."""
        import pandas as pd

        return pd.DataFrame(self.decode(states).tolist(), columns=[f"x{i}" for i in range(self.dimensions)])

    def enumerate(self) -> Tensor:
        axes = [torch.arange(self.height, dtype=torch.float64)] * self.dimensions
        cells = torch.cartesian_prod(*axes).reshape(-1, self.dimensions).to(self.device)
        return torch.cat([cells, torch.ones_like(cells[:, :1])], 1)
