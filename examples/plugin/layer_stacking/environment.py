"""The environment: a word of h and c, written letter by letter."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from crystalgfn import ENVIRONMENTS, Environment
from crystalgfn.errors import InputError
from crystalgfn.gflownet.envs import CategoricalHead


@ENVIRONMENTS.register
class LayerStacking(Environment):
    """Stacking sequences of close-packed layers, as words of h and c.

    A state has one number for each layer: 0 (open), 1 (h) or 2 (c).

    Args:
        layers: number of layers, which is the length of the word.

    Raises:
        InputError: if ``layers`` is less than 1.
    """

    is_enumerable = True
    is_tree = True

    def __init__(self, layers: int) -> None:
        super().__init__()
        if layers < 1:
            raise InputError(f"layers: {layers} is not allowed; it must be at least 1")
        self.layers = layers
        self.state_size = layers
        self.heads = {"layer": CategoricalHead(input_size=2 * layers, n_options=2)}
        self.schedule = ("layer",) * layers
        self.register_buffer("_blank", torch.zeros(layers, dtype=torch.float64), persistent=False)

    def initial_states(self, n: int) -> Tensor:
        return self._blank.repeat(n, 1)

    def next_head(self, states: Tensor) -> Tensor:
        return torch.where((states == 0).any(1), 0, -1)

    def previous_head(self, states: Tensor) -> Tensor:
        return torch.where((states > 0).any(1), 0, -1)

    def encode(self, head: str, states: Tensor) -> Tensor:
        return torch.cat([states == 1, states == 2], 1).float()

    def support(self, head: str, states: Tensor) -> Tensor:
        return torch.ones(len(states), 2, dtype=torch.bool, device=states.device)

    def step(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        position = (states > 0).sum(1, keepdim=True)
        return states.scatter(1, position, actions + 1)

    def parent_actions(self, head: str, states: Tensor) -> Tensor:
        position = (states > 0).sum(1, keepdim=True) - 1
        return states.gather(1, position) - 1

    def step_back(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        position = (states > 0).sum(1, keepdim=True) - 1
        return states.scatter(1, position, 0.0)

    def decode(self, states: Tensor) -> Tensor:
        """(n, layers) bool, True for hexagonal layers."""
        return states == 1

    def to_frame(self, states: Tensor) -> pd.DataFrame:
        return pd.DataFrame({"word": ["".join("h" if h else "c" for h in row) for row in self.decode(states).tolist()]})

    def enumerate(self) -> Tensor:
        letters = [torch.tensor([1.0, 2.0], dtype=torch.float64, device=self.device)] * self.layers
        return torch.cartesian_prod(*letters).reshape(-1, self.layers)
