"""Names of inputs and options of crystals, and policies that move to a smaller space of crystals by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import make_crystal

from crystalgfn.crystal.crystallography import atomic_numbers
from crystalgfn.crystal.crystals import LATTICE_PARAMETERS
from crystalgfn.crystal.envs import Crystal
from crystalgfn.crystal.envs.composition import NO_ELEMENT
from crystalgfn.errors import InputError
from crystalgfn.gflownet.balance import policy_shapes
from crystalgfn.gflownet.checkpoint_files import networks_for, space_names
from crystalgfn.gflownet.policies import MLP, EmbeddingMLP, Policy
from crystalgfn.gflownet.rollout import log_forward, sample_backward, sample_forward
from crystalgfn.random import generator

KINDS: dict[str, Callable[..., Policy]] = {
    "MLP": partial(MLP, hidden=(24, 16)),
    "MLP, no hidden layer": partial(MLP, hidden=()),
    "EmbeddingMLP": partial(EmbeddingMLP, hidden=(24, 16)),
    "EmbeddingMLP, shared": partial(EmbeddingMLP, hidden=(24, 16), shared=True),
}

COMMON: dict[str, Any] = {
    "max_elements": 3,
    "max_atoms": 20,
    "max_atoms_per_element": 8,
    "lengths": (2, 20),
    "volume_per_atom": (5.0, 60.0),
    "components": 2,
    # With charges, the count of the last element would nearly always be forced.
    "charge_neutral": False,
}


@pytest.fixture(scope="module")
def large() -> Crystal:
    elements = ["H", "Li", "O", "F", "Na", "Mg", "Cl", "K", "Fe", "Cs"]
    return make_crystal(space_groups=["1-20", 62, 152, "215-230"], elements=elements, **COMMON)


FEWER = {"max_elements": 2, "max_atoms_per_element": 6}


@pytest.fixture(scope="module", params=[("K", {}), ("Cs", {}), ("K", FEWER)], ids=["K", "Cs", "fewer"])
def small(request: pytest.FixtureRequest) -> Crystal:
    """Without and with the element that comes last in the larger space; it is also the last one here."""
    last, settings = request.param
    groups, elements = [1, 2, 5, 14, 152, 221, 225, 229], ["O", "Li", "Na", "F", last]
    return make_crystal(space_groups=groups, elements=elements, **(COMMON | settings))


def random_policy(make: Callable[..., Policy], env: Crystal, name: str) -> Policy:
    """A policy whose weights are all random, also those of the last layer."""
    policy, stream = make(policy_shapes(env)), generator("names", name)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.normal_(std=0.3, generator=stream)
    return policy


def saved(folder: Path, env: Crystal, policy: Policy) -> Path:
    """A checkpoint with what is read of it."""
    state = {f"policy.{name}": value for name, value in policy.state_dict().items()}
    torch.save({"state_dict": state, "names": space_names(env)}, folder / "large.ckpt")
    return folder / "large.ckpt"


def test_each_input_and_option_has_a_name(large: Crystal) -> None:
    for head, spec in large.heads.items():
        inputs, options = large.input_names(head), large.option_names(head)
        assert inputs is not None and len(inputs) == len(set(inputs)) == spec.input_size
        assert options is not None and len(options) == len(set(options)) == spec.n_logits
    assert large.option_names("element") == (*large.elements, "stop")
    assert large.option_names("count") == tuple(f"{n} atoms" for n in range(1, 9))
    names = large.input_names("a")
    assert names is not None
    composition = {"Fe is present", "atoms of Fe / 8", "share of Fe", "atoms / 24"}
    assert {"space_group: space group 225", *(f"composition: {name}" for name in composition)} <= set(names)
    assert {"log a from 2.0 to 20.0 Å", "alpha from 50.0 to 150.0 degrees"} <= set(names)


def test_names_are_those_of_the_values(small: Crystal) -> None:
    """Along trajectories each named input has the value that its name says."""
    trajectories, _ = sample_forward(small, MLP(policy_shapes(small), ()), 200, generator("values"))
    crystals = small.decode(trajectories.states)
    atoms = {symbol: crystals.counts[:, z - 1] for symbol, z in atomic_numbers().items()}
    seen = 0
    for step in trajectories.steps:
        names = small.input_names(step.head)
        assert names is not None
        value = dict(zip(names, step.inputs.unbind(1), strict=True))
        if step.head in ("element", "count", *LATTICE_PARAMETERS):
            for number in (1, 225):
                is_group = value[f"space_group: space group {number}"] == 1
                assert torch.equal(is_group, crystals.space_group[step.rows] == number)
        if step.head in LATTICE_PARAMETERS:
            for symbol in small.elements:
                own = atoms[symbol][step.rows]
                assert torch.equal(value[f"composition: {symbol} is present"] == 1, own > 0)
                most = small.heads["count"].n_logits
                assert torch.allclose(value[f"composition: atoms of {symbol} / {most}"], own / most)
        for name, factors in small.implied_inputs(step.head).items():
            # No other name says so: after this element, no column for the last element is 1.
            implied, columns = (
                step.inputs @ factors,
                [value[n] for n in names if n.endswith("so far") or n == NO_ELEMENT],
            )
            assert torch.equal(implied, 1 - torch.stack(columns).sum(0))
            assert (atoms[name.split()[0]][step.rows][implied == 1] > 0).all()
            seen += int(implied.sum())
    assert seen > 10


def test_a_restriction_keeps_the_names(large: Crystal) -> None:
    restriction = {"elements": ["O", "Li"], "max_atoms": 8, "lengths": (3, 9), "volume_per_atom": (6.0, 20.0)}
    assert space_names(large.restricted(restriction)) == space_names(large)


@pytest.mark.parametrize(
    ("change", "heads"),
    [
        ({"lengths": (2, 21)}, "a b c"),
        ({"angles": (50.0, 149.0)}, "alpha beta gamma"),
        ({"volume_per_atom": (5.0, 59.0)}, "a b c alpha beta gamma"),
        ({"volume_per_atom": None}, "a b c alpha beta gamma"),
        ({"angle_margin": 2.0}, "a b c alpha beta gamma"),
        ({"components": 3}, "a b c alpha beta gamma"),
        ({"log_lengths": False}, "a b c"),
        ({"max_atoms_per_element": 7}, "count"),
        ({"charge_neutral": True, "max_atoms": 18, "min_elements": 2}, ""),
    ],
)
def test_names_carry_their_scale(change: Mapping[str, Any], heads: str) -> None:
    settings = {"space_groups": [1, 225], "elements": ["Li", "O", "F"], **COMMON}
    one, two = make_crystal(**settings), make_crystal(**{**settings, **change})
    assert {head for head in one.heads if one.option_names(head) != two.option_names(head)} == set(heads.split())
    for head in heads.split():
        if head != "count":
            options = one.option_names(head), two.option_names(head)
            assert options[0] is not None and options[1] is not None and not set(options[0]) & set(options[1])


@pytest.mark.parametrize("kind", KINDS)
def test_moved_policy_is_the_restricted_one(kind: str, large: Crystal, small: Crystal, tmp_path: Path) -> None:
    """In the smaller space, it has the probabilities of the policy of the larger space that is restricted to it."""
    there = random_policy(KINDS[kind], large, kind)
    here = KINDS[kind](policy_shapes(small))
    here.load_state_dict(networks_for(small, here, saved(tmp_path, large, there), "start_from"))
    narrow = {"elements": list(small.elements), "space_groups": list(small.space_groups)}
    restricted = large.restricted(narrow | (FEWER if small.heads["count"].n_logits == 6 else {}))
    with torch.no_grad():
        trajectories, log_pf = sample_forward(small, here, 300, generator("moved"))
        states, problems = restricted.states_of(small.decode(trajectories.states))
        assert not any(problems)
        expected = log_forward(restricted, there, sample_backward(restricted, states, generator("back")))
    assert log_pf.std() > 1
    torch.testing.assert_close(log_pf, expected, rtol=1e-5, atol=1e-5)


def test_a_saved_policy_can_be_moved_again(large: Crystal, small: Crystal, tmp_path: Path) -> None:
    """Moving in two steps is the same as moving in one."""
    make = KINDS["EmbeddingMLP"]
    settings = COMMON | (FEWER if small.heads["count"].n_logits == 6 else {})
    smallest = make_crystal(space_groups=[2, 225], elements=["O", "Li", "F"], **settings)
    path = saved(tmp_path, large, random_policy(make, large, "again"))
    middle, last, direct = (make(policy_shapes(env)) for env in (small, smallest, smallest))
    direct.load_state_dict(networks_for(smallest, direct, path, "start_from"))
    middle.load_state_dict(networks_for(small, middle, path, "start_from"))
    last.load_state_dict(networks_for(smallest, last, saved(tmp_path, small, middle), "start_from"))
    with torch.no_grad():
        trajectories, log_pf = sample_forward(smallest, last, 100, generator("again"))
        torch.testing.assert_close(log_pf, log_forward(smallest, direct, trajectories), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"elements": ["O", "Li", "Si"]}, "'Si' among the options of element; all inputs and options"),
        ({"space_groups": [1, 100, 101]}, r"'space group 100' \(closest: .*\) and 1 more among the options of space_g"),
        (
            {"max_elements": 4, "elements": ["O", "Li", "F", "K"]},
            r"'atoms / 32' \(closest: 'atoms / 24'\) among the inputs of element",
        ),
        (
            {"max_atoms_per_element": 9},
            r"'atoms of F / 9' \(closest: 'atoms of F / 8'\) and 3 more among the inputs",
        ),
        ({"lengths": (2, 10)}, r"'log a from 2.0 to 10.0 Å' \(closest: 'log a from 2.0 to 20.0 Å'\) and 2 more among"),
        ({"volume_per_atom": (5.0, 50.0)}, "'weight of Beta 1 of 2, alpha from 50.0 to 150.0 degrees, angle margin"),
    ],
)
def test_what_the_larger_space_lacks(change: dict[str, Any], message: str, large: Crystal, tmp_path: Path) -> None:
    env = make_crystal(**{"space_groups": [1, 225], "elements": ["O", "Li", "F"], **COMMON, **change})
    policy = KINDS["MLP"](policy_shapes(env))
    path = saved(tmp_path, large, KINDS["MLP"](policy_shapes(large)))
    with pytest.raises(InputError, match=f"start_from: the networks in {path} do not know {message}"):
        networks_for(env, policy, path, "start_from")
