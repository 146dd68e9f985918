"""Restricted environments do exactly what a restriction says, against enumeration and independent code."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cache
from math import gcd
from typing import Any

import pytest
import torch
from helpers import crystal_system, is_neutral, make_crystal, problems
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from crystalgfn.crystal.crystals import Crystals
from crystalgfn.crystal.envs import Crystal
from crystalgfn.crystal.restriction import Restriction
from crystalgfn.errors import InputError
from crystalgfn.evaluation import assignment_is_right
from crystalgfn.gflownet.envs import HyperGrid
from crystalgfn.gflownet.envs.base import BetaMixtureHead, TruncatedBetaMixtureHead
from crystalgfn.gflownet.rollout import log_forward, sample_forward
from crystalgfn.gflownet.truncated import TruncatedBetaMixture, beta_quantile, log_beta_mass
from crystalgfn.random import generator
from crystalgfn.testing import EnvironmentContract, RandomPolicy
from crystalgfn.testing.walk import random_walk

SMALL: dict[str, Any] = {
    "space_groups": [1, 99, 123, 160, 221, 225],
    "elements": ["Na", "Mg", "Fe", "O", "Cl"],
    "max_elements": 3,
    "max_atoms": 10,
    "max_atoms_per_element": 4,
    "lengths": (3.0, 8.0),
    "angles": (60.0, 130.0),
    "volume_per_atom": (5.0, 60.0),
    "components": 3,
}


@cache
def small() -> Crystal:
    return make_crystal(**SMALL)


def restricted(env: Crystal, **fields: Any) -> Crystal:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return env.restricted(Restriction.parse(fields))


@cache
def point_group(number: int) -> str:
    import spglib

    hall = next(h for h in range(1, 531) if spglib.get_spacegroup_type(h).number == number)
    return str(spglib.get_spacegroup_type(hall).pointgroup_international)


def holds(number: int, counts: dict[str, int], fields: dict[str, Any]) -> bool:
    """Whether a space group and a composition satisfy a restriction, read naively."""
    from pymatgen.core import Composition

    present = set(counts)
    atoms = sum(counts.values())
    checks: dict[str, Callable[[Any], bool]] = {
        "elements": lambda v: present <= set(v),
        "forbidden_elements": lambda v: not present & set(v),
        "required_elements": lambda v: set(v) <= present,
        "forbidden_pairs": lambda v: not any(set(pair) <= present for pair in v),
        "chemical_system": lambda v: "-".join(sorted(present)) == Composition(v.replace("-", "")).chemical_system,
        "formula": lambda v: counts == {k: int(n) for k, n in Composition(v).as_dict().items()},
        "reduced_formula": lambda v: (
            {k: n // gcd(*counts.values()) for k, n in counts.items()}
            == {k: int(n) for k, n in Composition(v).as_dict().items()}
        ),
        "min_elements": lambda v: len(present) >= v,
        "max_elements": lambda v: len(present) <= v,
        "min_atoms": lambda v: atoms >= v,
        "max_atoms": lambda v: atoms <= v,
        "min_atoms_per_element": lambda v: min(counts.values()) >= v,
        "max_atoms_per_element": lambda v: max(counts.values()) <= v,
        "space_groups": lambda v: number in v,
        "crystal_systems": lambda v: crystal_system(number) in v,
        "lattice_systems": lambda v: ("rhombohedral" if number == 160 else crystal_system(number)) in v,
        "point_groups": lambda v: point_group(number) in v,
    }
    return all(checks[name](value) for name, value in fields.items())


def symbols_of(row: list[int]) -> dict[str, int]:
    from pymatgen.core import Element

    return {Element.from_Z(z).symbol: n for z, n in enumerate(row, start=1) if n}


Key = tuple[int, tuple[tuple[str, int], ...]]


def key_of(crystals: Crystals, row: int) -> Key:
    counts = symbols_of(crystals.counts[row].tolist())
    return int(crystals.space_group[row]), tuple(sorted(counts.items()))


class Tree:
    """Every way through the discrete decisions of an environment, with a policy's log-softmax numerators.

    Attributes:
        keys: space group and composition at the end of each way.
        log_p: log-probability of each end in the environment itself.
    """

    def __init__(self, env: Crystal, policy: RandomPolicy) -> None:
        self.parents: list[int] = [-1]
        self.weights: list[float] = [0.0]
        log_p = [0.0]
        states, nodes = env.initial_states(1), torch.tensor([0])
        for head in env.schedule[: -len(env.stage("lattice_parameters").schedule)]:
            due = env.next_head(states) == env.head_position(head)
            if not due.any():
                continue
            current, origin = states[due], nodes[due]
            support = env.support(head, current)
            assert support.any(1).all(), f"dead end at {head}"
            logits = policy(head, env.encode(head, current)).double()
            log_probs = logits.masked_fill(~support, -math.inf).log_softmax(1)
            rows, options = support.nonzero(as_tuple=True)
            first = len(self.parents)
            for row, option in zip(rows.tolist(), options.tolist(), strict=True):
                # One legal option is no decision, whatever the policy says.
                parent = int(origin[row])
                self.parents.append(parent)
                self.weights.append(float(logits[row, option]))
                log_p.append(log_p[parent] + float(log_probs[row, option]))
            after = env.step(head, current[rows], options.unsqueeze(1).double())
            states = torch.cat([states[~due], after])
            nodes = torch.cat([nodes[~due], torch.arange(first, len(self.parents))])
        self.ends = nodes.tolist()
        lattice = env.part("lattice_parameters", states)
        assert (lattice[:, 7] > 0).all()
        crystals = env.decode(states)
        self.keys = [key_of(crystals, row) for row in range(len(states))]
        self.log_p = dict(zip(self.keys, [log_p[end] for end in self.ends], strict=True))

    def renormalised(self, allowed: Callable[[Key], bool]) -> dict[Key, float]:
        """Log-probability of the allowed ends when every decision is renormalised over the options that lead there."""
        alive = set()
        for end, key in zip(self.ends, self.keys, strict=True):
            node = end
            while allowed(key) and node >= 0 and node not in alive:
                alive.add(node)
                node = self.parents[node]
        children: dict[int, list[int]] = {}
        for node in sorted(alive - {0}):
            children.setdefault(self.parents[node], []).append(node)
        log_p = {0: 0.0}
        for node in sorted(alive - {0}):
            siblings = torch.tensor([self.weights[s] for s in children[self.parents[node]]], dtype=torch.float64)
            log_p[node] = log_p[self.parents[node]] + self.weights[node] - float(siblings.logsumexp(0))
        return {key: log_p[end] for end, key in zip(self.ends, self.keys, strict=True) if end in alive}


@cache
def full_tree() -> Tree:
    return Tree(small(), RandomPolicy(small()))


def expected(fields: dict[str, Any]) -> dict[Key, float]:
    return full_tree().renormalised(lambda key: holds(key[0], dict(key[1]), fields))


SYMBOLS = st.sampled_from(SMALL["elements"])
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "elements": st.lists(SYMBOLS, min_size=1, unique=True),
        "forbidden_elements": st.lists(SYMBOLS, min_size=1, max_size=2, unique=True),
        "required_elements": st.lists(SYMBOLS, min_size=1, max_size=2, unique=True),
        "forbidden_pairs": st.lists(st.lists(SYMBOLS, min_size=2, max_size=2, unique=True), min_size=1, max_size=5),
        "chemical_system": st.sampled_from(["Na-Cl", "Na-Mg-O", "Fe-O", "Mg-Fe-Cl"]),
        "formula": st.sampled_from(["Na2 O1", "Mg1 Fe1 O2", "Fe2 O3", "Na4 Cl4"]),
        "reduced_formula": st.sampled_from(["NaCl", "MgFeO2", "Fe2O3", "MgCl2", "Na2O"]),
        "min_elements": st.integers(1, 3),
        "max_elements": st.integers(2, 3),
        "min_atoms": st.integers(1, 8),
        "max_atoms": st.integers(3, 10),
        "min_atoms_per_element": st.integers(1, 3),
        "max_atoms_per_element": st.integers(2, 4),
        "space_groups": st.lists(st.sampled_from(SMALL["space_groups"]), min_size=1, unique=True),
        "crystal_systems": st.lists(st.sampled_from(["cubic", "triclinic", "trigonal"]), min_size=1, unique=True),
        "lattice_systems": st.lists(st.sampled_from(["rhombohedral", "tetragonal"]), min_size=1, unique=True),
        "point_groups": st.lists(st.sampled_from(["m-3m", "4mm", "1"]), min_size=1, unique=True),
    },
)


def crossing(fields: dict[str, Any]) -> bool:
    names = ("elements", "atoms", "atoms_per_element")
    return any(fields.get(f"min_{name}", 0) > fields.get(f"max_{name}", 99) for name in names)


def few(fields: dict[str, Any]) -> dict[str, Any]:
    """At most four fields, so that some crystals are often left."""
    names = sorted(fields, key=lambda name: sum(map(ord, name)) % 7)[:4]
    return {name: fields[name] for name in names}


@settings(max_examples=12, deadline=None, derandomize=True)
@given(fields=FIELDS)
def test_any_restriction_renormalises_over_what_it_leaves(fields: dict[str, Any]) -> None:
    for part in (few(fields), dict(list(fields.items())[:2])):
        if crossing(part):
            with pytest.raises(InputError, match="is larger than"):
                Restriction.parse(part)
            continue
        truth = expected(part)
        if not truth:
            with pytest.raises(InputError, match="no crystal satisfies the restriction") as caught:
                restricted(small(), **part)
            named = {name: part[name] for name in part if f"restrict.{name} " in str(caught.value)}
            assert named and not expected(named), "the fields that are named do not explain it"
            assert all(expected({k: v for k, v in named.items() if k != name}) for name in named), "one is too many"
            continue
        env = restricted(small(), **part)
        found = Tree(env, RandomPolicy(small())).log_p
        assert found.keys() == truth.keys()
        assert max(abs(found[key] - truth[key]) for key in truth) < 1e-5
        states, _ = random_walk(env, 32, generator("property"), 20.0)
        assert env.is_terminal(states).all()


def test_the_tree_finds_a_policy_that_is_not_renormalised() -> None:
    truth = expected({"required_elements": ["Fe"]})
    whole = full_tree().log_p
    assert max(abs(whole[key] - truth[key]) for key in truth) > 0.1


CASES: dict[str, dict[str, Any]] = {
    "elements": {"elements": ["Fe", "O"], "max_atoms_per_element": 3},
    "required and pairs": {"required_elements": ["O"], "forbidden_pairs": [["Na", "Mg"], ["Fe", "Cl"], ["Na", "Cl"]]},
    "ratio": {"reduced_formula": "MgCl2", "space_groups": [1, "123-230"]},
    "cell": {"lengths": [4.0, 6.5], "angles": [75.0, 125.0]},
    "one length and volume": {"a": [3.5, 5.0], "volume_per_atom": [9.0, 14.0], "crystal_systems": ["triclinic"]},
    "volume of cubic cells": {"volume_per_atom": [9.0, 9.1], "crystal_systems": ["cubic"], "min_atoms": 4},
    "upright cells": {"lengths": [3.0, 5.0], "volume_per_atom": [10.0, 30.0], "crystal_systems": ["triclinic"]},
}


@pytest.mark.parametrize(
    "case", ["required and pairs", "ratio", "one length and volume", "upright cells"], scope="class"
)
class TestContract(EnvironmentContract):
    @pytest.fixture(scope="class")
    def env(self, case: str) -> Crystal:
        return restricted(small(), **CASES[case])

    @pytest.fixture
    def n(self) -> int:
        return 12


@pytest.mark.parametrize("case", CASES)
def test_samples_satisfy_it(case: str) -> None:
    fields = CASES[case]
    env = restricted(small(), **fields)
    trajectories, log_pf = sample_forward(env, RandomPolicy(small()), 300, generator(case))
    crystals = env.decode(trajectories.states)
    own = {k: v for k, v in fields.items() if k in ("lengths", "angles", "volume_per_atom")}
    assert problems(crystals, SMALL | own, env.space_groups) == []
    discrete = {k: v for k, v in fields.items() if k not in (*own, "a", "space_groups")}
    for row in range(len(crystals)):
        number, counts = key_of(crystals, row)
        assert holds(number, dict(counts), discrete)
        assert "space_groups" not in fields or number in (1, 123, 160, 221, 225)
    if "a" in fields:
        assert (crystals.lattice[:, 0] >= 3.5 - 1e-8).all() and (crystals.lattice[:, 0] <= 5.0 + 1e-8).all()
    torch.testing.assert_close(log_forward(env, RandomPolicy(small()), trajectories), log_pf, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_the_policy_sees_what_it_saw_in_training(case: str) -> None:
    env, model = restricted(small(), **CASES[case]), small()
    assert {n: (h.input_size, h.n_logits) for n, h in env.heads.items()} == {
        n: (h.input_size, h.n_logits) for n, h in model.heads.items()
    }
    for t in random_walk(env, 64, generator(case))[1]:
        before = as_model_states(model, t.before)
        torch.testing.assert_close(env.encode(t.head, t.before), model.encode(t.head, before), rtol=0, atol=1e-6)


def as_model_states(model: Crystal, states: Tensor) -> Tensor:
    """States of a restricted environment with the volumes that the model has in mind."""
    states = states.clone()
    started = model.part("lattice_parameters", states)[:, 7] > 0
    volumes = model.condition("lattice_parameters", states)[:, 1:]
    states[:, -2:] = torch.where(started.unsqueeze(1), volumes, states[:, -2:])
    return states


@pytest.mark.parametrize("case", ["cell", "one length and volume", "volume of cubic cells", "upright cells"])
def test_continuous_choices_are_truncated_and_renormalised(case: str) -> None:
    env, model, policy = restricted(small(), **CASES[case]), small(), RandomPolicy(small())
    seen = set()
    for t in random_walk(env, 16, generator(case))[1]:
        if t.support.dtype == torch.bool:
            continue
        before, u = as_model_states(model, t.before), torch.linspace(0, 1, 4001, dtype=torch.float64)
        for row in range(min(2, len(before))):
            state, cut_state = before[row : row + 1], t.before[row : row + 1]
            logits = policy(t.head, model.encode(t.head, state))
            low, high = env.support(t.head, cut_state)[0, :2]
            points = (low + (high - low) * u).unsqueeze(1)
            whole = model.heads[t.head].distribution(logits, model.support(t.head, state))
            cut = env.heads[t.head].distribution(logits, env.support(t.head, cut_state))
            # Not at the ends, where `BetaMixture` keeps its density from vanishing.
            wide = torch.cat([whole.log_prob(point.unsqueeze(0)) for point in points[200::400]])
            own = torch.cat([cut.log_prob(point.unsqueeze(0)) for point in points[200::400]])
            many = model.heads[t.head].distribution(
                logits.expand(len(u), -1), model.support(t.head, state).expand(len(u), -1)
            )
            reference = model.heads[t.head].reference  # type: ignore[attr-defined]
            mass = torch.trapezoid(many.log_prob(points).exp(), points.squeeze(1)) / (reference[1] - reference[0])
            torch.testing.assert_close(own, wide - mass.log(), rtol=0, atol=1e-3)
            seen.add(t.head)
    assert seen


def test_every_number_of_atoms_that_any_shape_allows_is_kept() -> None:
    """Cubic cells have one shape, so that the volume decides alone."""
    env = restricted(small(), crystal_systems=["cubic"], lengths=[4.0, 4.1], volume_per_atom=[10.0, 17.5])
    atoms = {sum(n for _, n in counts) for _, counts in Tree(env, RandomPolicy(small())).keys}
    allowed = {n for n in range(2, 11) if 4.0**3 / 17.5 <= n <= 4.1**3 / 10}
    assert atoms == {n for n in allowed if any(sum(c for _, c in key[1]) == n for key in cubic_keys())}


def cubic_keys() -> list[Key]:
    return [key for key in full_tree().keys if key[0] >= 195]


def test_numbers_of_atoms_with_upright_cells_alone_are_kept() -> None:
    """The whole restriction is kept, and angles are cut only where the volume demands it."""
    fields = CASES["upright cells"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = small().restricted(Restriction.parse(fields))
    atoms = {sum(n for _, n in counts) for _, counts in Tree(env, RandomPolicy(small())).keys}
    assert atoms == set(range(2, 11))
    kinds = {n: type(env.heads[n]) for n in ("alpha", "beta", "gamma")}
    assert set(kinds.values()) == {TruncatedBetaMixtureHead}
    wide = restricted(small(), lengths=[4.0, 8.0], crystal_systems=["triclinic"], volume_per_atom=[5.0, 8.0])
    assert {type(wide.heads[n]) for n in ("alpha", "beta", "gamma")} == {BetaMixtureHead}


def test_flat_cells_that_are_left_out_are_told() -> None:
    text = r"left out although the restriction .* triclinic with 2-3 atoms \(1\.\d% of the triclinic cells"
    with pytest.warns(UserWarning, match=text):
        small().restricted(Restriction(lengths=(6.0, 8.0)))


def test_a_restriction_to_nothing_but_flat_cells_says_so() -> None:
    with pytest.raises(InputError, match=r"none of the model's crystals; .* triclinic with 2-3 atoms"):
        small().restricted(Restriction(lengths=(6.0, 8.0), max_atoms=3, crystal_systems=("triclinic",)))


def test_restricting_again_replaces() -> None:
    once = restricted(small(), elements=["Fe", "O"])
    assert restricted(once, elements=["Na", "Cl"]).restricted(Restriction()).space_groups == small().space_groups
    states, _ = sample_forward(once.restricted(Restriction()), RandomPolicy(small()), 200, generator("again"))
    assert torch.equal(states.states, sample_forward(small(), RandomPolicy(small()), 200, generator("again"))[0].states)


def test_environments_without_restrictions_say_so() -> None:
    with pytest.raises(InputError, match="HyperGrid has no restrictions"):
        HyperGrid().restricted(Restriction(max_atoms=3))


# Charges

CHARGES: dict[str, dict[str, Any]] = {
    "one state": {"charge_neutral": True},
    "two states": {"charge_neutral": True, "mixed_valence": True},
    "other states": {"charge_neutral": True, "oxidation_states": "pymatgen_icsd"},
    "all states, some groups": {
        "charge_neutral": True, "mixed_valence": True, "oxidation_states": "pymatgen_all", "space_groups": [99, 221],
    },
}  # fmt: skip


@cache
def charged() -> Crystal:
    """A space like `small` without charge neutrality."""
    return make_crystal(**SMALL | {"elements": ["Fe", "S", "Cl"], "max_elements": 3, "charge_neutral": False})


@cache
def charged_tree() -> Tree:
    return Tree(charged(), RandomPolicy(charged()))


@pytest.mark.parametrize("case", CHARGES)
def test_neutral_crystals_of_a_model_without_charges(case: str) -> None:
    fields = CHARGES[case]
    groups = fields.get("space_groups", SMALL["space_groups"])
    rules = fields.get("mixed_valence", False), fields.get("oxidation_states", "pymatgen_common")
    truth = charged_tree().renormalised(lambda key: key[0] in groups and is_neutral(dict(key[1]), *rules))
    assert 0 < len(truth) < len(charged_tree().keys)
    env = restricted(charged(), **fields)
    found = Tree(env, RandomPolicy(charged())).log_p
    assert found.keys() == truth.keys()
    assert max(abs(found[key] - truth[key]) for key in truth) < 1e-5
    built = make_crystal(**SMALL | {"elements": ["Fe", "S", "Cl"]} | fields)
    assert found.keys() == Tree(built, RandomPolicy(built)).log_p.keys()


def test_the_rules_for_charges_differ() -> None:
    sizes = [len(Tree(restricted(charged(), **CHARGES[case]), RandomPolicy(charged())).keys) for case in CHARGES]
    assert len(set(sizes)) == len(sizes)


def test_neutral_samples_have_oxidation_states() -> None:
    env, fields = restricted(charged(), **CHARGES["two states"]), CHARGES["two states"]
    states = sample_forward(env, RandomPolicy(charged()), 200, generator("charges"))[0].states
    assert problems(env.decode(states), SMALL | {"elements": ["Fe", "S", "Cl"]} | fields, env.space_groups) == []
    texts = env.to_frame(states)["oxidation_states"]
    counts = [symbols_of(row) for row in env.decode(states).counts.tolist()]
    assert all(assignment_is_right(text, own) for text, own in zip(texts, counts, strict=True))
    whole = restricted(env)
    assert not whole.charge_neutral and set(whole.to_frame(whole.initial_states(1))["oxidation_states"]) == {""}


def test_a_neutral_model_with_fewer_oxidation_states() -> None:
    model = make_crystal(**SMALL | {"elements": ["Fe", "O"], "oxidation_states": "pymatgen_all", "mixed_valence": True})
    tree = Tree(model, RandomPolicy(model))
    for fields in ({"mixed_valence": False}, {"oxidation_states": "pymatgen_common", "charge_neutral": True}):
        rules = fields.get("mixed_valence", True), str(fields.get("oxidation_states", "pymatgen_all"))
        truth = tree.renormalised(lambda key, rules=rules: is_neutral(dict(key[1]), *rules))  # type: ignore[misc]
        assert 0 < len(truth) < len(tree.keys)
        found = Tree(restricted(model, **fields), RandomPolicy(model)).log_p
        assert found.keys() == truth.keys()
        assert max(abs(found[key] - truth[key]) for key in truth) < 1e-5


@pytest.mark.parametrize(
    ("of_model", "fields", "message"),
    [
        (False, {"mixed_valence": True}, "restrict.mixed_valence: True has no effect, .* add restrict.charge_neutral"),
        (False, {"oxidation_states": "pymatgen_all"}, "restrict.oxidation_states: pymatgen_all has no effect"),
        (False, {"charge_neutral": True, "elements": ["Fe"]}, r"elements \['Fe'\] and restrict.charge_neutral True"),
        (True, {"mixed_valence": True}, "restrict.mixed_valence: True would allow .* allowed: False"),
        (True, {"oxidation_states": "pymatgen_all"}, r"would allow .* without the oxidation state [+-]\d of"),
    ],
)  # fmt: skip
def test_charges_that_do_not_fit_the_model_are_refused(of_model: bool, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        restricted(small() if of_model else charged(), **fields)


def test_a_neutral_model_stays_neutral() -> None:
    assert Tree(restricted(small(), charge_neutral=True), RandomPolicy(small())).log_p == full_tree().log_p


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"elements": ["Ti"]}, "restrict.elements: Ti is not among the model's elements; allowed: O Cl Fe Mg Na"),
        ({"chemical_system": "Na-Ti"}, "restrict.chemical_system: Ti is not among"),
        ({"formula": "Na8 O4"}, "restrict.formula: Na8 O4 has 8 atoms of Na; the model has at most 4"),
        ({"reduced_formula": "LiCl"}, "restrict.reduced_formula: Li is not among"),
        ({"max_atoms": 11}, "restrict.max_atoms: 11 is outside of the model's range; allowed: 1 to 10"),
        ({"min_elements": 4}, "restrict.min_elements: 4 is outside of the model's range; allowed: 1 to 3"),
        ({"space_groups": [225, 2]}, r"restrict.space_groups: the model has no space group in 2; allowed: 1, 99, 123"),
        ({"lengths": [2.0, 5.0]}, r"restrict.lengths: \[2.0, 5.0\] reaches outside .* within \[3.0, 8.0\]"),
        ({"gamma": [70.0, 140.0]}, r"restrict.gamma: \[70.0, 140.0\] reaches outside .* within \[60.0, 130.0\]"),
        ({"volume_per_atom": [1.0, 5.0]}, r"restrict.volume_per_atom: .* within \[5.0, 60.0\]"),
        ({"angles": [95.0, 110.0], "crystal_systems": ["cubic"]}, "restrict.crystal_systems .*cubic.* and .*angles"),
        ({"lengths": [3.0, 4.0], "a": [5.0, 6.0]}, "restrict.lengths .* and restrict.a .* together leave none"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        restricted(small(), **fields)


# The truncated distribution


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    log_kappa=st.floats(-8.9, 8.9),
    mean=st.floats(0.001, 0.999),
    ends=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted).filter(lambda e: e[1] - e[0] > 1e-9),
    log_share=st.floats(-9.0, -1e-3),
)
def test_beta_masses(log_kappa: float, mean: float, ends: list[float], log_share: float) -> None:
    alpha, beta = 1 + math.exp(log_kappa) * mean, 1 + math.exp(log_kappa) * (1 - mean)
    tensors = [torch.tensor([x], dtype=torch.float64) for x in (alpha, beta, *ends)]
    log_mass = log_beta_mass(*tensors)
    known = stats.beta(alpha, beta)
    # The difference of whichever tail is the smaller keeps SciPy's digits.
    below = known.cdf(ends[1]) - known.cdf(ends[0])
    above = known.sf(ends[0]) - known.sf(ends[1])
    reference = below if known.cdf(ends[1]) < 0.5 else above
    if reference > 1e-200 and reference > 1e-6 * min(known.cdf(ends[1]), known.sf(ends[0])):
        assert abs(float(log_mass) - math.log(reference)) < 1e-7
    assert float(log_mass) < 1e-9
    u = beta_quantile(*tensors, torch.tensor([log_share], dtype=torch.float64))
    assert ends[0] <= float(u) <= ends[1]
    part = log_beta_mass(tensors[0], tensors[1], tensors[2], torch.maximum(u, tensors[2] + 1e-15))
    assert abs(float(part - log_mass) - log_share) < 1e-4 + 1e-8 / max(float(u) - ends[0], 1e-12)


def test_gradients_of_the_mass() -> None:
    parameters = torch.tensor([[3.0, 40.0], [700.0, 2.5], [1.2, 1.3]], dtype=torch.float64, requires_grad=True)
    low, high = torch.tensor([0.5, 0.1, 0.0]).double(), torch.tensor([0.7, 0.6, 0.4]).double()
    assert torch.autograd.gradcheck(lambda p: log_beta_mass(p[:, 0], p[:, 1], low, high), parameters, atol=1e-6)


@pytest.mark.parametrize("log_scale", [False, True])
@pytest.mark.parametrize("ends", [(2.0, 3.0), (1.0, 1.2), (8.0, 9.0)])
def test_truncated_samples_follow_the_density(log_scale: bool, ends: tuple[float, float]) -> None:
    logits = torch.empty(1, 9).normal_(generator=generator("logits")) * 2
    support = torch.tensor([[*ends, 1.0, 9.0]], dtype=torch.float64)

    def rows(n: int) -> TruncatedBetaMixture:
        return TruncatedBetaMixture(logits.expand(n, -1), support.expand(n, -1), (1.0, 9.0), log_scale)

    grid = torch.linspace(*ends, 2001, dtype=torch.float64)
    cdf = torch.cumulative_trapezoid(rows(len(grid)).log_prob(grid.unsqueeze(1)).exp() / 8, grid)
    assert abs(float(cdf[-1]) - 1) < 1e-3
    samples = rows(4_000).sample(generator("samples")).squeeze(1).sort().values
    empirical = torch.searchsorted(samples, grid[1:]) / len(samples)
    assert (empirical - cdf).abs().max() < 1.95 / len(samples) ** 0.5  # Kolmogorov-Smirnov at 0.1 %
    explored = rows(4_000).uniform().sample(generator("uniform"))
    assert explored.min() >= ends[0] and explored.max() <= ends[1]
    tempered = rows(1).tempered(1.0).log_prob(grid[1000].reshape(1, 1))
    torch.testing.assert_close(tempered, rows(1).log_prob(grid[1000].reshape(1, 1)))
