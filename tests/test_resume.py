"""A run that is continued from its checkpoint is the run that was never stopped, bit for bit."""

import pytest
import torch
from small import checkpoint_of, small_config, write_config

from crystalgfn.cli import main


def fit(directory, *options):
    directory.mkdir()
    config = small_config(directory)
    config["trainer"]["callbacks"] += [
        {"class_path": "crystalgfn.callbacks.LogUniqueness"},
        {"class_path": "crystalgfn.callbacks.LogCoverage"},
    ]
    assert main(["fit", "--config", str(write_config(directory, config)), *map(str, options)]) == 0
    return checkpoint_of(directory)


def load(path):
    return torch.load(path, weights_only=True)


def assert_same(one, other, where="checkpoint"):
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}[{index}]")
    else:
        assert one == other, where


@pytest.mark.parametrize("replay", [False, True], ids=["on-policy", "replay"])
def test_resume_is_exact(replay, tmp_path):
    options = ["--model.epsilon", "0.1"]
    if replay:
        options += ["--model.replay_capacity", "20", "--model.replay_batch_size", "4"]
    # The cosine of the learning rates spans max_steps, so both halves know the whole.
    whole = load(fit(tmp_path / "whole", "--trainer.max_steps", 6, *options))
    # `limit_train_batches` would end an epoch; a callback that stops at step 3 leaves the schedule alone.
    first = fit(tmp_path / "first", "--trainer.max_steps", 6, "--trainer.callbacks+", "stop.StopAt", *options)
    assert load(first)["global_step"] == 3
    second = load(fit(tmp_path / "second", "--trainer.max_steps", 6, "--ckpt_path", first, *options))
    assert second["global_step"] == 6
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "generator_states"):
        assert_same(whole[key], second[key], key)
