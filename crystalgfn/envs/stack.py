"""Stages one after the other as one environment."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from crystalgfn.envs.base import Environment, Head
from crystalgfn.envs.stage import Stage


class Stack(Environment):
    """Runs stages in order; a stage starts when the one before is done, under a condition that may depend on all.

    A state is the stages' states side by side; a stage that has not started is a row of zeros. A stage's policy
    input is what the earlier stages built, followed by its own encoding. Heads keep the names they have in their
    stage, which therefore must differ between stages.

    Args:
        stages: the stages by name, in order.
    """

    is_tree = True

    def __init__(self, stages: Mapping[str, Stage]) -> None:
        super().__init__()
        self.stages = torch.nn.ModuleDict(dict(stages))
        self._slices: dict[str, slice] = {}
        self._stage_of_head: dict[str, str] = {}
        heads: dict[str, Head] = {}
        schedule: list[str] = []
        offset, encoded = 0, 0
        for name, stage in stages.items():
            self._slices[name] = slice(offset, offset + stage.state_size)
            offset += stage.state_size
            for head, spec in stage.heads.items():
                if head in heads:
                    raise ValueError(f"two stages have a head called {head!r}")
                heads[head] = replace(spec, input_size=spec.input_size + encoded)
                self._stage_of_head[head] = name
            schedule += stage.schedule
            encoded += stage.encoding_size
        self.heads = heads
        self.schedule = tuple(schedule)
        self.state_size = offset
        self._names = list(stages)
        # Position in `heads` of each stage's first head.
        sizes = [len(stage.heads) for stage in stages.values()]
        self._first_head = dict(zip(self._names, [sum(sizes[:i]) for i in range(len(sizes))], strict=True))

    def stage(self, name: str) -> Stage:
        """The stage of this name."""
        stage = self.stages[name]
        assert isinstance(stage, Stage)
        return stage

    def part(self, name: str, states: Tensor) -> Tensor:
        """The columns (n, stage.state_size) of one stage."""
        return states[:, self._slices[name]]

    @abstractmethod
    def condition(self, name: str, states: Tensor) -> Tensor:
        """(n, condition_size) condition of a stage, from states in which all stages before it are done.

        Rows in which they are not are computed too and thrown away, so this must not fail on them.
        """

    def initial_states(self, n: int) -> Tensor:
        states = torch.zeros(n, self.state_size, dtype=torch.float64, device=self.device)
        first = self._names[0]
        states[:, self._slices[first]] = self.stage(first).start(self.condition(first, states))
        return states

    def next_head(self, states: Tensor) -> Tensor:
        head = torch.full((len(states),), -1, device=states.device)
        for name in reversed(self._names):
            own = self.stage(name).next_head(self.part(name, states))
            head = torch.where(own >= 0, own + self._first_head[name], head)
        return head

    def previous_head(self, states: Tensor) -> Tensor:
        head = torch.full((len(states),), -1, device=states.device)
        for name in self._names:
            own = self.stage(name).previous_head(self.part(name, states))
            head = torch.where(own >= 0, own + self._first_head[name], head)
        return head

    def encode(self, head: str, states: Tensor) -> Tensor:
        current = self._stage_of_head[head]
        before = self._names[: self._names.index(current)]
        parts = [self.stage(name).encode_terminal(self.part(name, states)) for name in before]
        parts.append(self.stage(current).encode(head, self.part(current, states)))
        return torch.cat(parts, 1)

    def support(self, head: str, states: Tensor) -> Tensor:
        name = self._stage_of_head[head]
        return self.stage(name).support(head, self.part(name, states))

    def step(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        name = self._stage_of_head[head]
        states = states.clone()
        states[:, self._slices[name]] = self.stage(name).step(head, self.part(name, states), actions)
        position = self._names.index(name) + 1
        if position < len(self._names):
            following = self._names[position]
            done = self.stage(name).is_terminal(self.part(name, states)).unsqueeze(1)
            started = self.stage(following).start(self.condition(following, states))
            states[:, self._slices[following]] = torch.where(done, started, 0.0)
        return states

    def parent_actions(self, head: str, states: Tensor) -> Tensor:
        name = self._stage_of_head[head]
        return self.stage(name).parent_actions(head, self.part(name, states))

    def step_back(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        name = self._stage_of_head[head]
        states = states.clone()
        states[:, self._slices[name]] = self.stage(name).step_back(head, self.part(name, states), actions)
        for later in self._names[self._names.index(name) + 1 :]:
            states[:, self._slices[later]] = 0.0
        return states
