"""A stage of a stack: an environment that can depend on what earlier stages built."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from crystalgfn.envs.base import Environment


class Stage(Environment):
    """An environment whose start can depend on a condition, and whose result later stages can see.

    A row of zeros is a stage that has not started: `previous_head` is -1 there.

    Attributes:
        condition_size: columns of the condition; 0 if the stage depends on nothing.
        encoding_size: columns of `encode_terminal`.
    """

    is_tree: ClassVar[bool] = True
    condition_size: ClassVar[int] = 0
    encoding_size: int

    @abstractmethod
    def start(self, condition: Tensor) -> Tensor:
        """(n, state_size) first states of the stage under each condition (n, condition_size)."""

    @abstractmethod
    def encode_terminal(self, states: Tensor) -> Tensor:
        """(n, encoding_size) float32, what later stages see of this stage's result."""

    def default_condition(self) -> Tensor:
        """(condition_size,) the condition of `initial_states`, where the stage stands alone."""
        return torch.zeros(self.condition_size, dtype=torch.float64, device=self.device)

    def initial_states(self, n: int) -> Tensor:
        return self.start(self.default_condition().expand(n, -1))

    def to_frame(self, states: Tensor) -> Any:
        import pandas as pd

        return pd.DataFrame({"state": states.tolist()})
