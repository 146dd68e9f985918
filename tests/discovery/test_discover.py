"""The discovery loop with an evaluation that is made up: what it leaves, and that stopping it changes nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from discoveries import RESULTS, Evaluation, prepare, settings_of, write_settings
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from crystalgfn.cli import main
from crystalgfn.crystal.tables import read_table
from crystalgfn.discovery import stages
from crystalgfn.discovery.calibration import PRIOR_CRYSTALS
from crystalgfn.discovery.candidate import candidates
from crystalgfn.discovery.database import LabelDatabase
from crystalgfn.discovery.settings import PROCEDURE
from crystalgfn.gflownet.module import GFlowNet
from crystalgfn.proxies.network.property_network import PropertyNetwork
from crystalgfn.settings import shipped_folder

pytestmark = pytest.mark.long

pytest.importorskip("ase")

ROUNDS = ("round-0", "round-1", "round-2")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Folder with known.csv, tiny.pt and discover.yaml."""
    folder = tmp_path_factory.mktemp("inputs")
    write_settings(folder, settings_of(*prepare(folder)))
    return folder


@pytest.fixture(scope="module")
def discovered(inputs, tmp_path_factory):
    """A run that nothing stopped, and what it asked for."""
    out, evaluation = tmp_path_factory.mktemp("runs") / "whole", Evaluation()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RESULTS, evaluation)
        assert discover(inputs, out) == 0
    return out, evaluation


def discover(inputs: Path, out: Path, *options: object, config: Path | None = None) -> int:
    return main(
        ["discover", "--config", str(config or inputs / "discover.yaml"), "--out", str(out), *map(str, options)]
    )


def chosen(out: Path, name: str) -> list[str]:
    """Keys of what a round has chosen."""
    return [candidate.key for candidate in candidates(read_table(out / name / "chosen.csv").crystals, "")]


def test_files_of_a_run(discovered):
    out, evaluation = discovered
    assert {path.name for path in out.iterdir()} == {
        *ROUNDS, "final", "settings.json", "hours.json", "rounds.csv", "tensorboard", "labels.db",
    }  # fmt: skip
    for name in ROUNDS[1:]:
        present = {path.name for path in (out / name).iterdir()}
        assert present == {"fit.yaml", "train", "model.ckpt", "samples.csv", "chosen.csv", "proxy.pt", "teach.log"}
    present = {path.name for path in (out / "final").iterdir()}
    assert present == {
        "fit.yaml",
        "train",
        "model.ckpt",
        "discovered.ckpt",
        "samples.csv",
        "chosen.csv",
        "summary.json",
    }
    # Each crystal once.
    assert len(evaluation.asked) == len(set(evaluation.asked)) == 8 + 2 * 4 + 5
    assert evaluation.workers.jobs == 2 and evaluation.workers.timeout == 50
    assert sorted(evaluation.asked) == sorted(key for name in (*ROUNDS, "final") for key in chosen(out, name))


def test_rounds_are_counted(discovered):
    out, _ = discovered
    rounds, frame = pd.read_csv(out / "rounds.csv"), LabelDatabase(out / "labels.db").frame()
    assert rounds["round"].tolist() == [0, 1, 2] and rounds["evaluated"].tolist() == [8, 4, 4]
    assert rounds["drawn"].tolist() == [0, 2, 2]
    for number, row in rounds.iterrows():
        part = frame[(frame["round"] == number) & (frame["source"] != "final")]
        assert row["cpu_seconds"] == pytest.approx(part["cpu_seconds"].sum())
        assert 0 <= row["survivors"] <= (part["status"] == "relaxed").sum()
        assert row["rate"] == row["survivors"] / row["evaluated"]
    assert set(frame["source"]) == {
        "random", "real", "perturbed-group", "perturbed-cell", "perturbed-elements", "model", "final",
    }  # fmt: skip


