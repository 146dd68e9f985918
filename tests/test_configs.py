"""Every shipped config runs, and its checkpoint alone is enough to sample from."""

import inspect
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from small import checkpoint_of

from crystalgfn.cli import main

CONFIGS = Path(__file__).parent.parent / "configs"
OTHERS = ("proxies", "restrictions")
# discover.yaml is for another command, see test_discover.py.
RUNS = sorted(p for p in CONFIGS.rglob("*.yaml") if p.parent.name not in OTHERS and p.name != "discover.yaml")
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


@pytest.mark.parametrize("path", RUNS, ids=name)
def test_fast_dev_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", str(path), "--trainer.fast_dev_run", "true", *QUIET]) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", RUNS, ids=name)
def test_checkpoint_is_enough_to_predict(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--trainer.max_steps", "2", "--model.batch_size", "8", "--data.num_val_samples", "8"]
    assert main(["fit", "--config", str(path), *options, *QUIET]) == 0
    run = yaml.safe_load(path.read_text())["trainer"]["logger"]["init_args"]["name"]
    assert main(["predict", "--ckpt_path", str(checkpoint_of(Path("logs"), run)), "--data.num_samples", "20"]) == 0
    assert len(pd.read_csv("samples.csv")) == 20


@pytest.mark.parametrize("path", RUNS, ids=name)
def test_every_init_arg_is_written(path):
    """A class that keeps an argument to itself could inherit it from an earlier config of another class."""
    from crystalgfn.plugins import load_everything

    config = yaml.safe_load(path.read_text())["model"]
    for registry, field in zip(load_everything(), ("env", "proxy", "reward", "policy", "loss"), strict=True):
        chosen = config[field] if isinstance(config[field], list) else [config[field]]
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
        settings = yaml.safe_load(path.read_text())["model"]["env"]["init_args"]
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
