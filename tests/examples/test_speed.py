"""The benchmark of speed runs, and its tables and figures are complete."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small import small_config

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]


def test_benchmark_of_speed(tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(yaml.safe_dump(small_config(tmp_path)))
    command = [sys.executable, ROOT / "benchmarks" / "speed.py", "--config", config, "--batch", "200", "--rounds", "1"]
    done = subprocess.run(
        [*command, "--no-waits", "--threads", "1", "--json", tmp_path / "speed.json"],
        capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| sampling | 200 |") == done.stdout.count("| training | 200 |") == 1
    (row,) = json.loads((tmp_path / "speed.json").read_text())["configs"][str(config)]
    assert row["peak_memory_mb"] > 0
    for what in ("sampling", "training"):
        figures = row[what]
        assert abs(sum(figures["shares"].values()) - 1) < 1e-9
        assert all(value > 0 for name, value in figures.items() if name != "shares")
