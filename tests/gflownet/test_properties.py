"""Several properties at once, and proxies that go wrong, through the command line."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small import checkpoint_of, small_config, write_config
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from crystalgfn.cli import main

CALLBACKS = ["LogUniqueness", "LogHistograms", "LogTopK", "LogFigures"]
REWARDS = {
    "density": {"class_path": "Boltzmann", "init_args": {"beta": -0.5}},
    "first_length": {"class_path": "Target", "init_args": {"target": 5.0, "beta": 0.2, "caution": 1.0}},
}


def config_with(folder: Path, proxies, reward=None, **model) -> dict:
    config = small_config(folder)
    config["model"] |= {"proxy": proxies, **model}
    if reward is not None:
        config["model"]["reward"] = reward
    return config


def sometimes(**settings) -> dict:
    return {"class_path": "bad_proxies.Sometimes", "init_args": settings}


def fit(folder: Path, config: dict, *options) -> int:
    folder.mkdir(exist_ok=True)
    return main(["fit", "--config", str(write_config(folder, config)), *map(str, options)])


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A trained model with three properties, two of them rewarded."""
    folder = tmp_path_factory.mktemp("several")
    proxies = [{"class_path": "Density"}, {"class_path": "bad_proxies.FirstLength"}, sometimes(instead=1.0)]
    product = {"class_path": "Product", "init_args": {"rewards": REWARDS, "weights": {"first_length": 2.0}}}
    config = config_with(folder, proxies, product)
    for name in CALLBACKS:
        init = {} if name == "LogFigures" else {"every_n_steps": 3}
        config["trainer"]["callbacks"].append({"class_path": f"crystalgfn.callbacks.{name}", "init_args": init})
    config["trainer"] |= {"val_check_interval": 3, "log_every_n_steps": 1}
    assert fit(folder, config) == 0
    return folder


def test_each_property_has_its_column(run, tmp_path):
    out = tmp_path / "samples.csv"
    assert main(["predict", "--ckpt_path", str(checkpoint_of(run)), "--trust-checkpoint", "--data.out", str(out)]) == 0
    frame = pd.read_csv(out)
    columns = ["density", "first_length", "first_length_uncertainty", "second_length", "log_reward", "log_pf"]
    assert list(frame.columns[-6:]) == columns
    assert np.array_equal(frame.first_length, frame.a)
    assert np.array_equal(frame.first_length_uncertainty, frame.a / 10)
    log_reward = 0.5 * frame.density - 2 * 0.2 * ((frame.a - 5).abs() + frame.a / 10) ** 2
    assert frame.log_reward.to_numpy() == pytest.approx(log_reward.clip(np.log(1e-8)).to_numpy())


def test_each_property_is_logged(run):
    log = EventAccumulator(str(run / "small" / "version_0"), size_guidance={"tensors": 0, "images": 0}).Reload()
    scalars, images = set(log.Tags()["scalars"]), set(log.Tags()["images"])
    for name in ("density", "first_length", "first_length_uncertainty", "second_length"):
        assert {f"train/{name}_mean", f"val/{name}_mean", f"top_k/{name}_mean"} <= scalars
        assert f"histograms/{name}" in log.Tags()["histograms"]
    assert {f"train/log_reward_of_{name}_mean" for name in REWARDS} <= scalars
    assert {f"val/figures/{name}" for name in ("density", "first_length", "second_length")} <= images
    table = [e.tensor_proto.string_val[0].decode() for e in log.Tensors("top_k/table/text_summary")][-1]
    assert "first_length [Å] | first_length_uncertainty [Å] | second_length | log R" in table.splitlines()[0]


BAD_CHOICES = {
    "no proxy": ([], None, "proxy: is missing; the reward Boltzmann needs a property"),
    "a property twice": ([{"class_path": "Density"}] * 2, None, "two of the proxies predict 'density'"),
    "one reward for two": (
        [{"class_path": "Density"}, {"class_path": "bad_proxies.FirstLength"}],
        None,
        "use the reward Product",
    ),
    "reward of no property": (
        [{"class_path": "Density"}],
        {"class_path": "Product", "init_args": {"rewards": REWARDS}},
        "no proxy predicts 'first_length'; predicted: density",
    ),
    "caution without uncertainty": (
        {"class_path": "Density"},
        {"class_path": "Boltzmann", "init_args": {"beta": 1.0, "caution": 1.0}},
        "the proxy Density has no uncertainty",
    ),
    "unknown proxy in a list": ([{"class_path": "Densty"}], None, "no class is called 'Densty'"),
    "unknown reward in a product": (
        [{"class_path": "Density"}],
        {"class_path": "Product", "init_args": {"rewards": {"density": {"class_path": "Cold"}}}},
        "no class is called 'Cold'",
    ),
    "no such weights": (
        {"class_path": "FormationEnergy", "init_args": {"weights": "absent.pt"}},
        None,
        "crystalgfn fit: error: absent.pt: no such file of weights",
    ),
    "no such weights in a list": (
        [{"class_path": "Density"}, {"class_path": "FormationEnergy", "init_args": {"weights": "absent.pt"}}],
        None,
        "crystalgfn fit: error: absent.pt: no such file of weights",
    ),
    "unknown way with bad values": (sometimes(), None, "on_bad_value"),
}


