"""At the exact solution, worked out by dynamic programming, every loss is zero; near it none is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers import make_crystal
from torch import Tensor

from crystalgfn.gflownet.balance import Balance, StateFlow
from crystalgfn.gflownet.envs import HyperGrid
from crystalgfn.gflownet.losses import (
    DetailedBalance,
    FlowMatching,
    ForwardLookingDetailedBalance,
    LogPartitionVariance,
    Loss,
    SubTrajectoryBalance,
    TrajectoryBalance,
)
from crystalgfn.gflownet.policies import MLP, Policy
from crystalgfn.gflownet.rollout import Trajectories, log_forward, sample_backward, sample_forward
from crystalgfn.random import generator
from crystalgfn.testing import RandomPolicy

LOSSES: dict[str, Callable[[], Loss]] = {
    "trajectory balance": TrajectoryBalance,
    "variance": LogPartitionVariance,
    "detailed balance": DetailedBalance,
    "parts": lambda: SubTrajectoryBalance(0.7),
    "forward looking": ForwardLookingDetailedBalance,
    "flow matching": FlowMatching,
    "huber": lambda: DetailedBalance("huber"),
    "log cosh": lambda: TrajectoryBalance("log_cosh"),
}


class Detour(HyperGrid):
    """Four cells, of which (0, 1) and (1, 1) can be stopped in: (1, 0) has one way on, to a cell with two parents."""

    def __init__(self) -> None:
        super().__init__(2, 2)

    def support(self, head: str, states: Tensor) -> Tensor:
        legal = super().support(head, states)
        legal[:, -1] &= states[:, 1] == 1
        return legal

    def enumerate(self) -> Tensor:
        return torch.tensor([[0.0, 1.0, 1.0], [1.0, 1.0, 1.0]], dtype=torch.float64)


class Table(Policy):
    """Outputs from a table, by the cell that an encoding stands for."""

    def __init__(self, env: HyperGrid, outputs: Tensor) -> None:
        super().__init__()
        self.env = env
        self.outputs = torch.nn.Parameter(outputs)

    def forward(self, head: str, inputs: Tensor) -> Tensor:
        cells = inputs.view(len(inputs), self.env.dimensions, self.env.height).argmax(2)
        return self.outputs[place(self.env, cells)]


def place(env: HyperGrid, cells: Tensor) -> Tensor:
    strides = env.height ** torch.arange(env.dimensions - 1, -1, -1)
    return (cells.long() * strides).sum(1)


def log_reward(states: Tensor) -> Tensor:
    return torch.sin(3 * states[:, 0] + 5 * states[:, 1]) + 0.3 * states[:, 0] + 7.0


class Solution:
    """Exact networks for a grid.

    Args:
        env: the grid.
        skewed: whether P_B is not uniform but a table of its own.
    """

    def __init__(self, env: HyperGrid, skewed: bool) -> None:
        self.env = env
        cells = cells_of(env)
        n, options = len(cells), env.dimensions + 1
        stream = generator("backward table")
        skew = torch.randn(n, options, generator=stream, dtype=torch.float64) * skewed
        self.backward = Table(env, skew) if skewed else None
        log_edge = torch.full((n, options), float("-inf"), dtype=torch.float64)
        log_flow = torch.full((n,), float("-inf"), dtype=torch.float64)
        legal = env.support("move", cells)
        for row in torch.argsort(cells.sum(1), descending=True).tolist():
            for option in legal[row].nonzero().squeeze(1).tolist():
                action = torch.tensor([[float(option)]], dtype=torch.float64)
                child = env.step("move", cells[row : row + 1], action)
                into = skew[place(env, child[:, :-1])].masked_fill(~env.parent_actions("move", child), float("-inf"))
                log_pb = into.log_softmax(1)[0, option]
                beyond = log_reward(child)[0] if option == options - 1 else log_flow[place(env, child[:, :-1])[0]]
                log_edge[row, option] = log_pb + beyond
            log_flow[row] = log_edge[row].logsumexp(0)
        self.policy = Table(env, log_edge.clamp_min(-30))
        self.log_flow, self.log_z = log_flow, log_flow[0].clone()

    def balance(self, trajectories: Trajectories, loss: Loss) -> Balance:
        cells = cells_of(self.env)
        outputs = self.log_flow - log_reward(cells) if loss.forward_looking else self.log_flow
        flow = StateFlow(self.env, lambda sizes: Table(self.env, outputs.unsqueeze(1)))
        return Balance(
            self.env,
            self.policy,
            trajectories,
            log_reward(trajectories.states),
            self.log_z,
            flow if loss.uses_states else None,
            self.backward,
            log_reward if loss.forward_looking else None,
        )


def cells_of(env: HyperGrid) -> Tensor:
    cells = HyperGrid.enumerate(env)
    cells[:, -1] = 0
    return cells


ENVIRONMENTS = {"grid": lambda: HyperGrid(2, 4), "three dimensions": lambda: HyperGrid(3, 3), "detour": Detour}


def both_ways(solution: Solution) -> Trajectories:
    """Trajectories sampled forward with an exploring policy, and backward from all objects."""
    env = solution.env
    forward, _ = sample_forward(
        env, solution.policy, 60, generator("f"), epsilon=0.5, backward=solution.backward, keep_states=True
    )
    objects = env.enumerate().repeat(3, 1)
    backward = sample_backward(env, objects, generator("b"), solution.backward, keep_states=True)
    return Trajectories.cat([forward, backward])


@pytest.mark.parametrize("skewed", [False, True], ids=["uniform P_B", "skewed P_B"])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("grid", ENVIRONMENTS)
def test_zero_at_the_solution(grid: str, name: str, skewed: bool) -> None:
    loss, solution = LOSSES[name](), Solution(ENVIRONMENTS[grid](), skewed)
    trajectories = both_ways(solution)
    assert loss(solution.balance(trajectories, loss)).max() < 1e-12
    # Flow matching holds for any P_B, but not for other flows; the rest notices both.
    with torch.no_grad():
        solution.policy.outputs[0, 0] += 0.1
    balance = solution.balance(trajectories, loss)
    losses = loss(balance)
    assert losses.max() > 1e-4
    losses.mean().backward()
    assert solution.policy.outputs.grad is not None and solution.policy.outputs.grad.any()
    if solution.backward is not None and not loss.uses_edges:
        assert solution.backward.outputs.grad is not None and solution.backward.outputs.grad.any()


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "flow matching"])
@pytest.mark.parametrize("grid", ENVIRONMENTS)
def test_another_backward_policy_is_noticed(grid: str, name: str) -> None:
    loss, solution = LOSSES[name](), Solution(ENVIRONMENTS[grid](), skewed=True)
    trajectories = both_ways(solution)
    assert solution.backward is not None
    with torch.no_grad():
        solution.backward.outputs[:, 0] += 1.0
    assert loss(solution.balance(trajectories, loss)).max() > 1e-3


def test_forced_decisions_keep_their_backward_probability() -> None:
    env = Detour()
    solution = Solution(env, skewed=False)
    both = env.enumerate()[1:].repeat(50, 1)
    trajectories = sample_backward(env, both, generator("b"))
    steps = solution.balance(trajectories, DetailedBalance()).steps
    # Over (1, 0) there is one choice, over (0, 1) there are two; either way P_B = 1/2 of the last cell counts.
    assert set(steps.length.tolist()) == {1, 2}
    assert torch.allclose(steps.log_pb.sum(1).exp(), torch.tensor(0.5, dtype=torch.float64))


@pytest.mark.parametrize("name", ["crystal", "grid"])
def test_sums_of_the_steps(name: str) -> None:
    env = make_crystal(space_groups=[1, 2, 62, 225], elements=["Li", "Na", "F", "O"]) if name == "crystal" else Detour()
    policy = RandomPolicy(env)
    forward, log_pf = sample_forward(env, policy, 40, generator("forward"))
    backward = sample_backward(env, forward.states, generator("backward"))
    flow = StateFlow(env, lambda sizes: MLP(sizes, (8,)))
    for trajectories in (forward, backward, Trajectories.cat([backward, forward])):
        reward = torch.linspace(-1, 1, len(trajectories), dtype=torch.float64)
        balance = Balance(env, policy, trajectories, reward, torch.tensor(3.0, dtype=torch.float64), flow)
        assert torch.allclose(balance.steps.log_pf.sum(1), log_forward(env, policy, trajectories))
        assert torch.allclose(balance.steps.log_pb.sum(1), trajectories.log_pb)
        assert (balance.steps.log_flow[:, 0] == 3.0).all()
        ends = balance.steps.log_flow.gather(1, balance.steps.length.unsqueeze(1)).squeeze(1)
        assert torch.equal(ends, reward)
    if name == "crystal":
        # In a tree each object has one trajectory, so both ways give the same numbers.
        assert torch.allclose(balance.steps.log_pf[:40], balance.steps.log_pf[40:])
        assert torch.allclose(log_pf, balance.log_pf[40:])


def test_selected_trajectories() -> None:
    solution = Solution(HyperGrid(2, 4), skewed=True)
    trajectories = both_ways(solution)
    keep = torch.rand(len(trajectories), generator=generator("keep")) < 0.4
    loss = DetailedBalance()
    with torch.no_grad():
        solution.policy.outputs[:, 0] += 0.3
        whole = loss(solution.balance(trajectories, loss))
        part = loss(solution.balance(trajectories.select(keep), loss))
    assert torch.allclose(whole[keep], part)
    assert len(trajectories.select(torch.zeros_like(keep))) == 0


def test_flows_start_where_the_first_batch_has_them() -> None:
    solution = Solution(HyperGrid(2, 4), skewed=False)
    trajectories = both_ways(solution)
    loss = DetailedBalance()
    balance = solution.balance(trajectories, loss)
    assert balance.flow is not None
    balance.flow.network = Table(solution.env, torch.zeros(16, 1, dtype=torch.float64))
    balance.flow.start_at(balance)
    # At the solution what follows a state tells its flow exactly; the offset is the mean over visits.
    visited = trajectories.steps
    inner = torch.cat([solution.log_flow[place(solution.env, s.inputs.view(-1, 2, 4).argmax(2))] for s in visited])
    at_origin = torch.cat([s.inputs.view(-1, 2, 4).argmax(2).sum(1) == 0 for s in visited])
    assert balance.flow.offsets.item() == pytest.approx(inner[~at_origin].mean().item())