def test_uncertainty_is_corrected_by_the_random_samples(discovered):
    out, _ = discovered
    rounds = pd.read_csv(out / "rounds.csv").set_index("round")
    assert rounds.loc[0, ["calibration", "calibration_se"]].isna().all()
    assert (rounds.loc[1:, "calibration"] > 0).all()
    scales = [PropertyNetwork.load(out / name / "proxy.pt").uncertainty_scale for name in ROUNDS]
    assert scales[0] == 1
    known = LabelDatabase(out / "labels.db").frame().set_index("key")["energy_sampled"]
    n, errors, expected = 0, 0.0, 0.0
    for number in (1, 2):
        # No error is known of a crystal that was not built.
        drawn = pd.read_csv(out / f"round-{number}" / "chosen.csv").query("drawn == 1")
        has_label = [np.isfinite(known[key]) for key in chosen(out, f"round-{number}")[: len(drawn)]]
        uncertainty = drawn["predicted_uncertainty"][has_label].sum()
        n += sum(has_label)
        errors += rounds.loc[number, "calibration"] * uncertainty
        expected += uncertainty / scales[number - 1]
        assert 0 < n <= 4
        assert scales[number] == pytest.approx((n * errors / expected + PRIOR_CRYSTALS) / (n + PRIOR_CRYSTALS))
    assert f"uncertainty: times {scales[2]:.3f}" in (out / "round-2" / "teach.log").read_text()
    summary = json.loads((out / "final" / "summary.json").read_text())
    assert summary["calibration"] == pytest.approx(summary["proxy_mae"] / summary["proxy_uncertainty"])
    assert summary["calibration_se"] > 0


def test_final_model_is_trained_anew(discovered):
    out, _ = discovered
    first, second, final = (
        yaml.safe_load((out / name / "fit.yaml").read_text())["model"] for name in ("round-1", "round-2", "final")
    )
    assert "start_from" not in first and second["start_from"] == str(out / "round-1" / "model.ckpt")
    assert "start_from" not in final
    assert final["proxy"]["init_args"]["weights"] == str(out / "round-2" / "proxy.pt")


