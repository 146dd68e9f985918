"""The same config and seed give the same model and the same samples, whatever else is asked for."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from forked import assert_same
from small import checkpoint_of, small_config, write_config

from crystalgfn.cli import main
from crystalgfn.gflownet.data import TICKET_SIZE, Tickets
from crystalgfn.runs import load
from crystalgfn.testing.generators import assert_untouched, global_generators

REPLAY = {"class_path": "ReplayBuffer", "init_args": {"capacity": 20, "batch_size": 4, "draw": "loss"}}
CALLBACKS = [
    {"class_path": "crystalgfn.callbacks.LogUniqueness", "init_args": {"every_n_steps": 1}},
    {"class_path": "crystalgfn.callbacks.LogHistograms", "init_args": {"every_n_steps": 2}},
    {"class_path": "crystalgfn.callbacks.LogTopK", "init_args": {"every_n_steps": 1}},
    {"class_path": "crystalgfn.callbacks.LogFigures"},
]


def config(folder, **trainer):
    folder.mkdir(exist_ok=True)
    made = small_config(folder)
    made["model"] |= {"epsilon": 0.2, "exploration_steps": 4, "replay": REPLAY}
    made["trainer"] |= {"max_steps": 4, **trainer}
    return made


def learned(checkpoint):
    """What a run has learned, and where its stream stands."""
    content = torch.load(checkpoint, weights_only=True)
    return {name: content[name] for name in ("state_dict", "optimizer_states", "generator_states")}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run without frills."""
    folder = tmp_path_factory.mktemp("plain")
    assert main(["fit", "--config", str(write_config(folder, config(folder)))]) == 0
    return checkpoint_of(folder)


WAYS = {
    "with progress bars": (["--trainer.enable_progress_bar", "true", "--trainer.enable_model_summary", "true"], {}),
    "logged and validated often": (
        ["--trainer.log_every_n_steps", "1", "--trainer.val_check_interval", "1", "--data.num_val_samples", "30"],
        {"callbacks": [*small_config(None)["trainer"]["callbacks"], *CALLBACKS]},
    ),
    "saved in every step": (
        [],
        {"callbacks": [{"class_path": "crystalgfn.callbacks.Checkpoints", "init_args": {"every_n_steps": 1}}]},
    ),
    "with a seed for others": (["--seed_everything", "7"], {}),
}


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
def test_training_depends_on_config_and_seed_alone(way, plain, tmp_path):
    options, trainer = WAYS[way]
    path = write_config(tmp_path, config(tmp_path, **trainer))
    torch.manual_seed(1234)
    assert main(["fit", "--config", str(path), *options]) == 0
    assert_same(learned(checkpoint_of(tmp_path)), learned(plain))


def test_training_without_logs(plain, tmp_path):
    path = write_config(tmp_path, config(tmp_path))
    options = ["--trainer.logger", "false", "--trainer.default_root_dir", str(tmp_path)]
    assert main(["fit", "--config", str(path), *options]) == 0
    assert_same(learned(tmp_path / "checkpoints" / "last.ckpt"), learned(plain))


def test_another_seed_gives_another_model(plain, tmp_path):
    path = write_config(tmp_path, config(tmp_path))
    assert main(["fit", "--config", str(path), "--model.seed", "1"]) == 0
    one, other = learned(checkpoint_of(tmp_path))["state_dict"], learned(plain)["state_dict"]
    assert not torch.equal(one["log_z"], other["log_z"])


@pytest.mark.long
def test_another_process_with_other_hashes(plain, tmp_path):
    """Nothing depends on the order of sets of names, which changes from process to process."""
    path = write_config(tmp_path, config(tmp_path))
    command = [sys.executable, "-m", "crystalgfn", "fit", "--config", str(path)]
    environment = os.environ | {"PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, capture_output=True)
    assert_same(learned(checkpoint_of(tmp_path)), learned(plain))


def test_sampling_draws_from_no_global_generator(plain):
    before = global_generators()
    with torch.no_grad():
        load(plain).module.predict_step(Tickets(10, 0, "predict")[0], 0)
    assert_untouched(before, "predict")


def test_samples_depend_on_the_seed_alone(plain, tmp_path):
    """Tickets may be served in any order, by anyone, and after anything else."""
    out = tmp_path / "samples.csv"
    n = TICKET_SIZE + 20
    options = ["--data.num_samples", str(n), "--data.seed", "5", "--data.out", str(out)]
    np.random.seed(3)  # noqa: NPY002 - it must not matter
    assert main(["predict", "--ckpt_path", str(plain), *options, "--trainer.enable_progress_bar", "true"]) == 0
    table = pd.read_csv(out)
    model, tickets = load(plain).module, Tickets(n, 5, "predict")
    with torch.no_grad():
        parts = [model.predict_step(tickets[index], 0) for index in (1, 0, 1)]
    assert torch.equal(parts[0]["states"], parts[2]["states"])
    states = torch.cat([parts[1]["states"], parts[0]["states"]])
    log_reward = torch.cat([parts[1]["log_reward"], parts[0]["log_reward"]])
    frame = model.env.to_frame(states)
    assert list(table.formula) == list(frame.formula)
    assert np.array_equal(
        table[["a", "b", "c", "alpha", "beta", "gamma"]], frame[["a", "b", "c", "alpha", "beta", "gamma"]]
    )
    assert np.array_equal(table.log_reward, log_reward)
