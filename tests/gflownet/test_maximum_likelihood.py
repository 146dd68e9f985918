"""Maximum likelihood: the policy samples like the objects of a table, and validations say how well."""

from __future__ import annotations

import math
from functools import partial

import pandas as pd
import pytest
import torch
from exact import sampling_floor, terminating_distribution, total_variation
from forked import assert_same
from small import THREE_CRYSTALS, checkpoint_of, small_config, write_config
from trained import train

from crystalgfn.cli import main
from crystalgfn.errors import InputError
from crystalgfn.gflownet.data_set import DataSet
from crystalgfn.gflownet.envs import Sequence, Set
from crystalgfn.gflownet.likelihood import log_likelihood, surprisal
from crystalgfn.gflownet.losses import MaximumLikelihood
from crystalgfn.gflownet.module import GFlowNet
from crystalgfn.gflownet.policies import MLP, EmbeddingMLP
from crystalgfn.random import generator


def table_of(env, probabilities, folder, rows=4000) -> tuple[DataSet, torch.Tensor]:
    """A data set drawn from a distribution over all objects, and the share of each object in it."""
    drawn = torch.multinomial(probabilities, rows, True, generator=generator("table"))
    path = folder / "known.csv"
    env.to_frame(env.enumerate()[drawn]).to_csv(path, index=False)
    return DataSet(path, 256), drawn.bincount(minlength=len(probabilities)) / rows


@pytest.mark.parametrize("grow", ["append", "both"])
def test_the_policy_learns_the_shares_of_the_table(grow, tmp_path):
    """Also where several trajectories lead to a word."""
    env = Sequence("ab", 4, grow)
    wanted = torch.rand(16, generator=generator("wanted"), dtype=torch.float64) ** 2
    data, shares = table_of(env, wanted / wanted.sum(), tmp_path)
    model = train(MaximumLikelihood(), 600, env=env, data_set=data, lr=1e-2)
    learned = terminating_distribution(env, model.policy)
    assert total_variation(learned, shares) < 1.5 * sampling_floor(shares.double())
    assert total_variation(torch.full((16,), 1 / 16), shares) > 5 * sampling_floor(shares.double())
    outputs = model.sample(50, generator("samples"))
    assert torch.equal(outputs["log_reward"], outputs["log_pf"] - outputs["log_pb"])


def test_surprisal_is_the_mean_of_log_p_and_the_sum_of_its_stages(tmp_path):
    env = Sequence("ab", 4)
    model = GFlowNet(
        env, loss=MaximumLikelihood(), data_set=DataSet(tmp_path / "t.csv", 4), policy=partial(MLP, hidden=(8,))
    )
    torch.nn.init.normal_(model.policy.heads["letter"][-1].weight, generator=generator("weights"))
    states, stream = env.enumerate()[:7], generator("x")
    found, uniform = surprisal(env, {"policy": model.policy, "uniform": None}, states, stream).values()
    log_p = log_likelihood(env, model.policy, states, stream).log_p
    assert found.bits == pytest.approx(-log_p.mean().item() / math.log(2))
    assert found.values() == {"bits": found.bits, "bits_per_decision": found.bits / 4, "bits_of_letter": found.bits}
    assert uniform.values()["bits_per_decision"] == pytest.approx(1.0)


def test_surprisal_with_several_trajectories_is_a_bound():
    env = Set(5, 2)
    uniform = surprisal(env, {"uniform": None}, env.enumerate(), generator("x"))["uniform"]
    # Every set has the probability 1 / 10 and the same trajectories, so the bound is exact.
    assert uniform.bits == pytest.approx(math.log2(10)) and uniform.decisions == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backward_policy": "learned"}, "backward_policy: 'learned' is not allowed; MaximumLikelihood"),
        ({"policy": partial(EmbeddingMLP, dropout=1.0)}, r"dropout: 1\.0 is not allowed"),
    ],
)
def test_settings_that_are_not_allowed(settings, message, tmp_path):
    with pytest.raises(InputError, match=message):
        GFlowNet(Set(5, 2), loss=MaximumLikelihood(), data_set=DataSet(tmp_path / "t.csv", 4), **settings)


