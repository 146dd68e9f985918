"""The example of a property of one's own: what its documentation says to type."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from crystalgfn.crystal.crystals import Crystals
from crystalgfn.testing import ProxyContract

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_property"


def lithium_capacity():
    spec = importlib.util.spec_from_file_location("lithium_capacity", EXAMPLE / "lithium_capacity.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LithiumCapacity()


class TestLithiumCapacity(ProxyContract):
    @pytest.fixture
    def proxy(self):
        return lithium_capacity()

    @pytest.fixture
    def objects(self):
        cell = [5.0, 5.0, 5.0, 90, 90, 90]
        compositions = [{"Li": 3, "Co": 3, "O": 6}, {"Li": 4, "F": 4}, {"Mg": 4, "O": 4}]
        return Crystals.from_arrays([225] * 3, compositions, [cell] * 3)


def test_values():
    """Textbook values: LiCoO2 274 mAh/g, metallic lithium 3861 mAh/g."""
    cell = [5.0, 5.0, 5.0, 90, 90, 90]
    crystals = Crystals.from_arrays([166, 229], [{"Li": 3, "Co": 3, "O": 6}, {"Li": 2}], [cell] * 2)
    assert lithium_capacity()(crystals).tolist() == pytest.approx([274, 3861], rel=1e-3)


def test_the_example_is_twenty_lines():
    code = (EXAMPLE / "lithium_capacity.py").read_text().split("class LithiumCapacity")[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 20


@pytest.mark.long
def test_trains_by_module_and_class(tmp_path):
    """In the folder of the module, through the program's own script and with nothing installed."""
    for file in EXAMPLE.glob("*.*"):
        (tmp_path / file.name).write_text(file.read_text())
    script = [str(Path(sys.executable).parent / "crystalgfn")]
    program = script if Path(script[0]).exists() else [sys.executable, "-m", "crystalgfn"]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.max_steps", "3"]

    def run(*args):
        command = [*program, *args]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ, check=False)
        assert result.returncode == 0, result.stderr

    run("fit", "--config", "config.yaml", *quiet)
    checkpoint = tmp_path / "logs" / "lithium_capacity" / "version_0" / "checkpoints" / "last.ckpt"
    run("predict", "--ckpt_path", str(checkpoint), "--trust-checkpoint", "--data.num_samples", "20")
    table = pd.read_csv(tmp_path / "samples.csv")
    assert {"lithium_capacity", "formation_energy", "formation_energy_uncertainty", "log_reward"} <= set(table.columns)
