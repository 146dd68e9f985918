"""Tables of crystals: what is read, and what is refused with which words."""

from __future__ import annotations

import pickle
import time
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
from real_crystals import CRYSTALS
from small import THREE_CRYSTALS

from crystalgfn.crystal.crystals import Crystals
from crystalgfn.crystal.tables import CRYSTAL_COLUMNS, read_table
from crystalgfn.errors import InputError
from crystalgfn.files import atomic_path, check_writable, read_frame, write_frame

ROWS = {
    "name": ["salt", "iron", "quartz"],
    **THREE_CRYSTALS,
    "formula": ["Na4 Cl4", "Fe2", "Si3O6"],
    "energy": [-2.1, 0.0, -3.0],
}


def write(path: Path, **changes: list[object]) -> Path:
    frame = pd.DataFrame({**ROWS, **changes})
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".CSV"])
def test_reads_crystals_and_labels(tmp_path: Path, suffix: str) -> None:
    table = read_table(write(tmp_path / f"table{suffix}") if suffix != ".CSV" else _upper(tmp_path), label="energy")
    assert table.rows.tolist() == [0, 1, 2]
    assert table.crystals.formulas() == ["Na4 Cl4", "Fe2", "Si3 O6"]
    assert table.crystals.space_group.tolist() == [225, 229, 152]
    assert table.crystals.lattice[2].tolist() == [4.92, 4.92, 5.43, 90.0, 90.0, 120.0]
    assert table.labels is not None and table.labels.tolist() == [-2.1, 0.0, -3.0]
    assert list(table.frame.columns) == list(ROWS)


def _upper(folder: Path) -> Path:
    return write(folder / "table.csv").rename(folder / "TABLE.CSV")


def test_sodium_nitride_is_no_missing_value(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "table.csv", formula=["NaN", "Fe2", "Si3O6"], space_group=[1, 229, 152]))
    assert table.crystals.formulas()[0] == "Na1 N1"


BAD = [
    ("formula", "Xx2", "'Xx' that is unknown or beyond Pu"),
    ("formula", "Am2", "'Am' that is unknown or beyond Pu"),
    ("formula", "na2", "cannot read 'na2'"),
    ("formula", "Ca(OH)2", "cannot read '(OH)2'"),
    ("formula", "Na0.5Cl", "count of Na that is not a whole number"),
    ("formula", "Na0Cl1", "count of Na outside"),
    ("formula", "Na-1", "cannot read '-1'"),
    ("formula", "Na99999999999999999999", "count of Na outside"),
    ("formula", "Na10000 Na", "count of Na outside"),
    ("formula", "", "empty formula"),
    ("formula", "12", "cannot read '12'"),
    ("space_group", 0, "whole number from 1 to 230"),
    ("space_group", 231, "whole number from 1 to 230"),
    ("space_group", 1.5, "whole number from 1 to 230"),
    ("space_group", "Fm-3m", "whole number from 1 to 230"),
    ("space_group", None, "whole number from 1 to 230"),
    ("a", -1.0, "positive, finite length"),
    ("b", 0.0, "positive, finite length"),
    ("c", "long", "positive, finite length"),
    ("c", float("inf"), "positive, finite length"),
    ("c", None, "positive, finite length"),
    ("alpha", 0.0, "between 0 and 180"),
    ("beta", 180.0, "between 0 and 180"),
    ("gamma", None, "between 0 and 180"),
    ("energy", None, "a finite number"),
    ("energy", "low", "a finite number"),
    ("energy", float("inf"), "a finite number"),
]


@pytest.mark.parametrize(("column", "value", "words"), BAD)
def test_bad_values_name_file_row_column_and_value(tmp_path: Path, column: str, value: object, words: str) -> None:
    path = write(tmp_path / "table.csv", **{column: [ROWS[column][0], value, ROWS[column][2]]})
    with pytest.raises(InputError) as caught:
        read_table(path, label="energy")
    message = str(caught.value)
    assert all(part in message for part in ("table.csv: row 2 ", f"column {column}: ", words, "allowed: "))
    assert value is None or repr(str(value))[:10] in message
    table = read_table(path, label="energy", strict=False)
    assert table.rows.tolist() == [0, 2] and len(table.crystals) == 2
    assert [problem is None for problem in table.problems] == [True, False, True]
    assert words in str(table.problems[1])


