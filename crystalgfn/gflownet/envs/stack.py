"""Several environments, the stages, one after the other as one environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from crystalgfn.errors import InputError
from crystalgfn.gflownet.distributions import Distribution
from crystalgfn.gflownet.envs.base import CategoricalHead, Environment, Head, ObjectTable
from crystalgfn.gflownet.envs.listing import terminal_states
from crystalgfn.gflownet.envs.stage import PlainStage, Stage
from crystalgfn.registry import ENVIRONMENTS

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Parts:
    """A batch of objects in parts: what each stage of a stack built.

    ``objects["name"]`` is the part of one stage, as the stage's ``decode`` returns it. Indexing with a slice or with a
    tensor of rows returns a batch of objects.

    Attributes:
        of_stage: each stage's part, by the stage's name.
    """

    of_stage: Mapping[str, Any]

    def __len__(self) -> int:
        return len(next(iter(self.of_stage.values())))

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.of_stage[key]
        return Parts({name: part[key] for name, part in self.of_stage.items()})


@ENVIRONMENTS.register
class Stack(Environment):
    """Environments one after the other, the stages: each stage starts when the one before it is finished.

    The start of a stage may depend on everything that was built before; a subclass defines this in `condition`. Stages
    may be trees or not, and discrete or continuous. A state contains the states of all stages side by side; a stage
    that has not started is a row of zeros. The policy's input is what the earlier stages built, followed by the
    encoding of the current stage. Heads keep the names that they have in their stage. If two stages use the same name,
    the name of the stage goes before it, as in ``first_item``.

    Attributes:
        stages: names of the stages, in order.

    Args:
        stages: the stages by name, in order. An environment that is no `Stage` becomes a `PlainStage`.

    Raises:
        InputError: if there is no stage, or if two heads have the same name.
    """

    def __init__(self, stages: Mapping[str, Environment]) -> None:
        super().__init__()
        if not stages:
            raise InputError("stages: {} is not allowed; a stack needs at least one stage")
        chain = {name: stage if isinstance(stage, Stage) else PlainStage(stage) for name, stage in stages.items()}
        # Not a ModuleDict, because it does not allow names such as "items".
        self._stages = torch.nn.ModuleList(chain.values())
        self.stages = tuple(chain)
        self._places = {name: place for place, name in enumerate(chain)}
        self._slices: dict[str, slice] = {}
        # For each head, its stage and its name in that stage.
        self._owner: dict[str, tuple[str, str]] = {}
        known = [head for stage in chain.values() for head in stage.heads]
        heads: dict[str, Head] = {}
        schedule: list[str] = []
        offset, encoded = 0, 0
        for name, stage in chain.items():
            self._slices[name] = slice(offset, offset + stage.state_size)
            offset += stage.state_size
            full = {head: head if known.count(head) == 1 else f"{name}_{head}" for head in stage.heads}
            for head, spec in stage.heads.items():
                if full[head] in heads:
                    raise InputError(f"stages: {name!r} is not allowed; another stage also has a head {full[head]!r}")
                heads[full[head]] = replace(spec, input_size=spec.input_size + encoded)
                self._owner[full[head]] = (name, head)
            schedule += [full[head] for head in stage.schedule]
            encoded += stage.encoding_size
        self.heads = heads
        self.schedule = tuple(schedule)
        self.state_size = offset
        self.is_tree = all(stage.is_tree for stage in chain.values())
        self.is_enumerable = all(isinstance(head, CategoricalHead) for head in heads.values())
        # Position in `heads` of each stage's first head.
        sizes = [len(stage.heads) for stage in chain.values()]
        self._first_head = dict(zip(chain, [sum(sizes[:i]) for i in range(len(sizes))], strict=True))

    def stage(self, name: str) -> Stage:
        """The stage with this name."""
        stage = self._stages[self._places[name]]
        assert isinstance(stage, Stage)
        return stage

    def part(self, name: str, states: Tensor) -> Tensor:
        """(n, stage.state_size) the columns of one stage."""
        return states[:, self._slices[name]]

    def condition(self, name: str, states: Tensor) -> Tensor:
        """(n, condition_size) condition of a stage, from states in which all stages before it are finished.

        By default, every stage starts under its own default condition.
        """
        return self.stage(name).default_condition().expand(len(states), -1)

    def initial_states(self, n: int) -> Tensor:
        states = torch.zeros(n, self.state_size, dtype=torch.float64, device=self.device)
        first = self.stages[0]
        states[:, self._slices[first]] = self.stage(first).start(self.condition(first, states))
        return states

    def stage_of(self, head: str) -> str:
        return self._owner[head][0]

    def next_head(self, states: Tensor) -> Tensor:
        head = torch.full((len(states),), -1, device=states.device)
        for name in reversed(self.stages):
            own = self.stage(name).next_head(self.part(name, states))
            head = torch.where(own >= 0, own + self._first_head[name], head)
        return head

    def due(self, head: str, states: Tensor) -> Tensor:
        # When the schedule has reached a stage, all rows have finished the stages before it.
        name, own = self._owner[head]
        return self.stage(name).due(own, self.part(name, states))

    def previous_head(self, states: Tensor) -> Tensor:
        head = torch.full((len(states),), -1, device=states.device)
        for name in self.stages:
            own = self.stage(name).previous_head(self.part(name, states))
            head = torch.where(own >= 0, own + self._first_head[name], head)
        return head

    def encode(self, head: str, states: Tensor) -> Tensor:
        name, own = self._owner[head]
        return self._behind_earlier(name, states, self.stage(name).encode(own, self.part(name, states)))

    def _behind_earlier(self, current: str, states: Tensor, own: Tensor) -> Tensor:
        """What the stages before the current one have built, followed by the encoding of the current stage."""
        before = self.stages[: self._places[current]]
        return torch.cat([*(self.stage(name).encode_terminal(self.part(name, states)) for name in before), own], 1)

    def input_features(self, head: str) -> Tensor | None:
        current, own = self._owner[head]
        before = [self.stage(name) for name in self.stages[: self._places[current]]]
        parts = [(stage.encoding_size, stage.terminal_features()) for stage in before]
        stage = self.stage(current)
        parts.append((stage.heads[own].input_size, stage.input_features(own)))
        if all(features is None for _, features in parts):
            return None
        return torch.block_diag(*(torch.zeros(n, 0) if part is None else part.cpu() for n, part in parts))

    def option_features(self, head: str) -> Tensor | None:
        name, own = self._owner[head]
        return self.stage(name).option_features(own)

    def input_names(self, head: str) -> tuple[str, ...] | None:
        """As `Environment.input_names`; before what an earlier stage built, its name is written: ``first: 3``."""
        current, own = self._owner[head]
        names = list[str]()
        for stage in self.stages[: self._places[current]]:
            built = self.stage(stage).terminal_names()
            if built is None:
                return None
            names += [f"{stage}: {name}" for name in built]
        inputs = self.stage(current).input_names(own)
        return None if inputs is None else (*names, *inputs)

    def implied_inputs(self, head: str) -> dict[str, Tensor]:
        current, own = self._owner[head]
        before = sum(self.stage(name).encoding_size for name in self.stages[: self._places[current]])
        implied = self.stage(current).implied_inputs(own)
        return {name: torch.nn.functional.pad(factors, (before, 0)) for name, factors in implied.items()}

    def option_names(self, head: str) -> tuple[str, ...] | None:
        name, own = self._owner[head]
        return self.stage(name).option_names(own)

    def support(self, head: str, states: Tensor) -> Tensor:
        name, own = self._owner[head]
        return self.stage(name).support(own, self.part(name, states))

    def step(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        return self.advance(head, states.clone(), actions)

    def advance(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        name, own = self._owner[head]
        before = self.part(name, states)
        after = self.stage(name).advance(own, before, actions)
        if after is not before:
            states[:, self._slices[name]] = after
        position = self._places[name] + 1
        if position == len(self.stages):
            return states
        following = self.stages[position]
        rows = torch.nonzero(self.stage(name).is_terminal(after)).squeeze(1)
        if len(rows):
            started = self.stage(following).start(self.condition(following, states[rows]))
            states[rows, self._slices[following]] = started
        return states

    def has_one_parent(self, head: str) -> bool:
        name, own = self._owner[head]
        return self.stage(name).has_one_parent(own)

    def parent_actions(self, head: str, states: Tensor) -> Tensor:
        name, own = self._owner[head]
        return self.stage(name).parent_actions(own, self.part(name, states))

    def backward_distribution(self, head: str, states: Tensor) -> Distribution:
        name, own = self._owner[head]
        return self.stage(name).backward_distribution(own, self.part(name, states))

    def step_back(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        name, own = self._owner[head]
        states = states.clone()
        states[:, self._slices[name]] = self.stage(name).step_back(own, self.part(name, states), actions)
        for later in self.stages[self._places[name] + 1 :]:
            states[:, self._slices[later]] = 0.0
        return states

    @property
    def has_own_backward(self) -> bool:
        return any(self.stage(name).has_own_backward for name in self.stages)

    @property
    def can_learn_backward(self) -> bool:
        return all(self.stage(name).is_tree or self.stage(name).can_learn_backward for name in self.stages)

    def encode_backward(self, head: str, states: Tensor) -> Tensor:
        name, own = self._owner[head]
        return self._behind_earlier(name, states, self.stage(name).encode_backward(own, self.part(name, states)))

    def decode(self, states: Tensor) -> Any:
        """The objects that each stage built, as `Parts`."""
        return Parts({name: self.stage(name).decode(self.part(name, states)) for name in self.stages})

    def states_of(self, objects: Any, tolerance: float = 0.0) -> tuple[Tensor, list[str]]:
        """As `Environment.states_of`; the states of objects that cannot be built are zeros."""
        states = torch.zeros(len(objects), self.state_size, dtype=torch.float64, device=self.device)
        problems = [""] * len(objects)
        rows = torch.arange(len(objects))
        for name in self.stages:
            condition = self.condition(name, states[rows])
            own, found = self.stage(name).states_under(condition, objects[name][rows], tolerance)
            states[rows, self._slices[name]] = own
            for row, problem in zip(rows.tolist(), found, strict=True):
                problems[row] = problem
            rows = rows[torch.tensor([not problem for problem in found], dtype=torch.bool)]
        states[torch.tensor([bool(problem) for problem in problems], dtype=torch.bool)] = 0.0
        return states, problems

    def read_table(self, path: Path) -> ObjectTable:
        """Read objects from a table; each stage reads its own columns, and all columns must have different names."""
        tables = {name: self.stage(name).read_table(path) for name in self.stages}
        frame = next(iter(tables.values())).frame
        good = torch.stack([_is_row(table.rows, len(frame)) for table in tables.values()]).all(0)
        parts = {name: table.objects[good[table.rows]] for name, table in tables.items()}
        problems = {row: problem for table in reversed(tables.values()) for row, problem in table.problems.items()}
        return ObjectTable(frame, good.nonzero().squeeze(1), Parts(parts), problems)

    def to_frame(self, states: Tensor) -> pd.DataFrame:
        """The stages' tables side by side; if columns share a name, the stage goes before it, as in ``first_items``."""
        import pandas as pd

        frames = {name: self.stage(name).to_frame(self.part(name, states)) for name in self.stages}
        known = [column for frame in frames.values() for column in frame.columns]
        for name, frame in frames.items():
            frame.columns = [c if known.count(c) == 1 else f"{name}_{c}" for c in frame.columns]
        return pd.concat(frames.values(), axis=1)

    def enumerate(self) -> Tensor:
        return terminal_states(self) if self.is_enumerable else super().enumerate()


def _is_row(rows: Tensor, n: int) -> Tensor:
    """(n,) bool, which of the numbers 0 to n - 1 are in ``rows``."""
    return torch.zeros(n, dtype=torch.bool).index_fill(0, rows, True)
