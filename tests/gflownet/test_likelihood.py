"""Likelihoods of given objects, against sums over all trajectories and against integrals of 1."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from exact import CrystalSpace, terminating_distribution
from helpers import make_crystal
from small import checkpoint_of, small_config, write_config
from torch import Tensor

from crystalgfn.cli import main
from crystalgfn.gflownet.envs import HyperGrid
from crystalgfn.gflownet.likelihood import log_likelihood
from crystalgfn.gflownet.rollout import sample_forward
from crystalgfn.random import generator
from crystalgfn.testing import RandomPolicy

GRID = HyperGrid(2, 5)


class Once(RandomPolicy):
    """Counts the rows of its largest call."""

    largest = 0

    def forward(self, head: str, inputs: Tensor) -> Tensor:
        self.largest = max(self.largest, len(inputs))
        return super().forward(head, inputs)


@pytest.mark.parametrize("learned", [False, True])
def test_grid_against_the_sum_over_all_trajectories(learned: bool) -> None:
    policy = RandomPolicy(GRID, seed=1, scale=1.0)
    backward = RandomPolicy(GRID, seed=2, scale=0.5) if learned else None
    exact = terminating_distribution(GRID, policy).log()
    found = log_likelihood(GRID, policy, GRID.enumerate(), generator("test"), 1000, backward)
    # On an edge of the grid there is one trajectory, and nothing to estimate.
    single = found.standard_error < 1e-9
    assert 5 <= int(single.sum()) <= 9
    assert torch.allclose(found.log_p[single], exact[single], atol=1e-5)
    z = (found.log_p - exact)[~single] / found.standard_error[~single]
    # Errors are as large as they say: of 16 independent ones the mean square lies in this range all but surely.
    assert 0.2 < z.square().mean() < 2.5
    assert z.abs().max() < 4.5


def test_one_trajectory_is_no_estimate_of_the_error() -> None:
    found = log_likelihood(GRID, RandomPolicy(GRID), GRID.enumerate(), generator("test"), 1)
    assert found.standard_error.isnan().all()
    assert found.log_p.isfinite().all()
    with pytest.raises(ValueError, match="at least 1"):
        log_likelihood(GRID, RandomPolicy(GRID), GRID.enumerate(), generator("test"), 0)


def test_memory_is_bounded_and_the_split_changes_nothing_but_the_draws() -> None:
    policy = Once(GRID, seed=1, scale=1.0)
    exact = terminating_distribution(GRID, policy).log()
    for batch in (64, 7):
        policy.largest = 0
        found = log_likelihood(GRID, policy, GRID.enumerate(), generator("test", batch), 40, batch=batch)
        assert policy.largest <= batch * (len(GRID.schedule) - 1)  # the last decision is forced
        assert len(found.log_p) == 25
        assert ((found.log_p - exact).abs() < 6 * found.standard_error + 1e-5).all()
    nothing = log_likelihood(GRID, policy, GRID.enumerate()[:0], generator("test"))
    assert nothing.log_p.shape == nothing.standard_error.shape == (0,)


def test_trees_are_exact() -> None:
    env = make_crystal(space_groups=[2, 225], elements=["Li", "O", "F"], max_atoms=12, lengths=(3, 12))
    policy, stream = RandomPolicy(env), generator("test")
    trajectories, log_pf = sample_forward(env, policy, 50, stream)
    before = stream.get_state()
    found = log_likelihood(env, policy, trajectories.states, stream, 100)
    assert torch.allclose(found.log_p, log_pf, atol=1e-4)
    assert (found.standard_error == 0).all()
    assert torch.equal(stream.get_state(), before)


def test_likelihoods_of_crystals_integrate_to_one() -> None:
    env = make_crystal(
        space_groups=[75, 221], elements=["Li", "O", "F"], max_elements=2, max_atoms=6, lengths=(3, 9), components=2
    )
    space = CrystalSpace.of(env, lambda crystals: torch.zeros(len(crystals)))
    policy = RandomPolicy(env, scale=1.0)
    total = 0.0
    for row in range(len(space.states)):
        crystals, legal, _ = space.grid(row, 40)
        states, problems = env.states_of(crystals[legal])
        assert not any(problems)
        log_p = log_likelihood(env, policy, states, generator("unused")).log_p
        # The mean over a grid in units of the lengths' range is the integral.
        total += (log_p.logsumexp(0) - math.log(len(legal))).exp().item()
    assert total == pytest.approx(1, abs=0.01)


# The command


@pytest.fixture(scope="module")
def crystal_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    assert main(["fit", "--config", str(write_config(folder, small_config(folder)))]) == 0
    return checkpoint_of(folder)


TABLE = """\
formula,space_group,a,b,c,alpha,beta,gamma,split
Li4 F4,225,4.0,4.0,4.0,90,90,90,val
Li4 F4,225,4.0,4.0,4.02,90,90,90,val
Na4 Cl4,225,5.6,5.6,5.6,90,90,90,val
Li8 O4,225,4.6,4.6,4.6,90,90,90,train
Xx2,225,4.6,4.6,4.6,90,90,90,val
Li8 O4,225,4.6,4.6,4.6,90,90,90,val
"""


def test_likelihoods_of_a_table(crystal_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, out = tmp_path / "table.csv", tmp_path / "scored.csv"
    table.write_text(TABLE)
    options = ["likelihood", str(table), "--ckpt_path", str(crystal_run), "--out", str(out)]
    assert main([*options, "--only", "split=val"]) == 0
    shown = capsys.readouterr().out
    assert "3 of 5 rows have log p and log R" in shown and "left out, element: 1" in shown
    scored = pd.read_csv(out)
    assert scored.columns.tolist()[-4:] == ["log_p", "log_p_standard_error", "log_reward", "reason"]
    assert scored["log_p"].isna().tolist() == [False, False, True, True, False]
    bad = "formula has an element 'Xx' that is unknown or beyond Pu (Z = 94); allowed: "
    bad += "elements and whole counts of the conventional cell, such as 'Na4 Cl4'"
    assert scored["reason"].fillna("").tolist() == ["", "", "element", bad, ""]
    assert (scored["log_p_standard_error"].dropna() == 0).all()
    metrics = json.loads((tmp_path / "scored.json").read_text())
    assert metrics["n"] == 3 and metrics["rows"] == 5
    assert metrics["left_out"] == {"element": 1, bad: 1}
    good = scored.dropna(subset="log_p")
    assert metrics["pearson"] == pytest.approx(good["log_p"].corr(good["log_reward"]))
    assert metrics["spearman"] == pytest.approx(good["log_p"].rank().corr(good["log_reward"].rank()))
    # The second row is the first one made exact.
    assert scored["log_p"][0] == pytest.approx(scored["log_p"][1], abs=0.1)
    # No cell of the table deviates by less than nothing.
    assert main([*options, "--tolerance", "0", "--metrics", str(tmp_path / "m.json")]) == 0
    assert json.loads((tmp_path / "m.json").read_text())["left_out"]["lattice system"] == 1


def test_likelihoods_are_those_of_the_samples(crystal_run: Path, tmp_path: Path) -> None:
    samples, out = tmp_path / "samples.parquet", tmp_path / "scored.parquet"
    assert main(["predict", "--ckpt_path", str(crystal_run), "--data.out", str(samples)]) == 0
    frame = pd.read_parquet(samples).rename(columns={"log_reward": "expected"})
    frame.to_parquet(samples)
    assert main(["likelihood", str(samples), "--ckpt_path", str(crystal_run), "--out", str(out)]) == 0
    scored = pd.read_parquet(out)
    assert scored["log_p"].tolist() == pytest.approx(scored["log_pf"].tolist(), abs=1e-4)
    assert scored["log_reward"].tolist() == pytest.approx(scored["expected"].tolist(), abs=1e-6)


def test_what_cannot_be_used(crystal_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "table.csv"
    table.write_text(TABLE)

    def refused(words: str, *options: str, path: Path = table) -> None:
        out = ["--out", str(tmp_path / "out.csv")]
        assert main(["likelihood", str(path), "--ckpt_path", str(crystal_run), *out, *options]) == 2
        assert words in capsys.readouterr().err

    refused("no column 'group'", "--only", "group=1")
    refused("write COLUMN=TEXT", "--only", "split")
    refused("--trajectories: 0 is not allowed", "--trajectories", "0")
    refused("--tolerance: 0.7 is not allowed", "--tolerance", "0.7")
    refused("no such file", path=tmp_path / "none.csv")
    refused("ckpt_path: there is no file", "--ckpt_path", str(tmp_path / "none.ckpt"))
    table.write_text(TABLE.replace("split", "log_p"))
    refused("already has column(s) log_p")
    header = TABLE.splitlines()[0]
    table.write_text(f"{header}\nXx2,225,4.6,4.6,4.6,90,90,90,val\nNa1 Cl1,225,3.99,3.99,3.99,60,60,60,val\n")
    refused("none of the 2 rows can be used: ")
    table.write_text(TABLE)
    refused("none of the 6 rows can be used: none has the text that 'only' asks for", "--only", "split=none")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["table.csv"]


def test_the_folder_of_a_run_is_enough(crystal_run: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text(TABLE)
    outs = []
    for path in (crystal_run, crystal_run.parents[1]):
        outs.append(tmp_path / f"{len(outs)}.csv")
        assert main(["likelihood", str(table), "--ckpt_path", str(path), "--out", str(outs[-1])]) == 0
    assert crystal_run.parents[1].is_dir() and outs[0].read_text() == outs[1].read_text()


def test_likelihoods_of_a_restricted_space(crystal_run: Path, tmp_path: Path) -> None:
    table, out, restriction = tmp_path / "table.csv", tmp_path / "scored.csv", tmp_path / "restriction.yaml"
    table.write_text(TABLE)
    restriction.write_text("space_groups: [225]\n")
    options = ["likelihood", str(table), "--ckpt_path", str(crystal_run), "--out", str(out)]
    assert main(options) == 0
    free = pd.read_csv(out)["log_p"][0]
    assert main([*options, "--restrict", str(restriction)]) == 0
    assert pd.read_csv(out)["log_p"][0] > free
