"""Files that a checkpoint names: another file of the same name is refused, and what the user gives is used."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from small import checkpoint_of, small_config

import crystalgfn as cg
from crystalgfn.cli import main
from crystalgfn.crystal.tables import read_table
from crystalgfn.errors import InputError
from crystalgfn.files import checksum
from crystalgfn.gflownet.checkpoint_files import CONFIG_KEY, write_compact
from crystalgfn.gflownet.input_files import checksums
from crystalgfn.proxies import EnergyAboveHull
from crystalgfn.proxies.formation_energy import SHIPPED_WEIGHTS, TAUGHT_WEIGHTS

KNOWN = {
    "formula": ["Li4 F4", "Li", "F"],
    "formation_energy": [-3.0, 0.0, 0.0],
}
CRYSTALS = pd.DataFrame(
    {"formula": ["Li4 F4"], "space_group": 225, "a": 4.0, "b": 4.0, "c": 4.0, "alpha": 90, "beta": 90, "gamma": 90}
)


def write_files(folder: Path, other: bool = False) -> None:
    """The input files of the run, or files of the same names with another content."""
    shutil.copyfile(TAUGHT_WEIGHTS if other else SHIPPED_WEIGHTS, folder / "weights.pt")
    energies = [-2.0, 0.0, 0.0] if other else KNOWN["formation_energy"]
    pd.DataFrame(KNOWN | {"formation_energy": energies}).to_csv(folder / "known.csv", index=False)
    hull = ["build-hull", str(folder / "known.csv"), "--out", str(folder / "hull.pt"), "--elements", "Li", "F"]
    assert main(hull) == 0
    CRYSTALS.assign(a=4.1 if other else 4.0, b=4.1 if other else 4.0, c=4.1 if other else 4.0).to_csv(
        folder / "crystals.csv", index=False
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run whose settings name files by relative paths, and its checkpoint."""
    folder = tmp_path_factory.mktemp("training")
    write_files(folder)
    config = small_config(folder, space_groups=[225], elements=["Li", "F"])
    config["model"] |= {
        "proxy": {"class_path": "EnergyAboveHull", "init_args": {"weights": "weights.pt", "hull": "hull.pt"}},
        "reward": {
            "class_path": "Standardized",
            "init_args": {
                "reward": {"class_path": "Boltzmann", "init_args": {"beta": 0.5}},
                "table": "known.csv",
                "column": "formation_energy",
            },
        },
        "data_set": {"class_path": "DataSet", "init_args": {"table": "crystals.csv", "batch_size": 2}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["fit", "--config", "config.yaml"]) == 0
    return folder, checkpoint_of(folder)


@pytest.fixture
def elsewhere(run, tmp_path, monkeypatch):
    """The current folder, with the same files."""
    for name in ("weights.pt", "hull.pt", "known.csv", "crystals.csv"):
        shutil.copyfile(run[0] / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    folder = tmp_path_factory.mktemp("others")
    write_files(folder, other=True)
    return folder


FILES = {
    "weights.pt": "model.proxy.init_args.weights",
    "hull.pt": "model.proxy.init_args.hull",
    "known.csv": "model.reward.init_args.table",
    "crystals.csv": "model.data_set.init_args.table",
}


def commands(checkpoint: Path) -> dict[str, list[str]]:
    path = ["--ckpt_path", str(checkpoint)]
    return {
        "predict": ["predict", *path, "--data.num_samples", "4"],
        "validate": ["validate", *path],
        "test": ["test", *path],
        "fit": ["fit", *path, "--trainer.logger", "false", "--trainer.max_steps", "4"],
        "likelihood": ["likelihood", "crystals.csv", *path, "--out", "scored.csv"],
    }


def test_what_a_checkpoint_holds(run):
    files = torch.load(run[1], weights_only=True)[CONFIG_KEY]["files"]
    assert {place: entry["file"] for place, entry in files.items()} == {place: name for name, place in FILES.items()}
    assert all(entry["sha256"] == checksum(run[0] / entry["file"]) for entry in files.values())


@pytest.mark.parametrize("command", ["predict", "validate", "test", "fit", "likelihood"])
def test_the_same_files_elsewhere(command, run, elsewhere):
    assert main(commands(run[1])[command]) == 0


@pytest.mark.parametrize(
    ("command", "name"),
    [*((command, "hull.pt") for command in ("predict", "validate", "test", "fit", "likelihood")),
     ("predict", "weights.pt"), ("predict", "known.csv"), ("fit", "weights.pt"), ("fit", "crystals.csv")],
)  # fmt: skip
def test_another_content_is_refused(command, name, run, elsewhere, others, capsys):
    shutil.copyfile(others / name, elsewhere / name)
    before = sorted(elsewhere.rglob("*"))
    assert main(commands(run[1])[command]) == 2
    message = capsys.readouterr().err
    assert f"was trained with {FILES[name]}: {name}, but the content of {elsewhere / name} is not that" in message
    assert f"--{FILES[name]} {name}" in message
    assert sorted(elsewhere.rglob("*")) == before


def test_another_content_is_refused_in_python(run, elsewhere, others):
    shutil.copyfile(others / "hull.pt", elsewhere / "hull.pt")
    with pytest.raises(InputError, match=r"model\.proxy\.init_args\.hull: hull\.pt"):
        cg.load(run[1])
    with pytest.raises(InputError, match="was trained with"):
        cg.GFlowNet.load_from_checkpoint(run[1])
    proxy = {"class_path": "EnergyAboveHull", "init_args": {"hull": "hull.pt"}}
    cg.GFlowNet.load_from_checkpoint(run[1], proxy=proxy)


def test_a_data_set_is_only_read_in_training(run, elsewhere, others):
    shutil.copyfile(others / "crystals.csv", elsewhere / "crystals.csv")
    assert main(commands(run[1])["predict"]) == 0


def test_a_missing_file_has_its_own_message(run, elsewhere, capsys):
    (elsewhere / "hull.pt").unlink()
    assert main(commands(run[1])["predict"]) == 2
    assert "hull.pt: no such file with a hull" in capsys.readouterr().err


def properties(run, *flags: str) -> list[float]:
    assert main([*commands(run[1])["predict"], *flags]) == 0
    return pd.read_csv("samples.csv")["energy_above_hull"].tolist()


@pytest.mark.parametrize("name", ["weights.pt", "hull.pt"])
@pytest.mark.parametrize("by", ["flag", "flag of a path", "one word", "config"])
def test_what_the_user_gives_is_used(by, name, run, elsewhere, others):
    """Also weights, whose values in the checkpoint would replace those of the file."""
    before = properties(run)
    assert properties(run, f"--{FILES[name]}", name) == before  # the same file
    shutil.copyfile(others / name, elsewhere / name)
    option = name.removesuffix(".pt")
    Path("own.yaml").write_text(yaml.safe_dump({"model": {"proxy": {"init_args": {option: name}}}}))
    flags = {
        "flag": [f"--{FILES[name]}", name],
        "flag of a path": [f"--{FILES[name]}", f"./{name}"],
        "one word": [f"--model.proxy.{option}={name}"],
        "config": ["--config", "own.yaml"],
    }
    after = properties(run, *flags[by])
    proxy = EnergyAboveHull("weights.pt", "hull.pt")
    expected = proxy(read_table(Path("samples.csv")).crystals).double().tolist()
    assert after == pytest.approx(expected, rel=1e-6) and after != before


def test_a_replaced_setting_is_not_compared(run, elsewhere, others):
    shutil.copyfile(others / "hull.pt", elsewhere / "hull.pt")
    before = properties(run, f"--{FILES['hull.pt']}", str(run[0] / "hull.pt"))
    shutil.copyfile(run[0] / "hull.pt", elsewhere / "hull.pt")
    assert properties(run) == before


def test_old_checkpoints_have_no_checksums(run, elsewhere, others):
    content = torch.load(run[1], weights_only=True)
    del content[CONFIG_KEY]["files"]
    torch.save(content, "old.ckpt")
    before = properties(run)
    shutil.copyfile(others / "weights.pt", elsewhere / "weights.pt")
    # The values of the weights are those of the checkpoint.
    assert properties((None, Path("old.ckpt"))) == before


@pytest.mark.parametrize("files", [3, ["hull.pt"], {"model.proxy": "hull.pt"}, {"model.proxy": {"file": "hull.pt"}}])
def test_damaged_checksums(files, run, elsewhere, capsys):
    content = torch.load(run[1], weights_only=True)
    content[CONFIG_KEY]["files"] = files
    torch.save(content, "bad.ckpt")
    assert main(["predict", "--ckpt_path", "bad.ckpt"]) == 2
    assert "bad.ckpt is not a checkpoint that 'crystalgfn fit' has written" in capsys.readouterr().err


def test_a_compact_checkpoint_has_its_own(run, elsewhere, others, capsys):
    """Its weights are those of the source, and the hull is the file that its settings name."""
    shutil.copyfile(others / "weights.pt", elsewhere / "shapes.pt")
    proxy = {"class_path": "EnergyAboveHull", "init_args": {"weights": "shapes.pt", "hull": "hull.pt"}}
    write_compact(run[1], Path("compact.ckpt"), proxy)
    files = torch.load("compact.ckpt", weights_only=True)[CONFIG_KEY]["files"]
    assert {place: entry["file"] for place, entry in files.items()} == {
        "model.proxy.init_args.weights": "shapes.pt",
        "model.proxy.init_args.hull": "hull.pt",
        "model.reward.init_args.table": "known.csv",
    }, "a data set is read in training only"
    own = cg.load("compact.ckpt").module.state_dict()
    source = torch.load(run[1], weights_only=True)["state_dict"]
    weights = [name for name in source if name.startswith("proxies.")]
    assert weights and all(torch.equal(own[name], source[name]) for name in weights)
    shutil.copyfile(others / "hull.pt", elsewhere / "hull.pt")
    assert main(["predict", "--ckpt_path", "compact.ckpt"]) == 2
    assert "model.proxy.init_args.hull: hull.pt" in capsys.readouterr().err


def test_which_texts_are_input_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    for name in ("a.csv", "b.csv", "Density", "out.csv", "log"):
        Path(name).write_text(name)
    settings = {
        "model": {
            "proxy": [{"class_path": "Density", "init_args": {"weights": "a.csv", "n": 3, "none": None}}],
            "env": {"folder": "folder", "long": "x" * 5000, "null": "a\0b", "absent": "c.csv"},
            "start_from": "a.csv",
        },
        "data": {"out": "out.csv"},
        "trainer": {
            "callbacks": [{"class_path": "X", "init_args": {"table": "b.csv", "out": "out.csv"}}],
            "logger": "log",
        },
    }
    assert {place: entry["file"] for place, entry in checksums(settings).items()} == {
        "model.proxy.0.init_args.weights": "a.csv",
        "trainer.callbacks.0.init_args.table": "b.csv",
    }
    assert checksums({"model": {}, "trainer": None}) == {}
