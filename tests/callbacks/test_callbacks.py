"""Callbacks, run by a Trainer on small environments; what they log is read back from the files."""

import io
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from crystalgfn.callbacks import LogCoverage, LogFigures, LogHistograms, LogTopK, LogUniqueness, SampleWriter
from crystalgfn.callbacks.figures import read_references
from crystalgfn.crystal.envs import Crystal
from crystalgfn.crystal.keys import crystal_keys
from crystalgfn.errors import InputError
from crystalgfn.gflownet.data import Samples
from crystalgfn.gflownet.envs import HyperGrid
from crystalgfn.gflownet.metrics import unique_fraction
from crystalgfn.gflownet.module import GFlowNet
from crystalgfn.gflownet.policies import MLP
from crystalgfn.gflownet.proxies import HyperGridModes
from crystalgfn.gflownet.rewards import Boltzmann, Identity
from crystalgfn.proxies.density import Density

ELEMENTS = ("Li", "Mg", "O", "F")
COLUMNS = ["formula", "space_group", "a", "b", "c", "alpha", "beta", "gamma", "oxidation_states", "density"]


def crystal_module() -> GFlowNet:
    env = Crystal(space_groups=[1, 2, "16-18", 225], elements=ELEMENTS, max_atoms=20, lengths=(3, 12))
    policy = partial(MLP, hidden=(16,))
    return GFlowNet(env, Density(), Boltzmann(beta=-1.0), policy, batch_size=32)


def grid_module() -> GFlowNet:
    return GFlowNet(HyperGrid(2, 6), HyperGridModes(6), Identity(), partial(MLP, hidden=(16,)), batch_size=32)


def trainer(*callbacks: Callback, logger=False, **settings) -> Trainer:
    settings = {"max_steps": 4, "limit_val_batches": 0, "log_every_n_steps": 1} | settings
    return Trainer(
        accelerator="cpu",
        logger=logger,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
        **settings,
    )


def generic(every_n_steps: int = 2) -> list[Callback]:
    return [LogUniqueness(every_n_steps), LogHistograms(every_n_steps), LogTopK(3, every_n_steps)]


def board(folder: Path) -> TensorBoardLogger:
    return TensorBoardLogger(folder, name=None, version="")


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"tensors": 0, "images": 0, "histograms": 0})
    return accumulator.Reload()


def text(accumulator: EventAccumulator, tag: str) -> list[str]:
    return [e.tensor_proto.string_val[0].decode() for e in accumulator.Tensors(f"{tag}/text_summary")]


class Recorder(Callback):
    """Keeps what the steps return."""

    def __init__(self):
        self.training, self.validation = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.training.append(outputs)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        if not trainer.sanity_checking:
            self.validation.append(outputs)


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    """A table of crystals: three of the validation split have allowed elements."""
    path = tmp_path_factory.mktemp("reference") / "table.csv"
    rows = [
        ("Li4 F4", 225, 4.03, "val", 2.6),
        ("Mg4 O4", 225, 4.21, "val", 3.6),
        ("Mg4 O4", 225, 4.3, "val", 3.4),
        ("Na4 Cl4", 225, 5.6, "val", 2.2),
        ("Li8 O4", 225, 4.6, "train", 2.0),
    ]
    frame = pd.DataFrame(rows, columns=["formula", "space_group", "a", "split", "table_density"])
    frame = frame.assign(b=frame.a, c=frame.a, alpha=90.0, beta=90.0, gamma=90.0)
    frame.to_csv(path, index=False)
    return path


# Logging


