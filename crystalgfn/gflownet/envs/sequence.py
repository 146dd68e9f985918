"""Words of a fixed length, written letter by letter at one end or at both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from crystalgfn.checks import at_least, one_of
from crystalgfn.errors import InputError
from crystalgfn.gflownet.envs.base import CategoricalHead, ObjectTable
from crystalgfn.gflownet.envs.stage import Stage
from crystalgfn.registry import ENVIRONMENTS

if TYPE_CHECKING:
    import pandas as pd


@ENVIRONMENTS.register
class Sequence(Stage):
    """Writes a word of a fixed length, letter by letter: from left to right, or at both ends.

    With ``append`` the environment is a tree. With ``both``, each letter goes to the right end or to the left end,
    and a word of length L can be written in 2^(L - 1) ways.

    State: for each place, the letter's position in the alphabet plus one, or 0 if open. Open places are on the right.

    Args:
        letters: the alphabet; each letter occurs once.
        length: length of the words.
        grow: ``append`` to write from left to right, or ``both`` to write at both ends.

    Raises:
        InputError: if a setting is not allowed.

    Source: for words of bits Malkin et al., "Trajectory balance: Improved credit assignment in GFlowNets", NeurIPS
    2022; for growth at both ends Shen et al., "Towards understanding and improving GFlowNet training", ICML 2023.
    """

    is_enumerable = True
    has_partial_objects = True

    def __init__(self, letters: str, length: int, grow: Literal["append", "both"] = "append") -> None:
        super().__init__()
        if len(letters) < 2 or len(set(letters)) < len(letters) or not letters.isprintable() or " " in letters:
            raise InputError(f"letters: {letters!r} is not allowed; it must be two or more different letters")
        at_least("length", length, 1)
        one_of("grow", grow, ("append", "both"))
        self.letters, self.length, self.grow = letters, length, grow
        self.is_tree = grow == "append"
        self.state_size, self.encoding_size = length, length * len(letters)
        options = len(letters) * (1 if self.is_tree else 2)
        self.heads = {"letter": CategoricalHead(self.encoding_size, options)}
        self.schedule = ("letter",) * length
        self._blank: Tensor
        self.register_buffer("_blank", torch.zeros(length, dtype=torch.float64), persistent=False)

    def start(self, condition: Tensor) -> Tensor:
        return self._blank.repeat(len(condition), 1)

    def next_head(self, states: Tensor) -> Tensor:
        return torch.where(states[:, -1] == 0, 0, -1)

    def previous_head(self, states: Tensor) -> Tensor:
        return torch.where(states[:, 0] > 0, 0, -1)

    def encode(self, head: str, states: Tensor) -> Tensor:
        return self.encode_terminal(states)

    def encode_terminal(self, states: Tensor) -> Tensor:
        """(n, length * letters) float32, one-hot letters; zeros at open places."""
        return F.one_hot(states.long(), len(self.letters) + 1)[:, :, 1:].flatten(1).float()

    def encode_backward(self, head: str, states: Tensor) -> Tensor:
        return self.encode_terminal(states)

    def support(self, head: str, states: Tensor) -> Tensor:
        """(n, options) bool: each letter at the right end, then each at the left end (not for a blank word)."""
        right = torch.ones(len(states), len(self.letters), dtype=torch.bool, device=states.device)
        if self.is_tree:
            return right
        return torch.cat([right, (states[:, :1] > 0).expand_as(right)], 1)

    def step(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        size = len(self.letters)
        right = states.scatter(1, self._written(states), actions % size + 1)
        if self.is_tree:
            return right
        left = torch.cat([actions - size + 1, states[:, :-1]], 1)
        return torch.where(actions < size, right, left)

    @staticmethod
    def _written(states: Tensor) -> Tensor:
        """(n, 1) int64, number of letters written so far."""
        return (states > 0).sum(1, keepdim=True)

    def _last(self, states: Tensor) -> Tensor:
        """(n, 1) position in the alphabet of the letter at the right end."""
        return states.gather(1, self._written(states) - 1) - 1

    def parent_actions(self, head: str, states: Tensor) -> Tensor:
        if self.is_tree:
            return self._last(states)
        size = len(self.letters)
        right = F.one_hot(self._last(states)[:, 0].long(), size) > 0
        left = (F.one_hot(states[:, 0].long() - 1, size) > 0) & (self._written(states) > 1)
        return torch.cat([right, left], 1)

    def step_back(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        right = states.scatter(1, self._written(states) - 1, 0.0)
        if self.is_tree:
            return right
        left = torch.cat([states[:, 1:], torch.zeros_like(states[:, :1])], 1)
        return torch.where(actions < len(self.letters), right, left)

    def decode(self, states: Tensor) -> Tensor:
        """(n, length) int64 positions of the letters in the alphabet."""
        return states.long() - 1

    def decode_partial(self, states: Tensor) -> Tensor:
        """(n, length) int64 positions of the letters in the alphabet; -1 at open places."""
        return self.decode(states)

    def states_of(self, objects: Tensor, tolerance: float = 0.0) -> tuple[Tensor, list[str]]:
        return objects.to(self.device, torch.float64) + 1, [""] * len(objects)

    def read_table(self, path: Path) -> ObjectTable:
        from crystalgfn.files import read_frame

        frame = read_frame(path, ["word"])
        rows, words, problems = [], [], {}
        for row, word in enumerate(frame["word"].astype(str)):
            if len(word) != self.length:
                problems[row] = "length of the word"
            elif not set(word) <= set(self.letters):
                problems[row] = "unknown letter"
            else:
                rows.append(row)
                words.append([self.letters.index(letter) for letter in word])
        objects = torch.tensor(words, dtype=torch.int64).reshape(-1, self.length)
        return ObjectTable(frame, torch.tensor(rows, dtype=torch.int64), objects, problems)

    def to_frame(self, states: Tensor) -> pd.DataFrame:
        """One row for each word, in the column ``word``."""
        import pandas as pd

        words = ["".join(self.letters[i] for i in row) for row in self.decode(states).tolist()]
        return pd.DataFrame({"word": words}, dtype=str)

    def enumerate(self) -> Tensor:
        axis = torch.arange(1, len(self.letters) + 1, dtype=torch.float64, device=self.device)
        return torch.cartesian_prod(*[axis] * self.length).reshape(-1, self.length)
