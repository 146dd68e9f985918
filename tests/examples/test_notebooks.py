"""The notebooks run from top to bottom, and what they show is kept light."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
MAX_BYTES = 100_000


def code_of(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def test_all_are_there():
    names = {path.stem for path in NOTEBOOKS}
    assert names == {"quickstart", "restricted_sampling", "your_own_proxy", "your_own_environment"}


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("Agg")
    names: dict = {}
    try:
        for cell in code_of(path):
            source = "".join(cell["source"]).replace("STEPS = 200", "STEPS = 5")
            exec(compile(source, str(path), "exec"), names)
        assert names["STEPS"] == 5
        assert len(names["table"]) == 1000
    finally:
        plt.close("all")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_there_light_and_of_one_run(path):
    cells = code_of(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert any(output["output_type"] in ("display_data", "execute_result", "stream") for output in outputs)
    assert not any(output["output_type"] == "error" for output in outputs)
    # Warnings and progress bars of one machine say nothing to a reader.
    assert not any(output.get("name") == "stderr" for output in outputs)
    assert path.stat().st_size < MAX_BYTES
