"""Trajectories: sampled forward with the policy, or backward from terminal states, a whole batch in lockstep.

A batch walks through the environment's schedule of decisions; at each step the rows whose turn it is decide together,
so that one step evaluates one head. What a step needed is kept, and `log_forward` evaluates a whole batch again, with
gradients, in one policy call a head and without asking the environment twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from crystalgfn.distributions import Distribution
from crystalgfn.envs.base import Environment
from crystalgfn.policies.base import Policy


@dataclass(frozen=True)
class Step:
    """One decision, for the rows of a batch whose turn it was and that had a choice.

    Attributes:
        head: name of the decision.
        rows: (m,) int64, the rows of the batch.
        inputs: (m, input_size) float32, what the policy sees.
        support: (m, support_size) the legal actions.
        actions: (m, 1) the actions taken.
    """

    head: str
    rows: Tensor
    inputs: Tensor
    support: Tensor
    actions: Tensor


@dataclass(frozen=True)
class Trajectories:
    """A batch of n complete trajectories.

    Attributes:
        states: (n, state_size) the terminal states.
        steps: the decisions; where only one action was legal there is none.
        log_pb: (n,) float64, sum of log P_B over each trajectory.
    """

    states: Tensor
    steps: list[Step]
    log_pb: Tensor

    def __len__(self) -> int:
        return len(self.states)

    @staticmethod
    def cat(parts: Iterable[Trajectories]) -> Trajectories:
        """One batch from several, in order."""
        parts = list(parts)
        steps, offset = [], 0
        for part in parts:
            steps += [Step(s.head, s.rows + offset, s.inputs, s.support, s.actions) for s in part.steps]
            offset += len(part)
        return Trajectories(torch.cat([p.states for p in parts]), steps, torch.cat([p.log_pb for p in parts]))


@torch.no_grad()
def sample_forward(
    env: Environment, policy: Policy, n: int, generator: Generator, epsilon: float = 0.0
) -> tuple[Trajectories, Tensor]:
    """Sample n trajectories.

    Args:
        env: the environment.
        policy: gives the logits.
        n: number of trajectories.
        generator: the only source of randomness.
        epsilon: probability with which a decision is drawn uniformly from the legal actions instead of the policy.

    Returns:
        the trajectories, and (n,) float64 log P_F of each under the policy (not under the exploring mixture).
    """
    states = env.initial_states(n)
    log_pf = torch.zeros(n, dtype=torch.float64, device=states.device)
    log_pb = torch.zeros_like(log_pf)
    steps = []
    for head in env.schedule:
        rows = torch.nonzero(env.next_head(states) == env.head_position(head)).squeeze(1)
        if not len(rows):
            continue
        current = states[rows]
        support = env.support(head, current)
        actions, open_rows = _forced(support)
        if len(open_rows):
            inputs, choices = env.encode(head, current[open_rows]), support[open_rows]
            distribution = env.heads[head].distribution(policy(head, inputs), choices)
            drawn = _draw(distribution, generator, epsilon)
            actions[open_rows] = drawn
            log_pf[rows[open_rows]] += distribution.log_prob(drawn).to(torch.float64)
            steps.append(Step(head, rows[open_rows], inputs, choices, drawn))
        following = env.step(head, current, actions)
        if not env.is_tree:
            log_pb[rows] += env.backward_distribution(head, following).log_prob(actions)
        states[rows] = following
    return Trajectories(states, steps, log_pb), log_pf


def _forced(support: Tensor) -> tuple[Tensor, Tensor]:
    """What has to be done where only one thing is legal.

    Returns:
        actions (m, 1) float64, right for the rows with one legal option, and (k,) the other rows. Asking the policy
        about the first would cost as much as about the others, for a log-probability of zero.
    """
    if support.dtype != torch.bool:
        return torch.zeros(len(support), 1, dtype=torch.float64, device=support.device), torch.arange(
            len(support), device=support.device
        )
    actions = support.to(torch.uint8).argmax(1, keepdim=True).to(torch.float64)
    return actions, torch.nonzero(support.sum(1) > 1).squeeze(1)


def _draw(distribution: Distribution, generator: Generator, epsilon: float) -> Tensor:
    actions = distribution.sample(generator)
    if epsilon <= 0:
        return actions
    explores = torch.empty_like(actions).uniform_(generator=generator) < epsilon
    return torch.where(explores, distribution.uniform().sample(generator), actions)


@torch.no_grad()
def sample_backward(env: Environment, states: Tensor, generator: Generator) -> Trajectories:
    """Sample a trajectory that leads to each terminal state, with the backward policy.

    Args:
        env: the environment.
        states: (n, state_size) terminal states.
        generator: the only source of randomness; not touched where every state has one parent.
    """
    current = states.clone()
    log_pb = torch.zeros(len(states), dtype=torch.float64, device=states.device)
    steps = []
    for head in reversed(env.schedule):
        rows = torch.nonzero(env.previous_head(current) == env.head_position(head)).squeeze(1)
        if not len(rows):
            continue
        distribution = env.backward_distribution(head, current[rows])
        actions = distribution.sample(generator)
        log_pb[rows] += distribution.log_prob(actions)
        parents = env.step_back(head, current[rows], actions)
        current[rows] = parents
        support = env.support(head, parents)
        _, open_rows = _forced(support)
        if len(open_rows):
            inputs = env.encode(head, parents[open_rows])
            steps.append(Step(head, rows[open_rows], inputs, support[open_rows], actions[open_rows]))
    return Trajectories(states, steps[::-1], log_pb)


def log_forward(env: Environment, policy: Policy, trajectories: Trajectories) -> Tensor:
    """(n,) float64, log P_F of each trajectory under the policy, with gradients."""
    log_pf = torch.zeros(len(trajectories), dtype=torch.float64, device=trajectories.states.device)
    by_head: dict[str, list[Step]] = defaultdict(list)
    for step in trajectories.steps:
        by_head[step.head].append(step)
    for head, steps in by_head.items():
        rows, inputs, support, actions = (
            torch.cat([getattr(step, name) for step in steps]) for name in ("rows", "inputs", "support", "actions")
        )
        distribution = env.heads[head].distribution(policy(head, inputs), support)
        log_pf = log_pf.index_add(0, rows, distribution.log_prob(actions).to(torch.float64))
    return log_pf
