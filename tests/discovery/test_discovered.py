"""What a discovery run left in the package: a model, the proxy that it taught, and the labels."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from crystalgfn.cli import main
from crystalgfn.crystal.tables import read_table
from crystalgfn.discovery import labels as labels_module
from crystalgfn.proxies import EnergyAboveHull, FormationEnergy
from crystalgfn.proxies.formation_energy import TAUGHT_WEIGHTS
from crystalgfn.settings import MODELS, shipped_model

LABELS = Path(labels_module.__file__).parent / "data" / "labels.parquet"
QUIET = ["--trainer.enable_progress_bar", "false"]


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("discovered")
    out = folder / "samples.csv"
    assert (
        main(["predict", "--ckpt_path", "discovered", "--data.num_samples", "200", "--data.out", str(out), *QUIET]) == 0
    )
    return out


def test_files_are_small():
    for path in (*MODELS.glob("*.ckpt"), TAUGHT_WEIGHTS, LABELS):
        assert 0 < path.stat().st_size <= 5_000_000, path


def test_model_samples_by_name(samples):
    table = read_table(samples)
    crystals = table.crystals
    assert len(crystals) == 200
    assert int(crystals.n_atoms.max()) <= 24
    kinds = (crystals.counts > 0).sum(1)
    assert int(kinds.min()) >= 2 and int(kinds.max()) <= 4
    assert crystals.space_group.unique().numel() > 20


def test_model_holds_the_taught_proxy(samples):
    """Its settings name the usual weights, of the same shapes; the taught ones are in the checkpoint."""
    table = read_table(samples)
    written = torch.tensor(table.frame["energy_above_hull"].to_numpy(dtype=float))
    taught, usual = (EnergyAboveHull(weights)(table.crystals).double() for weights in ("taught", None))
    assert (written - taught).abs().max() < 1e-4
    assert (written - usual).abs().max() > 0.05


def test_restriction_of_the_model(tmp_path):
    out = tmp_path / "cubic.csv"
    options = ["--data.restrict", "{crystal_systems: [cubic], elements: [Li, Na, O, S]}", "--data.num_samples", "50"]
    assert main(["predict", "--ckpt_path", "discovered", *options, "--data.out", str(out), *QUIET]) == 0
    crystals = read_table(out).crystals
    assert int(crystals.space_group.min()) >= 195


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shipped_model("discovered") is not None
    Path("discovered").mkdir()
    assert shipped_model("discovered") is None
    assert shipped_model("./discovered") is None
    assert shipped_model("nothing") is None


def test_taught_proxy_knows_what_is_bad():
    """On the labels that it learned from it errs less than the usual one, and is not as optimistic."""
    rows = pd.read_parquet(LABELS)
    chosen = rows[(rows["kind"] == "sampled") & (rows["source"] == "model")].reset_index(drop=True)
    table = read_table(LABELS, label="formation_energy")
    keep = torch.from_numpy(((rows["kind"] == "sampled") & (rows["source"] == "model")).to_numpy())
    label = torch.tensor(chosen["formation_energy"].to_numpy())
    errors = [FormationEnergy(weights)(table.crystals[keep]).double() - label for weights in ("taught", None)]
    assert errors[0].abs().mean() < 0.6 * errors[1].abs().mean()
    assert errors[1].mean() < -0.2 < errors[0].mean()


def test_labels_are_the_projects_own():
    """Crystals of the table that the run began with are not passed on."""
    rows = pd.read_parquet(LABELS)
    assert set(rows["source"]) == {"random", "model", "final"}
    assert set(rows["kind"]) == {"sampled", "relaxed", "failed"}
    assert rows["formation_energy"].notna().all()
