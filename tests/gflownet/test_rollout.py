"""Shortcuts of sampling and training give what the long way gives."""

from __future__ import annotations

import pytest
import torch
from helpers import make_crystal

from crystalgfn.gflownet import rollout
from crystalgfn.gflownet.balance import Balance, policy_shapes
from crystalgfn.gflownet.envs import Environment, HyperGrid
from crystalgfn.gflownet.losses import TrajectoryBalance
from crystalgfn.gflownet.policies import MLP
from crystalgfn.gflownet.policies import mlp as mlp_module
from crystalgfn.gflownet.rollout import Trajectories, log_forward, sample_forward, sample_to_learn
from crystalgfn.random import generator


@pytest.fixture(scope="module", params=["crystal", "hypergrid"])
def env(request: pytest.FixtureRequest) -> Environment:
    if request.param == "hypergrid":
        return HyperGrid(2, 4)
    return make_crystal(space_groups=[1, 14, "221-225"], elements=["Li", "O", "F"], volume_per_atom=(5.0, 50.0))


@pytest.fixture
def policy(env: Environment) -> MLP:
    torch.manual_seed(0)
    network = MLP(policy_shapes(env), hidden=[16, 16])
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def _sample(env: Environment, policy: MLP, epsilon: float = 0.2) -> Trajectories:
    return sample_to_learn(env, policy, 60, generator("rollout"), epsilon)


def _gradient(env: Environment, policy: MLP, drawn: Trajectories) -> torch.Tensor:
    policy.zero_grad()
    reward = torch.linspace(-3, 0, len(drawn), dtype=torch.float64)
    balance = Balance(env, policy, drawn, reward, torch.tensor(1.0, dtype=torch.float64))
    TrajectoryBalance()(balance).mean().backward()
    parts = [p.grad.flatten() for p in policy.parameters() if p.grad is not None]
    return torch.cat(parts)


def test_kept_gradients_are_those_of_a_second_pass(
    env: Environment, policy: MLP, monkeypatch: pytest.MonkeyPatch
) -> None:
    twice = _sample(env, policy)
    assert twice.log_pf is None
    monkeypatch.setattr(rollout, "LARGE_BATCH", 1)
    once = _sample(env, policy)
    assert once.log_pf is not None and once.log_pf.requires_grad
    assert torch.equal(once.states, twice.states), "draws depend on how gradients are found"
    assert not once.states.requires_grad
    torch.testing.assert_close(once.log_pf.detach(), log_forward(env, policy, twice).detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(_gradient(env, policy, once), _gradient(env, policy, twice), rtol=1e-4, atol=1e-5)


def test_selected_gradients(env: Environment, policy: MLP, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "LARGE_BATCH", 1)
    drawn = _sample(env, policy)
    keep = torch.arange(60) % 3 > 0
    chosen = drawn.select(keep)
    assert drawn.log_pf is not None and chosen.log_pf is not None
    assert torch.equal(chosen.log_pf, drawn.log_pf[keep])
    torch.testing.assert_close(chosen.log_pf.detach(), log_forward(env, policy, chosen).detach(), rtol=1e-5, atol=1e-5)


def test_sampling_with_and_without_log_pf_draws_the_same(env: Environment, policy: MLP) -> None:
    sampled, log_pf = sample_forward(env, policy, 60, generator("rollout"), 0.2)
    assert torch.equal(sampled.states, _sample(env, policy).states)
    torch.testing.assert_close(log_pf, log_forward(env, policy, sampled).detach(), rtol=1e-5, atol=1e-5)


def test_steps_keep_their_states(env: Environment, policy: MLP) -> None:
    """What trajectories hold is not written over by later steps."""
    sampled = sample_to_learn(env, policy, 60, generator("rollout"), keep_states=True)
    for arrival in sampled.arrivals:
        parents = env.step_back(arrival.head, arrival.states, arrival.actions)
        assert torch.equal(env.step(arrival.head, parents, arrival.actions), arrival.states)
    last = {
        int(row): state for arrival in sampled.arrivals for row, state in zip(arrival.rows, arrival.states, strict=True)
    }
    assert torch.equal(torch.stack([last[row] for row in range(60)]), sampled.states)


def test_due_and_advance(env: Environment, policy: MLP) -> None:
    """The shortcuts of environments agree with `next_head` and `step` all along the schedule."""
    states, stream = env.initial_states(60), generator("due")
    for head in env.schedule:
        rows = env.due(head, states)
        expected = torch.nonzero(env.next_head(states) == env.head_position(head)).squeeze(1)
        assert torch.equal(rows, expected)
        current = states[rows]
        logits = policy(head, env.encode(head, current)).detach()
        actions = env.heads[head].distribution(logits, env.support(head, current)).sample(stream)
        before = current.clone()
        after = env.step(head, current, actions)
        assert torch.equal(current, before)
        assert torch.equal(env.advance(head, current, actions), after)
        states[rows] = after
    assert env.is_terminal(states).all()
    assert torch.equal(env.is_terminal(states), env.next_head(states) < 0)


def test_pieces_of_a_large_batch(env: Environment, policy: MLP, monkeypatch: pytest.MonkeyPatch) -> None:
    head = env.schedule[0]
    inputs = torch.rand(50, env.heads[head].input_size)
    whole = policy(head, inputs)
    monkeypatch.setattr(mlp_module, "_PIECE", 7)
    torch.testing.assert_close(policy(head, inputs), whole)
