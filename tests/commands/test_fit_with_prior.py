"""A run with a prior, from the command line: its table, its checkpoint alone, and messages."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import torch
from forked import assert_same
from small import THREE_CRYSTALS, checkpoint_of, small_config, write_config

from crystalgfn.cli import main
from crystalgfn.errors import InputError
from crystalgfn.gflownet.module import GFlowNet
from crystalgfn.runs import load

WIDE = {"elements": ["H", "Li", "C", "O", "F"], "space_groups": [1, 2, "221-225"], "max_elements": 3}


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    """Checkpoint of a run in a larger space; any policy can be a prior."""
    folder = tmp_path_factory.mktemp("prior")
    config = small_config(folder, **WIDE)
    config["model"]["lr"] = 0.05  # far from uniform after three steps
    assert main(["fit", "--config", str(write_config(folder, config))]) == 0
    return checkpoint_of(folder)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def fit(folder, prior, *options, **settings):
    config = small_config(folder)
    config["model"] |= {
        "prior": {"class_path": "Prior", "init_args": {"checkpoint": str(prior), "temperature": 2.0, "uniform": 0.05}},
        "start_from": str(prior),
        **settings,
    }
    return main(["fit", "--config", str(write_config(folder, config)), *map(str, options)])


def test_the_table_has_log_prior_and_the_checkpoint_is_enough(prior, tmp_path, capfd):
    source = tmp_path / "prior.ckpt"
    source.write_bytes(prior.read_bytes())
    assert fit(tmp_path, source) == 0
    source.unlink()
    run = str(tmp_path / "small")
    assert main(["predict", "--ckpt_path", run, "--data.num_samples", "40", "--data.out", "s.csv"]) == 0
    samples = pd.read_csv("s.csv")
    assert list(samples.columns[-4:]) == ["density", "log_reward", "log_prior", "log_pf"]
    expected = 0.5 * samples["density"] + samples["log_prior"] / 2
    assert (samples["log_reward"] - expected).abs().max() < 1e-9
    # The prior is the policy of the larger run, restricted to this space, with some uniform decisions.
    model = load(run)
    found = model.sample(40)
    assert found.log_prior.tolist() == pytest.approx(samples["log_prior"].tolist(), abs=1e-9)
    alone = GFlowNet.load_from_checkpoint(prior)
    within = alone.env.restricted(
        {"elements": ["Li", "O", "F"], "space_groups": [2, "221-225"], "max_elements": 2, "charge_neutral": True}
    )
    states, problems = within.states_of(found.crystals)
    assert not any(problems)
    own = model.module.prior
    own.uniform = 0.0
    from crystalgfn.gflownet.likelihood import log_likelihood
    from crystalgfn.random import generator

    exact = log_likelihood(within, alone.policy, states, generator("x")).log_p
    torch.testing.assert_close(model.module.log_priors(found.outputs["states"]), exact, rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match=r"model\.prior: this model has no prior"):
        load(prior).sample(2).log_prior  # noqa: B018 - the property raises
    # log p_prior of known crystals.
    table = pd.DataFrame(THREE_CRYSTALS).assign(formula=["Li4 F4", "Li2", "Li4 O2"])
    table.iloc[:1].to_csv("known.csv", index=False)
    assert main(["likelihood", "known.csv", "--ckpt_path", run, "--out", "l.csv"]) == 0
    row, metrics = pd.read_csv("l.csv").iloc[0], json.loads((tmp_path / "l.json").read_text())
    density = model.module.proxies.members[0](model.module.env.read_table("known.csv").objects).item()
    assert row["log_reward"] == pytest.approx(0.5 * density + row["log_prior"] / 2)
    assert metrics["surprisal"]["policy"]["bits"] == pytest.approx(-row["log_p"] / torch.log(torch.tensor(2.0)).item())
    assert metrics["surprisal"]["uniform"]["bits_of_space_group"] > 0


@pytest.mark.long
def test_a_run_with_a_prior_continues_bit_for_bit(prior, tmp_path):
    first = ["--trainer.callbacks+", "stop.StopAt"]
    steps = ["--trainer.max_steps", "6"]
    for options in ([], first, ["--ckpt_path", checkpoint_of(tmp_path, version=1)]):
        assert fit(tmp_path, prior, *steps, *options) == 0
    whole, half, second = (torch.load(checkpoint_of(tmp_path, version=i), weights_only=True) for i in range(3))
    assert half["global_step"] == 3
    for key in ("state_dict", "optimizer_states", "generator_states"):
        assert_same(whole[key], second[key], key)


def test_a_changed_prior_is_not_that_of_the_checkpoint(prior, tmp_path):
    assert fit(tmp_path, prior) == 0
    own = checkpoint_of(tmp_path)
    before = load(own).module
    other = tmp_path / "other.ckpt"
    content = torch.load(prior, weights_only=True)
    content["state_dict"] = {name: 0 * value for name, value in content["state_dict"].items()}
    torch.save(content, other)
    after = GFlowNet.load_from_checkpoint(
        own, prior={"class_path": "Prior", "init_args": {"checkpoint": str(other), "uniform": 0.0}}
    )
    states = before.sample(20, torch.Generator().manual_seed(0))["states"]
    assert not torch.allclose(before.log_priors(states), after.log_priors(states), atol=0.1)
    # Arguments that the change does not name stay.
    assert after.prior.temperature == 2.0
    assert torch.equal(before.policy.heads["a"][0].weight, after.policy.heads["a"][0].weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy": {"class_path": "MLP", "init_args": {"hidden": [8]}}}, "model.prior.checkpoint: the networks in"),
        (
            {"policy": {"class_path": "EmbeddingMLP", "init_args": {"hidden": [16]}}},
            "model.prior.checkpoint: the networks",
        ),
        (
            {"env": {"class_path": "Crystal", "init_args": {"space_groups": [3], "elements": ["Li", "F"]}}},
            "'space group 3'",
        ),
    ],
)
def test_a_prior_that_does_not_fit(prior, tmp_path, capfd, change, message):
    assert fit(tmp_path, prior, **change) == 2
    text = capfd.readouterr().err
    assert message in text and str(prior) in text and "Traceback" not in text


def test_a_prior_that_is_missing(tmp_path, capfd):
    assert fit(tmp_path, tmp_path / "absent.ckpt", start_from=None) == 2
    assert "model.prior.checkpoint: there is no file" in capfd.readouterr().err


def test_a_table_that_is_missing(capfd):
    assert main(["fit", "--config", "prior.yaml"]) == 2
    text = capfd.readouterr().err
    assert "model.data_set.table: is missing; set it in the config, or with --model.data_set.table" in text
