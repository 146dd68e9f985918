"""A run that is killed goes on from its last checkpoint as if nothing had happened, bit for bit."""

import os
import resource
import signal
import time
from pathlib import Path

import pytest
import torch
from forked import Command, assert_same_state, scalars
from small import checkpoint_of, small_config, write_config

from crystalgfn.cli import main
from crystalgfn.errors import InputError
from crystalgfn.gflownet import checkpoint_files
from crystalgfn.gflownet.checkpoint_files import CheckpointFiles, newest_checkpoint, read_checkpoint

pytestmark = pytest.mark.long

STEPS = 24
CALLBACKS = {"LogUniqueness": {}, "LogCoverage": {}, "LogHistograms": {}, "LogTopK": {"k": 5}}
REPLAY = {"class_path": "ReplayBuffer", "init_args": {"capacity": 20, "batch_size": 4, "draw": "loss"}}


def survivor(folder: Path, **model) -> list[str]:
    """Options of a run that saves every 5 steps, validates every 6 and logs a lot."""
    folder.mkdir(exist_ok=True)
    config = small_config(folder)
    config["model"] |= {"epsilon": 0.1, "exploration_steps": STEPS, "replay": REPLAY, **model}
    config["trainer"] |= {"max_steps": STEPS, "val_check_interval": 6, "log_every_n_steps": 1}
    config["trainer"]["callbacks"] = [
        {"class_path": "crystalgfn.callbacks.Checkpoints", "init_args": {"every_n_steps": 5}}
    ]
    for name, settings in CALLBACKS.items():
        entry = {"class_path": f"crystalgfn.callbacks.{name}", "init_args": {"every_n_steps": 4, **settings}}
        config["trainer"]["callbacks"].append(entry)
    return ["fit", "--config", str(write_config(folder, config))]


def sample(checkpoint: Path, out: Path) -> bytes:
    assert main(["predict", "--ckpt_path", str(checkpoint), "--data.out", str(out)]) == 0
    return out.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    assert main(survivor(folder)) == 0
    return folder


def assert_survived(folder: Path, whole: Path) -> None:
    last = newest_checkpoint(folder / "small")
    assert_same_state(last, checkpoint_of(whole))
    assert scalars(folder / "small") == scalars(whole / "small")
    assert sample(last, folder / "samples.csv") == sample(checkpoint_of(whole), folder / "other.csv")
    # Whatever happened, every checkpoint that is there is whole.
    for path in (folder / "small").rglob("*.ckpt"):
        if not path.name.startswith("."):
            read_checkpoint(path)


def die_in_step(number: int):
    """Ends the process in the middle of a training step, as SIGKILL would."""

    def prepare():
        from crystalgfn.proxies import Density

        forward, calls = Density.forward, []

        def deadly(self, crystals):
            calls.append(1)
            if len(calls) == number:
                os._exit(137)
            return forward(self, crystals)

        Density.forward = deadly

    return prepare


