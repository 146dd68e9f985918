"""Reading and writing tables of any kind: nothing is lost, shifted or made up."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crystalgfn.errors import InputError
from crystalgfn.files import read_frame, write_frame


def refused(path: Path, content: str, words: str) -> None:
    path.write_text(content)
    with pytest.raises(InputError, match=words) as caught:
        read_frame(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 1000


def test_shifted_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    header = "formula,formation_energy,energy_above_hull\n"
    refused(
        path, header + "NaCl,-2.1,0.0,\nLiF,-3.0,0.0,\n", "row 1 .* has 4 fields, the header has 3; is there a comma at"
    )
    refused(
        path, header + "mp-1,NaCl,-2.1,0.0\n", "row 1 .* has 4 fields, the header has 3; .* a column without a name"
    )
    refused(path, header + "a,b,NaCl,-2.1,0.0\n", "row 1 .* has 5 fields, the header has 3")
    refused(
        path,
        header + "NaCl,-2.1,0.0\nLiF,-3.0,0.0,\n",
        "cannot be read as CSV: line 3 has 4 fields, .* have 3; is there",
    )


def test_names_of_rows_are_columns(tmp_path: Path) -> None:
    frame = pd.DataFrame({"material_id": ["mp-1", "mp-2"], "a": [1, 2]}).set_index("material_id")
    frame.to_parquet(tmp_path / "table.parquet")
    frame.to_csv(tmp_path / "table.csv")
    for name in ("table.parquet", "table.csv"):
        found = read_frame(tmp_path / name)
        assert list(found.columns) == ["material_id", "a"] and found["material_id"].tolist() == ["mp-1", "mp-2"]
        write_frame(found, tmp_path / f"again_{name}")
        assert read_frame(tmp_path / f"again_{name}").equals(found)
    frame.set_index("a", append=True).assign(b=0).to_parquet(tmp_path / "two.parquet")
    assert list(read_frame(tmp_path / "two.parquet").columns) == ["material_id", "a", "b"]
    # Row numbers without a name, such as those of a filtered table, are no column.
    frame.reset_index().iloc[1:].to_parquet(tmp_path / "part.parquet")
    assert list(read_frame(tmp_path / "part.parquet").columns) == ["material_id", "a"]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    words = "more than one column is called a; each name must be unique"
    refused(tmp_path / "table.csv", "a,b,a\n1,2,3\n", words)
    refused(tmp_path / "table.csv", "a, b,'=a,=a\n1,2,3,4\n", "more than one column is called =a")
    path = tmp_path / "table.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), path)
    with pytest.raises(InputError, match=words) as caught:
        read_frame(path)
    assert "\n" not in str(caught.value)
    # Columns without a name, as spreadsheet programs write them, are no problem.
    (tmp_path / "table.csv").write_text("a,,\n1,,\n")
    assert len(read_frame(tmp_path / "table.csv").columns) == 3


TEXTS = [
    "=1+1",
    "+cmd",
    "-a",
    "@SUM(1)",
    "\t=1",
    "'=1",
    "''=1",
    "=two\nlines",
    "-1.5",
    "+3",
    "-1e-5",
    "'-1.5",
    "-",
    "'",
    "x=1",
    "",
]


@pytest.mark.parametrize("again", [1, 2])
def test_no_text_is_a_formula_of_a_spreadsheet(tmp_path: Path, again: int) -> None:
    path = tmp_path / "table.csv"
    frame = pd.DataFrame({"=name": TEXTS, "text": TEXTS, "number": [-1.5] * len(TEXTS)})
    before = frame.copy()
    for _ in range(again):
        write_frame(frame, path)
        assert frame.equals(before)
        frame = before = read_frame(path).assign(number=-1.5)
    assert frame["=name"].tolist() == frame["text"].tolist() == TEXTS
    cells = pd.read_csv(path, dtype=str, keep_default_na=False)
    numbers = ["-1.5", "+3", "-1e-5", "-"]
    assert all(text[:1] not in "=+-@\t" or text in ["", *numbers] for text in cells["text"])
    assert cells["text"][cells["text"].isin(numbers)].tolist() == numbers and set(cells["number"]) == {"-1.5"}
    assert cells.columns[0] == "'=name"


def test_missing_values_and_other_types_are_written_as_before(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": ["=1", None, 3.5, True], "b": pd.Categorical(["x", "y", "x", "y"])}, index=[5, 5, 6, 7])
    write_frame(frame, tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text() == "a,b\n'=1,x\n,y\n3.5,x\nTrue,y\n"


def test_messages_are_short(tmp_path: Path) -> None:
    long = "x" * 10**6
    with pytest.raises(InputError) as caught:
        (tmp_path / "table.csv").write_text(f"{long},{long}1\n1,2\n")
        read_frame(tmp_path / "table.csv", ["formula"])
    assert len(str(caught.value)) < 500 and "..." in str(caught.value)
    (tmp_path / "wide.csv").write_text(",".join(f"c{i}" for i in range(10**4)) + "\n" + ",".join(["1"] * 10**4) + "\n")
    with pytest.raises(InputError, match="c39 and 9960 more"):
        read_frame(tmp_path / "wide.csv", ["formula"])


def test_many_texts_are_fast(tmp_path: Path) -> None:
    frame = pd.DataFrame({f"c{i}": ["-1.5", "text", "=1", ""] * 15_000 for i in range(10)})
    started = time.perf_counter()
    write_frame(frame, tmp_path / "table.csv")
    assert read_frame(tmp_path / "table.csv").equals(frame.astype(read_frame(tmp_path / "table.csv").dtypes))
    assert time.perf_counter() - started < 30  # about 3 s; the limit is for busy machines
