"""A buffer of terminal states to train on again."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from crystalgfn.errors import InputError


class ReplayBuffer(nn.Module):
    """Keeps the terminal states of the highest rewards seen, each once.

    The contents are persistent buffers of the module, so they are part of every checkpoint.

    Args:
        capacity: largest number of states.
        state_size: columns of a state.

    Raises:
        InputError: if the capacity is not positive.
    """

    def __init__(self, capacity: int, state_size: int) -> None:
        super().__init__()
        if capacity < 1:
            raise InputError(f"replay_capacity: {capacity} is not allowed; it must be at least 1")
        self.capacity = capacity
        self.states: Tensor
        self.log_rewards: Tensor
        self.register_buffer("states", torch.zeros(capacity, state_size, dtype=torch.float64))
        # Free places have reward zero and come last.
        self.register_buffer("log_rewards", torch.full((capacity,), float("-inf"), dtype=torch.float64))

    def __len__(self) -> int:
        return int(torch.isfinite(self.log_rewards).sum())

    @torch.no_grad()
    def add(self, states: Tensor, log_rewards: Tensor) -> None:
        """Offer n terminal states with their finite log R; the best of old and new stay."""
        # Free places, which come last, stay out: they are rows of zeros, which a state may be too.
        size = len(self)
        both = torch.cat([self.states[:size], states])
        rewards = torch.cat([self.log_rewards[:size], log_rewards.to(torch.float64)])
        _, inverse = torch.unique(both, dim=0, return_inverse=True)
        order = torch.argsort(inverse, stable=True)
        repeats = torch.zeros_like(rewards, dtype=torch.bool)
        repeats[order[1:]] = inverse[order[1:]] == inverse[order[:-1]]
        rewards = rewards.masked_fill(repeats, float("-inf"))
        best = torch.argsort(rewards, descending=True, stable=True)[: self.capacity]
        self.states[: len(best)] = both[best]
        self.log_rewards[: len(best)] = rewards[best]

    def sample(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Up to n states, drawn uniformly with replacement, and their log R; none from an empty buffer."""
        size = len(self)
        count = n if size else 0
        rows = torch.randint(max(size, 1), (count,), generator=generator, device=self.states.device)
        return self.states[rows], self.log_rewards[rows]
