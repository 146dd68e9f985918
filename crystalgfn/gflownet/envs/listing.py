"""All terminal states of an environment with discrete decisions."""

from __future__ import annotations

import torch
from torch import Tensor

from crystalgfn.gflownet.envs.base import Environment


def terminal_states(env: Environment) -> Tensor:
    """Find all terminal states by taking all legal actions, starting at the initial state.

    Args:
        env: an environment whose decisions are all discrete.

    Returns:
        (m, state_size) the terminal states, each once.
    """
    states, found = env.initial_states(1), []
    while len(states):
        due, reached = env.next_head(states), []
        for position, head in enumerate(env.heads):
            current = states[due == position]
            if len(current):
                rows, options = env.support(head, current).nonzero(as_tuple=True)
                reached.append(env.step(head, current[rows], options.unsqueeze(1).to(torch.float64)))
        states = torch.unique(torch.cat(reached), dim=0)
        ended = env.is_terminal(states)
        found.append(states[ended])
        states = states[~ended]
    return torch.unique(torch.cat(found), dim=0)
