"""``crystalgfn score``: a proxy's column for any table."""

from __future__ import annotations

import stat
from pathlib import Path

import pandas as pd
import pytest

import crystalgfn.proxies.density
import crystalgfn.proxies.formation_energy  # noqa: F401 - registers FormationEnergy
from crystalgfn.commands.score import main
from crystalgfn.errors import InputError

TABLE = """\
note,formula,space_group,a,b,c,alpha,beta,gamma,id
NA,Na4 Cl4,225,5.690,5.690,5.690,90,90,90,001
,Xx2,225,5.690,5.690,5.690,90,90,90,002
b,Fe2,229,2.870,2.870,2.870,90,90,90,003
c,Fe2,229,-2.870,2.870,2.870,90,90,90,004
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(TABLE)
    return path


def test_all_rows_and_columns_stay(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = table.with_name("scored.csv")
    assert main([str(table), "--proxy", "Density", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "2 of 4 rows have density [g/cm³]" in shown and "row 2: column formula: value 'Xx2'" in shown
    lines = out.read_text().splitlines()
    assert lines[0] == TABLE.splitlines()[0] + ",density,reason"
    for before, after in zip(TABLE.splitlines()[1:], lines[1:], strict=True):
        assert after.startswith(before + ",")
    scored = pd.read_csv(out)
    assert scored["density"].isna().tolist() == [False, True, False, True]
    assert scored["density"][0] == pytest.approx(2.107, abs=0.01)  # rock salt, 2.17 g/cm³ measured
    assert scored["reason"].isna().tolist() == [True, False, True, False]
    assert stat.S_IMODE(out.stat().st_mode) == stat.S_IMODE(table.stat().st_mode)


def test_parquet_in_and_out(table: Path) -> None:
    source, out = table.with_name("table.parquet"), table.with_name("scored.parquet")
    pd.read_csv(table).to_parquet(source)
    assert main([str(source), "--proxy", "FormationEnergy", "--out", str(out)]) == 0
    scored = pd.read_parquet(out)
    assert scored["formation_energy"].isna().tolist() == [False, True, False, True]
    assert -3 < scored["formation_energy"][0] < -1
    doubt = scored["formation_energy_uncertainty"]
    assert doubt.isna().tolist() == [False, True, False, True] and 0 < doubt[0] < 0.2
    assert list(scored.columns[-3:]) == ["formation_energy", "formation_energy_uncertainty", "reason"]
    pd.testing.assert_frame_equal(scored[scored.columns[:-3]], pd.read_parquet(source))


def test_rows_that_the_hull_does_not_know_stay(table: Path) -> None:
    out = table.with_name("scored.csv")
    table.write_text(TABLE + "d,Au4 Cl4,225,5.7,5.7,5.7,90,90,90,005\ne,Li1 Na1 K1 Mg1 Al1 Si1,1,5,5,5,90,90,90,006\n")
    assert main([str(table), "--proxy", "EnergyAboveHull", "--out", str(out)]) == 0
    scored = pd.read_csv(out)
    assert scored["energy_above_hull"].isna().tolist() == [False, True, False, True, True, True]
    assert scored["reason"].tolist()[4:] == [
        "the hull has no phases with Au",
        "the hull is made for up to 5 elements in a composition",
    ]


def test_no_row_can_be_scored(table: Path) -> None:
    table.write_text("\n".join(TABLE.splitlines()[i] for i in (0, 2, 4)) + "\n")
    assert main([str(table), "--proxy", "FormationEnergy", "--out", str(table.with_name("o.csv"))]) == 0
    assert pd.read_csv(table.with_name("o.csv"))["formation_energy"].isna().all()


def test_scores_do_not_depend_on_the_other_rows(table: Path) -> None:
    whole, single = table.with_name("whole.csv"), table.with_name("single.csv")
    main([str(table), "--proxy", "FormationEnergy", "--out", str(whole)])
    table.write_text("\n".join(TABLE.splitlines()[i] for i in (0, 3)) + "\n")
    main([str(table), "--proxy", "FormationEnergy", "--out", str(single)])
    values = pd.read_csv(whole)["formation_energy"][2], pd.read_csv(single)["formation_energy"][0]
    assert values[0] == pytest.approx(values[1], abs=1e-5)


def test_refused(table: Path, tmp_path: Path) -> None:
    def refused(words: str, *args: str) -> None:
        with pytest.raises(InputError, match=words):
            main([str(x) for x in args])

    out = str(tmp_path / "out.csv")
    refused(
        r"unknown proxy 'Hardness'; registered: .*Density.*FormationEnergy", table, "--proxy", "Hardness", "--out", out
    )
    refused(
        "HyperGridModes (gives no value for crystals|cannot be used)", table, "--proxy", "HyperGridModes", "--out", out
    )
    refused("no such file", tmp_path / "none.csv", "--proxy", "Density", "--out", out)
    refused("the name of a table must end in", table, "--proxy", "Density", "--out", tmp_path / "out.txt")
    refused("cannot be written", table, "--proxy", "Density", "--out", table / "out.csv")
    refused("is a folder", table, "--proxy", "Density", "--out", _folder(tmp_path / "folder.csv"))
    refused("takes no weights", table, "--proxy", "Density", "--out", out, "--weights", "w.pt")
    refused("no such file of weights", table, "--proxy", "FormationEnergy", "--out", out, "--weights", "none.pt")
    main([str(table), "--proxy", "Density", "--out", out])
    refused(r"already has column\(s\) density, reason", out, "--proxy", "Density", "--out", tmp_path / "again.csv")
    assert not (tmp_path / "again.csv").exists()


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_options_that_cannot_be_parsed(table: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(table), "--proxy", "Density"])
    assert caught.value.code == 2


def test_importing_the_command_does_not_import_torch() -> None:
    import subprocess
    import sys

    code = "import sys, crystalgfn.commands.score, crystalgfn.commands.train_proxy; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
