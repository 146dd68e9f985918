"""MatBench files as tables, on a small file of the same layout."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
from monty.json import MontyEncoder
from pymatgen.core import Lattice, Structure

from crystalgfn.commands.import_matbench import main
from crystalgfn.crystal import matbench
from crystalgfn.crystal.crystals import Crystals
from crystalgfn.crystal.matbench import TARGETS, import_matbench, read_rows
from crystalgfn.crystal.tables import read_table
from crystalgfn.errors import InputError


def structures() -> list[Structure]:
    """A dozen textbook crystals, mostly as primitive cells, and three that no table can hold."""
    salt, fluorite = [[0, 0, 0], [0.5, 0.5, 0.5]], [[0, 0, 0], [0.25, 0.25, 0.25]]
    known = [
        ("Fm-3m", 5.69, ["Na", "Cl"], salt),
        ("Fm-3m", 4.25, ["Mg", "O"], salt),
        ("Fm-3m", 4.08, ["Li", "F"], salt),
        ("Fm-3m", 6.70, ["K", "Br"], salt),
        ("Fd-3m", 5.44, ["Si"], [[0, 0, 0]]),
        ("Fd-3m", 3.57, ["C"], [[0, 0, 0]]),
        ("Im-3m", 2.84, ["Fe"], [[0, 0, 0]]),
        ("Pm-3m", 4.12, ["Cs", "Cl"], salt),
        ("Fm-3m", 5.50, ["Ca", "F"], fluorite),
    ]
    made = [Structure.from_spacegroup(group, Lattice.cubic(a), *rest) for group, a, *rest in known]
    wurtzite = [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.38]]
    made += [Structure.from_spacegroup("P6_3mc", Lattice.hexagonal(3.2, 5.2), ["Zn", "O"], wurtzite)]
    made = [s.get_primitive_structure() for s in made]
    made += [
        Structure(Lattice.cubic(4.0), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]]),
        Structure(Lattice.cubic(4.0), ["Cm"], [[0, 0, 0]]),
    ]
    return made


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as matminer's ``store_dataframe_as_json`` writes it, with a missing target in the third row."""
    cells = structures()
    gaps = [float(i) for i in range(len(cells))]
    gaps[2] = float("nan")
    index = [f"mb-mp-gap-{i:06d}" for i in range(1, len(cells) + 1)]
    frame = pd.DataFrame({"structure": cells, "gap pbe": gaps}, index=index)
    text = json.dumps(frame.to_dict(orient="split"), cls=MontyEncoder)
    path = tmp_path_factory.mktemp("matbench") / "matbench_mp_gap.json.gz"
    path.write_bytes(gzip.compress(text.replace("NaN", "null").encode()))
    return path


