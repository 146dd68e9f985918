"""Policy networks: contracts that all of them keep, and what an embedding shares."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from helpers import make_crystal
from torch import Tensor

from crystalgfn.crystal.envs import Crystal
from crystalgfn.crystal.restriction import Restriction
from crystalgfn.errors import InputError
from crystalgfn.gflownet.balance import StateFlow, backward_shapes, policy_shapes
from crystalgfn.gflownet.envs import Environment, HyperGrid
from crystalgfn.gflownet.policies import MLP, EmbeddingMLP, Policy, Shape
from crystalgfn.gflownet.policies.embedding_mlp import diagonal_blocks
from crystalgfn.gflownet.rollout import log_forward, sample_forward
from crystalgfn.random import generator

KINDS: dict[str, Callable[..., Policy]] = {
    "MLP": partial(MLP, hidden=(16, 16)),
    "EmbeddingMLP": partial(EmbeddingMLP, hidden=(16, 16)),
    "EmbeddingMLP, shared": partial(EmbeddingMLP, hidden=(16, 16), shared=True),
    "EmbeddingMLP, one layer": partial(EmbeddingMLP, hidden=(16,), shared=True),
}


@pytest.fixture(scope="module")
def crystals() -> Crystal:
    return make_crystal(
        space_groups=[1, 2, 62, "215-225"], elements=["Li", "Na", "K", "O", "F", "Cl"], max_atoms=16, lengths=(3, 12)
    )


def shaken(policy: Policy, scale: float = 0.1) -> Policy:
    """The same policy with other weights: it starts with logits of zero."""
    stream = generator("shaken")
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.empty_like(parameter).normal_(std=scale, generator=stream))
    return policy


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Callable[..., Policy]:
    return KINDS[request.param]


def test_starts_uniform(make: Callable[..., Policy], crystals: Crystal) -> None:
    for env in (crystals, HyperGrid(2, 4)):
        policy = make(policy_shapes(env))
        for name, head in env.heads.items():
            inputs = torch.rand(5, head.input_size, generator=generator("inputs"))
            logits = policy(name, inputs)
            assert logits.shape == (5, head.n_logits) and logits.dtype == torch.float32
            assert (logits == 0).all()


def test_rows_do_not_interact(make: Callable[..., Policy], crystals: Crystal) -> None:
    policy = shaken(make(policy_shapes(crystals)))
    for name, head in crystals.heads.items():
        inputs = torch.rand(7, head.input_size, generator=generator("inputs"))
        whole = policy(name, inputs)
        assert torch.allclose(whole[3:4], policy(name, inputs[3:4]), atol=1e-5)


def test_every_parameter_learns(make: Callable[..., Policy], crystals: Crystal) -> None:
    policy = shaken(make(policy_shapes(crystals)))
    trajectories, _ = sample_forward(crystals, policy, 256, generator("learns"))
    log_forward(crystals, policy, trajectories).sum().backward()
    assert not [name for name, own in policy.named_parameters() if own.grad is None or not own.grad.any()]


def test_flows_and_backward_networks(make: Callable[..., Policy], crystals: Crystal) -> None:
    flow = StateFlow(crystals, make)
    for name, head in crystals.heads.items():
        assert flow(name, torch.rand(3, head.input_size)).shape == (3,)
    backward = make(backward_shapes(HyperGrid(2, 4)))
    assert backward("move", torch.rand(3, 8)).shape == (3, 3)


def test_features_fit_their_heads_and_a_restriction_keeps_them(crystals: Crystal) -> None:
    restricted = crystals.restricted(Restriction.parse({"space_groups": [225], "elements": ["Li", "F"]}))
    for name, shape in policy_shapes(crystals).items():
        again = policy_shapes(restricted)[name]
        for features, same, rows in (
            (shape.inputs, again.inputs, shape.n_inputs),
            (shape.options, again.options, shape.n_logits),
        ):
            assert (features is None) == (same is None)
            if features is not None and same is not None:
                assert features.dtype == torch.float32 and features.isfinite().all() and len(features) == rows
                assert torch.equal(features, same)
    heads = policy_shapes(crystals)
    described = {name for name, shape in heads.items() if shape.options is not None}
    assert described == {"space_group", "element", "count"}
    assert heads["crystal_lattice_system"].inputs is None and heads["a"].inputs is not None


def moved(env: Environment, policy: Policy, element: str) -> Tensor:
    """How far a step that makes one element more likely at the first decision moves each element's logit."""
    assert isinstance(env, Crystal)
    states = env.initial_states(1)
    for head in ("crystal_lattice_system", "point_symmetry", "space_group"):
        action = env.support(head, states).to(torch.uint8).argmax(1, keepdim=True).double()
        states = env.step(head, states, action)
    inputs = env.encode("element", states)
    before = policy("element", inputs).detach()
    policy.zero_grad()
    logits = policy("element", inputs)
    logits[0, env.elements.index(element)].backward()
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.grad is not None:
                parameter.add_(parameter.grad, alpha=0.1)
    return (policy("element", inputs) - before)[0].detach()


