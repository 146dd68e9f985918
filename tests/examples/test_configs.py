"""Every shipped config runs, and its checkpoint alone is enough to sample from."""

import inspect
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from small import THREE_CRYSTALS

from crystalgfn.cli import main
from crystalgfn.settings import read_config

CONFIGS = Path(__file__).parents[2] / "configs"
OTHERS = ("proxies", "restrictions")
# discover.yaml is for another command, see test_discover.py; bases have no proxy and no reward.
NO_RUNS = (
    "discover.yaml",
    "base.yaml",
    "crystals.yaml",
    "universal.yaml",
    "with_prior.yaml",
    "without_prior.yaml",
    "small_cells.yaml",
    "small.yaml",
)
RUNS = sorted(p for p in CONFIGS.rglob("*.yaml") if p.parent.name not in OTHERS and p.name not in NO_RUNS)
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def test_fast_dev_run_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", "hypergrid.yaml", "--trainer.fast_dev_run", "true", *QUIET]) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", RUNS, ids=name)
def test_trains_saves_what_was_asked_and_predicts_from_the_checkpoint_alone(path, tmp_path, monkeypatch):
    """No argument of a class that a layer replaced is left in the settings that a run saves."""
    monkeypatch.chdir(tmp_path)
    asked = read_config(path)
    options = {"trainer.max_steps": 2, "trainer.limit_val_batches": 0, "model.batch_size": 8}
    if path.name == "prior.yaml":
        options["model.data_set.table"] = str(known_crystals(tmp_path))
    flags = [word for option, value in options.items() for word in (f"--{option}", str(value))]
    assert main(["fit", "--config", str(path), *flags, *QUIET]) == 0
    (saved,) = (yaml.safe_load(file.read_text()) for file in tmp_path.rglob("config.yaml"))
    for option in options:
        part, _, key = option.partition(".")
        asked[part].pop(key, None)
    compare(asked, saved, "")
    for field in ("env", "reward", "policy", "prior", "loss"):
        if asked["model"].get(field) is not None:
            given = set(asked["model"][field].get("init_args", {}))
            assert set(saved["model"][field].get("init_args", {})) == given, field
    run = asked["trainer"]["logger"]["init_args"]["name"]
    assert main(["predict", "--ckpt_path", f"logs/{run}", "--data.num_samples", "20", *QUIET]) == 0
    assert len(pd.read_csv("samples.csv")) == 20


def known_crystals(folder: Path) -> Path:
    """A table of crystals for training and validation."""
    table = pd.DataFrame(THREE_CRYSTALS)
    path = folder / "known.csv"
    pd.concat([table.assign(split="train"), table.assign(split="val")]).to_csv(path, index=False)
    return path


def compare(asked, found, place):
    """Everything that was asked for is in what was found."""
    if isinstance(asked, dict):
        if "class_path" in asked:
            asked, found = (x | {"class_path": x["class_path"].rpartition(".")[2]} for x in (asked, found))
        for key, value in asked.items():
            compare(value, found[key], f"{place}.{key}")
    elif isinstance(asked, list) and any(isinstance(entry, dict) for entry in asked):
        assert len(asked) == len(found), place
        for number, entry in enumerate(asked):
            compare(entry, found[number], f"{place}[{number}]")
    else:
        assert (list(found) if isinstance(asked, list) else found) == asked, place


@pytest.mark.parametrize("path", RUNS, ids=name)
def test_every_init_arg_is_written(path):
    """A class that keeps an argument to itself could inherit it from an earlier config of another class."""
    from crystalgfn.plugins import load_everything

    config = read_config(path)["model"]
    for registry, field in zip(load_everything(), ("env", "proxy", "reward", "policy", "loss"), strict=True):
        named = config.get(field) or []
        chosen = list(named) if isinstance(named, list) else [named]
        for entry in chosen:
            chosen += entry.get("init_args", {}).get("rewards", {}).values()
            given = set(entry.get("init_args", {}))
            cls = registry.get(entry["class_path"])
            parameters = set(inspect.signature(cls).parameters)
            # The factory's own argument, and files that come with the package.
            optional = {"sizes"} | ({"weights", "hull"} if field == "proxy" else set())
            assert given - optional == parameters - optional, f"{field}: {cls.__name__}"


def test_configs_cover_the_paper(tmp_path):
    """Both settings name the paper's 113 space groups and 22 elements."""
    from crystalgfn.crystal.envs import Crystal

    for path in (CONFIGS / "eform.yaml", CONFIGS / "paper" / "eform.yaml"):
        settings = read_config(path)["model"]["env"]["init_args"]
        env = Crystal(**settings)
        assert len(env.space_groups) == 113
        assert len(env.elements) == 22
        assert isinstance(env.initial_states(1), torch.Tensor)


@pytest.mark.parametrize("given", ["hypergrid.yaml", "configs/hypergrid.yaml"])
def test_shipped_configs_are_found_by_name(given, tmp_path, monkeypatch):
    """Someone who installed the package has no repository beside it."""
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", given, "--trainer.fast_dev_run", "true", *QUIET]) == 0
    (tmp_path / "hypergrid.yaml").write_text("modle: {}")
    if given == "hypergrid.yaml":  # one's own file comes first
        assert main(["fit", f"--config={given}"]) == 2


def test_shipped_configs_are_short():
    """A config says what is different about it."""
    long = {name(path): len(path.read_text().splitlines()) for path in RUNS}
    assert max(long.values()) <= 32, long
