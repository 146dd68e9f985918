"""Training that starts with the networks of another run, and compact checkpoints that are sampled from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from pytorch_lightning import Callback
from small import checkpoint_of, small_config, write_config

from crystalgfn.cli import main
from crystalgfn.errors import InputError
from crystalgfn.gflownet.checkpoint_files import write_compact
from crystalgfn.runs import load, run
from crystalgfn.settings import read_config


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Runs without a logger leave their settings where they are started."""
    monkeypatch.chdir(tmp_path)


class First(Callback):
    """Keeps the weights that training starts with."""

    def on_train_start(self, trainer, pl_module):
        self.state = {name: value.clone() for name, value in pl_module.state_dict().items()}
        self.optimizer = len(trainer.optimizers[0].state)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Checkpoint of a finished run of three steps."""
    folder = tmp_path_factory.mktemp("first")
    assert main(["fit", "--config", str(write_config(folder, small_config(folder)))]) == 0
    return checkpoint_of(folder)


def start(folder: Path, source: Path, *options: object, **model: object) -> First:
    config, callback = small_config(folder), First()
    config["model"] |= {"start_from": str(source), **model}
    run("fit", read_config(write_config(folder, config)), callbacks=[callback], flags=[*map(str, options)])
    return callback


def test_networks_are_taken_over_and_nothing_else(first, tmp_path):
    # Another seed, and another reward: log Z and the optimizer know nothing.
    began = start(tmp_path, first, seed=5, reward={"class_path": "Boltzmann", "init_args": {"beta": 1.0}})
    given = torch.load(first, weights_only=True)["state_dict"]
    networks = [name for name in given if name.startswith("policy.")]
    assert networks and all(torch.equal(began.state[name], given[name]) for name in networks)
    assert given["log_z"] != 0 and began.state["log_z"] == 0 and began.optimizer == 0


def test_start_is_needed_once(first, tmp_path, capfd):
    source = tmp_path / "source.ckpt"
    shutil.copy(first, source)
    start(tmp_path, source)
    source.unlink()
    own = checkpoint_of(tmp_path)
    # Going on, and sampling, ask for the run's own weights alone.
    again = First()
    run("fit", {"trainer": {"max_steps": 4}}, own, [again])
    given = torch.load(own, weights_only=True)["state_dict"]
    assert all(torch.equal(again.state[name], given[name]) for name in given if name.startswith(("policy.", "log_z")))
    out = tmp_path / "samples.csv"
    assert main(["predict", "--ckpt_path", str(own), "--data.num_samples", "3", "--data.out", str(out)]) == 0
    assert len(pd.read_csv(out)) == 3
    assert load(own).module.start_from == str(source)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ("absent", "model.start_from: there is no file"),
        ("damaged", "is damaged, is not a checkpoint"),
        ("other", "do not fit: policy."),
        ("nan", "are not finite"),
    ],
)
def test_start_that_cannot_be_used(problem, message, first, tmp_path, capfd):
    source, model = tmp_path / "source.ckpt", {}
    if problem == "damaged":
        source.write_text("no checkpoint")
    elif problem != "absent":
        shutil.copy(first, source)
    if problem == "other":
        model = {"policy": {"class_path": "MLP", "init_args": {"hidden": [8]}}}
    if problem == "nan":
        content = torch.load(first, weights_only=True)
        name = next(name for name in content["state_dict"] if name.startswith("policy."))
        content["state_dict"][name] *= float("nan")
        torch.save(content, source)
    config = small_config(tmp_path)
    config["model"] |= {"start_from": str(source), **model}
    assert main(["fit", "--config", str(write_config(tmp_path, config)), "--trainer.logger", "false"]) == 2
    text = capfd.readouterr().err
    assert message in text and str(source) in text and "model.start_from" in text and "Traceback" not in text
    assert not list(tmp_path.rglob("last.ckpt"))


@pytest.fixture(scope="module")
def compact(first):
    """A compact checkpoint, in another folder than the run's."""
    out = first.parents[3] / "compact" / "small.ckpt"
    out.parent.mkdir()
    write_compact(first, out, [{"class_path": "Density"}])
    return out


def test_compact_has_what_sampling_needs(first, compact):
    content, whole = torch.load(compact, weights_only=True), torch.load(first, weights_only=True)
    assert compact.stat().st_size < first.stat().st_size / 2
    assert set(content) == {
        "epoch", "global_step", "pytorch-lightning_version", "crystalgfn", "state_dict", "compact",
    }  # fmt: skip
    assert content["state_dict"].keys() == whole["state_dict"].keys()
    weights = {name: value for name, value in content["state_dict"].items() if name.startswith("policy.")}
    assert all(value.dtype == torch.float16 for value in weights.values())
    # The weights themselves are a third: each has two moments in the optimizer.
    assert sum(v.nbytes for v in weights.values()) * 2 == sum(whole["state_dict"][name].nbytes for name in weights)
    settings = yaml.safe_load(content["crystalgfn"]["config"])
    assert "trainer" not in settings and settings["model"]["start_from"] is None


def test_compact_is_the_same_model(first, compact, tmp_path):
    samples, log_p = tmp_path / "samples.csv", []
    assert main(["predict", "--ckpt_path", str(first), "--data.num_samples", "40", "--data.out", str(samples)]) == 0
    pd.read_csv(samples).drop(columns=["log_reward", "log_pf"]).to_csv(samples, index=False)
    for number, checkpoint in enumerate((first, compact)):
        out = tmp_path / f"{number}.csv"
        assert main(["likelihood", "--ckpt_path", str(checkpoint), str(samples), "--out", str(out)]) == 0
        log_p.append(torch.tensor(pd.read_csv(out)["log_p"].to_numpy()))
    # Eleven bits of each weight: what is summed over a dozen decisions is off by some thousandths.
    assert 0 < (log_p[0] - log_p[1]).abs().max() < 0.05
    assert main(["validate", "--ckpt_path", str(compact)]) == 0
    assert load(compact).module.policy is not None


def test_compact_is_not_trained_on(compact, tmp_path, capfd):
    assert main(["fit", "--ckpt_path", str(compact)]) == 2
    text = capfd.readouterr().err
    assert f"ckpt_path: {compact} is for sampling only; to train from its networks use --model.start_from" in text
    # But its networks can be started with.
    began = start(tmp_path, compact)
    given = torch.load(compact, weights_only=True)["state_dict"]
    assert all(torch.equal(began.state[name], given[name].float()) for name in given if name.startswith("policy."))


def test_compact_of_no_checkpoint(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        write_compact(tmp_path / "absent.ckpt", tmp_path / "out.ckpt", [])
    assert not (tmp_path / "out.ckpt").exists()
