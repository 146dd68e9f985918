"""Log-probabilities and flows of trajectories, which losses compare; each is evaluated with gradients on first use.

`rollout` usually samples trajectories without gradients. Here the networks are called again on the recorded inputs,
once for each head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from crystalgfn.gflownet.distributed import sum_over_processes
from crystalgfn.gflownet.envs.base import Environment
from crystalgfn.gflownet.policies.base import Policy, Shape
from crystalgfn.gflownet.prior import Prior
from crystalgfn.gflownet.rollout import (
    BackwardPolicy,
    Trajectories,
    backward_distribution,
    by_head,
    log_decisions,
    log_forward,
)

MakePolicy = Callable[[Mapping[str, Shape]], Policy]
"""Makes a network from the shape of the decision of each head."""


def policy_shapes(env: Environment) -> dict[str, Shape]:
    """Shapes of the decisions of an environment, by head, for a policy."""
    return {
        name: Shape(head.input_size, head.n_logits, env.input_features(name), env.option_features(name))
        for name, head in env.heads.items()
    }


def backward_shapes(env: Environment) -> dict[str, Shape]:
    """Shapes for a learned backward policy; its inputs have another encoding than the policy's, and no features."""
    return {name: replace(shape, inputs=None) for name, shape in policy_shapes(env).items()}


class StateFlow(nn.Module):
    """A network for log F(s) of the states at which a decision is due.

    Args:
        env: the environment.
        make: makes the network, which is of the same kind as the policy and has one output for each head.
    """

    def __init__(self, env: Environment, make: MakePolicy) -> None:
        super().__init__()
        shapes = policy_shapes(env)
        self.network = make({name: replace(shape, n_logits=1, options=None) for name, shape in shapes.items()})
        # Flows of different heads differ by orders of magnitude, but the outputs of a new network are around zero.
        self.offsets: Tensor
        self.register_buffer("offsets", torch.zeros(len(env.heads), dtype=torch.float64))
        self._position = {name: position for position, name in enumerate(env.heads)}

    def forward(self, head: str, inputs: Tensor) -> Tensor:
        """(m,) float64, log F of states at which a head decides, from their encodings (m, input_size)."""
        value: Tensor = self.network(head, inputs)[:, 0].to(torch.float64)
        return value + self.offsets[self._position[head]]

    @torch.no_grad()
    def start_at(self, balance: Balance) -> None:
        """Set each head's offset from a batch: mean of log R + log P_B - log P_F over the rest of each trajectory."""
        beyond = (balance.steps.log_pb - balance.steps.log_pf).flip(1).cumsum(1).flip(1)
        estimate = balance.log_reward.unsqueeze(1) + beyond - balance.steps.log_partial
        positions = _positions(balance.trajectories)
        totals = torch.zeros(2, len(self.offsets), dtype=torch.float64, device=self.offsets.device)
        for head, indices in positions.of_heads.items():
            parts = [(balance.trajectories.steps[i].rows, positions.of_steps[i]) for i in indices]
            rows, places = (torch.cat(part) for part in zip(*parts, strict=True))
            inner = places > 0
            own = estimate[rows[inner], places[inner]]
            totals[:, self._position[head]] = torch.stack([own.sum(), inner.sum().to(torch.float64)])
        sums, counts = sum_over_processes(totals)
        self.offsets.copy_(torch.where(counts > 0, sums / counts, self.offsets))


@dataclass(frozen=True)
class Steps:
    """Values at each of up to T decisions of n trajectories; see `losses.state_balance`.

    Attributes:
        log_flow: (n, T + 1) log F of the states; log R at position ``length``.
        log_pf: (n, T) log P_F of the choices.
        log_pb: (n, T) log P_B of each choice and of the forced decisions that follow it.
        length: (n,) int64, number of choices.
        log_partial: (n, T) log R of intermediate states, which ``log_flow`` includes; 0 if they have no reward.
    """

    log_flow: Tensor
    log_pf: Tensor
    log_pb: Tensor
    length: Tensor
    log_partial: Tensor


@dataclass(frozen=True)
class Edges:
    """Flows through the m states that trajectories visit, except the first state of each trajectory.

    Attributes:
        log_inflow: (m,) log of the flow from all parents.
        log_outflow: (m,) log of the flow to all children, or log R of a terminal state.
        rows: (m,) int64, the trajectory of each state.
    """

    log_inflow: Tensor
    log_outflow: Tensor
    rows: Tensor


@dataclass(frozen=True)
class _Positions:
    """For each step and arrival, the number of its choice in the trajectory, from 0; -1 before the first choice."""

    of_steps: list[Tensor]
    of_arrivals: list[Tensor]
    length: Tensor
    of_heads: dict[str, list[int]]