@pytest.mark.parametrize(("proxies", "reward", "message"), BAD_CHOICES.values(), ids=BAD_CHOICES)
def test_bad_choices(proxies, reward, message, tmp_path, capfd):
    model = {"on_bad_value": "ignore"} if message == "on_bad_value" else {}
    assert fit(tmp_path, config_with(tmp_path, proxies, reward, **model)) == 2
    text = capfd.readouterr().err
    assert message in text and "Traceback" not in text
    assert not (tmp_path / "small").exists()


BAD_PROXIES = {
    "nan": (sometimes(), "proxy Sometimes: second_length is nan for"),
    "inf": (sometimes(instead=float("inf")), "proxy Sometimes: second_length is inf for"),
    "shape": (sometimes(problem="shape"), "returned shape (8, 1) for 8 objects; it must be (8,)"),
    "whole numbers": (sometimes(problem="dtype"), "returned torch.int64; it must be floating point"),
    "list": (sometimes(problem="type"), "returned list; it must be a tensor of shape (8,)"),
    "no uncertainty": ({"class_path": "bad_proxies.Doubtful"}, "uncertainty of proxy Doubtful: returned NoneType"),
    "uncertainty below 0": (
        {"class_path": "bad_proxies.Doubtful", "init_args": {"below_zero": True}},
        "the uncertainty of doubtful is -",
    ),
}


@pytest.mark.parametrize(("proxy", "message"), BAD_PROXIES.values(), ids=BAD_PROXIES)
def test_a_bad_proxy_is_named(proxy, message, tmp_path, capfd):
    assert fit(tmp_path, config_with(tmp_path, proxy)) == 2
    text = capfd.readouterr().err
    assert message in text and "Traceback" not in text
    if "nan" in message:
        assert "Li" in text and "on_bad_value" in text  # the crystal, and the way out


@pytest.mark.parametrize("problem", ["", "raise"])
def test_a_failing_step_costs_no_step(problem, tmp_path, capfd):
    """The proxy fails in the fifth of seven steps: the run goes on from the fourth as if nothing had happened."""
    steps = ["--trainer.max_steps", "7"]
    whole = tmp_path / "whole"
    assert fit(whole, config_with(whole, sometimes(start=99)), *steps) == 0
    broken = tmp_path / "broken"
    assert fit(broken, config_with(broken, sometimes(start=4, problem=problem)), *steps) != 0
    assert ("the sun shines" if problem else "is nan for") in capfd.readouterr().err
    checkpoint = torch.load(checkpoint_of(broken), weights_only=True)
    assert checkpoint["global_step"] == 4
    mended = tmp_path / "mended"
    options = [*steps, "--ckpt_path", checkpoint_of(broken)]
    assert fit(mended, config_with(mended, sometimes(start=99)), *options) == 0
    first, second = (torch.load(checkpoint_of(folder), weights_only=True) for folder in (whole, mended))
    assert first["global_step"] == second["global_step"] == 7
    for name, value in first["state_dict"].items():
        assert torch.equal(value, second["state_dict"][name]), name
    assert torch.equal(first["generator_states"][0], second["generator_states"][0])


@pytest.mark.parametrize(
    "replay",
    [{}, {"replay": {"class_path": "ReplayBuffer", "init_args": {"capacity": 20, "batch_size": 4}}}],
    ids=["on-policy", "replay"],
)
def test_bad_values_are_skipped_and_counted(replay, tmp_path):
    config = config_with(tmp_path, sometimes(), on_bad_value="skip", **replay)
    config["model"]["env"]["init_args"]["elements"] = ["Li", "Na", "O"]
    config["trainer"]["callbacks"].append({"class_path": "crystalgfn.callbacks.LogHistograms"})
    config["trainer"] |= {"val_check_interval": 3, "log_every_n_steps": 1, "max_steps": 6}
    assert fit(tmp_path, config) == 0
    log = EventAccumulator(str(tmp_path / "small" / "version_0")).Reload()
    skipped = [event.value for event in log.Scalars("train/skipped")]
    assert skipped == sorted(skipped) and skipped[-1] > 0
    assert torch.load(checkpoint_of(tmp_path), weights_only=True)["state_dict"]["skipped"] == skipped[-1]
    assert all(np.isfinite(event.value) for event in log.Scalars("train/loss"))
    assert np.isfinite(log.Scalars("val/second_length_mean")[0].value)
    out = tmp_path / "samples.csv"
    options = ["--data.out", str(out), "--data.num_samples", "200"]
    assert main(["predict", "--ckpt_path", str(checkpoint_of(tmp_path)), "--trust-checkpoint", *options]) == 0
    frame = pd.read_csv(out)
    with_lithium = frame.formula.str.contains("Li").to_numpy()
    assert len(frame) == 200 and 0 < with_lithium.sum() < 200
    assert np.array_equal(frame.second_length.isna(), with_lithium)
    assert np.array_equal(frame.log_reward.isna(), with_lithium)


def test_a_proxy_that_never_works_stops_the_run_that_skips(tmp_path, capfd):
    config = config_with(tmp_path, sometimes(), on_bad_value="skip")
    config["model"]["env"]["init_args"] |= {"elements": ["Li", "O"], "space_groups": [225]}
    assert fit(tmp_path, config) == 2
    assert "on_bad_value: skip leaves nothing to train on" in capfd.readouterr().err
