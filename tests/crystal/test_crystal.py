"""Crystals that the environment builds, judged by pyxtal and pymatgen; see helpers.py for the judge."""

from __future__ import annotations

import random
import warnings
from itertools import product
from typing import Any

import pytest
import torch
from helpers import (
    PAPER_ELEMENTS,
    PAPER_GROUPS,
    fits_wyckoff,
    is_neutral,
    make_crystal,
    problems,
    reachable_compositions,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crystalgfn.crystal.crystallography import element_symbols
from crystalgfn.crystal.envs import Crystal
from crystalgfn.errors import InputError
from crystalgfn.random import generator
from crystalgfn.testing import random_walk

PAPER = {"space_groups": PAPER_GROUPS, "elements": PAPER_ELEMENTS}


def check_samples(env: Crystal, choices: dict[str, Any], n: int) -> None:
    """Walk at random, with uniform and with extreme logits, and judge every crystal."""
    for scale in (0.0, 3.0, 30.0):
        states, _ = random_walk(env, n, generator("crystals", scale), scale)
        assert env.is_terminal(states).all()
        found = problems(env.decode(states), choices, env.space_groups)
        assert not found, f"{len(found)} problems, such as {found[:3]}"


# Terminal states


@pytest.mark.parametrize(
    "choices",
    [
        {},
        PAPER,
        PAPER | {"volume_per_atom": (5.0, 40.0)},
        {
            "space_groups": [1, 2, 14, 62, 63, 139, 148, 167, 194, 225, 227], "elements": PAPER_ELEMENTS,
            "volume_per_atom": (10.0, 10.5), "lengths": (3.0, 12.0), "max_atoms": 40,
        },
        {"elements": ["Fe", "Mn", "O", "S"], "mixed_valence": True, "max_atoms_per_element": 10},
        {"elements": ["Fe", "U", "O", "N"], "oxidation_states": "pymatgen_icsd"},
        {
            "space_groups": ["195-230"], "elements": PAPER_ELEMENTS, "charge_neutral": False, "min_atoms": 60,
            "min_atoms_per_element": 4,
        },
        {"space_groups": [1, 2], "elements": ["Na", "Cl"], "angles": (20.0, 60.0), "angle_margin": 3.0},
    ],
    ids=["default", "paper", "volume", "narrow", "mixed", "icsd", "not neutral", "triclinic"],
)  # fmt: skip
def test_terminal_states(choices: dict[str, Any]) -> None:
    check_samples(make_crystal(**choices), choices, 150)


_ranges = st.tuples(st.floats(0.8, 8.0), st.floats(1.01, 6.0)).map(lambda x: (x[0], x[0] * x[1]))


@st.composite
def crystal_settings(draw: st.DrawFn) -> dict[str, Any]:
    """Settings of `Crystal` that are allowed one by one; together they may leave no crystal."""
    groups = draw(st.lists(st.integers(1, 230), min_size=1, max_size=8, unique=True))
    elements = draw(st.lists(st.sampled_from(element_symbols()), min_size=1, max_size=6, unique=True))
    min_elements = draw(st.integers(1, min(3, len(elements))))
    min_count = draw(st.integers(1, 4))
    min_atoms = draw(st.integers(1, 20))
    choices: dict[str, Any] = {
        "space_groups": groups,
        "elements": elements,
        "min_elements": min_elements,
        "max_elements": draw(st.integers(min_elements, 5)),
        "min_atoms": min_atoms,
        "max_atoms": min_atoms + draw(st.sampled_from([0, 1, 5, 60])),
        "min_atoms_per_element": min_count,
        "max_atoms_per_element": min_count + draw(st.integers(0, 10)),
        "charge_neutral": draw(st.sampled_from([True, True, False])),
        "mixed_valence": draw(st.booleans()),
        "oxidation_states": draw(st.sampled_from(["pymatgen_common", "pymatgen_icsd"])),
        "lengths": draw(_ranges),
        "log_lengths": draw(st.booleans()),
        "angle_margin": draw(st.sampled_from([0.5, 1.0, 10.0])),
    }
    low = draw(st.sampled_from([50.0, 30.0, 85.0, 90.0 - 1e-3]))
    choices["angles"] = (low, draw(st.sampled_from([91.0, 121.0, 150.0, 179.0])))
    if draw(st.booleans()):
        choices["volume_per_atom"] = draw(_ranges.map(lambda r: (4 * r[0], 4 * r[1])))
    return choices


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(choices=crystal_settings())
def test_any_setting(choices: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            env = Crystal(**choices)
        except InputError:
            return  # nothing satisfies all settings; that this is true is for `test_look_ahead_is_complete`
    check_samples(env, choices, 12)


# Completeness of the look-ahead


COMPLETENESS: dict[str, dict[str, Any]] = {
    "four elements": {
        "elements": ["Na", "Fe", "O", "Cl"], "max_elements": 3, "max_atoms": 9, "max_atoms_per_element": 4,
    },
    "no bound on atoms": {"elements": ["Al", "Mg", "O", "F"], "max_elements": 4, "max_atoms_per_element": 4},
    "mixed valence": {
        "elements": ["Fe", "Mn", "O"], "mixed_valence": True, "max_atoms_per_element": 8, "max_atoms": 14,
    },
    "icsd": {"elements": ["U", "N", "O"], "oxidation_states": "pymatgen_icsd", "max_atoms_per_element": 8},
    "all": {
        "elements": ["Au", "Cs", "Cl"], "oxidation_states": "pymatgen_all", "mixed_valence": True,
        "max_atoms_per_element": 6,
    },
    "not neutral": {
        "elements": ["Si", "C", "Ni"], "charge_neutral": False, "min_atoms": 7, "max_atoms": 13,
        "min_atoms_per_element": 2, "max_atoms_per_element": 8, "min_elements": 2, "max_elements": 2,
    },
    "many atoms": {
        "elements": ["Ca", "Ti", "O"], "min_atoms": 16, "max_atoms": 20, "max_atoms_per_element": 12,
        "min_elements": 3, "max_elements": 3,
    },
}  # fmt: skip
# Groups in which few, small and shared fixed positions make the choice of counts tight, and some without any.
COMPLETENESS_GROUPS = [1, 2, 16, 47, 62, 123, 139, 187, 194, 199, 206, 212, 216, 220, 221, 225, 227, 230]


def expected_compositions(choices: dict[str, Any], order: tuple[str, ...], number: int) -> set[tuple[int, ...]]:
    """All compositions that satisfy the settings, found by trying all."""
    largest = min(choices["max_atoms_per_element"], choices.get("max_atoms", 80))
    allowed = [0, *range(choices.get("min_atoms_per_element", 1), largest + 1)]
    charges = choices.get("mixed_valence", False), choices.get("oxidation_states", "pymatgen_common")
    least_elements, most_elements = choices.get("min_elements", 1), choices.get("max_elements", 5)
    expected = set()
    for counts in product(allowed, repeat=len(order)):
        present = {symbol: n for symbol, n in zip(order, counts, strict=True) if n}
        if (
            least_elements <= len(present) <= most_elements
            and choices.get("min_atoms", 1) <= sum(counts) <= choices.get("max_atoms", 80)
            and (not choices.get("charge_neutral", True) or is_neutral(present, *charges))
            and fits_wyckoff(number, counts)
        ):
            expected.add(counts)
    return expected


@pytest.mark.parametrize("name", COMPLETENESS)
def test_look_ahead_is_complete(name: str) -> None:
    choices = COMPLETENESS[name]
    env = make_crystal(space_groups=COMPLETENESS_GROUPS, **choices)
    total = 0
    for number in COMPLETENESS_GROUPS:
        expected = expected_compositions(choices, env.elements, number)
        assert (number in env.space_groups) == bool(expected), f"group {number}, {len(expected)} compositions"
        if expected:
            reached = reachable_compositions(env, number)
            assert len(set(reached)) == len(reached), "a composition has two trajectories"
            assert set(reached) == expected, f"group {number}"
        total += len(expected)
    assert total > 20, "the case is too small to say anything"


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(choices=crystal_settings())
def test_look_ahead_is_complete_for_any_setting(choices: dict[str, Any]) -> None:
    # Small enough to try all compositions; the cell plays no part.
    cell = ("lengths", "angles", "volume_per_atom", "angle_margin", "log_lengths")
    choices = {key: value for key, value in choices.items() if key not in cell}
    choices["elements"] = choices["elements"][:4]
    choices["min_elements"] = min(choices["min_elements"], len(choices["elements"]))
    choices["max_elements"] = max(choices["min_elements"], min(choices["max_elements"], 4))
    choices["max_atoms_per_element"] = min(choices["max_atoms_per_element"], choices["min_atoms_per_element"] + 4)
    groups = choices["space_groups"][:4]
    try:
        env = make_crystal(**(choices | {"space_groups": groups}))
    except InputError:
        for number in groups:
            assert not expected_compositions(choices, tuple(choices["elements"]), number)
        return
    for number in groups:
        expected = expected_compositions(choices, env.elements, number)
        reached = reachable_compositions(env, number) if number in env.space_groups else []
        assert sorted(reached) == sorted(expected), f"group {number}"


def test_terminal_states_of_compositions() -> None:
    """The state of a given composition is the one that a walk ends in, or the group has no room for it."""
    env = make_crystal(elements=["Na", "Fe", "O", "Cl"], max_atoms_per_element=6, max_elements=3)
    stage = env.composition
    stream = random.Random(0)
    symbols = element_symbols()
    groups = [n for n in COMPLETENESS_GROUPS if n in env.space_groups]
    for number in groups:
        rows = [[stream.choice([0, 1, 2, 3, 4, 6]) for _ in env.elements] for _ in range(60)]
        rows = [row for row in rows if 0 < sum(n > 0 for n in row) <= 3]
        counts = torch.zeros(len(rows), 94, dtype=torch.int64)
        counts[:, [symbols.index(e) for e in env.elements]] = torch.tensor(rows)
        _, reasons = stage.states_under(torch.full((len(rows), 1), float(number)), counts)
        has_room = [reason != "Wyckoff positions" for reason in reasons]
        assert has_room == [fits_wyckoff(number, row) for row in rows], f"group {number}"
    walked, _ = random_walk(env, 100, generator("terminal"))
    crystals = env.decode(walked)
    again, reasons = stage.states_under(crystals.space_group.unsqueeze(1), crystals.counts)
    assert torch.equal(again, env.part("composition", walked)) and not any(reasons)


def test_terminal_states_stay_nowhere() -> None:
    """A group has no room for the first element; the next one fits the group that is last in the tables."""
    env = make_crystal(elements=["Na", "O"], space_groups=[139, 198], max_atoms_per_element=6, charge_neutral=False)
    counts = torch.zeros(1, 94, dtype=torch.int64)
    counts[0, [7, 10]] = torch.tensor([1, 4])
    assert not fits_wyckoff(139, (1, 4))
    assert env.composition.states_under(torch.tensor([[139]]), counts)[1] == ["Wyckoff positions"]


# What people see


@pytest.mark.parametrize("choices", [PAPER, {"elements": ["Fe", "Mn", "Cu", "O", "S"], "mixed_valence": True}])
def test_oxidation_states_column(choices: dict[str, Any]) -> None:
    from pymatgen.core import Composition, Element, Species

    env = make_crystal(**choices)
    states, _ = random_walk(env, 100, generator("oxidation states"))
    frame = env.to_frame(states)
    assert list(frame.columns) == [
        "formula", "space_group", "a", "b", "c", "alpha", "beta", "gamma", "oxidation_states",
    ]  # fmt: skip
    for formula, text in zip(frame["formula"], frame["oxidation_states"], strict=True):
        charge, counts = 0, dict[str, int]()
        for entry in text.split():
            name, _, number = entry.partition(":")
            species = Species.from_str(name)
            assert species.oxi_state in Element(species.symbol).common_oxidation_states
            charge += int(species.oxi_state) * int(number)
            counts[species.symbol] = counts.get(species.symbol, 0) + int(number)
        assert charge == 0, f"{formula}: {text}"
        assert Composition(counts) == Composition(formula), f"{formula}: {text}"


def test_no_oxidation_states_without_neutrality() -> None:
    env = make_crystal(elements=["Na", "Cl"], space_groups=[1], charge_neutral=False)
    states, _ = random_walk(env, 5, generator("none"))
    assert env.to_frame(states)["oxidation_states"].tolist() == [""] * 5


def test_rock_salt_is_described() -> None:
    env = make_crystal(
        elements=["Na", "Cl"], space_groups=[225], min_atoms_per_element=4, max_atoms_per_element=4, lengths=(5.0, 6.0)
    )
    states, _ = random_walk(env, 2, generator("rock salt"))
    assert env.describe(states) == ["Na4Cl4 (225)"] * 2
    assert env.to_frame(states)["oxidation_states"].tolist() == ["Na+:4 Cl-:4"] * 2


# Settings that cannot be used


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"space_groups": [0]}, ["space_groups", "0"]),
        ({"space_groups": [231]}, ["space_groups", "231", "230"]),
        ({"space_groups": ["20-16"]}, ["space_groups", "'20-16'"]),
        ({"space_groups": ["Fm-3m"]}, ["space_groups", "'Fm-3m'"]),
        ({"space_groups": []}, ["space_groups", "empty"]),
        ({"elements": ["Na", "Xx"]}, ["elements", "'Xx'"]),
        ({"elements": ["Na", False]}, ["elements", "False"]),
        ({"elements": ["Na", "Na"]}, ["elements", "'Na'", "twice"]),
        ({"elements": []}, ["elements", "empty"]),
        ({"min_elements": 0}, ["min_elements", "0"]),
        ({"min_elements": 4, "max_elements": 3}, ["min_elements", "4", "max_elements", "3"]),
        ({"elements": ["Na", "Cl"], "min_elements": 3}, ["min_elements", "3", "2"]),
        ({"min_atoms": 9, "max_atoms": 8}, ["min_atoms", "9", "max_atoms", "8"]),
        ({"max_atoms": 0}, ["max_atoms", "0"]),
        ({"min_atoms_per_element": 0}, ["min_atoms_per_element", "0"]),
        ({"max_atoms_per_element": -1}, ["max_atoms_per_element", "-1"]),
        ({"oxidation_states": "guessed"}, ["oxidation_states", "'guessed'", "pymatgen_common", "pymatgen_icsd"]),
        ({"lengths": (5.0, 5.0)}, ["lengths", "5.0"]),
        ({"lengths": (0.0, 5.0)}, ["lengths", "0.0"]),
        ({"lengths": (float("nan"), 5.0)}, ["lengths", "nan"]),
        ({"angles": (60.0, 180.0)}, ["angles", "180"]),
        ({"angles": (120.0, 60.0)}, ["angles", "120.0", "60.0"]),
        ({"volume_per_atom": (10.0, 5.0)}, ["volume_per_atom", "10.0", "5.0"]),
        ({"angle_margin": 0.0}, ["angle_margin", "0.0"]),
        ({"angle_margin": 61.0}, ["angle_margin", "61.0"]),
        ({"components": 0}, ["components", "0"]),
        ({"elements": ["Na"]}, ["no crystal", "Na", "neutral"]),
        ({"space_groups": [230], "max_atoms_per_element": 8}, ["no crystal", "Wyckoff", "8"]),
        ({"space_groups": [225], "angles": (91.0, 120.0)}, ["no cell", "90"]),
        ({"space_groups": [1], "volume_per_atom": (1e9, 2e9)}, ["volume per atom", "1000000000.0"]),
        ({"space_groups": [1], "angles": (170.0, 179.0)}, ["no cell"]),
    ],
)  # fmt: skip
def test_bad_settings(choices: dict[str, Any], words: list[str]) -> None:
    with warnings.catch_warnings(), pytest.raises(InputError) as caught:
        warnings.simplefilter("ignore")
        Crystal(**choices)
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


def test_infeasible_groups_are_left_out_with_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"left out: \[230\]"):
        env = Crystal(space_groups=[225, 230], elements=["Na", "Cl"], max_atoms_per_element=8)
    assert env.space_groups == (225,)


def test_elements_without_charge_are_named() -> None:
    with pytest.warns(UserWarning, match="He"):
        Crystal(space_groups=[225], elements=["Na", "Cl", "He"])