class Balance:
    """Log-probabilities and flows of a batch of n trajectories.

    Args:
        env: the environment.
        policy: the policy.
        trajectories: the batch; if it contains log P_F with gradients, these must be of the current policy.
        log_reward: (n,) log R of the terminal state of each trajectory.
        log_z: () log Z.
        flow: network for log F of states, for losses that use states.
        backward: a learned backward policy, or the uniform one; None for the environment's own P_B.
        partial: function for log R of intermediate states, for forward-looking losses.
        prior: a prior that is part of log R. Losses of states then learn F(s) relative to the prior's probability of
            reaching s, that is the mean of f over what the prior makes of s.
    """

    def __init__(
        self,
        env: Environment,
        policy: Policy,
        trajectories: Trajectories,
        log_reward: Tensor,
        log_z: Tensor,
        flow: StateFlow | None = None,
        backward: BackwardPolicy | None = None,
        partial: Callable[[Tensor], Tensor] | None = None,
        prior: Prior | None = None,
    ) -> None:
        self.env, self.policy, self.flow, self.backward, self.partial = env, policy, flow, backward, partial
        self.prior = prior
        self.trajectories, self.log_reward, self.log_z = trajectories, log_reward, log_z

    @cached_property
    def log_pf(self) -> Tensor:
        """(n,) float64 log P_F of each trajectory."""
        if self.flow is not None:
            return self.steps.log_pf.sum(1)
        if self.trajectories.log_pf is not None:
            return self.trajectories.log_pf
        return log_forward(self.env, self.policy, self.trajectories)

    @cached_property
    def log_pb(self) -> Tensor:
        """(n,) float64 log P_B of each trajectory."""
        if self.backward is None:
            return self.trajectories.log_pb
        total = torch.zeros_like(self.trajectories.log_pb)
        for arrival, log_pb in zip(self.trajectories.arrivals, self._log_pb_of_arrivals, strict=True):
            total = total.index_add(0, arrival.rows, log_pb)
        return total

    @cached_property
    def steps(self) -> Steps:
        """Values at each decision."""
        trajectories, positions = self.trajectories, _positions(self.trajectories)
        n, length = len(trajectories), positions.length
        width = int(length.max()) if n else 0
        log_pf, log_prior, log_flow = (_Matrix(n, size, length.device) for size in (width, width, width + 1))
        for head, indices in positions.of_heads.items():
            steps = [trajectories.steps[i] for i in indices]
            rows, values = log_decisions(self.env, self.policy, head, steps)
            places = torch.cat([positions.of_steps[i] for i in indices])
            log_pf.add(rows, places, values)
            if self.prior is not None:
                log_prior.add(rows, places, self.prior.log_decisions(self.env, head, steps) / self.prior.temperature)
            # The flow of the first state is Z, which is a separate parameter.
            inner = places > 0
            if self.flow is not None and inner.any():
                inputs = torch.cat([step.inputs for step in steps])
                log_flow.add(rows[inner], places[inner], self.flow(head, inputs[inner]))
        log_pb = _Matrix(n, width, length.device)
        for arrival, places, values in zip(
            trajectories.arrivals, positions.of_arrivals, self._log_pb_of_arrivals, strict=True
        ):
            # All decisions before the first choice are forced. Those states have one parent, so log P_B is 0.
            chosen = places >= 0
            log_pb.add(arrival.rows[chosen], places[chosen], values[chosen])
        every = torch.arange(n, device=length.device)
        log_flow.add(every, torch.zeros_like(every), torch.where(length > 0, self.log_z, 0.0))
        log_flow.add(every, length, self.log_reward)
        # Before a choice, the prior has made the choices up to it.
        log_partial = self._log_partial(positions, n, width) + log_prior.values.cumsum(1) - log_prior.values
        flows = log_flow.values + torch.nn.functional.pad(log_partial, (0, 1))
        return Steps(flows, log_pf.values, log_pb.values, length, log_partial)

    def _log_partial(self, positions: _Positions, n: int, width: int) -> Tensor:
        """(n, T) log R of the states at which a choice is due; 0 for the first one. Terminal states are left out."""
        values = torch.zeros(n, width, dtype=torch.float64, device=positions.length.device)
        if self.partial is None or not self.trajectories.arrivals:
            return values
        arrivals = self.trajectories.arrivals
        rewards = self.partial(torch.cat([arrival.states for arrival in arrivals]))
        sizes = [len(arrival.rows) for arrival in arrivals]
        for arrival, places, log_r in zip(arrivals, positions.of_arrivals, rewards.split(sizes), strict=True):
            # Arrivals are in order: the last state after a choice, where the next choice is due, overwrites the others.
            inner = (places >= 0) & (places + 1 < positions.length[arrival.rows])
            values[arrival.rows[inner], places[inner] + 1] = log_r[inner]
        return values

    @cached_property
    def _log_pb_of_arrivals(self) -> list[Tensor]:
        """For each arrival, (m,) log P_B, with gradients if P_B is learned."""
        arrivals = self.trajectories.arrivals
        if self.backward is None:
            return [arrival.log_pb for arrival in arrivals]
        found: dict[int, Tensor] = {}
        for head, own in by_head(arrivals).items():
            states, actions = (torch.cat([getattr(a, name) for a in own]) for name in ("states", "actions"))
            log_pb = backward_distribution(self.env, self.backward, head, states).log_prob(actions).to(torch.float64)
            sizes = [len(arrival.rows) for arrival in own]
            found |= {id(arrival): part for arrival, part in zip(own, log_pb.split(sizes), strict=True)}
        return [found[id(arrival)] for arrival in arrivals]

    @cached_property
    def edges(self) -> Edges:
        """Flows into and out of every state except the first; the policy's logits are log flows up to a constant."""
        env = self.env
        shift = self.log_z - self._log_outflow(env.initial_states(1))[0]
        inflows, reached, trajectory = [], [], []
        for head, arrivals in by_head(self.trajectories.arrivals).items():
            reached.append(torch.cat([arrival.states for arrival in arrivals]))
            trajectory += [arrival.rows for arrival in arrivals]
            inflows.append(self._log_inflow(head, reached[-1]) + shift)
        log_inflow, states, rows = torch.cat(inflows), torch.cat(reached), torch.cat(trajectory)
        terminal = env.is_terminal(states)
        log_outflow = torch.where(terminal, self.log_reward[rows], self._log_outflow(states) + shift)
        return Edges(log_inflow, log_outflow, rows)

    def _log_outflow(self, states: Tensor) -> Tensor:
        """(m,) log of the sum of exp(logits) over the legal actions; 0 at terminal states."""
        flows = torch.zeros(len(states), dtype=torch.float64, device=states.device)
        due = self.env.next_head(states)
        for position, head in enumerate(self.env.heads):
            rows = (due == position).nonzero().squeeze(1)
            if len(rows):
                current = states[rows]
                logits = self.policy(head, self.env.encode(head, current)).to(torch.float64)
                legal = self.env.support(head, current)
                flows = flows.index_add(0, rows, logits.masked_fill(~legal, float("-inf")).logsumexp(1))
        return flows

    def _log_inflow(self, head: str, states: Tensor) -> Tensor:
        """(m,) log of the sum of exp(logits) over the edges from all parents."""
        parents = self.env.parent_actions(head, states)
        if self.env.has_one_parent(head):
            rows, actions = torch.arange(len(states), device=states.device), parents
        else:
            rows, options = parents.nonzero(as_tuple=True)
            actions = options.unsqueeze(1).to(torch.float64)
        before = self.env.step_back(head, states[rows], actions)
        index = actions.long()
        logits = self.policy(head, self.env.encode(head, before)).to(torch.float64).gather(1, index).squeeze(1)
        table = logits.new_full((len(states), self.env.heads[head].n_logits), float("-inf"))
        return table.index_put((rows, index.squeeze(1)), logits).logsumexp(1)