def test_crystals_in_tensorboard(tmp_path, reference):
    callbacks = [*generic(), LogCoverage(2), LogFigures(4, reference)]
    recorder = Recorder()
    run = trainer(
        *callbacks, recorder, logger=board(tmp_path), val_check_interval=4, limit_val_batches=None, max_steps=4
    )
    module = crystal_module()
    run.fit(module, Samples(num_val_samples=50))
    log = events(tmp_path)

    scalars = {tag: [(e.step, e.value) for e in log.Scalars(tag)] for tag in log.Tags()["scalars"]}
    keys = [crystal_keys(module.env.decode(outputs["states"])) for outputs in recorder.training]
    expected = {step: unique_fraction(torch.cat(keys[step - 2 : step])).item() for step in (2, 4)}
    assert dict(scalars["samples/uniqueness"]) == pytest.approx(expected)
    last = [module.env.decode(outputs["states"]) for outputs in recorder.training[2:]]
    groups = {number for crystals in last for number in crystals.space_group.tolist()}
    assert scalars["coverage/n_space_groups"][1] == (4, len(groups))
    assert scalars["coverage/space_groups"][1][1] == pytest.approx(len(groups) / 6)
    elements = {z for crystals in last for z in crystals.counts.nonzero()[:, 1].tolist()}
    assert scalars["coverage/elements"][1][1] == pytest.approx(len(elements) / 4)
    # 1, 2: triclinic; 16 to 18: orthorhombic; 225: cubic.
    assert scalars["coverage/crystal_systems"][1][1] * 3 == pytest.approx(scalars["coverage/n_crystal_systems"][1][1])
    for kind in ("lattice_systems", "crystal_lattice_systems", "point_symmetries"):
        assert 0 < scalars[f"coverage/{kind}"][1][1] <= 1
    sampled = crystal_keys(module.env.decode(recorder.validation[0]["states"]))
    assert scalars["val/samples/uniqueness"][0][1] == pytest.approx(unique_fraction(sampled).item())
    assert "val/coverage/point_symmetries" in scalars
    pairs = {pair for c in last for pair in zip(c.formulas(), c.space_group.tolist(), strict=True)}
    assert scalars["samples/distinct_compositions"][1] == (4, len(pairs))
    assert scalars["samples/composition_uniqueness"][1][1] == pytest.approx(len(pairs) / 64)

    counts = [e.histogram_value.num for e in log.Histograms("histograms/density")]
    assert counts == [64, 64]
    assert log.Histograms("val/histograms/log_reward")[0].histogram_value.num == 50

    best = torch.cat([outputs["properties"] for outputs in recorder.training]).max().item()
    table = text(log, "top_k/table")[-1].splitlines()
    assert len(table) == 5
    assert "density [g/cm³]" in table[0]
    assert f"{best:.6g}" in table[2]
    assert scalars["val/top_k/density_mean"][0][1] > 0

    images = {"density", "elements", "space_groups"}
    assert set(log.Tags()["images"]) == {f"{stage}figures/{name}" for stage in ("", "val/") for name in images}
    assert all(log.Images(tag)[0].width > 600 for tag in log.Tags()["images"])


def test_grid_in_tensorboard(tmp_path):
    recorder = Recorder()
    trainer(*generic(), recorder, logger=board(tmp_path)).fit(grid_module(), Samples())
    log = events(tmp_path)
    cells = torch.cat([outputs["states"] for outputs in recorder.training[2:]])
    expected = len(cells.unique(dim=0)) / 64
    assert log.Scalars("samples/uniqueness")[1].value == pytest.approx(expected)
    assert "samples/distinct_compositions" not in log.Tags()["scalars"]
    rows = [line.split(" | ")[1] for line in text(log, "top_k/table")[-1].splitlines()[2:]]
    assert len(set(rows)) == 3  # distinct cells
    assert "x0=" in rows[0]


@pytest.mark.parametrize("callback", [LogCoverage(), LogFigures(), LogTopK(one_per_composition=True)])
def test_callbacks_of_crystals_refuse_other_environments(callback):
    with pytest.raises(InputError, match=f"{type(callback).__name__}: needs an environment of crystals.*HyperGrid"):
        trainer(callback).fit(grid_module(), Samples())


def test_no_logger_another_logger_and_fast_dev_run(tmp_path):
    module = crystal_module()

    def callbacks() -> list[Callback]:
        return [*generic(1), LogCoverage(1), LogFigures(1)]

    trainer(*callbacks(), max_steps=1).fit(module, Samples())
    trainer(*callbacks(), fast_dev_run=True).fit(module, Samples(num_val_samples=5))
    trainer(*callbacks(), logger=CSVLogger(tmp_path, name=None, version=""), max_steps=2).fit(module, Samples())
    logged = pd.read_csv(tmp_path / "metrics.csv")
    assert logged["samples/uniqueness"].notna().sum() == 2


def test_test_samples_have_their_own_tags():
    run = trainer(*generic())
    (results,) = run.test(grid_module(), Samples(num_samples=20), verbose=False)
    assert {"test/samples/uniqueness", "test/top_k/log_reward_mean"} <= results.keys()


