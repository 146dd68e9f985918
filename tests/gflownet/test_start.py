"""Training that starts with the networks of another run, and compact checkpoints that are sampled from."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from pytorch_lightning import Callback
from small import checkpoint_of, small_config, write_config
from torch import Tensor, nn

from crystalgfn.cli import main
from crystalgfn.errors import InputError
from crystalgfn.gflownet.checkpoint_files import space_names, start_networks, write_compact
from crystalgfn.gflownet.envs import Environment, Set, Stack
from crystalgfn.gflownet.losses import DetailedBalance, TrajectoryBalance
from crystalgfn.gflownet.module import GFlowNet
from crystalgfn.gflownet.policies import MLP, EmbeddingMLP, Policy, Shape
from crystalgfn.gflownet.proxies import HyperGridModes
from crystalgfn.gflownet.rewards import Identity
from crystalgfn.random import generator
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
    folder.mkdir(exist_ok=True)
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
        "epoch", "global_step", "pytorch-lightning_version", "crystalgfn", "state_dict", "compact", "names",
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


def test_start_from_a_folder_or_a_shipped_model(first, compact, tmp_path, monkeypatch, capfd):
    given = torch.load(first, weights_only=True)["state_dict"]
    networks = [name for name in given if name.startswith("policy.")]
    began = start(tmp_path / "a", first.parents[2])
    assert all(torch.equal(began.state[name], given[name]) for name in networks)
    monkeypatch.setattr("crystalgfn.settings.MODELS", compact.parent)
    began = start(tmp_path / "b", "small")
    assert all(torch.equal(began.state[name], given[name].half().float()) for name in networks)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"model\.start_from: there is no complete checkpoint in the folder"):
        start(tmp_path / "c", tmp_path / "empty")


def test_checkpoints_hold_names_and_smaller_spaces_start_with_them(first, compact, tmp_path):
    """A run in a space of fewer elements and groups takes over what it shares, and its own checkpoint is complete."""
    env = load(first).module.env
    for path in (first, compact):
        assert torch.load(path, weights_only=True)["names"] == space_names(env)
    config = small_config(tmp_path, elements=["F", "Li"], space_groups=[2, 225])
    config["model"]["start_from"] = str(first)
    began = First()
    run("fit", read_config(write_config(tmp_path, config)), callbacks=[began])
    given = torch.load(first, weights_only=True)["state_dict"]
    options = env.option_names("element")
    kept = [options.index(name) for name in ("F", "Li", "stop")]
    name = "policy.heads.element.2.weight"
    assert given[name].any() and torch.equal(began.state[name], given[name][kept])
    own = checkpoint_of(tmp_path)
    assert torch.load(own, weights_only=True)["names"] == space_names(load(own).module.env)


class Named(Set):
    """Sets of named items; the item whose name is ``names[i]`` is the input and the option i."""

    def __init__(self, names: str, size: int = 2, prefix: str = "") -> None:
        super().__init__(len(names), size)
        self.names = tuple(prefix + name for name in names)

    def input_names(self, head: str) -> tuple[str, ...]:
        return self.names

    def terminal_names(self) -> tuple[str, ...]:
        return self.names

    def option_names(self, head: str) -> tuple[str, ...]:
        return self.names


class Bilinear(Policy):
    """A policy of a plugin, which does not know how to move."""

    def __init__(self, sizes: Mapping[str, Shape]) -> None:
        super().__init__()
        self.weights = nn.ParameterDict({n: nn.Parameter(torch.rand(s.n_inputs, s.n_logits)) for n, s in sizes.items()})

    def forward(self, head: str, inputs: Tensor) -> Tensor:
        return inputs @ self.weights[head]


KINDS: dict[str, Callable[..., Policy]] = {
    "MLP": partial(MLP, hidden=(8,)),
    "EmbeddingMLP": partial(EmbeddingMLP, hidden=(8, 8), shared=True),
}


def model_of(env: Environment, make: Callable[..., Policy], **settings: object) -> GFlowNet:
    """A model with random weights, in the last layers too."""
    model = GFlowNet(env, HyperGridModes(4), Identity(), make, **settings)
    stream = generator("weights", len(env.heads), env.state_size)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.normal_(generator=stream)
    return model


def saved(model: GFlowNet, path: Path, with_names: bool = True) -> Path:
    names = {"names": space_names(model.env)} if with_names else {}
    torch.save({"state_dict": model.state_dict(), **names}, path)
    return path


def two_sets(first: str, second: str) -> Stack:
    return Stack({"one": Named(first), "two": Named(second)})


@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_columns_are_chosen_by_name(kind, tmp_path):
    """Fewer items in another order, in two stages that use the same names: the logits are those of the larger space."""
    large, small = model_of(two_sets("abcdef", "abcd"), KINDS[kind]), model_of(two_sets("dbe", "cab"), KINDS[kind])
    start_networks(small, saved(large, tmp_path / "large.ckpt"))
    assert small.env.input_names("two_item") == ("one: d", "one: b", "one: e", "c", "a", "b")
    for head, inputs, options in (("one_item", [3, 1, 4], [3, 1, 4]), ("two_item", [3, 1, 4, 8, 6, 7], [2, 0, 1])):
        given = torch.rand(5, len(inputs), generator=generator("inputs"))
        wide = torch.zeros(5, large.env.heads[head].input_size)
        wide[:, inputs] = given
        expected = large.policy(head, wide)[:, options]
        assert expected.std() > 0.1
        torch.testing.assert_close(small.policy(head, given), expected)


def test_a_decision_that_the_run_lacks_is_left_out(tmp_path):
    large = model_of(Stack({"one": Named("abc"), "two": Named("def")}), KINDS["MLP"])
    heads = Stack({"one": Named("abc")}), Stack({"two": Named("de"), "one": Named("abc")})
    path = saved(large, tmp_path / "large.ckpt")
    content = torch.load(path)
    # As if the decisions had names of their own in both.
    for own in ("names", "state_dict"):
        content[own] = {name.replace("one_item", "item"): value for name, value in content[own].items()}
    torch.save(content, path)
    small = model_of(heads[0], KINDS["MLP"])
    start_networks(small, path)
    assert torch.equal(small.policy.heads["item"][0].weight, large.policy.heads["one_item"][0].weight)
    # The other way round, a decision is missing.
    with pytest.raises(InputError, match=r"policy.heads.one_item.0.bias has the shape None there and \(8,\)"):
        start_networks(model_of(heads[1], KINDS["MLP"]), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": "abz"}, "do not know 'z' among the options of item; all inputs and options of this run must be"),
        ({"names": "abxyz"}, "do not know 'x' and 2 more among the options of item"),
        ({"hidden": (9,)}, "do not fit: policy.heads.item.0.bias has the shape (8,) there and (9,) in this run"),
        ({"hidden": (8, 8)}, "do not fit: policy.heads.item.2.bias has the shape"),
        ({"old": True}, "do not fit: policy.heads.item.0.weight has the shape (8, 5) there and (8, 3) in this run"),
        ({"loss": DetailedBalance()}, "do not fit: flow."),
        ({"flow there": True}, "do not fit: flow."),
        ({"nan": True}, "the weights policy.heads.item.0.weight in"),
    ],
)
def test_what_does_not_move(change, message, tmp_path):
    loss = DetailedBalance() if "flow there" in change else TrajectoryBalance()
    large = model_of(Named("abcde"), KINDS["MLP"], loss=loss)
    if "nan" in change:
        large.policy.heads["item"][0].weight.data[:, 4] = torch.nan
    path = saved(large, tmp_path / "large.ckpt", with_names="old" not in change)
    make = partial(MLP, hidden=change.get("hidden", (8,)))
    small = model_of(Named(change.get("names", "abc")), make, loss=change.get("loss", TrajectoryBalance()))
    before = {name: value.clone() for name, value in small.state_dict().items()}
    with pytest.raises(InputError) as error:
        start_networks(small, path)
    assert message in str(error.value) and str(path) in str(error.value)
    assert str(error.value).startswith("model.start_from: the ")
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())


def test_networks_for_flows_do_not_change_their_items(tmp_path):
    """Of equal sizes, they are taken over if the names are equal, or unknown as in old checkpoints."""
    make = partial(model_of, make=KINDS["MLP"], loss=DetailedBalance())
    large, same, other = (make(Named(names)) for names in ("abc", "abc", "cab"))
    path = saved(large, tmp_path / "large.ckpt")
    start_networks(same, path)
    name = "flow.network.heads.item.0.weight"
    assert torch.equal(same.state_dict()[name], large.state_dict()[name])
    with pytest.raises(InputError, match="those for log F or P_B cannot be moved"):
        start_networks(other, path)
    start_networks(other, saved(large, tmp_path / "old.ckpt", with_names=False))
    assert torch.equal(other.state_dict()[name], large.state_dict()[name])


def test_a_policy_without_axes_needs_equal_sizes(tmp_path):
    large = model_of(Named("abcd"), Bilinear)
    path = saved(large, tmp_path / "large.ckpt")
    same = model_of(Named("dcba"), Bilinear)
    start_networks(same, path)
    assert torch.equal(same.policy.weights["item"], large.policy.weights["item"])
    with pytest.raises(InputError, match=r"do not fit: policy\.weights\.item has the shape"):
        start_networks(model_of(Named("abc"), Bilinear), path)