class _Matrix:
    """An (n, width) float64 matrix of zeros to which entries are added; gradients are kept."""

    def __init__(self, n: int, width: int, device: torch.device) -> None:
        self._shape = (n, width)
        self._flat = torch.zeros(n * width, dtype=torch.float64, device=device)

    def add(self, rows: Tensor, places: Tensor, values: Tensor) -> None:
        self._flat = self._flat.index_add(0, rows * self._shape[1] + places, values)

    @property
    def values(self) -> Tensor:
        return self._flat.view(self._shape)


def _positions(trajectories: Trajectories) -> _Positions:
    """The position of each step and arrival in its trajectory."""
    count = torch.zeros(len(trajectories), dtype=torch.int64, device=trajectories.states.device)
    of_steps: dict[int, Tensor] = {}
    of_arrivals: dict[int, Tensor] = {}
    of_heads: dict[str, list[int]] = {}
    # A batch joined from several has several entries for one turn, with different rows. A choice precedes its arrival.
    entries = [(step.turn, 0, i) for i, step in enumerate(trajectories.steps)]
    entries += [(arrival.turn, 1, i) for i, arrival in enumerate(trajectories.arrivals)]
    for _, kind, i in sorted(entries):
        if kind == 0:
            step = trajectories.steps[i]
            of_steps[i] = count[step.rows]
            count[step.rows] += 1
            of_heads.setdefault(step.head, []).append(i)
        else:
            of_arrivals[i] = count[trajectories.arrivals[i].rows] - 1
    return _Positions(
        [of_steps[i] for i in range(len(of_steps))],
        [of_arrivals[i] for i in range(len(of_arrivals))],
        count,
        of_heads,
    )
