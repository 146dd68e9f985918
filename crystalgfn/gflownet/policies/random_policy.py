"""A policy with random weights, to visit parts of an environment that a trained policy may not visit."""

from __future__ import annotations

import torch
from torch import Tensor

from crystalgfn.gflownet.envs.base import Environment
from crystalgfn.gflownet.policies.base import Policy
from crystalgfn.random import generator


class RandomPolicy(Policy):
    """Logits that are a fixed random function of the encoding: scale * sqrt(2) * cos(W x + b).

    Args:
        env: the environment in which to sample.
        seed: seed of the weights.
        scale: standard deviation of the logits; 0 makes every choice uniform, 10 makes most choices certain.
    """

    def __init__(self, env: Environment, seed: int = 0, scale: float = 2.0) -> None:
        super().__init__()
        self.scale = scale
        for position, (name, head) in enumerate(env.heads.items()):
            stream = generator(seed, "random policy", name)
            weight = torch.empty(head.input_size, head.n_logits).normal_(generator=stream)
            bias = torch.empty(head.n_logits).uniform_(0, 2 * torch.pi, generator=stream)
            self.register_buffer(f"weight_{position}", weight)
            self.register_buffer(f"bias_{position}", bias)
        self._positions = {name: position for position, name in enumerate(env.heads)}

    def forward(self, head: str, inputs: Tensor) -> Tensor:
        position = self._positions[head]
        weight, bias = self.get_buffer(f"weight_{position}"), self.get_buffer(f"bias_{position}")
        return self.scale * 2**0.5 * torch.cos(inputs @ weight + bias)
