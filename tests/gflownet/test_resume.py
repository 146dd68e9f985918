"""A run that is continued from its checkpoint is the run that was never stopped, bit for bit."""

import pytest
import torch
from forked import assert_same
from small import checkpoint_of, small_config, write_config

from crystalgfn.cli import main


def fit(directory, *options, model):
    directory.mkdir()
    config = small_config(directory)
    config["model"] |= model
    config["trainer"]["callbacks"] += [
        {"class_path": "crystalgfn.callbacks.LogUniqueness"},
        {"class_path": "crystalgfn.callbacks.LogCoverage"},
    ]
    assert main(["fit", "--config", str(write_config(directory, config)), *map(str, options)]) == 0
    return checkpoint_of(directory)


def load(path):
    return torch.load(path, weights_only=True)


REPLAY = {"class_path": "ReplayBuffer", "init_args": {"capacity": 20, "batch_size": 4, "draw": "loss", "max_alike": 2}}

RUNS = {
    "on-policy": {},
    "replay": {"replay": REPLAY},
    "newest": {"replay": REPLAY | {"init_args": {"capacity": 20, "batch_size": 4, "keep": "newest", "draw": "reward"}}},
    "state flows": {"replay": REPLAY, "loss": {"class_path": "SubTrajectoryBalance", "init_args": {"lamda": 0.9}}},
    "variance": {"loss": {"class_path": "LogPartitionVariance"}, "temperature": 2.0, "exploration_steps": 6},
}


@pytest.mark.long
@pytest.mark.parametrize("name", RUNS)
def test_resume_is_exact(name, tmp_path):
    options = ["--model.epsilon", "0.1"]
    # The cosine of the learning rates spans max_steps, so both halves know the whole.
    whole = load(fit(tmp_path / "whole", "--trainer.max_steps", 6, *options, model=RUNS[name]))
    # `limit_train_batches` would end an epoch; a callback that stops at step 3 leaves the schedule alone.
    stop = ["--trainer.callbacks+", "stop.StopAt"]
    first = fit(tmp_path / "first", "--trainer.max_steps", 6, *stop, *options, model=RUNS[name])
    assert load(first)["global_step"] == 3
    second = fit(tmp_path / "second", "--trainer.max_steps", 6, "--ckpt_path", first, *options, model=RUNS[name])
    assert load(second)["global_step"] == 6
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "generator_states"):
        assert_same(whole[key], load(second)[key], key)