def test_every_training_can_start_from_a_given_model(discovered, inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(RESULTS, Evaluation())
    given = str(discovered[0] / "round-1" / "model.ckpt")
    settings = settings_of(None, inputs / "tiny.pt") | {"rounds": 1, "evaluations": 1, "final": 1}
    settings["fit"]["model"]["start_from"] = given
    assert discover(inputs, tmp_path / "run", config=write_settings(tmp_path, settings)) == 0
    for name in ("round-1", "final"):
        assert yaml.safe_load((tmp_path / "run" / name / "fit.yaml").read_text())["model"]["start_from"] == given


def test_curves_have_one_point_a_round(discovered):
    out, _ = discovered
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    rounds = pd.read_csv(out / "rounds.csv")
    for name in ("rate", "survivors", "mae_before", "groups"):
        points = events.Scalars(f"discover/{name}")
        assert [point.step for point in points] == [0, 1, 2]
        assert [point.value for point in points] == pytest.approx(rounds[name].tolist(), rel=1e-6)
    assert [image.step for image in events.Images("discover/rounds")]


def test_final_samples_are_unchosen(discovered):
    out, _ = discovered
    samples, final = pd.read_csv(out / "final" / "samples.csv"), pd.read_csv(out / "final" / "chosen.csv")
    names = ["space_group", "a", "b", "c", "alpha", "beta", "gamma", "log_reward", "log_pf"]
    pd.testing.assert_frame_equal(final[names], samples[names][:5], check_dtype=False)
    summary = json.loads((out / "final" / "summary.json").read_text())
    frame = LabelDatabase(out / "labels.db").frame()
    part = frame[frame["key"].isin(chosen(out, "final"))]
    assert summary["evaluated"] == len(part) == 5 and set(part["round"]) == {3}
    assert summary["survivors"] <= (part["status"] == "relaxed").sum()
    assert summary["rows"]["not built or not relaxed"] == str((part["status"] != "relaxed").sum())
    # They are samples of the compact model, and what the last round has taught is older than they.
    again = out.parent / "again.csv"
    options = ["--data.num_samples", "30", "--data.seed", "3", "--data.out", str(again)]
    assert main(["predict", "--ckpt_path", str(out / "final" / "discovered.ckpt"), *options]) == 0
    assert again.read_bytes() == (out / "final" / "samples.csv").read_bytes()
    assert not set(chosen(out, "final")) & {key for name in ROUNDS for key in chosen(out, name)}


def test_equal_final_samples_count_each(discovered, inputs, tmp_path, monkeypatch):
    out = tmp_path / "run"
    shutil.copytree(discovered[0], out)
    final = pd.read_csv(out / "final" / "chosen.csv")
    final.loc[1] = final.loc[0]
    final.to_csv(out / "final" / "chosen.csv", index=False)
    monkeypatch.setattr(RESULTS, Evaluation(stop_after=0))
    assert discover(inputs, out) == 0
    assert json.loads((out / "final" / "summary.json").read_text())["evaluated"] == 5


def stop_at(n: int, function):
    """The function, interrupted in its nth call."""
    calls = []

    def stopping(*args, **settings):
        calls.append(0)
        if len(calls) == n:
            raise KeyboardInterrupt
        return function(*args, **settings)

    return stopping


def test_a_run_that_is_stopped_is_the_same(discovered, inputs, tmp_path, monkeypatch, capfd):
    whole, evaluation = discovered
    out, asked = tmp_path / "run", []

    def interrupted(patched: str | None = None, value: object = None, *, order: int, stop_after: int | None = None):
        fake = Evaluation(order, stop_after)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RESULTS, fake)
            if patched is not None:
                patch.setattr(patched, value)
            status = discover(inputs, out)
        asked.extend(fake.asked)
        errors = capfd.readouterr().err
        assert status == 130 and "Traceback" not in errors and "crystalgfn discover: interrupted" in errors

    interrupted(order=1, stop_after=3)
    interrupted("crystalgfn.discovery.stages.tune", stop_at(1, stages.tune), order=2)
    interrupted("crystalgfn.gflownet.module.GFlowNet.training_step", stop_at(3, GFlowNet.training_step), order=3)
    interrupted("crystalgfn.discovery.stages.screen", stop_at(1, stages.screen), order=3)
    interrupted(order=4, stop_after=2)
    # Where and how long is open.
    monkeypatch.setattr(RESULTS, last := Evaluation(order=5))
    options = ["--label.jobs", 1, "--label.timeout", 70, "--budget.evaluations", 100]
    assert discover(inputs, out, *options) == 0
    assert last.workers.jobs == 1 and last.workers.timeout == 70
    assert sorted(asked + last.asked) == sorted(evaluation.asked)
    files = [f"{name}/{file}" for name in ROUNDS[1:] for file in ("samples.csv", "chosen.csv", "proxy.pt")]
    files += ["round-0/chosen.csv", "round-0/proxy.pt", "rounds.csv", "final/samples.csv", "final/chosen.csv"]
    for name in [*files, "final/summary.json", "settings.json"]:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    assert [point.step for point in events.Scalars("discover/rate")] == [0, 1, 2]
    # A finished run has nothing left to do.
    monkeypatch.setattr(RESULTS, Evaluation(stop_after=0))
    assert discover(inputs, out, "--rounds", 3) == 0
    assert "more rounds need a new folder" in "".join(capfd.readouterr())


