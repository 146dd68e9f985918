"""Random walks through an environment that record every transition."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from crystalgfn.gflownet.envs.base import CategoricalHead, Environment


@dataclass(frozen=True)
class Transition:
    """One decision of a walk, for the m rows of the batch in which it was due.

    Attributes:
        head: name of the decision.
        before: (m, state_size) float64, the states in which it was due.
        support: (m, support_size), the legal actions.
        logits: (m, n_logits) float32, random logits in place of the output of a policy.
        actions: (m, 1) float64, the actions taken.
        after: (m, state_size) float64, the states after the actions.
    """

    head: str
    before: Tensor
    support: Tensor
    logits: Tensor
    actions: Tensor
    after: Tensor


def random_walk(env: Environment, n: int, generator: Generator, scale: float = 2.0) -> tuple[Tensor, list[Transition]]:
    """Walk n times from the initial state to the end of the schedule, with new random logits for every state.

    Args:
        env: the environment.
        n: number of walks.
        generator: the only source of randomness.
        scale: standard deviation of the logits.

    Returns:
        (n, state_size) float64, the states at the end, and the transitions in the order of the schedule.

    Raises:
        AssertionError: if a state in which a decision is due has no legal action, or if a step changes the shape of
            the states or returns states that are not float64.
    """
    states = env.initial_states(n)
    transitions = []
    for head in env.schedule:
        rows = torch.nonzero(env.next_head(states) == env.head_position(head)).squeeze(1)
        if not len(rows):
            continue
        before = states[rows]
        support = env.support(head, before)
        assert_legal_action(env, head, before, support)
        logits = torch.empty(len(rows), env.heads[head].n_logits, device=states.device)
        logits = logits.normal_(generator=generator) * scale
        actions = env.heads[head].distribution(logits, support).sample(generator)
        after = env.step(head, before, actions)
        assert after.shape == before.shape, f"step of {head!r} changes the shape of states"
        assert after.dtype == torch.float64, f"step of {head!r} returns {after.dtype}; states are float64"
        states = states.clone()
        states[rows] = after
        transitions.append(Transition(head, before, support, logits, actions, after))
    return states, transitions


def assert_legal_action(env: Environment, head: str, states: Tensor, support: Tensor) -> None:
    """Assert that every state has a legal action.

    Args:
        env: the environment.
        head: name of the decision that is due in all states.
        states: (m, state_size) the states.
        support: (m, support_size) the legal actions in these states.

    Raises:
        AssertionError: if a state has none; the message shows the first such state.
    """
    if isinstance(env.heads[head], CategoricalHead):
        dead, what = ~support.any(1), "no option is legal"
    else:
        dead, what = ~(support[:, 0] < support[:, 1]), "its interval is empty"
    assert not dead.any(), (
        f"dead end: {head!r} is due in {int(dead.sum())} of {len(states)} states where {what}, "
        f"the first of them {states[dead][0].tolist()} with support {support[dead][0].tolist()}"
    )