def die_in_write(place: str, number: int = 2):
    """Ends the process while a checkpoint is written: before, in the middle, or between two names."""

    def prepare():
        write, keep, calls = checkpoint_files.write_through, checkpoint_files._keep, []

        def deadly_write(path, content):
            calls.append(1)
            if len(calls) == number:
                if place == "middle":
                    write(path, content[: len(content) // 2])
                if place in ("before", "middle"):
                    os._exit(137)
            write(path, content)

        def deadly_keep(path):
            if len(calls) == number and place == "unkept":
                os._exit(137)
            keep(path)
            if len(calls) == number and place == "kept":
                os._exit(137)

        checkpoint_files.write_through, checkpoint_files._keep = deadly_write, deadly_keep

    return prepare


DEATHS = {
    "first step": [die_in_step(1)],
    "steps": [die_in_step(4), die_in_step(9), die_in_step(7)],
    "writes": [die_in_write(place) for place in ("before", "middle", "unkept", "kept")],
}


@pytest.mark.parametrize("deaths", DEATHS.values(), ids=DEATHS)
def test_a_killed_run_goes_on_exactly(deaths, whole, tmp_path):
    command = [*survivor(tmp_path), "--ckpt_path", "last"]
    for number, death in enumerate(deaths):
        assert Command(command, tmp_path / f"log{number}", death).wait() == 137
    last = Command(command, tmp_path / "log")
    assert last.wait() == 0, last.text
    assert_survived(tmp_path, whole)


def test_a_proxy_that_raises_costs_no_step(whole, tmp_path):
    command = [*survivor(tmp_path), "--ckpt_path", "last"]

    def fail():
        from crystalgfn.proxies import Density

        forward, calls = Density.forward, []

        def failing(self, crystals):
            calls.append(1)
            if len(calls) == 16:
                raise ValueError("the sun shines")
            return forward(self, crystals)

        Density.forward = failing

    run = Command(command, tmp_path / "log", fail)
    assert run.wait() == 1
    assert "ValueError: the sun shines" in run.text and "Traceback" not in run.text
    # Of the 15 calls that went well 2 belong to validations.
    assert read_checkpoint(checkpoint_of(tmp_path))["global_step"] == 13
    last = Command(command, tmp_path / "log")
    assert last.wait() == 0, last.text
    assert_survived(tmp_path, whole)


def test_two_processes(tmp_path):
    """Each has its own stream, buffer and counts; the second one dies in a step."""
    options = [
        "--trainer.strategy",
        "ddp_fork_find_unused_parameters_true",
        "--trainer.devices",
        "2",
        "--trainer.max_steps",
        "14",
    ]
    folders = [tmp_path / name for name in ("whole", "killed")]
    first, second = ([*survivor(folder), *options, "--ckpt_path", "last"] for folder in folders)
    run = Command(first, tmp_path / "log")
    assert run.wait() == 0, run.text
    assert Command(second, tmp_path / "log", die_in_step(9)).wait() != 0
    assert read_checkpoint(checkpoint_of(folders[1]))["global_step"] == 5
    run = Command(second, tmp_path / "log")
    assert run.wait() == 0, run.text
    one, other = (newest_checkpoint(folder / "small") for folder in folders)
    assert len(read_checkpoint(one)["own_states"]) == 2
    # Which process keeps which part of a metric's rows may change; what is computed from all of them may not.
    assert_same_state(one, other, "callbacks")
    assert scalars(folders[0] / "small") == scalars(folders[1] / "small")


DAMAGED = ("last.ckpt", "last-v1.ckpt", "text.ckpt")


def test_the_newest_whole_checkpoint_is_taken(whole, tmp_path, capfd, recwarn):
    folder = tmp_path / "small" / "version_0" / "checkpoints"
    folder.mkdir(parents=True)
    content = checkpoint_of(whole).read_bytes()
    assert newest_checkpoint(tmp_path) is None
    for age, (name, part) in enumerate(
        {
            ".last.ckpt.x1.ckpt": content,  # what a killed process leaves
            "last.ckpt": content[: len(content) // 2],
            "last-v1.ckpt": content[:1000] + bytes([content[1000] ^ 1]) + content[1001:],
            "text.ckpt": b"no checkpoint",
            "previous.ckpt": content,
            "old.ckpt": content,
        }.items()
    ):
        (folder / name).write_bytes(part)
        os.utime(folder / name, (1000.0 - age, 1000.0 - age))
    out = tmp_path / "samples.csv"
    assert main(["predict", "--ckpt_path", str(tmp_path), "--data.out", str(out)]) == 0
    assert out.is_file()
    said = [str(warning.message) for warning in recwarn if "an older checkpoint is used" in str(warning.message)]
    assert [str(folder / name) in text for name, text in zip(DAMAGED, said, strict=True)] == [True] * 3
    assert newest_checkpoint(tmp_path) == folder / "previous.ckpt"


def test_no_checkpoint_to_go_on_from(tmp_path, capfd):
    (tmp_path / "empty").mkdir()
    assert main(["predict", "--ckpt_path", str(tmp_path / "empty")]) == 2
    assert f"there is no complete checkpoint in the folder {tmp_path / 'empty'}" in capfd.readouterr().err
    assert main(["predict", "--ckpt_path", "last"]) == 2
    assert "'last' is for 'fit --config CONFIG'" in capfd.readouterr().err


def test_a_run_that_goes_on_in_its_own_folder_keeps_one_last(whole, tmp_path):
    options = [*survivor(tmp_path), "--trainer.logger.init_args.version", "0", "--ckpt_path", "last"]
    assert main([*options, "--trainer.callbacks+", "stop.StopAt"]) == 0
    assert main(options) == 0
    folder = checkpoint_of(tmp_path).parent
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert_same_state(folder / "last.ckpt", checkpoint_of(whole))


def test_what_cannot_be_written_is_said(tmp_path):
    path = tmp_path / "file" / "last.ckpt"
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"last.ckpt: cannot be written \(File exists\); there is no old checkpoint"):
        CheckpointFiles().save_checkpoint({"state_dict": {}}, path)


def when_logged(folder: Path, least: int, seconds: float = 60.0) -> None:
    """Wait until a run has made its first checkpoints."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if len(list(folder.rglob("last.ckpt"))) >= least:
            return
        time.sleep(0.002)
    raise TimeoutError


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_its_step(number, whole, tmp_path):
    command = [*survivor(tmp_path), "--ckpt_path", "last"]
    run = Command(command, tmp_path / "log")
    when_logged(tmp_path, 1)
    run.signal(number)
    assert run.wait() == 128 + number
    name = "SIGTERM" if number == signal.SIGTERM else "Ctrl-C"
    assert f"stopped by {name} after " in run.text and "Traceback" not in run.text
    step = torch.load(checkpoint_of(tmp_path), weights_only=True)["global_step"]
    assert f"after {step} steps; go on with --ckpt_path {checkpoint_of(tmp_path)}" in run.text
    last = Command(command, tmp_path / "log")
    assert last.wait() == 0, last.text
    assert_survived(tmp_path, whole)


def test_a_full_disk_keeps_the_checkpoint_before(whole, tmp_path):
    command = [*survivor(tmp_path), "--ckpt_path", "last"]

    def fill():
        save = CheckpointFiles.save_checkpoint

        def full(self, checkpoint, path, storage_options=None):
            if checkpoint["global_step"] == 10:
                resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
            save(self, checkpoint, path, storage_options)

        CheckpointFiles.save_checkpoint = full

    run = Command(command, tmp_path / "log", fill)
    assert run.wait() == 2
    words = f"crystalgfn fit: error: checkpoint {checkpoint_of(tmp_path)}: cannot be written ("
    assert words in run.text and "the old checkpoint is complete" in run.text and "Traceback" not in run.text
    folder = checkpoint_of(tmp_path).parent
    assert [path.name for path in folder.iterdir()] == ["last.ckpt"]
    assert read_checkpoint(folder / "last.ckpt")["global_step"] == 5
    last = Command(command, tmp_path / "log")
    assert last.wait() == 0, last.text
    assert_survived(tmp_path, whole)