def test_other_settings_are_refused(discovered, inputs, capfd):
    out, _ = discovered
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    for option, value, message in [
        ("--seed", 1, "seed: then 0, now 1"),
        ("--screen.kappa", 2, "screen.kappa: then 1.0, now 2.0"),
        ("--label.tries", 3, "label.tries: then 4, now 3"),
        ("--tuning.steps", 3, "tuning.steps: then 2, now 3"),
        ("--potential", "sevennet:7net-0", "potential: then CHGNet, now SevenNet:7net-0"),
        ("--known", "null", "known: then "),
    ]:
        extra = [] if option != "--known" else ["--start.real", 0, "--start.perturbed", 0]
        assert discover(inputs, out, option, value, *extra) == 2
        assert f"{out} was begun with other settings (" in (text := capfd.readouterr().err) and message in text
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    # Null says what leaving it out says.
    settings = yaml.safe_load((inputs / "discover.yaml").read_text())
    settings["fit"]["model"]["replay"] = None
    config = write_settings(inputs, settings, "null.yaml")
    assert discover(inputs, out, "--label.jobs", 0, "--potential", "chgnet", config=config) == 2
    assert "label.jobs: 0 is not allowed" in capfd.readouterr().err
    assert discover(inputs, out, "--potential", "m3gnet", config=config) == 2
    assert "potential: 'm3gnet' is not allowed; allowed: " in capfd.readouterr().err


def test_a_run_of_another_version_is_refused(discovered, inputs, tmp_path, capfd):
    out = tmp_path / "run"
    shutil.copytree(discovered[0], out)
    settings = json.loads((out / "settings.json").read_text())
    assert settings.pop("procedure") == PROCEDURE
    for older in ({}, {"procedure": PROCEDURE - 1}):
        (out / "settings.json").write_text(json.dumps(settings | older))
        assert discover(inputs, out) == 2
        assert f"out: {out} was begun by a version of crystalgfn that" in capfd.readouterr().err


