"""The shipped prior: its samples look like real crystals, and it fits the shipped configs."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from small import THREE_CRYSTALS

from crystalgfn.crystal.crystals import Crystals
from crystalgfn.evaluation.checks import cell_shapes
from crystalgfn.gflownet.data_set import read_states
from crystalgfn.gflownet.likelihood import surprisal
from crystalgfn.random import generator
from crystalgfn.runs import load
from crystalgfn.runs.model import Model


@pytest.fixture(scope="module")
def universal() -> Model:
    return load("universal")


def test_samples_have_usual_cells_and_many_elements(universal):
    crystals = universal.sample(1000).crystals
    shapes = cell_shapes(crystals.lattice.numpy())
    # Of real crystals 4.4 % have edges in a ratio above 5, and 1.1 % an edge above 30 Å.
    assert (~shapes["edge_ratio"]).mean() < 0.088 and (~shapes["longest_edge"]).mean() < 0.03
    assert len(crystals) == 1000 and (crystals.counts > 0).any(0).sum() > 80
    assert len(crystals.space_group.unique()) > 80 and crystals.n_atoms.max() <= 40


def test_known_crystals_are_more_likely_than_by_chance(universal, tmp_path):
    path = tmp_path / "known.csv"
    pd.DataFrame(THREE_CRYSTALS).to_csv(path, index=False)
    env = universal.module.env
    known = read_states(env, path, 0.01, None, "table")
    assert len(known.rows) == 3
    found = surprisal(env, {"prior": universal.module.policy, "uniform": None}, known.states, generator("x"))
    bits = [values.bits for values in found.values()]
    assert bits[0] < bits[1] - 15


def test_neutral_samples_of_some_elements(universal):
    restriction = {"elements": ["Li", "Fe", "O"], "charge_neutral": True, "max_atoms": 12}
    samples = universal.sample(50, restrict=restriction)
    frame, crystals = samples.to_frame(), samples.crystals
    assert isinstance(crystals, Crystals) and torch.isfinite(samples.log_p).all()
    assert frame["oxidation_states"].str.len().min() > 0 and crystals.n_atoms.max() <= 12