@pytest.mark.long
def test_table(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gaps.parquet"
    assert main(["matbench_mp_gap", "--file", str(file), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "12 rows: 9 crystals, 3 left out" in shown and f"{out}: 9 of 12 rows, label gap_pbe" in shown
    reasons = ("the target is missing or not a number", "the structure is disordered", "an element beyond Z = 94")
    assert all(f"left out: 1 rows, {reason}" in shown for reason in reasons)
    table = read_table(out, label="gap_pbe")
    assert table.labels is not None and table.labels.tolist() == [0, 1, 3, 4, 5, 6, 7, 8, 9]
    assert table.frame["id"].tolist()[:3] == ["mb-mp-gap-000001", "mb-mp-gap-000002", "mb-mp-gap-000004"]
    assert table.crystals.space_group.tolist() == [225, 225, 225, 227, 227, 229, 221, 225, 186]
    assert table.crystals.formulas()[:2] == ["Na4 Cl4", "Mg4 O4"]
    assert table.crystals.lattice[:2, 0].tolist() == pytest.approx([5.69, 4.25], abs=1e-5)
    direct = Crystals.from_structures([s for i, s in enumerate(structures()[:10]) if i != 2])
    assert (table.crystals.counts == direct.counts).all()


@pytest.mark.long
def test_same_table_however_it_is_made(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, c = (tmp_path / f"{name}.csv" for name in "abc")
    import_matbench("matbench_mp_gap", a, file, log=lambda _: None)
    plain = tmp_path / "plain.json"
    plain.write_bytes(gzip.decompress(file.read_bytes()))
    monkeypatch.setattr(matbench, "_BATCH", 2)
    import_matbench("matbench_mp_gap", b, plain, log=lambda _: None)
    assert a.read_bytes() == b.read_bytes()
    import_matbench("matbench_mp_gap", c, file, workers=2, log=lambda _: None)
    assert a.read_bytes() == c.read_bytes()


def test_keys_in_any_order(file: Path, tmp_path: Path) -> None:
    content = json.loads(gzip.decompress(file.read_bytes()))
    other = tmp_path / "other.json"
    other.write_text(json.dumps({key: content[key] for key in ("data", "columns", "index")}))
    assert list(read_rows(other, "gap pbe")) == list(read_rows(file, "gap pbe"))


def test_refused(file: Path, tmp_path: Path) -> None:
    def refused(words: str, *args: object) -> None:
        with pytest.raises(InputError, match=words):
            main([str(arg) for arg in args])

    out = tmp_path / "t.csv"
    refused(r"'matbench_steels' is not allowed; allowed: matbench_mp_e_form", "matbench_steels", "--out", out)
    columns = r"columns \['structure', 'gap pbe'\]; needed: structure, e_form"
    refused(columns, "matbench_mp_e_form", "--file", file, "--out", out)
    refused("none.json: no such file", "matbench_mp_gap", "--file", tmp_path / "none.json", "--out", out)
    refused("the name of a table must end in", "matbench_mp_gap", "--file", file, "--out", tmp_path / "t.txt")
    refused("symprec: 0.0 is not allowed", "matbench_mp_gap", "--file", file, "--out", out, "--symprec", 0)
    refused("workers: 0 is not allowed", "matbench_mp_gap", "--file", file, "--out", out, "--workers", 0)
    cut, text, empty = tmp_path / "cut.json.gz", tmp_path / "text.json", tmp_path / "empty.json"
    cut.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    text.write_text("hello")
    empty.write_text('{"index": [], "columns": ["structure", "gap pbe"], "data": []}')
    for path in (cut, text):
        refused(f"{path.name}: cannot be read as MatBench JSON", "matbench_mp_gap", "--file", path, "--out", out)
    refused("no row can be used", "matbench_mp_gap", "--file", empty, "--out", out)
    short = tmp_path / "short.json"
    short.write_text('{"index": ["a"], "columns": ["structure", "gap pbe"], "data": []}')
    refused("has 0 rows and 1 ids", "matbench_mp_gap", "--file", short, "--out", out)
    assert not out.exists()


def test_download(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file, address and checksum are those that matminer knows; here a local address stands in."""
    monkeypatch.setitem(sys.modules, "matminer", None)  # as if it were not installed
    with pytest.raises(InputError, match=r"needs matminer .*--file matbench_mp_gap.json.gz"):
        import_matbench("matbench_mp_gap", tmp_path / "t.csv")
    known = {"url": file.as_uri(), "hash": hashlib.sha256(file.read_bytes()).hexdigest()}
    retrieval = ModuleType("matminer.datasets.dataset_retrieval")
    retrieval.get_dataset_attribute = lambda name, key: known[key]  # type: ignore[attr-defined]
    for name in ("matminer", "matminer.datasets"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, retrieval.__name__, retrieval)
    folder = tmp_path / "new"
    result = import_matbench("matbench_mp_gap", folder / "t.csv", log=lambda _: None)
    assert result.rows == 12 and (folder / "matbench_mp_gap.json.gz").read_bytes() == file.read_bytes()
    known["hash"] = "0" * 64
    with pytest.raises(InputError, match="the checksum is"):
        import_matbench("matbench_mp_gap", folder / "t.csv", log=lambda _: None)
    known["url"] = "http://127.0.0.1:9/none"
    with pytest.raises(InputError, match="cannot be downloaded"):
        import_matbench("matbench_mp_gap", tmp_path / "other" / "t.csv", log=lambda _: None)


def test_data_sets_are_those_of_matminer() -> None:
    retrieval = pytest.importorskip("matminer.datasets.dataset_retrieval")
    for name, target in TARGETS.items():
        assert {"structure", target} == set(retrieval.get_dataset_attribute(name, "columns"))