def test_angles_that_close_no_cell(tmp_path: Path) -> None:
    path = write(tmp_path / "table.csv", alpha=[90.0, 60.0, 90.0], beta=[90.0, 60.0, 90.0], gamma=[90.0, 150.0, 120.0])
    with pytest.raises(
        InputError, match=r"row 2 .*alpha, beta, gamma: value '60.0, 60.0, 150.0' are not angles of a cell"
    ):
        read_table(path)


SHAPE = "space_group, a, b, c, alpha, beta, gamma"
GIVE = "allowed: the conventional cell and its atoms: pymatgen's conventional standard cell, with the unique axis b"
CONTRADICTIONS = [
    ("Na1 Cl1", 225, [3.99] * 3, [60] * 3, SHAPE, "is not the cell that a cubic group demands", GIVE),
    ("Bi2 Te3", 166, [10.47] * 3, [24.2] * 3, SHAPE, "that a trigonal group demands", "hexagonal axes in trigonal"),
    ("Fe1", 229, [2.48] * 3, [109.47] * 3, SHAPE, "(a = b = c and all angles 90 degrees)", GIVE),
    ("Sn2", 141, [4.97, 4.97, 4.97], [131.8, 131.8, 71.0], SHAPE, "that a tetragonal group demands", GIVE),
    ("Ga4", 64, [4.44, 4.44, 4.5], [90, 90, 120], SHAPE, "that an orthorhombic group demands", GIVE),
    ("C4 H4", 9, [5, 6, 7], [90, 90, 100], SHAPE, "(alpha = gamma = 90 degrees)", "unique axis b"),
    ("Mg2", 194, [3.2, 3.3, 5.2], [90, 90, 120], SHAPE, "that a hexagonal group demands", GIVE),
    ("Na4 Cl4", 225, [5.69] * 3, [1.5708] * 3, "alpha, beta, gamma", "are angles in radians", "angles in degrees"),
    ("Si2", 1, [3.8] * 3, [1.05, 1.05, 1.04], "alpha, beta, gamma", "are angles in radians", "angles in degrees"),
    ("Na4 Cl4", 225, [0.569] * 3, [90] * 3, "formula, a, b, c", "has lengths in nanometres", "lengths in Å"),
    ("Na4 Cl4", 225, [569] * 3, [90] * 3, "formula, a, b, c", "has lengths in picometres", "lengths in Å"),
    ("Na1 Cl1", 225, [5.69] * 3, [90] * 3, "formula, space_group", "no Wyckoff positions of the group hold", GIVE),
]


def contradictory(path: Path) -> Path:
    """The contradictions as a table, and a right row at its end."""
    rows = [[formula, group, *lengths, *angles] for formula, group, lengths, angles, *_ in CONTRADICTIONS]
    frame = pd.DataFrame([*rows, ["Na4 Cl4", 225, 5.69, 5.69, 5.69, 90, 90, 90]], columns=CRYSTAL_COLUMNS)
    frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize(("row", "case"), list(enumerate(CONTRADICTIONS)))
def test_rows_that_contradict_themselves(tmp_path: Path, row: int, case: tuple[object, ...]) -> None:
    table = read_table(contradictory(tmp_path / "table.csv"), strict=False)
    problem = table.problems[row]
    assert problem is not None and problem.column == case[4]
    assert all(str(words) in str(problem) for words in case[5:])
    assert table.rows.tolist() == [len(CONTRADICTIONS)]


