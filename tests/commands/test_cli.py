"""The command line: what it prints, what it writes, and what it says to input that it cannot use."""

import copy
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from small import checkpoint_of, small_config, write_config

from crystalgfn import __version__
from crystalgfn.cli import COMMANDS, main

COLUMNS = [
    "formula",
    "space_group",
    "a",
    "b",
    "c",
    "alpha",
    "beta",
    "gamma",
    "oxidation_states",
    "density",
    "log_reward",
    "log_pf",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Directory of a finished small run."""
    directory = tmp_path_factory.mktemp("run")
    assert main(["fit", "--config", str(write_config(directory, small_config(directory)))]) == 0
    return directory


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^  {name} +\w", text, re.MULTILINE) for name in COMMANDS)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"crystalgfn {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_command(command, capsys):
    assert main([command, "--help"]) == 0
    assert "usage: crystalgfn" in capsys.readouterr().out


def test_module_runs_as_program(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "crystalgfn", "--version"], capture_output=True, text=True, check=True
    )
    assert result.stdout == f"crystalgfn {__version__}\n"


def test_list_shows_everything_with_a_line_each(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in ("Crystal", "HyperGrid", "FormationEnergy", "Density", "Boltzmann", "MLP"):
        assert any(re.match(rf"  {name} +\S.*\.$", line) for line in lines), name


def test_fit_ends_with_where_the_run_lies_and_the_next_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = small_config(Path("my runs"))
    assert main(["fit", "--config", str(write_config(tmp_path, config))]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    folder, words = Path("my runs", "small", "version_0"), "crystalgfn predict --ckpt_path "
    assert last.startswith(f"{folder}: the run; sample from it with: {words}'{folder}'")
    assert main([*shlex.split(last.partition("crystalgfn ")[2]), "--trainer.enable_progress_bar", "false"]) == 0
    assert len(pd.read_csv("samples.csv")) == 12
    config["trainer"] |= {"callbacks": [], "enable_checkpointing": False}
    assert main(["fit", "--config", str(write_config(tmp_path, config))]) == 0
    assert "version_1: the run, without a checkpoint" in capsys.readouterr().out.splitlines()[-1]


def test_run_leaves_complete_settings_and_a_checkpoint(run):
    version = run / "small" / "version_0"
    saved = yaml.safe_load((version / "config.yaml").read_text())
    asked = small_config(run)
    assert saved["model"]["env"]["init_args"]["space_groups"] == asked["model"]["env"]["init_args"]["space_groups"]
    assert saved["model"]["reward"] == {
        "class_path": "crystalgfn.gflownet.rewards.Boltzmann",
        "init_args": {"beta": -0.5, "floor": 1e-8, "caution": 0.0, "enough": None},
    }
    assert saved["model"]["batch_size"] == 8
    assert saved["model"]["seed"] == 0
    assert checkpoint_of(run).is_file()
    assert any(path.name.startswith("events") for path in version.iterdir())


@pytest.mark.parametrize("steps", [3, 4])
def test_last_checkpoint_is_of_the_last_step(steps, tmp_path):
    config = small_config(tmp_path)
    config["trainer"]["max_steps"] = steps
    assert main(["fit", "--config", str(write_config(tmp_path, config))]) == 0
    assert torch.load(checkpoint_of(tmp_path), weights_only=True)["global_step"] == steps


def test_predict_needs_only_the_checkpoint(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "--ckpt_path", str(checkpoint_of(run))]) == 0
    table = pd.read_csv("samples.csv")
    assert list(table.columns) == COLUMNS
    assert len(table) == 12  # as the run's config says
    assert [path.name for path in Path().iterdir()] == ["samples.csv"]


def predict(run, out, *options):
    assert main(["predict", "--ckpt_path", str(checkpoint_of(run)), "--data.out", str(out), *options]) == 0
    return out.read_bytes()


def test_predict_is_decided_by_its_seed(run, tmp_path):
    first = predict(run, tmp_path / "a.csv", "--data.num_samples", "50", "--data.seed", "1")
    again = predict(run, tmp_path / "b.csv", "--data.num_samples", "50", "--data.seed", "1")
    other = predict(run, tmp_path / "c.csv", "--data.num_samples", "50", "--data.seed", "2")
    more = predict(run, tmp_path / "d.csv", "--data.num_samples", "1500", "--data.seed", "1")
    assert first == again != other
    assert more.startswith(first)


@pytest.mark.parametrize("command", ["validate", "test"])
def test_validate_and_test_report(command, run, capsys):
    assert main([command, "--ckpt_path", str(checkpoint_of(run)), "--data.num_samples", "100"]) == 0
    text = capsys.readouterr().out
    assert "density_mean" in text
    assert "log_p_log_reward_correlation" in text


def test_fit_from_checkpoint_alone_goes_on(run, tmp_path):
    options = ["--trainer.max_steps", "5", "--trainer.logger.init_args.save_dir", str(tmp_path)]
    assert main(["fit", "--ckpt_path", str(checkpoint_of(run)), *options]) == 0
    assert torch.load(checkpoint_of(tmp_path), weights_only=True)["global_step"] == 5


def changed(config, path, value):
    config = copy.deepcopy(config)
    *parents, last = path.split(".")
    node = config
    for key in parents:
        node = node[key]
    node[last] = value
    return config


ENV = "model.env.init_args"
BAD_SETTINGS = [
    (f"{ENV}.space_groups", [231], "space_groups: 231 is not allowed"),
    (f"{ENV}.space_groups", [0], "space_groups: 0 is not allowed"),
    (f"{ENV}.space_groups", ["225-221"], "space_groups: '225-221'"),
    (f"{ENV}.space_groups", ["cubic"], "space_groups: 'cubic'"),
    (f"{ENV}.space_groups", [], "space_groups: the list is empty"),
    (f"{ENV}.elements", ["Xx"], "elements: 'Xx'"),
    (f"{ENV}.elements", ["Li", "Li"], "elements: 'Li' is named twice"),
    (f"{ENV}.elements", [], "elements: the list is empty"),
    (f"{ENV}.elements", ["Li", "Na"], "no crystal satisfies the constraints"),
    (f"{ENV}.min_elements", 3, "min_elements: 3 is larger than max_elements"),
    (f"{ENV}.max_elements", 0, "max_elements: 0"),
    (f"{ENV}.min_atoms", 90, "min_atoms: 90 is larger than max_atoms"),
    (f"{ENV}.max_atoms_per_element", -1, "max_atoms_per_element: -1"),
    (f"{ENV}.lengths", [10.0, 1.0], "lengths: [10.0, 1.0]"),
    (f"{ENV}.angles", [50.0, 190.0], "angles: [50.0, 190.0]"),
    (f"{ENV}", {"lengths": [1.0, 1.5], "volume_per_atom": [10.0, 20.0]}, "no crystal satisfies the constraints"),
    (f"{ENV}.volume_per_atom", [0.0, 10.0], "volume_per_atom: [0.0, 10.0]"),
    (f"{ENV}.oxidation_states", "unknown", "'unknown' is not allowed; allowed: pymatgen_common, pymatgen_icsd"),
    (f"{ENV}.angle_margin", 0.0, "angle_margin: 0.0"),
    (f"{ENV}.components", 0, "components: 0"),
    (f"{ENV}.max_atom", 7, "max_atom"),
    ("model.env.class_path", "Crystel", "no class is called 'Crystel'"),
    ("model.proxy.class_path", "Denssity", "no class is called 'Denssity'"),
    ("model.proxy", None, "proxy"),
    ("model.reward.init_args.floor", 0.0, "floor: 0.0"),
    ("model.reward.init_args.beta", "cold", "beta"),
    ("model.policy.init_args.hidden", [0], "hidden: [0]"),
    ("model.batch_size", 0, "batch_size: 0"),
    ("model.batch_size", "many", "batch_size"),
    ("model.lr", -1.0, "lr: -1.0"),
    ("model.epsilon", 1.5, "epsilon: 1.5"),
    ("model.exploration_steps", -1, "exploration_steps: -1"),
    ("model.temperature", 0, "temperature: 0"),
    ("model.bacth_size", 8, "bacth_size"),
    ("data.num_samples", 0, "num_samples: 0"),
    ("trainer.accelerator", "abacus", "abacus"),
    ("threads", 0, "threads: 0"),
]


@pytest.mark.parametrize(("path", "value", "message"), BAD_SETTINGS, ids=[f"{p}={v}" for p, v, _ in BAD_SETTINGS])
def test_bad_setting(path, value, message, tmp_path, capfd):
    config = changed(small_config(tmp_path), path, value)
    refused(["fit", "--config", str(write_config(tmp_path, config))], message, capfd)
    assert not (tmp_path / "small").exists()


def refused(args, message, capfd):
    status = main(args)
    text = capfd.readouterr().err
    assert status not in (0, None)
    assert message in text
    assert "Traceback" not in text


BAD_COMMANDS = {
    "no command": ([], ""),
    "unknown command": (["fti"], "unknown command 'fti'"),
    "no settings": (["fit"], "model"),
    "missing config": (["fit", "--config", "absent.yaml"], "absent.yaml"),
    "config is no YAML": (["fit", "--config", "{directory}/broken.yaml"], "broken.yaml"),
    "config is a list": (["fit", "--config", "{directory}/list.yaml"], "list.yaml"),
    "unknown option": (["predict", "--ckpt_path", "{checkpoint}", "--data.nun_samples", "3"], "nun_samples"),
    "missing checkpoint": (["predict", "--ckpt_path", "absent.ckpt"], "ckpt_path: there is no file absent.ckpt"),
    "checkpoint is text": (["predict", "--ckpt_path", "{directory}/text.ckpt"], "ckpt_path: "),
    "checkpoint is cut off": (["predict", "--ckpt_path", "{directory}/half.ckpt"], "ckpt_path: "),
    "checkpoint of another program": (["predict", "--ckpt_path", "{directory}/other.ckpt"], "not a checkpoint that"),
    "checkpoint with an object": (["predict", "--ckpt_path", "{directory}/object.ckpt"], "not loaded for safety"),
    "no checkpoint in a directory": (
        ["predict", "--ckpt_path", "{directory}/empty"],
        "no complete checkpoint in the folder",
    ),
    "no checkpoint": (["predict"], "model"),
    "output below a file": (["predict", "--ckpt_path", "{checkpoint}", "--data.out", "{checkpoint}/a.csv"], "a.csv"),
    "output is a directory": (["predict", "--ckpt_path", "{checkpoint}", "--data.out", "{directory}"], "{directory}"),
    "output of unknown kind": (["predict", "--ckpt_path", "{checkpoint}", "--data.out", "a.docx"], "docx"),
    "negative number": (["predict", "--ckpt_path", "{checkpoint}", "--data.num_samples", "-1"], "num_samples: -1"),
    "list with an argument": (["list", "everything"], "everything"),
}


@pytest.fixture(scope="module")
def places(run):
    """Paths to put into the arguments, and damaged files at them."""
    (run / "broken.yaml").write_text("model: [1, 2\n")
    (run / "list.yaml").write_text("- 1\n- 2\n")
    (run / "empty").mkdir()
    (run / "text.ckpt").write_text("not a checkpoint")
    whole = checkpoint_of(run).read_bytes()
    (run / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    torch.save({"state_dict": {}}, run / "other.ckpt")
    torch.save({"crystalgfn": Exploit()}, run / "object.ckpt")
    return {"directory": str(run), "checkpoint": str(checkpoint_of(run))}


class Exploit:
    """Unpickled, it would end the process."""

    def __reduce__(self):
        return os._exit, (3,)


@pytest.mark.parametrize(("args", "message"), BAD_COMMANDS.values(), ids=BAD_COMMANDS)
def test_bad_command(args, message, places, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    refused([argument.format(**places) for argument in args], message.format(**places), capfd)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable to root")
def test_unwritable_directory(places, tmp_path, capfd):
    tmp_path.chmod(0o500)
    refused(["predict", "--ckpt_path", places["checkpoint"], "--data.out", str(tmp_path / "a.csv")], "a.csv", capfd)


def test_debug_shows_the_traceback(tmp_path):
    config = changed(small_config(tmp_path), f"{ENV}.space_groups", [231])
    with pytest.raises(ValueError, match="231"):
        main(["fit", "--config", str(write_config(tmp_path, config)), "--debug"])
