"""Kill a run at random moments, continue it each time, and compare it with a run that was not stopped.

    python benchmarks/kills.py                    # 20 SIGKILLs, crystals with a replay buffer
    python benchmarks/kills.py --processes 2      # the same with two processes (gloo)

These must be equal, bit for bit: all logged scalars, the last checkpoint (networks, optimizer, log Z, buffers,
generators, callbacks) and the samples of each model.

Results: docs/results/reliability.md.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

from crystalgfn.gflownet.checkpoint_files import newest_checkpoint, read_checkpoint

CALLBACKS = {"LogUniqueness": 10, "LogCoverage": 10, "LogHistograms": 10, "LogTopK": 10, "Checkpoints": 7}


def config(folder: Path, steps: int, processes: int) -> dict:
    strategy = {"devices": processes, "strategy": "ddp_find_unused_parameters_true"} if processes > 1 else {}
    callbacks = [
        {"class_path": f"crystalgfn.callbacks.{name}", "init_args": {"every_n_steps": n}}
        for name, n in CALLBACKS.items()
    ]
    return {
        "trainer": {
            "max_steps": steps,
            "val_check_interval": 50,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "logger": {"class_path": "TensorBoardLogger", "init_args": {"save_dir": str(folder), "name": "run"}},
            "callbacks": callbacks,
            **strategy,
        },
        "model": {
            "env": {
                "class_path": "Crystal",
                "init_args": {"space_groups": [2, "221-225"], "elements": ["Li", "O", "F", "Na"], "max_elements": 3},
            },
            "proxy": {"class_path": "Density"},
            "reward": {"class_path": "Boltzmann", "init_args": {"beta": -0.5}},
            "policy": {"class_path": "MLP", "init_args": {"hidden": [32]}},
            "batch_size": 32,
            "epsilon": 0.1,
            "exploration_steps": steps,
            "replay": {"class_path": "ReplayBuffer", "init_args": {"capacity": 200, "batch_size": 16, "draw": "loss"}},
        },
        "data": {"num_samples": 2000, "num_val_samples": 100},
    }


def start(args: list[str], log: Path) -> subprocess.Popen:
    with log.open("a") as file:
        command = [sys.executable, "-m", "crystalgfn", *args]
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)


def kill(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def finish(args: list[str], log: Path) -> float:
    """Run a command to its end; returns its CPU time [s], which other programs on the machine change little."""
    before = os.times()
    if start(args, log).wait():
        raise SystemExit(log.read_text())
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def cpu_time(pid: int) -> float:
    """CPU time [s] that a process has used; infinite if the process has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("inf")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def scalars(run: Path) -> dict:
    """Logged scalars by tag and step. If a version repeats a step of an earlier version, the values must be equal."""
    found: dict = {}
    for path in sorted(run.glob("version_*/events*")):
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    key = value.tag, event.step
                    assert found.setdefault(key, value.simple_value) == value.simple_value, key
    return found


def differences(one, other, where: str = "") -> list[str]:
    """Where two nested containers of tensors and values differ."""
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [where]
        return [text for key in one for text in differences(one[key], other[key], f"{where}.{key}")]
    if isinstance(one, list | tuple):
        pairs = enumerate(zip(one, other, strict=True))
        return [text for index, (a, b) in pairs for text in differences(a, b, f"{where}[{index}]")]
    same = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    return [] if same else [where]


def state(path: Path, processes: int) -> dict:
    """The contents of a checkpoint that must be equal."""
    content = read_checkpoint(path)
    # Settings name the folder of the logs, and Lightning has its own counts. With several processes, each keeps a part
    # of the rows of a metric, in any division; the values that are computed from all rows are in the logs.
    left_out = ["crystalgfn", "loops", *(["callbacks"] if processes > 1 else [])]
    return {key: value for key, value in content.items() if key not in left_out}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="number of kills (default 20)")
    parser.add_argument("--steps", type=int, default=400, help="training steps of a whole run (default 400)")
    parser.add_argument("--processes", type=int, default=1, help="processes of a run (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default 0)")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    runs = {}
    for name in ("whole", "killed"):
        (folder / name).mkdir()
        settings = config(folder / name, options.steps, options.processes)
        (folder / name / "config.yaml").write_text(yaml.safe_dump(settings))
        runs[name] = ["fit", "--config", str(folder / name / "config.yaml"), "--ckpt_path", "last"]
    began = time.monotonic()
    nowhere = ["--trainer.logger", "false", "--trainer.default_root_dir", str(folder / "start-up")]
    set_up = finish([*runs["whole"], "--trainer.max_steps", "1", *nowhere], folder / "log") / options.processes
    whole = finish(runs["whole"], folder / "log") / options.processes
    print(f"{options.steps} steps take {whole:.0f} s of CPU time, of which {set_up:.0f} s are start-up", flush=True)
    moments = random.Random(options.seed)
    for number in range(1, options.kills + 1):
        after = set_up * moments.uniform(0.5, 1) + (whole - set_up) * moments.uniform(0, 1.5 / options.kills)
        process = start(runs["killed"], folder / "log")
        while process.poll() is None and cpu_time(process.pid) < after:
            time.sleep(0.005)
        if process.poll() is not None:
            raise SystemExit(f"the run ended before kill {number}:\n{(folder / 'log').read_text()[-2000:]}")
        kill(process)
        last = newest_checkpoint(folder / "killed" / "run")
        print(f"kill {number} after {after:.1f} s; newest checkpoint: ", end="")
        print(f"step {read_checkpoint(last)['global_step']}" if last else "none", flush=True)
    finish(runs["killed"], folder / "log")
    ends = {name: newest_checkpoint(folder / name / "run") for name in runs}
    logs = {name: scalars(folder / name / "run") for name in runs}
    samples = {}
    for name, checkpoint in ends.items():
        out = folder / name / "samples.csv"
        single = ["--trainer.strategy", "auto", "--trainer.devices", "1"]
        finish(["predict", "--ckpt_path", str(checkpoint), "--data.out", str(out), *single], folder / "log")
        samples[name] = out.read_bytes()
    apart = differences(*(state(ends[name], options.processes) for name in ("whole", "killed")))
    print(f"checkpoints: {apart or 'the same'}")
    print(f"logs: {'the same' if logs['whole'] == logs['killed'] else 'different'}, {len(logs['whole'])} values")
    print(f"samples: {'the same' if samples['whole'] == samples['killed'] else 'different'}")
    print(f"{time.monotonic() - began:.0f} s in all")
    shutil.rmtree(folder)
    if apart or logs["whole"] != logs["killed"] or samples["whole"] != samples["killed"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