def test_every_command_refuses_the_same_rows(tmp_path: Path) -> None:
    from crystalgfn.atoms.tables import read_tasks
    from crystalgfn.crystal.envs import Crystal
    from crystalgfn.discovery.labelling import table_crystals
    from crystalgfn.evaluation.pools import problems_of, read_pool
    from crystalgfn.proxies.network.splits import DataConfig, split_table
    from crystalgfn.proxies.scoring import score

    path = contradictory(tmp_path / "table.csv")
    problems = read_table(path, strict=False).problems
    expected = ["" if problem is None else str(problem) for problem in problems]
    assert score(path, "Density", tmp_path / "out.csv")[0]["reason"].tolist() == expected
    assert [dict(candidate.counts) for candidate in table_crystals(path)] == [{"Na": 4, "Cl": 4}]
    tasks = read_tasks(path, None, None, {})[1]
    assert [task.get("reason", "") for task in tasks] == [
        f"not built: {reason}" if reason else "" for reason in expected
    ]
    env = Crystal(elements=["Na", "Cl"], space_groups=[225])
    assert env.read_table(path).problems == {
        row: f"{problem.kind}; allowed: {problem.allowed}"
        for row, problem in enumerate(problems)
        if problem is not None
    }
    pool = read_pool("samples", path, 10)
    assert len(pool) == 1 and sum(entry["count"] for entry in problems_of(pool.table)) == len(CONTRADICTIONS)
    with pytest.raises(InputError, match=r"row 1 .*that a cubic group demands"):
        split_table(DataConfig(path, label="a"), 0)


def test_cells_with_noise_are_read(tmp_path: Path) -> None:
    noisy = {"a": [5.70, 2.87, 4.93], "alpha": [90.5, 90.0, 89.5], "gamma": [90.0, 89.6, 119.5]}
    assert len(read_table(write(tmp_path / "table.csv", **noisy)).rows) == 3


def test_unusual_volumes_cause_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path / "table.csv", a=[60.0, 2.87, 4.92], b=[60.0, 2.87, 4.92], c=[60.0, 2.87, 0.8])
    words = r"2 of 3 rows have a volume per atom far outside of 4 to 900 Å³, .*row 1, 2\.7e\+04 Å³"
    with pytest.warns(UserWarning, match=words):
        assert len(read_table(path).rows) == 3


def test_tiny_cells_of_a_model_are_no_nanometres(tmp_path: Path) -> None:
    path = write(tmp_path / "table.csv", a=[0.9, 2.87, 4.92], b=[0.9, 2.87, 4.92], c=[0.9, 2.87, 5.43])
    with pytest.warns(UserWarning, match="1 of 3 rows have a volume per atom"):
        assert len(read_table(path).rows) == 3
    # A shorter edge elsewhere in the table proves the unit of both.
    lengths = [0.9, 0.569, 4.92]
    path = write(tmp_path / "table.csv", formula=["Na4Cl4", "Na4Cl4", "Si3O6"], space_group=[225, 225, 152],
                 a=lengths, b=lengths, c=lengths)  # fmt: skip
    assert read_table(path, strict=False).rows.tolist() == [2]


@pytest.mark.skipif(not CRYSTALS.is_file(), reason="needs the table of crystals")
def test_no_real_crystal_is_refused_or_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_table(CRYSTALS).rows) == len(pd.read_parquet(CRYSTALS, columns=["formula"]))
        table = read_table(CRYSTALS, label="formation_energy", strict=False)
    assert {problem.what for problem in table.problems if problem is not None} <= {"is missing or not a number"}


def test_whole_numbers_with_decimals(tmp_path: Path) -> None:
    path = write(
        tmp_path / "table.csv", formula=["Na4.0Cl4.00", "Fe2.0", "Si3O6.0"], space_group=["225.0", "229", "152"]
    )
    table = read_table(path)
    assert table.crystals.formulas() == ["Na4 Cl4", "Fe2", "Si3 O6"]
    assert table.crystals.space_group.tolist() == [225, 229, 152]
    assert table.frame["formula"].tolist() == ["Na4.0Cl4.00", "Fe2.0", "Si3O6.0"]


def test_messages_count_rows_and_are_short(tmp_path: Path) -> None:
    path = write(tmp_path / "table.csv", energy=["", "0", ""], formula=["Na4Cl4", "Fe2", "Si3O6"])
    with pytest.raises(
        InputError, match=r"row 1 .*energy: value '' is missing .*\(2 of 3 rows have this problem\); try"
    ):
        read_table(path, label="energy", remedy="try this")
    for column, text in (("formula", "Q" * 10**6), ("a", "9" * 10**6 + "x")):
        path = write(tmp_path / "table.csv", **{column: [ROWS[column][0], text, ROWS[column][2]]})
        with pytest.raises(InputError) as caught:
            read_table(path)
        assert len(str(caught.value)) < 400 + len(str(path)) and "..." in str(caught.value)


