"""From crystals back to states: the inverse of building, and reasons for what cannot be built."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers import PAPER_ELEMENTS, PAPER_GROUPS, make_crystal
from real_crystals import CRYSTALS

from crystalgfn.crystal.crystals import Crystals
from crystalgfn.errors import InputError
from crystalgfn.gflownet.data_set import DataSet
from crystalgfn.gflownet.envs import HyperGrid
from crystalgfn.gflownet.rollout import log_forward, sample_backward, sample_forward
from crystalgfn.random import generator
from crystalgfn.testing import RandomPolicy

PAPER = {"space_groups": PAPER_GROUPS, "elements": PAPER_ELEMENTS}

SETTINGS = {
    "all": {},
    "paper": PAPER,
    "volume": PAPER | {"volume_per_atom": (7.0, 60.0)},
    "upright cells": PAPER | {"lengths": (3.0, 8.0), "volume_per_atom": (8.0, 20.0)},
    "tight": PAPER
    | {"min_atoms": 5, "max_atoms": 12, "min_elements": 2, "max_elements": 3, "min_atoms_per_element": 2},
    "not neutral": {"elements": PAPER_ELEMENTS, "charge_neutral": False, "max_elements": 3},
    "mixed valence": {"elements": ["Fe", "Mn", "Cu", "O", "S"], "mixed_valence": True},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_inverse_of_building(name: str) -> None:
    env = make_crystal(**SETTINGS[name])
    states = sample_forward(env, RandomPolicy(env), 400, generator("inverse"))[0].states
    found, reasons = env.states_of(env.decode(states))
    assert reasons == [""] * 400
    assert torch.equal(found, states)


SALT = {"groups": 225, "formula": {"Na": 4, "Cl": 4}, "cell": [5.69, 5.69, 5.69, 90, 90, 90]}

FAULTS = {
    "": {},
    "space group": {"groups": 3},
    "element": {"formula": {"K": 4, "Cl": 4}},
    "number of atoms of an element": {"formula": {"Na": 24, "Cl": 24}},
    "number of elements": {"formula": {"Li": 4, "Na": 4, "F": 4, "Cl": 4}},
    "Wyckoff positions": {"formula": {"Na": 3, "Cl": 3}},
    "charge": {"formula": {"Na": 4, "Cl": 8}},
    "number of elements or atoms": {"groups": 2, "formula": {"Na": 16, "Cl": 16}},
    "lattice system": {"cell": [5.69, 5.69, 5.8, 90, 90, 90]},
    "angles": {"groups": 2, "formula": {"Na": 1, "Cl": 1}, "cell": [4, 4, 4, 75, 90, 95]},
    "lengths": {"cell": [9.5, 9.5, 9.5, 90, 90, 90]},
    "volume per atom": {"cell": [8.5, 8.5, 8.5, 90, 90, 90]},
}


@pytest.mark.parametrize("reason", FAULTS)
def test_reasons(reason: str) -> None:
    env = make_crystal(
        space_groups=[2, 225], elements=["Li", "Na", "F", "Cl"], max_elements=3, max_atoms=24, lengths=(3.0, 9.0),
        angles=(80.0, 120.0), volume_per_atom=(10.0, 50.0),
    )  # fmt: skip
    rows = [SALT, SALT | FAULTS[reason], SALT]
    crystals = Crystals.from_arrays(
        [r["groups"] for r in rows], [r["formula"] for r in rows], [r["cell"] for r in rows]
    )
    states, reasons = env.states_of(crystals, 0.01)
    assert reasons == ["", reason, ""]
    assert torch.equal(states[0], states[2]) and env.is_terminal(states[[0, 2]]).all()
    assert (states[1] == 0).all() == bool(reason)


def test_reasons_of_cells_that_are_too_flat() -> None:
    """Angles that no length makes large enough are a fault of the volume, unless a length is out of range."""
    env = make_crystal(
        space_groups=[2, 14], elements=["Na", "Cl"], max_atoms_per_element=8, lengths=(3.0, 6.0),
        volume_per_atom=(10.0, 14.0),
    )  # fmt: skip
    lattices = [
        [6, 6, 5.5, 85, 80, 95],  # 192 Å³
        [6, 6, 5.9, 55, 55, 100],
        [6, 6, 7.5, 55, 55, 100],
        [6, 6, 6, 50, 50, 101],
        [6, 5.5, 5.5, 90, 100, 90],
        [6, 6, 6, 90, 140, 90],
    ]
    crystals = Crystals.from_arrays([2] * 4 + [14] * 2, [{"Na": 8, "Cl": 8}] * 6, lattices)
    states, reasons = env.states_of(crystals)
    assert reasons == ["", "volume per atom", "lengths", "angles", "", "volume per atom"]
    assert env.is_terminal(states[[0, 4]]).all()
    trajectories = sample_backward(env, states[[0, 4]], generator("backward"))
    assert log_forward(env, RandomPolicy(env), trajectories).isfinite().all()


def test_cells_are_moved_to_their_system() -> None:
    env = make_crystal(space_groups=[194, 225], elements=["Na", "Cl"])
    crystals = Crystals.from_arrays(
        [225, 194], [{"Na": 4, "Cl": 4}, {"Na": 2, "Cl": 2}],
        [[5.67, 5.69, 5.71, 90.2, 89.9, 90], [4.01, 3.99, 7.3, 90, 90.1, 119.8]],
    )  # fmt: skip
    states, reasons = env.states_of(crystals, 0.01)
    assert reasons == ["", ""]
    expected = torch.tensor([[5.69, 5.69, 5.69, 90, 90, 90], [4.0, 4.0, 7.3, 90, 90, 120]], dtype=torch.float64)
    torch.testing.assert_close(env.decode(states).lattice, expected, rtol=1e-12, atol=0)
    a, b, c = env.decode(states).lattice[0, :3].tolist()
    assert a == b == c
    assert env.states_of(crystals, 1e-4)[1] == ["lattice system"] * 2


def test_known_crystals_have_a_probability() -> None:
    env = make_crystal(**PAPER, volume_per_atom=(7.0, 60.0))
    states, _ = env.states_of(Crystals.from_arrays([225], [SALT["formula"]], [SALT["cell"]]))
    trajectories = sample_backward(env, states, generator("backward"))
    assert log_forward(env, RandomPolicy(env), trajectories).isfinite().all()


def write(path: Path, rows: list[tuple[str, int, float]]) -> Path:
    frame = pd.DataFrame(rows, columns=["formula", "space_group", "a"])
    frame = frame.assign(b=frame["a"], c=frame["a"], alpha=90, beta=90, gamma=90, split=["train"] * 4 + ["test"])
    frame.to_csv(path, index=False)
    return path


ROWS = [("Na4 Cl4", 225, 5.7), ("Na4 Cl4", 300, 5.7), ("Li4 F4", 225, 4.1), ("Fe4 F4", 225, 4.1), ("Na4 F4", 225, 4.6)]


def test_data_set_of_crystals(tmp_path: Path) -> None:
    env = make_crystal(space_groups=[225], elements=["Li", "Na", "F", "Cl"])
    data = DataSet(write(tmp_path / "table.csv", ROWS), batch_size=100, only={"split": "train"})
    # The proxy has no value for lithium.
    data.load(env, lambda states: torch.where(env.decode(states).counts[:, 2] > 0, torch.nan, 2.5))
    bad = "space_group is not a space group; allowed: a whole number from 1 to 230"
    assert len(data) == 1 and data.counts == {bad: 1, "element": 1, "no finite prediction": 1}
    assert data.summary().endswith(
        f"table.csv: 1 objects; rows left out: {bad} (1), element (1), no finite prediction (1)"
    )
    states, log_reward = data.sample(generator(0))
    assert log_reward.tolist() == [2.5] * 100
    assert set(env.describe(states)) == {"Na4Cl4 (225)"}


def test_data_set_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    env = make_crystal(space_groups=[225], elements=["Li", "Na", "F", "Cl"])
    path = tmp_path / "table.csv"
    first, second = DataSet(write(path, ROWS), 3), DataSet(path, 3)
    first.load(env, lambda states: states[:, 0])
    second.load_state_dict(first.state_dict())
    second.load(env, lambda states: states[:, 0])
    assert torch.equal(first.sample(generator(0))[0], second.sample(generator(0))[0])
    third = DataSet(write(path, [*ROWS[:4], ("Na4 F4", 225, 4.61)]), 3)
    third.load_state_dict(first.state_dict())
    with pytest.raises(InputError, match="other objects than those in the training of the checkpoint"):
        third.load(env, lambda states: states[:, 0])


def test_data_set_of_a_grid(tmp_path: Path) -> None:
    env, path = HyperGrid(2, 4), tmp_path / "cells.csv"
    pd.DataFrame({"x0": [0, 3, 4, 1], "x1": ["1", "2", "0", "half"]}).to_csv(path, index=False)
    data = DataSet(path, 50)
    data.load(env, lambda states: states[:, 0])
    assert len(data) == 2 and data.counts == {"cell outside of the grid": 1, "coordinate is not a whole number": 1}
    states, log_reward = data.sample(generator(0))
    assert set(map(tuple, env.decode(states).tolist())) == {(0, 1), (3, 2)}
    assert torch.equal(log_reward, states[:, 0])


def test_tables_that_are_no_use(tmp_path: Path) -> None:
    path = write(tmp_path / "table.csv", ROWS)
    env = make_crystal(space_groups=[225], elements=["K", "Cl"])
    with pytest.raises(InputError, match=r"can build none of the objects of .*; rows left out: element \(4\)"):
        DataSet(path, 3).load(env, lambda states: states[:, 0])
    with pytest.raises(InputError, match=r"data_set.only: .* has no column 'fold'; it has: formula, space_group"):
        DataSet(path, 3, only={"fold": "1"}).load(env, lambda states: states[:, 0])
    with pytest.raises(InputError, match=r"missing column\(s\) x0, x1"):
        DataSet(path, 3).load(HyperGrid(2, 4), lambda states: states[:, 0])


@pytest.mark.parametrize(("setting", "value"), [("batch_size", 0), ("tolerance", -0.1), ("tolerance", 0.7)])
def test_bad_settings(setting: str, value: float) -> None:
    settings = {"table": Path("table.csv"), "batch_size": 3} | {setting: value}
    with pytest.raises(InputError, match=f"data_set.{setting}: {value} "):
        DataSet(**settings)


@pytest.mark.skipif(not CRYSTALS.is_file(), reason=f"no data at {CRYSTALS}")
def test_real_crystals() -> None:
    env = make_crystal(charge_neutral=False)
    table = env.read_table(CRYSTALS)
    rows = torch.arange(0, len(table.rows), 20)
    crystals = table.objects[rows]
    states, reasons = env.states_of(crystals, 0.01)
    # Real atoms have places in their space group, and real conventional cells are those of the environment.
    assert set(reasons) <= {"", "number of atoms of an element", "number of elements", "number of elements or atoms"}
    fits = torch.tensor([not reason for reason in reasons])
    assert fits.float().mean() > 0.7
    again = env.decode(states[fits])
    assert torch.equal(again.counts, crystals.counts[fits])
    assert torch.equal(again.space_group, crystals.space_group[fits])
    torch.testing.assert_close(again.lattice, crystals.lattice[fits], rtol=0.01, atol=0)