def test_what_is_learned_of_an_element_holds_for_those_like_it(crystals: Crystal) -> None:
    order = crystals.elements
    step = moved(crystals, EmbeddingMLP(policy_shapes(crystals), (16, 16)), "Na")
    assert step[order.index("Na")] > step[order.index("K")] > 0
    assert step[order.index("K")] > step[order.index("Cl")]
    alone = moved(crystals, MLP(policy_shapes(crystals), (16, 16)), "Na")
    assert alone[order.index("Na")] > 0 and alone[order.index("K")] == 0


def test_embeddings_follow_their_parameters_with_and_without_gradients(crystals: Crystal) -> None:
    policy = EmbeddingMLP(policy_shapes(crystals), (8,))
    head, inputs = "element", torch.rand(4, crystals.heads["element"].input_size)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.1, fused=True)
    for _ in range(2):
        with torch.no_grad():
            policy(head, inputs)
        policy(head, inputs)[:, 0].sum().backward()
        optimizer.step()
        with torch.no_grad():
            without = policy(head, inputs)
        assert torch.equal(without, policy(head, inputs))
        assert without.any()
    state = EmbeddingMLP(policy_shapes(crystals), (8,)).state_dict()
    with torch.no_grad():
        policy(head, inputs)
        policy.load_state_dict(state)
        assert not policy(head, inputs).any()
        assert policy.double()(head, inputs.double()).dtype == torch.float64


def test_blocks_hold_all_that_is_not_zero(crystals: Crystal) -> None:
    features = policy_shapes(crystals)["a"].inputs
    assert features is not None
    stream = generator("blocks")
    others = [torch.rand(5, 3, generator=stream), torch.eye(20), torch.zeros(3, 2), torch.eye(4).flip(0)]
    others.append(torch.block_diag(torch.zeros(2, 1), torch.eye(2), torch.ones(3, 2)))
    for matrix, n in zip([features, *others], (4, 1, 1, 1, 1, 3), strict=True):
        blocks = diagonal_blocks(matrix)
        assert len(blocks) == n
        rest = matrix.clone()
        for rows, columns in blocks:
            rest[rows, columns] = 0
        assert not rest.any()
        assert [rows.start for rows, _ in blocks[1:]] == [rows.stop for rows, _ in blocks[:-1]]
        assert (blocks[0][0].start, blocks[-1][0].stop) == (0, len(matrix))


def test_without_features_it_is_a_plain_network() -> None:
    policy = shaken(EmbeddingMLP({"one": Shape(3, 2), "two": Shape(4, 5)}, (8, 8)))
    assert policy("two", torch.rand(6, 4)).shape == (6, 5)
    assert not [name for name in policy.state_dict() if "features" in name or name.endswith("shared")]


@pytest.mark.parametrize("hidden", [(), (8, 0)])
def test_bad_widths(hidden: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="hidden: "):
        EmbeddingMLP({"one": Shape(3, 2)}, hidden)