def test_parquet_with_missing_values_and_other_types(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    frame = pd.DataFrame({**ROWS, "formula": ["Na4 Cl4", None, "Si3O6"]})
    frame["space_group"] = pd.array([225, 229, None], dtype="Int16")
    frame.to_parquet(path)
    table = read_table(path, strict=False)
    assert table.rows.tolist() == [0]
    assert [p.column for p in table.problems if p] == ["formula", "space_group"]


def test_missing_columns_are_named(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    pd.DataFrame(ROWS).drop(columns=["a", "gamma"]).to_csv(path, index=False)
    with pytest.raises(
        InputError, match=r"missing column\(s\) a, gamma, gap; the table has: name, formula, space_group"
    ):
        read_table(path, label="gap")


def test_unusable_files(tmp_path: Path) -> None:
    def refused(name: str, content: bytes | None, words: str) -> None:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match=words) as caught:
            read_table(path)
        assert name in str(caught.value)

    refused("none.csv", None, "no such file")
    refused("empty.csv", b"", "is empty")
    refused("header.csv", b"formula,space_group,a,b,c,alpha,beta,gamma\n", "no rows")
    refused("table.xlsx", b"x", "the name of a table must end in .csv")
    refused("table", b"x", "the name of a table must end in .csv")
    refused("binary.csv", bytes(range(256)) * 4, "cannot be read as CSV|missing column")
    refused("broken.parquet", b"PAR1 no more", "cannot be read as parquet")
    refused("ragged.csv", b"a,b\n1,2\n1,2,3,4\n", "cannot be read as CSV")
    (tmp_path / "folder.csv").mkdir()
    refused("folder.csv", None, "is not a file")


class _Marker:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("unpickled"),))


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("table.parquet", "table.csv"):
        Path(name).write_bytes(pickle.dumps(_Marker()))
        with pytest.raises(InputError):
            read_table(name)
    assert not Path("unpickled").exists()


def test_csv_is_written_as_it_was_read(tmp_path: Path) -> None:
    text = "formula,space_group,a,note\nNa4 Cl4,225,5.690,NA\nFe2,229,2.87,\n"
    path = tmp_path / "table.csv"
    path.write_text(text)
    write_frame(read_frame(path), tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text() == text


def test_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b"\xef\xbb\xbf" + b"formula,a\nFe2,1\n")
    assert list(read_frame(path).columns) == ["formula", "a"]


def test_round_trip_with_crystals(tmp_path: Path) -> None:
    crystals = Crystals.from_arrays([225], [{"Na": 4, "Cl": 4}], [[5.69, 5.69, 5.69, 90, 90, 90]])
    write_frame(crystals.to_frame(), tmp_path / "table.csv")
    again = read_table(tmp_path / "table.csv").crystals
    assert torch.equal(again.counts, crystals.counts) and torch.equal(again.lattice, crystals.lattice)


def test_atomic_path_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["table.csv"]


def test_check_writable(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "folder" / "table.csv")
    assert list(tmp_path.iterdir()) == []  # a command that fails later leaves no empty folder
    with atomic_path(tmp_path / "new" / "folder" / "table.csv") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "new" / "folder" / "table.csv").read_text() == "whole"
    with pytest.raises(InputError, match="is a folder"):
        check_writable(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        check_writable(tmp_path / "file" / "table.csv")


def test_many_rows_are_fast(tmp_path: Path) -> None:
    frame = pd.concat([pd.DataFrame(ROWS)] * 5000, ignore_index=True)
    path = tmp_path / "table.csv"
    frame.to_csv(path, index=False)
    started = time.perf_counter()
    assert len(read_table(path).crystals) == 15_000
    assert time.perf_counter() - started < 5  # about 0.4 s; the limit is for busy machines
