"""How long a user waits: for the help text, for the first training step, for 10,000 samples."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SAMPLES = 10_000

_FIRST_STEP = """
import os, sys, time
import crystalgfn.gflownet.module as module
step = module.GFlowNet.training_step
def first(*args):
    step(*args)
    print("first step", time.time(), time.process_time(), flush=True)
    os._exit(0)
module.GFlowNet.training_step = first
from crystalgfn.cli import main
sys.exit(main(sys.argv[1:]))
"""


def waits(config: Path, threads: int) -> list[dict[str, Any]]:
    """The time of each wait, and that of its floor: starting Python, or importing torch and Lightning."""
    with tempfile.TemporaryDirectory() as folder:
        logs = [f"--trainer.logger.init_args.save_dir={folder}", f"--threads={threads}"]
        fit = ["fit", "--config", str(config), *logs]
        python = _run(["-c", "pass"])
        imports = _run(["-c", "import torch, pytorch_lightning"])
        rows = [_row("crystalgfn --help", _run(["-m", "crystalgfn", "--help"]), "python -c pass", python)]
        rows.append(_row("first training step", _first_step(fit, folder), "import torch, pytorch_lightning", imports))
        empty = {"CRYSTALGFN_CACHE": str(Path(folder) / "cache")}
        first = _first_step(fit, folder, empty)
        rows.append(_row("the same, before anything is cached", first, "import torch, pytorch_lightning", imports))
        _run(["-m", "crystalgfn", *fit, "--trainer.max_steps=1", "--trainer.enable_progress_bar=false"])
        checkpoint = next(Path(folder).rglob("last.ckpt"))
        predict = ["predict", f"--ckpt_path={checkpoint}", f"--data.num_samples={SAMPLES}"]
        table = f"--data.out={folder}/samples.csv"
        spent = _run(["-m", "crystalgfn", *predict, table, f"--threads={threads}"])
        rows.append(_row(f"{SAMPLES:,} samples as a table", spent, "import torch, pytorch_lightning", imports))
    return rows


def _row(what: str, spent: tuple[float, float], floor: str, floor_spent: tuple[float, float]) -> dict[str, Any]:
    return {
        "what": what,
        "seconds": spent[0],
        "cpu_seconds": spent[1],
        "floor": floor,
        "floor_cpu_seconds": floor_spent[1],
        "ratio_to_floor": spent[1] / floor_spent[1],
    }


def _run(args: list[str]) -> tuple[float, float]:
    """Wall time and CPU time [s] of a Python process."""
    before, started = os.times(), time.perf_counter()
    done = subprocess.run([sys.executable, *args], capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - started, os.times()
    if done.returncode:
        raise SystemExit(f"{' '.join(args)} failed:\n{done.stderr}")
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def _first_step(fit: list[str], folder: str, env: dict[str, str] | None = None) -> tuple[float, float]:
    """Wall time and CPU time [s] until the end of the first training step."""
    started = time.time()
    done = subprocess.run(
        [sys.executable, "-c", _FIRST_STEP, *fit], capture_output=True, text=True, check=False, cwd=Path.cwd(),
        env=os.environ | (env or {}),
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if "first step" in line]
    if not lines:
        raise SystemExit(f"crystalgfn {' '.join(fit)} failed:\n{done.stderr}")
    ended, cpu = lines[0].partition("first step")[2].split()
    return float(ended) - started, float(cpu)
