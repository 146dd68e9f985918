"""A stage of a stack: an environment that can depend on what earlier stages built."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crystalgfn.gflownet.envs.base import Environment, Head, ObjectTable


class Stage(Environment):
    """An environment whose start can depend on a condition, and whose result is an input of later stages.

    A row of zeros is a stage that has not started: `previous_head` is -1 there. Under every condition, a stage has at
    least one decision.

    Attributes:
        condition_size: number of columns of the condition; 0 if the stage has no condition.
        encoding_size: number of columns of `encode_terminal`.
    """

    is_tree = True
    condition_size: int = 0
    encoding_size: int

    @abstractmethod
    def start(self, condition: Tensor) -> Tensor:
        """(n, state_size) first states of the stage, one for each condition (n, condition_size)."""

    @abstractmethod
    def encode_terminal(self, states: Tensor) -> Tensor:
        """(n, encoding_size) float32, the result of this stage as an input of later stages."""

    def terminal_features(self) -> Tensor | None:
        """(encoding_size, k) float32, features of the columns of `encode_terminal`, or None; see `input_features`."""
        return None

    def terminal_names(self) -> tuple[str, ...] | None:
        """encoding_size names of the columns of `encode_terminal`, or None; see `input_names`."""
        return None

    def states_of(self, objects: Any, tolerance: float = 0.0) -> tuple[Tensor, list[str]]:
        if not self.condition_size:
            return super().states_of(objects, tolerance)
        return self.states_under(self.default_condition().expand(len(objects), -1), objects, tolerance)

    def states_under(self, condition: Tensor, objects: Any, tolerance: float = 0.0) -> tuple[Tensor, list[str]]:
        """As `states_of`, for stages that started under the conditions (n, condition_size), one for each object.

        Raises:
            TypeError: if the stage cannot turn objects into states under a condition.
        """
        if self.condition_size:
            raise TypeError(f"{type(self).__name__} cannot turn objects into states under a condition")
        return self.states_of(objects, tolerance)

    def default_condition(self) -> Tensor:
        """(condition_size,) the condition of `initial_states`, for a stage that is used alone."""
        return torch.zeros(self.condition_size, dtype=torch.float64, device=self.device)

    def initial_states(self, n: int) -> Tensor:
        return self.start(self.default_condition().expand(n, -1))

    def to_frame(self, states: Tensor) -> Any:
        import pandas as pd

        return pd.DataFrame({"state": states.tolist()})


class PlainStage(Stage):
    """Any environment as a stage without a condition; its terminal state is an input of later stages.

    State: 1 if the stage has started, then the environment's own state.

    Args:
        env: the environment.
    """

    def __init__(self, env: Environment) -> None:
        super().__init__()
        self.env = env
        self.is_tree, self.is_enumerable = env.is_tree, env.is_enumerable
        self.heads: dict[str, Head] = dict(env.heads)
        self.schedule = env.schedule
        self.state_size = 1 + env.state_size
        self.encoding_size = env.state_size

    def start(self, condition: Tensor) -> Tensor:
        inner = self.env.initial_states(len(condition))
        return torch.cat([torch.ones_like(inner[:, :1]), inner], 1)

    def _inner(self, states: Tensor) -> Tensor:
        """States of the environment; its initial state before the start, because zeros may not be a valid state."""
        return torch.where(states[:, :1] > 0, states[:, 1:], self.env.initial_states(1))

    def encode_terminal(self, states: Tensor) -> Tensor:
        return states[:, 1:].float()

    def next_head(self, states: Tensor) -> Tensor:
        return self.env.next_head(self._inner(states))

    def previous_head(self, states: Tensor) -> Tensor:
        return self.env.previous_head(self._inner(states))

    def encode(self, head: str, states: Tensor) -> Tensor:
        return self.env.encode(head, states[:, 1:])

    def input_features(self, head: str) -> Tensor | None:
        return self.env.input_features(head)

    def option_features(self, head: str) -> Tensor | None:
        return self.env.option_features(head)

    def input_names(self, head: str) -> tuple[str, ...] | None:
        return self.env.input_names(head)

    def implied_inputs(self, head: str) -> dict[str, Tensor]:
        return self.env.implied_inputs(head)

    def option_names(self, head: str) -> tuple[str, ...] | None:
        return self.env.option_names(head)

    def support(self, head: str, states: Tensor) -> Tensor:
        return self.env.support(head, states[:, 1:])

    def step(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        return torch.cat([states[:, :1], self.env.step(head, states[:, 1:], actions)], 1)

    def parent_actions(self, head: str, states: Tensor) -> Tensor:
        return self.env.parent_actions(head, states[:, 1:])

    def step_back(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        return torch.cat([states[:, :1], self.env.step_back(head, states[:, 1:], actions)], 1)

    def has_one_parent(self, head: str) -> bool:
        return self.env.has_one_parent(head)

    def backward_distribution(self, head: str, states: Tensor) -> Any:
        return self.env.backward_distribution(head, states[:, 1:])

    @property
    def has_own_backward(self) -> bool:
        return self.env.has_own_backward

    @property
    def can_learn_backward(self) -> bool:
        return self.env.can_learn_backward

    def encode_backward(self, head: str, states: Tensor) -> Tensor:
        return self.env.encode_backward(head, states[:, 1:])

    def decode(self, states: Tensor) -> Any:
        return self.env.decode(states[:, 1:])

    def to_frame(self, states: Tensor) -> Any:
        return self.env.to_frame(states[:, 1:])

    def describe(self, states: Tensor) -> list[str]:
        return self.env.describe(states[:, 1:])

    def states_of(self, objects: Any, tolerance: float = 0.0) -> tuple[Tensor, list[str]]:
        inner, problems = self.env.states_of(objects, tolerance)
        return torch.cat([torch.ones_like(inner[:, :1]), inner], 1), problems

    def read_table(self, path: Path) -> ObjectTable:
        return self.env.read_table(path)

    def enumerate(self) -> Tensor:
        inner = self.env.enumerate()
        return torch.cat([torch.ones_like(inner[:, :1]), inner], 1)