def test_budget_of_evaluations(inputs, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(RESULTS, fake := Evaluation())
    options = ["--start.real", 0, "--start.perturbed", 0, "--final", 2]
    assert discover(inputs, tmp_path / "run", "--budget.evaluations", 5, *options) == 0
    assert len(fake.asked) == 3 + 2 + 2  # the start, half of the first round, the final samples
    assert "the budget is spent before round 2" in "".join(capfd.readouterr())
    assert not (tmp_path / "run" / "round-2").exists()
    assert pd.read_csv(tmp_path / "run" / "rounds.csv")["evaluated"].tolist() == [3, 2]


def test_budget_of_hours_and_a_start_from_nothing(inputs, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(RESULTS, fake := Evaluation())
    now = {"hours": 0.0}
    clock = SimpleNamespace(monotonic=lambda: 3600 * now["hours"])
    monkeypatch.setattr("crystalgfn.discovery.loop.time", clock)
    monkeypatch.setattr("crystalgfn.discovery.stages.time", clock)
    call = fake.__call__

    def slowly(tasks, workers, *rest):
        for result in call(tasks, workers, *rest):
            now["hours"] += 1
            yield result

    monkeypatch.setattr(RESULTS, slowly)
    settings = settings_of(None, inputs / "tiny.pt") | {"start": {}}
    # As one of several proxies.
    model = settings["fit"]["model"]
    model["proxy"] = [model["proxy"], {"class_path": "Density"}]
    rewards = {"energy_above_hull": model["reward"], "density": {"class_path": "Identity"}}
    model["reward"] = {"class_path": "Product", "init_args": {"rewards": rewards}}
    config = write_settings(tmp_path, settings)
    options = ["--budget.hours", 1.5, "--final", 1]
    assert discover(inputs, tmp_path / "run", *options, config=config) == 0
    assert len(fake.asked) == 2 + 1
    text = "".join(capfd.readouterr())
    assert "round-1: the time is spent" in text and "the budget is spent before round 2" in text
    assert json.loads((tmp_path / "run" / "hours.json").read_text())["hours"] == pytest.approx(3)
    # With nothing to learn from, the proxy stays as it was.
    files = [inputs / "tiny.pt", *(tmp_path / "run" / name / "proxy.pt" for name in ROUNDS[:2])]
    given, first, second = (torch.load(file, weights_only=True)["state"] for file in files)
    assert all(torch.equal(given[name], first[name]) for name in given)
    assert not all(torch.equal(given[name], second[name]) for name in given)


def test_two_runs_share_a_database(discovered, inputs, tmp_path, monkeypatch):
    labels = tmp_path / "labels.db"
    shutil.copy(discovered[0] / "labels.db", labels)
    monkeypatch.setattr(RESULTS, fake := Evaluation())
    out = tmp_path / "run"
    assert discover(inputs, out, "--database", labels, "--rounds", 1, "--final", 2) == 0
    assert not (out / "labels.db").exists()
    # The crystals to start with are there already, and those of others are not looked at again.
    others = LabelDatabase(discovered[0] / "labels.db").keys()
    assert not set(fake.asked) & others and len(fake.asked) >= 4
    assert chosen(out, "round-0") == chosen(discovered[0], "round-0")
    assert pd.read_csv(out / "rounds.csv")["evaluated"].tolist() == [8, 4]


def test_shipped_config_is_allowed(tmp_path, capfd):
    # All but the table is there; nothing is written before that is found.
    options = ["--known", str(tmp_path / "absent.csv"), "--out", str(tmp_path / "out")]
    assert main(["discover", "--config", str(shipped_folder() / "discover.yaml"), *options]) == 2
    assert f"known: there is no file {tmp_path}/absent.csv" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
    assert torch.is_grad_enabled()


def test_another_potential_judges_the_survivors(discovered, inputs, tmp_path, monkeypatch, capsys):
    """The final samples and the random samples of the first round are relaxed by both; each sample counts."""
    out = tmp_path / "judged"
    shutil.copytree(discovered[0], out)
    monkeypatch.setattr(RESULTS, Evaluation())
    asked = []

    def relaxed(task):
        asked.append(task["potential"])
        structure = task["structure"]
        energy = -20.0 if task["potential"] == "CHGNet" else 0.0  # by the other one nothing survives
        return {
            "id": task["id"], "reason": "", "structure_built": structure, "structure_relaxed": structure,
            "energy_relaxed": energy, "space_group_built": 1, "space_group_relaxed": 1, "volume_change": 0.0,
            "match": True, "displacement": 0.0, "min_distance_relaxed": 2.0, "converged": True, "cpu_seconds": 1.0,
        }  # fmt: skip

    monkeypatch.setattr("crystalgfn.judging.judgement.run", lambda tasks, *_: [relaxed(task) for task in tasks])
    (out / "final" / "summary.json").unlink()
    assert discover(inputs, out, "--judge", "sevennet:7net-0") == 0
    found = json.loads((out / "final" / "summary.json").read_text())["judged"]
    final = len(read_table(out / "final" / "chosen.csv").crystals)
    assert found["final"]["first"]["of"] == found["final"]["second"]["of"] == final
    assert found["final"]["first"]["count"] > 0 and found["final"]["confirmed"]["count"] == 0
    assert found["final"]["difference"] > 5
    assert found["round-1"]["first"]["of"] == int(pd.read_csv(out / "round-1" / "chosen.csv").drawn.sum())
    assert set(asked) == {"CHGNet", "SevenNet:7net-0"}
    assert {path.name for path in (out / "judged").iterdir()} == {"round-1", "final"}
    assert (out / "judged" / "final" / "index.html").is_file()
    assert "survivors of CHGNet survive by the other potential too" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--judge", "chgnet"], "judge: 'chgnet' is the potential that evaluates the crystals"),
        (["--judge", "nothing"], "potential: 'nothing' is not allowed"),
        (["--known_structures", "a.parquet"], "known_structures: only used where another potential judges"),
        (["--judge", "sevennet", "--known_structures", "a.parquet"], "known_structures: there is no file or folder"),
    ],
)
def test_wrong_judges(inputs, tmp_path, capsys, options, message):
    assert discover(inputs, tmp_path / "out", *options) == 2
    text = capsys.readouterr().err
    assert message in text and "Traceback" not in text
