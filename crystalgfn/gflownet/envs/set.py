"""Sets with a fixed number of items, added one by one in any order."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from crystalgfn.checks import at_least, between
from crystalgfn.gflownet.envs.base import CategoricalHead, ObjectTable, first_faults
from crystalgfn.gflownet.envs.stage import Stage
from crystalgfn.registry import ENVIRONMENTS

if TYPE_CHECKING:
    import pandas as pd


@ENVIRONMENTS.register
class Set(Stage):
    """Chooses a fixed number of items, one after the other; each set can be built in size! orders.

    As a stage of a stack, the environment has a condition: which items are allowed. At least ``size`` items must be
    allowed.

    State: for each item whether it is chosen, then for each item whether it is allowed.

    Args:
        items: number of items from which to choose; they are numbered from 0.
        size: number of items to choose.

    Raises:
        InputError: if ``items`` is below 2, or if ``size`` is not between 1 and ``items``.
    """

    is_tree = False
    is_enumerable = True
    has_partial_objects = True

    def __init__(self, items: int, size: int) -> None:
        super().__init__()
        at_least("items", items, 2)
        between("size", size, 1, items)
        self.items, self.size = items, size
        self.state_size, self.condition_size, self.encoding_size = 2 * items, items, items
        self.heads = {"item": CategoricalHead(items, items)}
        self.schedule = ("item",) * size
        self._all: Tensor
        self.register_buffer("_all", torch.ones(items, dtype=torch.float64), persistent=False)

    def default_condition(self) -> Tensor:
        return self._all

    def start(self, condition: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(condition), condition], 1)

    def next_head(self, states: Tensor) -> Tensor:
        return torch.where(states[:, : self.items].sum(1) < self.size, 0, -1)

    def previous_head(self, states: Tensor) -> Tensor:
        return torch.where((states[:, : self.items] > 0).any(1), 0, -1)

    def encode(self, head: str, states: Tensor) -> Tensor:
        return self.encode_terminal(states)

    def encode_terminal(self, states: Tensor) -> Tensor:
        """(n, items) float32, 1 where an item is chosen."""
        return states[:, : self.items].float()

    def encode_backward(self, head: str, states: Tensor) -> Tensor:
        return self.encode_terminal(states)

    def support(self, head: str, states: Tensor) -> Tensor:
        chosen, allowed = states.chunk(2, dim=1)
        return (allowed > 0) & (chosen == 0)

    def step(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        return states.scatter(1, actions.long(), 1.0)

    def parent_actions(self, head: str, states: Tensor) -> Tensor:
        return states[:, : self.items] > 0

    def step_back(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        return states.scatter(1, actions.long(), 0.0)

    def decode(self, states: Tensor) -> Tensor:
        """(n, items) bool, True where an item is chosen."""
        return states[:, : self.items] > 0

    def decode_partial(self, states: Tensor) -> Tensor:
        """(n, items) bool, the items chosen so far."""
        return self.decode(states)

    def states_under(self, condition: Tensor, objects: Any, tolerance: float = 0.0) -> tuple[Tensor, list[str]]:
        chosen = objects.to(self.device, torch.float64)
        problems = first_faults(
            ("number of items", chosen.sum(1) != self.size),
            ("item that is not allowed", (chosen > condition).any(1)),
        )
        return torch.cat([chosen, condition], 1), problems

    def read_table(self, path: Path) -> ObjectTable:
        from crystalgfn.files import read_frame

        frame = read_frame(path, ["items"])
        rows, objects, problems = [], [], {}
        for row, text in enumerate(frame["items"].astype(str)):
            words = text.split()
            known = [int(word) for word in words if word.isdecimal() and int(word) < self.items]
            if len(known) < len(words):
                problems[row] = "unknown item"
            elif len(set(known)) < len(known):
                problems[row] = "item twice"
            else:
                rows.append(row)
                objects.append(
                    torch.zeros(self.items, dtype=torch.bool).index_fill(0, torch.tensor(known).long(), True)
                )
        stacked = torch.stack(objects) if objects else torch.zeros(0, self.items, dtype=torch.bool)
        return ObjectTable(frame, torch.tensor(rows, dtype=torch.int64), stacked, problems)

    def to_frame(self, states: Tensor) -> pd.DataFrame:
        """One row for each set: the numbers of its items, separated by blanks, in the column ``items``."""
        import pandas as pd

        texts = [" ".join(str(i) for i, own in enumerate(row) if own) for row in self.decode(states).tolist()]
        return pd.DataFrame({"items": texts}, dtype=str)

    def enumerate(self) -> Tensor:
        sets = torch.combinations(torch.arange(self.items), self.size).to(self.device)
        return self.start(self._all.expand(len(sets), -1)).scatter(1, sets, 1.0)
