"""Models in Python: the same samples as the command line's, restricted, fine-tuned, with atoms."""

import re
from pathlib import Path

import pandas as pd
import pytest
import torch

import crystalgfn as cg
from crystalgfn.cli import main
from crystalgfn.errors import InputError

QUIET = {"trainer": {"enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}}
PAGE = Path(__file__).parents[2] / "docs" / "python.md"


@pytest.fixture(scope="module")
def model():
    return cg.load("discovered")


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """A hypergrid, trained for two steps."""
    logger = {"logger": {"init_args": {"save_dir": str(tmp_path_factory.mktemp("grid"))}}}
    return cg.fit("hypergrid.yaml", QUIET, {"trainer": {"max_steps": 2, **logger}})


def test_samples_are_those_of_the_command(model, tmp_path):
    samples = model.sample(20, seed=3)
    out = tmp_path / "samples.csv"
    options = f"--ckpt_path discovered --data.num_samples 20 --data.seed 3 --data.out {out}"
    assert main(["predict", *options.split(), "--trainer.enable_progress_bar", "false"]) == 0
    samples.to_frame().to_csv(tmp_path / "python.csv", index=False)
    assert (tmp_path / "python.csv").read_bytes() == out.read_bytes()
    assert len(samples) == len(samples.crystals) == 20
    frame = pd.read_csv(out)
    assert samples.log_p.tolist() == frame["log_pf"].tolist()
    assert samples.log_reward.tolist() == frame["log_reward"].tolist()


def test_fewer_samples_are_the_first_of_more(model):
    assert torch.equal(model.sample(5).outputs["states"], model.sample(8).outputs["states"][:5])


def test_a_restriction_is_for_one_call(model, tmp_path):
    fields = {"elements": ["Na", "Cl", "O"], "crystal_systems": ["cubic"]}
    whole = model.module.env
    samples = model.sample(30, restrict=fields)
    assert set(samples.crystals.counts.sum(0).nonzero().squeeze(1).tolist()) <= {7, 10, 16}
    assert int(samples.crystals.space_group.min()) >= 195
    assert model.module.env is whole
    file = tmp_path / "r.yaml"
    file.write_text("elements: [Na, Cl, O]\ncrystal_systems: [cubic]\n")
    assert torch.equal(model.sample(30, restrict=file).outputs["states"], samples.outputs["states"])
    with pytest.raises(InputError, match=r"restrict\.elements: Xx"):
        model.sample(3, restrict={"elements": ["Xx"]})
    assert model.module.env is whole


def test_finetuning_changes_a_copy(model):
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    fields = {"elements": ["Na", "Cl"], "max_atoms": 8}
    tuned = model.sample(20, restrict=fields, finetune_steps=2)
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())
    assert not torch.equal(tuned.log_p, model.sample(20, restrict=fields).log_p)


def test_a_trained_model_and_its_checkpoint(grid):
    assert grid.checkpoint is not None and grid.checkpoint.is_file()
    again = cg.load(grid.checkpoint)
    assert torch.equal(again.sample(50).log_p, grid.sample(50).log_p)
    folder = cg.load(grid.checkpoint.parents[1])
    assert folder.checkpoint == grid.checkpoint
    power = {"class_path": "Power", "init_args": {"exponent": 2}}
    module = cg.GFlowNet.load_from_checkpoint(grid.checkpoint, reward=power)
    assert type(module.reward).__name__ == "Power" and not module.training
    gone_on = cg.fit("hypergrid.yaml", QUIET, {"trainer": {"max_steps": 3}}, ckpt_path=grid.checkpoint)
    assert not torch.equal(gone_on.module.log_z, again.module.log_z)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, grid: model.sample(0), "n: 0 is not allowed"),
        (lambda model, grid: model.sample(3, finetune_steps=2), "finetune_steps: 2 is not allowed without"),
        (lambda model, grid: model.sample(3, restrict="absent.yaml"), "there is no file absent.yaml"),
        (lambda model, grid: model.sample(1).to_structures(), r"no atoms; samples\.build\(\)"),
        (lambda model, grid: grid.sample(1).crystals, "HyperGrid builds no crystals"),
        (lambda model, grid: grid.sample(1, restrict={"a": 1}), "HyperGrid has no restrictions"),
        (lambda model, grid: cg.load("no_such_model"), "there is no file no_such_model"),
        (lambda model, grid: cg.fit("no_such_config.yaml"), "there is no file no_such_config.yaml"),
        (lambda model, grid: cg.fit({"model": {"env": 1}}, QUIET), "model.env"),
        (lambda model, grid: cg.fit("hypergrid.yaml", {"model": {"batch_size": 0}}), "batch_size: 0 is not allowed"),
        (lambda model, grid: cg.fit("hypergrid.yaml", {"model": {"batchsize": 3}}), "batchsize"),
    ],
)
def test_what_is_refused(model, grid, call, message):
    with pytest.raises(InputError, match=message):
        call(model, grid)


def test_there_is_no_other_name():
    with pytest.raises(AttributeError, match="no attribute 'Crystall'"):
        cg.Crystall  # noqa: B018
    assert {"load", "fit", "Crystal", "__version__"} <= set(dir(cg))


@pytest.mark.long
def test_five_lines_to_structures():
    """The first block of the page is at most five lines and ends with pymatgen's structures."""
    pytest.importorskip("chgnet")
    block = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    lines = [line for line in block.splitlines() if line.strip()]
    assert len(lines) <= 5
    names: dict = {}
    exec(block, names)
    built = names["built"]
    assert len(built) == 10 and len(names["structures"]) == built.to_frame()["energy_built"].notna().sum() > 0
    assert all(structure.volume > 0 for structure in names["structures"])
