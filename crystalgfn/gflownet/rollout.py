"""Trajectories: sampled forward with the policy, or backward from terminal states, a whole batch in lockstep.

A batch follows the environment's schedule of decisions. At each step, all rows for which this decision is due decide
together, so each step evaluates one head. The inputs of each step are kept. With them, `log_forward` evaluates a whole
batch again with gradients: it calls the policy once for each head, and does not need the environment's methods again.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from torch import Generator, Tensor, nn

from crystalgfn.gflownet.distributions import Determined, Distribution
from crystalgfn.gflownet.envs.base import Environment
from crystalgfn.gflownet.policies.base import Policy


class UniformBackward(nn.Module):
    """Selects a P_B that is uniform over parents, in an environment that defines another P_B."""


BackwardPolicy = Policy | UniformBackward


@dataclass(frozen=True)
class Step:
    """One decision, for the rows of a batch for which it was due and that had a choice.

    Attributes:
        head: name of the decision.
        rows: (m,) int64, the rows of the batch.
        inputs: (m, input_size) float32, the input of the policy.
        support: (m, support_size) the legal actions.
        actions: (m, 1) the actions taken.
        turn: position in the environment's schedule.
    """

    head: str
    rows: Tensor
    inputs: Tensor
    support: Tensor
    actions: Tensor
    turn: int


@dataclass(frozen=True)
class Arrival:
    """The states that the rows of a batch reached in one turn, by a choice or by a forced decision.

    Attributes:
        head: name of the decision that led here.
        rows: (m,) int64, the rows of the batch.
        states: (m, state_size) the states reached.
        actions: (m, 1) the actions that led to them.
        log_pb: (m,) float64, log P_B of these actions.
        turn: position in the environment's schedule.
    """

    head: str
    rows: Tensor
    states: Tensor
    actions: Tensor
    log_pb: Tensor
    turn: int


Part = TypeVar("Part", Step, Arrival)

LARGE_BATCH = 512
"""Smallest batch for which `sample_to_learn` keeps gradients, so that training evaluates the policy only once."""


@dataclass(frozen=True)
class Trajectories:
    """A batch of n complete trajectories.

    Attributes:
        states: (n, state_size) the terminal states.
        steps: the decisions, in order; decisions with only one legal action are left out.
        log_pb: (n,) float64, sum of log P_B over each trajectory.
        arrivals: the states that were reached, in order; kept if states can have several parents or ``keep_states``
            was set, otherwise empty.
        log_pf: (n,) float64 log P_F with gradients, if `sample_to_learn` kept it; valid only for the parameters that
            the policy had then.
    """

    states: Tensor
    steps: list[Step]
    log_pb: Tensor
    arrivals: list[Arrival]
    log_pf: Tensor | None = None

    def __len__(self) -> int:
        return len(self.states)

    @staticmethod
    def cat(parts: Iterable[Trajectories]) -> Trajectories:
        """Join several batches in order; ``log_pf`` is left out."""
        parts = list(parts)
        steps: list[Step] = []
        arrivals: list[Arrival] = []
        offset = 0
        for part in parts:
            steps += [replace(step, rows=step.rows + offset) for step in part.steps]
            arrivals += [replace(arrival, rows=arrival.rows + offset) for arrival in part.arrivals]
            offset += len(part)
        return Trajectories(torch.cat([p.states for p in parts]), steps, torch.cat([p.log_pb for p in parts]), arrivals)

    def select(self, keep: Tensor) -> Trajectories:
        """The trajectories for which ``keep`` (n,) bool is true, in order."""
        position = keep.cumsum(0) - 1

        def of(parts: Sequence[Part], fields: Sequence[str]) -> list[Part]:
            chosen = []
            for part in parts:
                own = keep[part.rows]
                values = {name: getattr(part, name)[own] for name in fields}
                chosen.append(replace(part, rows=position[part.rows[own]], **values))
            return [part for part in chosen if len(part.rows)]

        steps = of(self.steps, ("inputs", "support", "actions"))
        arrivals = of(self.arrivals, ("states", "actions", "log_pb"))
        log_pf = None if self.log_pf is None else self.log_pf[keep]
        return Trajectories(self.states[keep], steps, self.log_pb[keep], arrivals, log_pf)


@torch.no_grad()
def sample_forward(
    env: Environment,
    policy: Policy,
    n: int,
    generator: Generator,
    epsilon: float = 0.0,
    temperature: float = 1.0,
    backward: BackwardPolicy | None = None,
    keep_states: bool = False,
) -> tuple[Trajectories, Tensor]:
    """Sample n trajectories, and compute the log-probability of each.

    Args:
        env: the environment.
        policy: the network that gives the logits.
        n: number of trajectories.
        generator: the only source of randomness.
        epsilon: see `sample_to_learn`, which draws the same trajectories.
        temperature: see `sample_to_learn`.
        backward: a learned backward policy, or the uniform one; None for the environment's own P_B.
        keep_states: whether to keep the states that were reached also if the environment is a tree.

    Returns:
        the trajectories, and (n,) float64 log P_F of each under the policy itself (without exploration).
    """
    trajectories = _sample(env, policy, n, generator, epsilon, temperature, backward, keep_states, "values")
    assert trajectories.log_pf is not None
    return replace(trajectories, log_pf=None), trajectories.log_pf


@torch.no_grad()
def sample_to_learn(
    env: Environment,
    policy: Policy,
    n: int,
    generator: Generator,
    epsilon: float = 0.0,
    temperature: float = 1.0,
    backward: BackwardPolicy | None = None,
    keep_states: bool = False,
    keep_gradients: bool = True,
) -> Trajectories:
    """Sample n trajectories to train on.

    In a large batch, the gradients of log P_F can be kept, so that the policy is evaluated only once. In a small batch,
    many short backward passes would cost more than `log_forward`, which evaluates each head once for the whole batch.

    Args:
        env: the environment.
        policy: the network that gives the logits.
        n: number of trajectories.
        generator: the only source of randomness.
        epsilon: probability that a decision is drawn uniformly from the legal actions instead of from the policy.
        temperature: all other decisions are drawn with the policy's probabilities to the power of 1 / temperature; in
            a mixture, the weights and the density of each component are taken to this power.
        backward: a learned backward policy, or the uniform one; None for the environment's own P_B.
        keep_states: whether to keep the states that were reached also if the environment is a tree.
        keep_gradients: whether log P_F with gradients is needed; it is kept only if n is at least `LARGE_BATCH`.

    Returns:
        the trajectories, with ``log_pf`` if it was kept.
    """
    log_pf: Literal["gradients"] | None = "gradients" if keep_gradients and n >= LARGE_BATCH else None
    return _sample(env, policy, n, generator, epsilon, temperature, backward, keep_states, log_pf)


def _sample(
    env: Environment,
    policy: Policy,
    n: int,
    generator: Generator,
    epsilon: float,
    temperature: float,
    backward: BackwardPolicy | None,
    keep_states: bool,
    log_pf: Literal["values", "gradients"] | None,
) -> Trajectories:
    """Sample trajectories, with log P_F as values, with gradients, or not at all."""
    states = env.initial_states(n)
    log_pb = torch.zeros(n, dtype=torch.float64, device=states.device)
    steps, arrivals = [], []
    log_probs = []
    learns = log_pf == "gradients"
    keeps = keep_states or not env.is_tree
    for turn, head in enumerate(env.schedule):
        rows = env.due(head, states)
        if not len(rows):
            continue
        # If all rows take part, it is not necessary to select rows and to write them back.
        is_whole = len(rows) == n
        current = states if is_whole else states[rows]
        support = env.support(head, current)
        forced, choosing = _forced(support)
        if choosing is None:
            inputs, choices, choosers = env.encode(head, current), support, rows
        else:
            inputs, choices, choosers = env.encode(head, current[choosing]), support[choosing], rows[choosing]
        actions = forced
        if len(choosers):
            with torch.set_grad_enabled(learns):
                distribution = env.heads[head].distribution(policy(head, inputs), choices)
            drawn = _draw(distribution, generator, epsilon, temperature)
            actions = drawn if choosing is None else forced.index_copy(0, choosing, drawn)
            if log_pf is not None:
                with torch.set_grad_enabled(learns):
                    log_probs.append(distribution.log_prob(drawn).to(torch.float64))
            steps.append(Step(head, choosers, inputs, choices, drawn, turn))
        if keeps:
            following = env.step(head, current, actions)
            share = backward_distribution(env, backward, head, following).log_prob(actions).to(torch.float64)
            log_pb.index_add_(0, rows, share)
            arrivals.append(Arrival(head, rows, following, actions, share, turn))
            if is_whole:
                # The arrival keeps `following`, so later steps must not write to it.
                states = following.clone()
                continue
        else:
            following = env.advance(head, current, actions)
        if is_whole:
            states = following
        else:
            states.index_copy_(0, rows, following)
    total = None
    if log_pf is not None:
        total = torch.zeros_like(log_pb)
        if steps:
            with torch.set_grad_enabled(learns):
                total = total.index_add(0, torch.cat([step.rows for step in steps]), torch.cat(log_probs))
    return Trajectories(states, steps, log_pb, arrivals, total)


def backward_distribution(env: Environment, backward: BackwardPolicy | None, head: str, states: Tensor) -> Distribution:
    """P_B over the actions of one head that can have led to each state.

    Args:
        env: the environment.
        backward: a learned backward policy, or the uniform one; None for the environment's own P_B.
        head: the decision that led to the states.
        states: (m, state_size) the states.

    Returns:
        the distribution, with one row for each state.
    """
    if backward is None:
        return env.backward_distribution(head, states)
    if isinstance(backward, UniformBackward):
        return env.uniform_backward(head, states)
    actions = env.parent_actions(head, states)
    if env.has_one_parent(head):
        return Determined(actions)
    return env.heads[head].distribution(backward(head, env.encode_backward(head, states)), actions)


def _forced(support: Tensor) -> tuple[Tensor, Tensor | None]:
    """Actions of the rows that have only one legal option.

    For these rows the policy is not called: that would cost as much as for other rows, but the log-probability is 0.

    Args:
        support: (m, support_size) the legal actions.

    Returns:
        actions (m, 1) float64, valid for the rows with one legal option, and (k,) int64, the rows with a choice. If all
        rows have a choice, the second value is None, and the actions have no meaning.
    """
    if support.dtype != torch.bool:
        return support[:, :1], None
    choosing = torch.nonzero(support.sum(1) > 1).squeeze(1)
    if len(choosing) == len(support):
        return support[:, :1], None
    return support.to(torch.uint8).argmax(1, keepdim=True).to(torch.float64), choosing


def _draw(distribution: Distribution, generator: Generator, epsilon: float, temperature: float) -> Tensor:
    actions = (distribution if temperature == 1 else distribution.tempered(temperature)).sample(generator)
    if epsilon <= 0:
        return actions
    explores = torch.empty_like(actions).uniform_(generator=generator) < epsilon
    return torch.where(explores, distribution.uniform().sample(generator), actions)


@torch.no_grad()
def sample_backward(
    env: Environment,
    states: Tensor,
    generator: Generator,
    backward: BackwardPolicy | None = None,
    keep_states: bool = False,
) -> Trajectories:
    """Sample a trajectory that leads to each terminal state, with the backward policy.

    Args:
        env: the environment.
        states: (n, state_size) terminal states.
        generator: the only source of randomness; not used if every state has one parent.
        backward: a learned backward policy, or the uniform one; None for the environment's own P_B.
        keep_states: whether to keep the states that were reached also if the environment is a tree.

    Returns:
        the trajectories, in the order of the terminal states.
    """
    current = states.clone()
    log_pb = torch.zeros(len(states), dtype=torch.float64, device=states.device)
    steps, arrivals = [], []
    for turn, head in reversed(list(enumerate(env.schedule))):
        rows = torch.nonzero(env.previous_head(current) == env.head_position(head)).squeeze(1)
        if not len(rows):
            continue
        reached = current[rows]
        distribution = backward_distribution(env, backward, head, reached)
        actions = distribution.sample(generator)
        share = distribution.log_prob(actions).to(torch.float64)
        log_pb[rows] += share
        if keep_states or not env.is_tree:
            arrivals.append(Arrival(head, rows, reached, actions, share, turn))
        parents = env.step_back(head, reached, actions)
        current[rows] = parents
        support = env.support(head, parents)
        _, choosing = _forced(support)
        if choosing is None:
            steps.append(Step(head, rows, env.encode(head, parents), support, actions, turn))
        elif len(choosing):
            inputs = env.encode(head, parents[choosing])
            steps.append(Step(head, rows[choosing], inputs, support[choosing], actions[choosing], turn))
    return Trajectories(states, steps[::-1], log_pb, arrivals[::-1])


def log_forward(env: Environment, policy: Policy, trajectories: Trajectories, uniform: float = 0.0) -> Tensor:
    """Log P_F of trajectories, with gradients.

    Args:
        env: the environment.
        policy: the network that gives the logits.
        trajectories: n trajectories.
        uniform: probability that a decision is uniformly random instead of the policy's.

    Returns:
        (n,) float64.
    """
    log_pf = torch.zeros(len(trajectories), dtype=torch.float64, device=trajectories.states.device)
    for head, steps in by_head(trajectories.steps).items():
        rows, values = log_decisions(env, policy, head, steps, uniform)
        log_pf = log_pf.index_add(0, rows, values)
    return log_pf


def log_decisions(
    env: Environment, policy: Policy | None, head: str, steps: Sequence[Step], uniform: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the choices of one head, with gradients; see `log_forward`.

    Args:
        env: the environment.
        policy: the network that gives the logits; None for a policy that is uniform at each decision.
        head: name of the decision.
        steps: its steps.
        uniform: probability that a decision is uniformly random instead of the policy's.

    Returns:
        (m,) int64 the row of each choice, and (m,) float64 its log-probability.
    """
    rows, inputs, support, actions = (
        torch.cat([getattr(step, name) for step in steps]) for name in ("rows", "inputs", "support", "actions")
    )
    decision = env.heads[head]
    if policy is None:
        return rows, decision.uniform(support).log_prob(actions).to(torch.float64)
    own = decision.distribution(policy(head, inputs), support).log_prob(actions).to(torch.float64)
    if uniform:
        other = decision.uniform(support).log_prob(actions).to(torch.float64)
        own = torch.logaddexp(own + math.log1p(-uniform), other + math.log(uniform))
    return rows, own


def by_head(parts: Iterable[Part]) -> dict[str, list[Part]]:
    """Group steps or arrivals by head, so that a network is called once for each head."""
    sorted_parts: dict[str, list[Part]] = defaultdict(list)
    for part in parts:
        sorted_parts[part.head].append(part)
    return sorted_parts
