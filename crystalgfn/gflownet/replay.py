"""A buffer of terminal states that are trained on again, with trajectories sampled backward from them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor, nn

from crystalgfn.checks import at_least, one_of
from crystalgfn.gflownet.envs.base import Environment
from crystalgfn.gflownet.keys import hash_rows, state_keys


class ReplayBuffer(nn.Module):
    """Keeps distinct terminal states that were sampled, and draws from them.

    The contents are persistent buffers of the module, so every checkpoint contains them.

    Args:
        capacity: largest number of states.
        batch_size: number of trajectories added to each training step.
        keep: which states stay when the buffer is full: those with the highest rewards (``best``) or the ``newest``.
        draw: how states are drawn, always with replacement. ``uniform``: all with the same probability. ``reward``:
            one half from the tenth with the highest rewards, the other half from the rest. ``loss``: with a
            probability proportional to 1 / rank, where rank 1 is the state whose last training step had the largest
            loss.
        max_alike: largest number of states of one kind (for crystals: of one composition); None for no limit. If
            there are more, those that ``keep`` prefers stay.

    Raises:
        InputError: if a setting is not allowed.

    Source: for ``reward`` Shen et al., "Towards understanding and improving GFlowNet training", ICML 2023; for
    ``loss`` Schaul et al., "Prioritized experience replay", ICLR 2016, rank-based with exponent 1.
    """

    def __init__(
        self,
        capacity: int,
        batch_size: int,
        keep: Literal["best", "newest"] = "best",
        draw: Literal["uniform", "reward", "loss"] = "uniform",
        max_alike: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("capacity", capacity), ("batch_size", batch_size), ("max_alike", max_alike)):
            if value is not None:
                at_least(f"replay.{name}", value, 1)
        one_of("replay.keep", keep, ("best", "newest"))
        one_of("replay.draw", draw, ("uniform", "reward", "loss"))
        self.capacity, self.batch_size = capacity, batch_size
        self.keep, self.draw, self.max_alike = keep, draw, max_alike
        self.states: Tensor
        self.log_rewards: Tensor
        self.losses: Tensor

    def prepare(self, env: Environment) -> None:
        """Allocate the buffer for the states of an environment."""
        self._kinds = env.kinds
        self.register_buffer("states", torch.zeros(self.capacity, env.state_size, dtype=torch.float64))
        # Free places have log R = -inf and come last.
        self.register_buffer("log_rewards", torch.full((self.capacity,), float("-inf"), dtype=torch.float64))
        self.register_buffer("losses", torch.zeros(self.capacity, dtype=torch.float64))

    def __len__(self) -> int:
        return int(torch.isfinite(self.log_rewards).sum())

    @torch.no_grad()
    def add(self, states: Tensor, log_rewards: Tensor, losses: Tensor) -> None:
        """Add terminal states; if the buffer is then too full, ``keep`` decides which states stay.

        Args:
            states: (n, state_size) terminal states.
            log_rewards: (n,) finite log R.
            losses: (n,) loss of the trajectory that led to each state.
        """
        losses = _finite(losses)
        # Only occupied places are merged: a free place is a row of zeros, and a real state may be a row of zeros too.
        size = len(self)
        # If states are equal, the first one stays.
        first, second = slice(None, size), slice(None)
        parts = [(self.states[first], states), (self.log_rewards[first], log_rewards), (self.losses[first], losses)]
        ordered = [(new[second], old) if self.keep == "newest" else (old, new[second]) for old, new in parts]
        both, rewards, costs = (torch.cat([part.to(torch.float64) for part in pair]) for pair in ordered)
        chosen = torch.nonzero(_rank_among_equal(hash_rows(state_keys(both))) == 0).squeeze(1)
        if self.keep == "best":
            chosen = chosen[torch.argsort(rewards[chosen], descending=True, stable=True)]
        if self.max_alike is not None:
            chosen = chosen[_rank_among_equal(hash_rows(state_keys(self._kinds(both[chosen])))) < self.max_alike]
        chosen = chosen[: self.capacity]
        self.log_rewards.fill_(float("-inf"))
        for buffer, values in ((self.states, both), (self.log_rewards, rewards), (self.losses, costs)):
            buffer[: len(chosen)] = values[chosen]

    def sample(self, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw ``batch_size`` states; none if the buffer is empty.

        Args:
            generator: the only source of randomness.

        Returns:
            the places (m,) int64 of the states in the buffer, the states (m, state_size) and their log R (m,).
        """
        size = len(self)
        count = self.batch_size if size else 0
        device = self.states.device
        if self.draw == "uniform" or not size:
            rows = torch.randint(max(size, 1), (count,), generator=generator, device=device)
        elif self.draw == "reward":
            best = max(1, size // 10)
            order = torch.argsort(self.log_rewards[:size], descending=True, stable=True)
            draws = torch.rand(count, generator=generator, dtype=torch.float64, device=device)
            from_best = torch.arange(count, device=device) < (count + 1) // 2
            if best == size:
                from_best[:] = True
            low, high = torch.where(from_best, 0, best), torch.where(from_best, best, size)
            rows = order[torch.minimum(low + (draws * (high - low)).long(), high - 1)]
        else:
            order = torch.argsort(self.losses[:size], descending=True, stable=True)
            sums = (1 / torch.arange(1, size + 1, dtype=torch.float64, device=device)).cumsum(0)
            draws = torch.rand(count, generator=generator, dtype=torch.float64, device=device) * sums[-1]
            rows = order[torch.searchsorted(sums, draws, right=True).clamp_max(size - 1)]
        return rows, self.states[rows], self.log_rewards[rows]

    @torch.no_grad()
    def update(self, rows: Tensor, losses: Tensor) -> None:
        """Store the newest losses of states.

        Args:
            rows: (m,) int64, places of the states in the buffer, from `sample`.
            losses: (m,) loss of the trajectory of each state.
        """
        self.losses[rows] = _finite(losses)


def _finite(losses: Tensor) -> Tensor:
    """Losses as float64, 0 where they are not finite, so that a state with such a loss is not drawn first."""
    return losses.to(torch.float64).nan_to_num(0.0, 0.0, 0.0)


def _rank_among_equal(keys: Tensor) -> Tensor:
    """(n,) int64, for each key the number of equal keys before it."""
    order = torch.argsort(keys, stable=True)
    places = torch.arange(len(keys), device=keys.device)
    new = torch.ones(len(keys), dtype=torch.bool, device=keys.device)
    new[1:] = keys[order[1:]] != keys[order[:-1]]
    start = torch.where(new, places, 0).cummax(0).values
    return torch.empty_like(places).index_copy_(0, order, places - start)
