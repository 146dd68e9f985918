"""The example plugin, installed as a user would and trained through its short names, from YAML alone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

pytestmark = pytest.mark.long

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugin"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Environment variables of a process in which the plugin is installed."""
    source = tmp_path_factory.mktemp("source") / "plugin"
    shutil.copytree(EXAMPLE, source)
    target = tmp_path_factory.mktemp("site")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--target",
            target,
            source,
        ],
        check=True,
    )
    return {**os.environ, "PYTHONPATH": str(target)}


def crystalgfn(*args, cwd, env):
    command = [sys.executable, "-m", "crystalgfn", *map(str, args)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def test_is_listed(environment, tmp_path):
    result = crystalgfn("list", cwd=tmp_path, env=environment)
    assert "LayerStacking  Stacking sequences of close-packed layers, as words of h and c." in result.stdout
    assert "Hexagonality" in result.stdout


def test_trains_by_its_short_name(environment, tmp_path):
    result = crystalgfn("fit", "--config", EXAMPLE / "config.yaml", cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    checkpoint = tmp_path / "logs" / "layer_stacking" / "version_0" / "checkpoints" / "last.ckpt"
    result = crystalgfn("predict", "--ckpt_path", checkpoint, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    table = pd.read_csv(tmp_path / "samples.csv")
    assert list(table.columns) == ["word", "hexagonality", "log_reward", "log_pf"]
    assert len(table) == 1000
    # Under R = y^4 the mean of y over the 256 words is 0.69; uniform words have 0.5.
    assert table.hexagonality.mean() == pytest.approx(0.69, abs=0.03)


def test_broken_plugin_is_named_and_does_not_stop(environment, tmp_path):
    broken = tmp_path / "broken-1.0.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (broken / "entry_points.txt").write_text("[crystalgfn.plugins]\nbroken = no_such_module\n")
    paths = os.pathsep.join([str(tmp_path), environment["PYTHONPATH"]])
    result = crystalgfn("list", cwd=tmp_path, env={**environment, "PYTHONPATH": paths})
    assert result.returncode == 0
    assert "plugin 'broken' (no_such_module) could not be imported" in result.stderr
    assert "LayerStacking" in result.stdout