def test_top_k_with_one_row_a_composition():
    module, callback = crystal_module(), LogTopK(5, 2, one_per_composition=True)
    trainer(callback).fit(module, Samples())
    crystals = module.env.decode(callback._training["top_k"].compute()["states"])
    pairs = set(zip(crystals.formulas(), crystals.space_group.tolist(), strict=True))
    assert len(pairs) == 5


def test_callbacks_draw_no_random_numbers(tmp_path):
    ends = []
    for number, callbacks in enumerate(([], [*generic(), LogCoverage(2), LogFigures(4)])):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 - the global generator is what must stay as it is
        recorder, module = Recorder(), crystal_module()
        trainer(*callbacks, recorder, logger=board(tmp_path / str(number))).fit(module, Samples())
        ends.append((recorder.training[-1]["states"], torch.rand(1), np.random.rand()))  # noqa: NPY002
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[0][1:] == ends[1][1:]


# Resuming


class Save(Callback):
    """Saves a checkpoint after a step."""

    def __init__(self, step: int, path: Path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("make", [grid_module, crystal_module])
def test_a_resumed_run_logs_the_same(tmp_path, make):
    checkpoint = tmp_path / "step3.ckpt"
    callbacks = [*generic(4), *([LogCoverage(4), LogFigures(4)] if make is crystal_module else [])]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    trainer(*callbacks, Save(3, checkpoint), logger=board(whole)).fit(make(), Samples())
    torch.load(checkpoint, weights_only=True)
    callbacks = [*generic(4), *([LogCoverage(4), LogFigures(4)] if make is crystal_module else [])]
    trainer(*callbacks, logger=board(resumed)).fit(make(), Samples(), ckpt_path=checkpoint)
    a, b = events(whole), events(resumed)
    tags = [tag for tag in a.Tags()["scalars"] if tag.startswith(("samples/", "coverage/", "top_k/"))]
    assert len(tags) >= 3
    for tag in tags:
        assert [(e.step, e.value) for e in a.Scalars(tag)] == [(e.step, e.value) for e in b.Scalars(tag)]
    for tag in a.Tags()["histograms"]:
        assert a.Histograms(tag)[0].histogram_value == b.Histograms(tag)[0].histogram_value
    assert text(a, "top_k/table") == text(b, "top_k/table")


def test_states_of_two_callbacks_of_one_kind_are_apart():
    keys = {c.state_key for c in (LogUniqueness(10), LogUniqueness(20), LogTopK(3), LogTopK(4), LogCoverage(10))}
    assert len(keys) == 5


# Arguments


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogUniqueness(0), "every_n_steps: 0 is not allowed; it must be at least 1"),
        (lambda: LogCoverage(-1), "every_n_steps: -1 is not allowed"),
        (lambda: LogFigures(every_n_steps=0), "every_n_steps: 0 is not allowed"),
        (lambda: LogTopK(k=0), "k: 0 is not allowed; it must be at least 1"),
        (lambda: LogFigures(reference=Path("nowhere.csv")), "reference: nowhere.csv is not allowed.*existing"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(InputError, match=message):
        make()


# The reference of figures


def test_reference_is_filtered_and_its_property_predicted_or_read(reference):
    predicted = read_references(reference, "val", ELEMENTS, [Density()])["density"]
    assert predicted.values == pytest.approx([2.63, 3.59, 3.37], abs=0.01)
    assert predicted.groups[224] == 3

    class TableDensity(Density):
        name = "table_density"

    read = read_references(reference, None, ELEMENTS, [TableDensity()])["table_density"]
    assert read.values.tolist() == [2.6, 3.6, 3.4, 2.0]
    assert read.label == "reference"


@pytest.mark.parametrize(
    ("split", "elements", "message"),
    [
        ("valid", ELEMENTS, "reference_split: 'valid' is not allowed; the splits in .* are train, val"),
        ("val", ("Cu",), "it has no row of the split 'val' with a value of density and only the elements Cu"),
    ],
)
def test_a_reference_that_cannot_be_used(reference, split, elements, message):
    with pytest.raises(InputError, match=message):
        read_references(reference, split, elements, [Density()])


def test_a_reference_without_splits(reference, tmp_path):
    path = tmp_path / "plain.parquet"
    pd.read_csv(reference).drop(columns="split").to_parquet(path)
    with pytest.raises(InputError, match="has no column 'split'; set reference_split to null"):
        read_references(path, "val", ELEMENTS, [Density()])
    assert len(read_references(path, None, ELEMENTS, [Density()])["density"].values) == 4


@pytest.mark.parametrize("values", [np.array([2.0]), np.full(9, -3.0), np.zeros(3), np.array([1e-9, 1e9])])
def test_figures_of_odd_values(values):
    from crystalgfn.evaluation import drawing

    figure = drawing.property_figure(values, "formation_energy", "", "title")
    assert drawing.to_image(figure).shape[2] == 3


def test_figures_of_few_samples():
    from crystalgfn.evaluation import drawing

    drawing.to_image(drawing.elements_figure(np.zeros(94), np.ones(94, dtype=bool), "title"))
    counts = np.zeros(230, dtype=np.int64)
    counts[224] = 1
    drawing.to_image(drawing.space_groups_figure(counts, "title"))


# The table of samples


def predict(module: GFlowNet, out: Path, n: int = 60, *callbacks: Callback) -> None:
    data = Samples(num_samples=n, out=out)
    trainer(SampleWriter(), *callbacks).predict(module, datamodule=data, return_predictions=False)


@pytest.fixture
def small_tickets(monkeypatch):
    monkeypatch.setattr("crystalgfn.gflownet.data.TICKET_SIZE", 25)


def test_csv_and_parquet_hold_every_sample_in_full(tmp_path, small_tickets, capsys):
    module = crystal_module()
    csv, parquet = tmp_path / "new" / "samples.csv", tmp_path / "samples.parquet"
    predict(module, csv)
    assert f"{csv}: 60 samples" in capsys.readouterr().out
    predict(module, parquet)
    run = trainer()
    batches = run.predict(module, datamodule=Samples(num_samples=60))
    states = torch.cat([batch["states"] for batch in batches])
    crystals = module.env.decode(states)

    read = pd.read_csv(csv, keep_default_na=False, dtype=str)
    assert list(read.columns) == [*COLUMNS, "log_reward", "log_pf"]
    numbers = [column for column in read.columns if column not in ("formula", "oxidation_states")]
    read[numbers] = read[numbers].map(float)
    for frame in (read, pd.read_parquet(parquet)):
        assert frame["formula"].tolist() == crystals.formulas()
        assert frame["space_group"].tolist() == crystals.space_group.tolist()
        assert np.array_equal(frame[COLUMNS[2:8]].to_numpy(), crystals.lattice.numpy())
        for column, name in (("density", "properties"), ("log_reward", "log_reward"), ("log_pf", "log_pf")):
            assert np.array_equal(frame[column].to_numpy(), torch.cat([b[name] for b in batches]).flatten().numpy())
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["samples.csv", "samples.parquet"]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_samples_of_a_grid(tmp_path):
    predict(grid_module(), tmp_path / "cells.csv", 10)
    frame = pd.read_csv(tmp_path / "cells.csv")
    assert list(frame.columns) == ["x0", "x1", "mode_reward", "log_reward", "log_pf"]
    assert len(frame) == 10


class Interrupt(Callback):
    """Stops a prediction after its first batch."""

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        raise RuntimeError("stopped")


def test_an_interrupted_prediction_leaves_nothing(tmp_path, small_tickets):
    out = tmp_path / "samples.csv"
    out.write_text("the table of before\n")
    with pytest.raises(RuntimeError, match="stopped"):
        predict(grid_module(), out, 60, Interrupt())
    assert [p.name for p in tmp_path.iterdir()] == ["samples.csv"]
    assert out.read_text() == "the table of before\n"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("samples.txt", "must end in .csv, .parquet, .pq, not in '.txt'"),
        ("folder.csv", "is a folder"),
        ("file/samples.csv", "cannot be written"),
    ],
)
def test_an_out_that_cannot_be_written_stops_before_sampling(tmp_path, name, message):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.csv").mkdir()
    module = grid_module()
    module.predict_step = lambda *_: pytest.fail("sampled")
    with pytest.raises(InputError, match=message):
        predict(module, tmp_path / name)


def test_out_can_be_set_on_the_writer_and_must_be_set_somewhere(tmp_path):
    module, loader = grid_module(), Samples(num_samples=5).predict_dataloader()
    with pytest.raises(InputError, match="out: no file is given"):
        trainer(SampleWriter()).predict(module, loader, return_predictions=False)
    trainer(SampleWriter(tmp_path / "x.csv")).predict(module, loader, return_predictions=False)
    assert len(pd.read_csv(io.StringIO((tmp_path / "x.csv").read_text()))) == 5