def test_objects_for_validation_are_apart_and_do_not_depend_on_the_order(tmp_path):
    env = Sequence("ab", 8)
    words = env.to_frame(env.enumerate())
    parts = []
    for place, frame in enumerate((words, words[::-1], pd.concat([words, words]))):
        path = tmp_path / f"{place}.csv"
        frame.to_csv(path, index=False)
        data = DataSet(path, 8, validate=0.2)
        data.load(env, lambda states: states.new_zeros(len(states)))
        held, trained = ({tuple(row) for row in part.tolist()} for part in (data.held_out, data.states))
        assert not held & trained and len(held | trained) == 256 and 25 < len(held) < 80
        assert f"and {len(data.held_out)} for validation" in data.summary()
        parts.append(held)
    assert parts[0] == parts[1] == parts[2]
    with pytest.raises(InputError, match=r"data_set.validate: 1e-09 leaves no object"):
        DataSet(path, 8, validate=1e-9).load(env, lambda states: states.new_zeros(len(states)))
    with pytest.raises(InputError, match=r"data_set.validate: 1.0 is not allowed"):
        DataSet(path, 8, validate=1.0)


def config_of(folder, **changes):
    """A prior of crystals that trains for six steps and stops early if validations do not improve."""
    table = folder / "known.csv"
    frame = pd.DataFrame({**THREE_CRYSTALS, "formula": ["Li4 F4", "Li2", "Li4 O2"], "space_group": [225, 229, 225]})
    frame["c"], frame["gamma"] = frame["a"], 90.0
    pd.concat([frame.assign(split="train"), frame.assign(split="val")]).to_csv(table, index=False)
    config = small_config(folder, charge_neutral=False, space_groups=[225, 229])
    callbacks = config["trainer"]["callbacks"]
    callbacks[0]["init_args"] = {"every_n_steps": 1, "best_of": "val/held_out/bits"}
    callbacks.append(
        {
            "class_path": "pytorch_lightning.callbacks.EarlyStopping",
            "init_args": {"monitor": "val/held_out/bits", "patience": 2},
        }
    )
    config["trainer"] |= {"max_steps": 6, "val_check_interval": 2}
    del config["model"]["proxy"], config["model"]["reward"]
    config["model"] |= {
        "policy": {"class_path": "EmbeddingMLP", "init_args": {"hidden": [16], "dropout": 0.3}},
        "loss": {"class_path": "MaximumLikelihood"},
        "data_set": {
            "class_path": "DataSet",
            "init_args": {
                "table": str(table),
                "batch_size": 4,
                "only": {"split": "train"},
                "validate": {"split": "val"},
            },
        },
        **changes,
    }
    return config


def test_a_run_that_continues_is_the_run_without_interruption(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path, config_of(tmp_path))
    first = ["--trainer.callbacks+", "stop.StopAt"]
    for options in ([], first, ["--ckpt_path", str(checkpoint_of(tmp_path, version=1))]):
        assert main(["fit", "--config", str(config), *options]) == 0
    whole, half, second = (torch.load(checkpoint_of(tmp_path, version=i), weights_only=True) for i in range(3))
    assert [run["global_step"] for run in (whole, half, second)] == [6, 3, 6]
    for key in ("state_dict", "optimizer_states", "generator_states"):
        assert_same(whole[key], second[key], key)
    stopping = [next(v for k, v in run["callbacks"].items() if "EarlyStopping" in k) for run in (whole, second)]
    assert_same(stopping[0], stopping[1], "early stopping")


def test_the_best_checkpoint_is_kept_and_samples_come_from_it(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    # With this learning rate every step after the first validation makes the likelihood worse.
    config = config_of(tmp_path, lr=3.0)
    config["trainer"]["max_steps"] = 40
    assert main(["fit", "--config", str(write_config(tmp_path, config))]) == 0
    last = checkpoint_of(tmp_path)
    best = last.with_name("best.ckpt")
    steps = [torch.load(path, weights_only=True)["global_step"] for path in (best, last)]
    assert steps[0] < steps[1] < 40, "early stopping"
    samples = []
    for path in (best, tmp_path / "small", last):
        out = tmp_path / "samples.csv"
        assert main(["predict", "--ckpt_path", str(path), "--data.out", str(out)]) == 0
        samples.append(out.read_text())
    assert samples[0] == samples[1] != samples[2]
    capfd.readouterr()
    config["trainer"]["callbacks"][0]["init_args"]["best_of"] = "val/absent"
    assert main(["fit", "--config", str(write_config(tmp_path, config))]) == 2
    assert "best_of: no validation logs 'val/absent'; logged are: val/held_out/bits" in capfd.readouterr().err
