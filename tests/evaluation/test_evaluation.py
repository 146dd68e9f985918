"""``crystalgfn evaluate``: every number of small tables is known by hand or found in another way."""

from __future__ import annotations

import base64
import json
import math
import random
import re
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import helpers
import numpy as np
import pandas as pd
import pytest
from real_crystals import CRYSTALS

from crystalgfn import cli
from crystalgfn.crystal.crystallography import OXIDATION_STATE_SETS
from crystalgfn.crystal.formulas import symbol_counts
from crystalgfn.crystal.tables import read_table
from crystalgfn.evaluation import (
    assignment_is_right,
    cell_volumes,
    checks,
    entropy,
    fits_lattice_system,
    fits_wyckoff,
    is_neutral,
    mean_distance,
    measures,
    same_cells,
    statistics,
)
from crystalgfn.evaluation import page as page_module
from crystalgfn.evaluation.markup import number, percent

SAMPLES = """\
formula,space_group,a,b,c,alpha,beta,gamma,oxidation_states,e_form,log_reward,log_pf
Na4 Cl4,225,5.69,5.69,5.69,90,90,90,Na+:4 Cl-:4,-2,4,1
Cl4 Na4,225,5.69,5.69,5.69,90,90,90,Na+:4 Cl-:4,-2,4,1
Na4 Cl4,225,6.5,6.5,6.5,90,90,90,Na+:4 Cl-:4,-1.5,3,0
Mg4 O4,225,4.21,4.21,4.21,90,90,90,Mg2+:4 O2-:4,-3,6,3
Na4 Cl8,225,5.69,5.69,5.69,90,90,90,Na+:4 Cl-:8,-1,2,-1
Mg1 O1,225,3,3,3,90,90,90,Mg2+:1 O2-:1,0,1,-2
Na4 Cl4,225,5.69,6,5.69,90,90,90,Na+:4 Cl-:4,-0.5,5,2
Na4 Cl4,1,5.69,5.69,5.69,10,10,90,Na+:4 Cl-:4,-9,9,9
Na4 Cl4,225,20,20,20,90,90,90,Na+:4 Cl-:4,,0,-3
Xx1,225,5,5,5,90,90,90,,1,1,1
"""
"""Row 2 is row 1 again; rows 5 to 9 break charge, Wyckoff positions, lattice, volume, density; row 10 is no crystal.

The reader of tables refuses rows 6, 7, 8 and 10."""

REFERENCE = """\
material_id,formula,space_group,a,b,c,alpha,beta,gamma,e_form
mp-1,Mg1 O1,221,2.6,2.6,2.6,90,90,90,-2.5
mp-2,Na4 Cl4,225,5.7,5.7,5.7,90,90,90,-2.1
mp-3,Na4 Cl4,225,5.72,5.72,5.72,90,90,90,
mp-4,K4 Cl4,225,6.3,6.3,6.3,90,90,90,-2.2
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return filled(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, str]:
    """A folder with a report on both tables, its metrics and its page; only to be read."""
    path = filled(tmp_path_factory.mktemp("whole"))
    return path, *evaluate(path, "--reference", str(path / "reference.csv"))


def filled(path: Path) -> Path:
    (path / "samples.csv").write_text(SAMPLES)
    (path / "reference.csv").write_text(REFERENCE)
    return path


def evaluate(folder: Path, *options: str, out: str = "report") -> tuple[dict, str]:
    """Metrics and page of the samples in a folder."""
    assert cli.main(["evaluate", str(folder / "samples.csv"), "--out", str(folder / out), *options]) == 0
    metrics = json.loads((folder / out / "metrics.json").read_text(encoding="utf-8"))
    return metrics, (folder / out / "index.html").read_text(encoding="utf-8")


def measured(folder: Path, *options: str) -> dict:
    """Metrics alone: drawing takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_module, "render", lambda evaluation: "")
        return evaluate(folder, *options)[0]


def counted(tally: dict) -> tuple[int, int]:
    return tally["count"], tally["of"]


def test_each_broken_constraint_is_counted_and_no_other(folder, monkeypatch):
    monkeypatch.setattr(measures, "smact_version", lambda: None)
    metrics = measured(folder)
    result = metrics["validity"]["samples"]
    assert {name: (*counted(value), value.get("first_failing_rows")) for name, value in result.items()} == {
        "readable": (6, 10, None),
        "valid": (5, 10, None),
        "charge_neutral": (5, 6, [5]),
        "wyckoff": (6, 7, [6]),
        "lattice_system": (6, 7, [7]),
        "positive_volume": (6, 7, [8]),
        "cell_shape": (6, 6, []),
        "edge_ratio": (6, 6, []),
        "longest_edge": (6, 6, []),
        "density_in_range": (5, 6, [9]),
        "assignment": (5, 6, [5]),
    }
    problems = metrics["tables"]["samples"]["problems"]
    assert [(p["column"], p["count"], p["rows"]) for p in problems] == [
        ("formula, space_group", 1, [6]),
        ("space_group, a, b, c, alpha, beta, gamma", 1, [7]),
        ("alpha, beta, gamma", 1, [8]),
        ("formula", 1, [10]),
    ]


THIN = """\
formula,space_group,a,b,c,alpha,beta,gamma
Na4 Cl4,225,5.69,5.69,5.69,90,90,90
Na1 Cl1,99,3,3,15,90,90,90
Na1 Cl1,99,3,3,15.1,90,90,90
Na8 Cl8,1,20,20,30,90,90,90
Na8 Cl8,1,20,20,31,90,90,90
"""


def test_the_shape_of_cells_is_shown_beside_valid(folder, capsys):
    (folder / "samples.csv").write_text(THIN)
    metrics, page = evaluate(folder)
    result = metrics["validity"]["samples"]
    assert [counted(result[name]) for name in ("valid", "edge_ratio", "longest_edge", "cell_shape")] == [
        (5, 5), (4, 5), (4, 5), (3, 5),
    ]  # fmt: skip
    assert result["cell_shape"]["first_failing_rows"] == [3, 5]
    assert metrics["settings"]["cell_shape"] == [5.0, 30.0]
    assert "Usual cell shape" in page and "60.0\u00a0%" in page and "real crystals: 95.2 %" in page
    # The rule of charges is explained where its result is shown.
    assert "Metals, alloys and compounds with two oxidation states" in page and "real crystals: 36.2 %" in page
    shown = capsys.readouterr().out
    assert "valid: 5 of 5" in shown and "usual cell shape: 3 of 5" in shown


@pytest.mark.skipif(not CRYSTALS.is_file(), reason=f"no data at {CRYSTALS}")
def test_shares_of_real_crystals_are_those_of_the_data():
    table = read_table(CRYSTALS, strict=False)
    passed = checks.cell_shapes(table.crystals.lattice.numpy())
    compositions = [tuple(counts.items()) for counts in symbol_counts(table.crystals.counts)]
    passed["charge_neutral"] = np.array([is_neutral(composition) for composition in compositions])
    assert len(compositions) == 57_746
    shares = {name: round(100 * mask.mean(), 1) for name, mask in passed.items()}
    # Other versions of pymatgen have other oxidation states.
    assert shares.pop("charge_neutral") == pytest.approx(checks.REAL_SHARES["charge_neutral"], abs=1.5)
    assert shares == {name: share for name, share in checks.REAL_SHARES.items() if name != "charge_neutral"}


PRIMITIVE = """\
material_id,formula,space_group,a,b,c,alpha,beta,gamma
mp-1,Na1 Cl1,225,3.99,3.99,3.99,60,60,60
mp-2,Mg4 O4,cubic,4.21,4.21,4.21,90,90,90
mp-3,K4 Cl4,225,6.3,6.3,6.3,90,90,90
"""


def test_crystals_of_the_reference_in_other_cells_are_not_new(folder, capsys):
    """Rock salt is in the reference in its primitive cell, and magnesia in a row without a number of a group."""
    (folder / "reference.csv").write_text(PRIMITIVE)
    metrics, page = evaluate(folder, "--reference", str(folder / "reference.csv"))
    new = metrics["novelty"]["samples"]
    # Of five crystals, three are NaCl, one is MgO and one is NaCl2.
    assert counted(new["new_formula"]) == counted(new["new_formula_in_group"]) == counted(new["new_crystal"]) == (1, 5)
    assert counted(new["not_comparable"]) == (4, 5) and counted(new["valid_unique_new"]) == (0, 10)
    assert new["rediscovered"] == []
    assert {entry["known"] for entry in metrics["top"]} == {
        "new formula", "known formula and group, in a cell that cannot be compared",
    }  # fmt: skip
    shown = capsys.readouterr().out
    assert "because the reference has them in a row that cannot be used: 4 of 5" in shown
    assert "reference.csv: 1 of 3 rows are crystals" in shown and "a cubic group demands" in shown
    assert "2 of 3 rows of the reference cannot be used" in page and "Not counted as new" in page


def test_uniqueness_and_diversity(folder):
    metrics = measured(folder)
    unique = metrics["uniqueness"]["samples"]
    assert counted(unique["crystals"]) == (5, 6) and counted(unique["compositions_in_group"]) == (3, 6)
    diverse = metrics["diversity"]["samples"]
    # Na and Cl in five rows, Mg and O in one.
    by_hand = -2 * (5 / 12 * math.log(5 / 12) + 1 / 12 * math.log(1 / 12))
    assert diverse["elements"]["entropy"] == pytest.approx(by_hand)
    assert diverse["elements"]["effective"] == pytest.approx(math.exp(by_hand))
    assert diverse["space_groups"] == {"classes": 1, "entropy": 0.0, "effective": 1.0}
    assert diverse["chemical_systems"]["entropy"] == pytest.approx(-(5 / 6 * math.log(5 / 6) + 1 / 6 * math.log(1 / 6)))
    # Four times NaCl, once NaCl2, once MgO.
    pairs = 4 * 1 * 1 + 1 * 1 * 1 + 4 * 1 * (1 / 6)
    assert diverse["composition_distance"] == pytest.approx(pairs / 15)


def test_novelty(folder):
    metrics = measured(folder, "--reference", str(folder / "reference.csv"))
    new = metrics["novelty"]["samples"]
    assert counted(new["new_formula"]) == (1, 5)  # NaCl2
    assert counted(new["new_formula_in_group"]) == (2, 5)  # and MgO in 225
    assert counted(new["new_crystal"]) == (4, 5)  # and two cells of NaCl that are larger
    assert counted(new["not_comparable"]) == (0, 5)
    assert counted(new["valid_unique_new"]) == (3, 10)  # rows 3, 4, 9
    assert [(r["row"], r["reference_row"], r["reference_id"]) for r in new["rediscovered"]] == [(1, 2, "mp-2")]
    assert [entry["known"] for entry in metrics["top"]][:2] == ["known formula", "known crystal"]


def test_the_reference_gives_the_range_of_densities(folder):
    metrics = measured(folder, "--reference", str(folder / "reference.csv"))
    low, high = metrics["settings"]["density_range"]
    mass = {"NaCl": 4 * 58.44, "MgO": 40.304, "KCl": 4 * 74.55}
    volumes = {"NaCl": (5.7**3, 5.72**3), "MgO": (2.6**3,), "KCl": (6.3**3,)}
    densities = [1.66054 * mass[name] / volume for name, group in volumes.items() for volume in group]
    assert low == pytest.approx(np.percentile(densities, 0.1), rel=1e-3)
    assert high == pytest.approx(np.percentile(densities, 99.9), rel=1e-3)


def test_a_table_compared_with_itself_has_nothing_new(folder):
    metrics = measured(folder, "--reference", str(folder / "samples.csv"))
    new = metrics["novelty"]["samples"]
    for key in ("new_formula", "new_formula_in_group", "new_crystal", "valid_unique_new"):
        assert new[key]["count"] == 0, key


def test_coverage_and_the_best(folder):
    metrics = measured(folder, "--top", "2")
    found = metrics["coverage"]["samples"]
    assert found["elements"]["counts"] == {"O": 1, "Na": 5, "Mg": 1, "Cl": 5}
    assert found["elements"]["top_counts"] == {"O": 1, "Na": 1, "Mg": 1, "Cl": 1}
    assert (found["elements"]["possible"], found["elements"]["all"], found["elements"]["top"]) == (94, 4, 4)
    assert found["space_groups"]["counts"] == {"225": 6} and found["space_groups"]["possible"] == 230
    assert found["crystal_lattice_systems"]["counts"] == {"cubic": 6}
    assert found["point_symmetries"]["top_counts"] == {"centrosymmetric": 2}
    assert [(entry["row"], entry["log_reward"], entry["failed"]) for entry in metrics["top"]] == [
        (4, 6.0, []),
        (1, 4.0, []),
    ]


def test_properties_of_all_tables(folder):
    metrics = measured(
        folder, "--reference", str(folder / "reference.csv"), "--samples", f"again={folder / 'samples.csv'}"
    )
    entry = metrics["properties"]["e_form"]
    assert list(entry["all"]) == ["samples", "again", "reference"]
    assert entry["all"]["again"] == entry["all"]["samples"]
    values = [-2, -2, -1.5, -3, -1]
    stats = entry["all"]["samples"]
    assert (stats["n"], stats["missing"], stats["min"], stats["max"]) == (5, 1, -3, -1)
    assert stats["median"] == -2 and stats["mean"] == pytest.approx(sum(values) / 5)
    assert stats["q25"] == pytest.approx(np.percentile(values, 25)) and stats["std"] == pytest.approx(np.std(values))
    assert entry["all"]["reference"]["median"] == -2.2 and entry["all"]["reference"]["missing"] == 1
    assert metrics["properties"]["atoms"]["all"]["samples"]["max"] == 12
    assert metrics["properties"]["volume_per_atom"]["all"]["reference"]["max"] == pytest.approx(6.3**3 / 8)


def test_a_proxy_fills_in_what_a_table_lacks(folder):
    metrics = measured(folder, "--proxy", "FormationEnergy", "--properties", "e_form")
    assert list(metrics["properties"]) == ["e_form", "formation_energy"]
    entry = metrics["properties"]["formation_energy"]
    assert entry["unit"] == "eV/atom" and entry["predicted_for"] == ["samples"] and entry["all"]["samples"]["n"] == 6


def test_sampler_quality(folder):
    metrics = measured(folder)
    result = metrics["sampler"]["samples"]
    # log p = log R - 3 in all usable rows.
    assert result["n"] == 6
    for key, value in {"pearson": 1, "spearman": 1, "slope": 1, "log_z": 3, "log_z_bound": 3, "ess": 1}.items():
        assert result[key] == pytest.approx(value), key
    text = SAMPLES.replace(",6,3\n", f",6,{6 - 3 - math.log(3)}\n")
    (folder / "samples.csv").write_text(text)
    result = measured(folder)["sampler"]["samples"]
    # Five weights of e^3 and one of 3 e^3.
    assert result["log_z"] == pytest.approx(3 + math.log(8 / 6))
    assert result["log_z_bound"] == pytest.approx(3 + math.log(3) / 6)
    assert result["ess"] == pytest.approx(8**2 / (6 * 14))
    assert result["pearson"] < 0.999


def test_without_columns_of_a_sampler(folder):
    frame = pd.read_csv(folder / "samples.csv").drop(columns=["log_reward", "log_pf"])
    frame.to_csv(folder / "samples.csv", index=False)
    metrics, page = evaluate(folder)
    assert metrics["sampler"] == {"samples": None} and metrics["top"] == []
    assert metrics["coverage"]["samples"]["elements"]["top"] is None
    assert "no column log_reward" in page


def test_structures(folder):
    made = folder / "structures"
    (made / "cif").mkdir(parents=True)
    (made / "cif" / "MgO.cif").write_text("data_MgO\n_cell_length_a 4.25 # <&\n")
    (made / "cif" / "salt.cif").write_text("data_NaCl\n")
    text = "formula,space_group,file,energy\nO4 Mg4,225,cif/MgO.cif,-5.5\nNa4 Cl4,225,cif/salt.cif,0\n"
    text += "Mg1 O1,225,cif/gone.cif,-3\nNa4 Cl8,225,,-1\nXx,225,cif/salt.cif,1\n"
    (made / "structures.csv").write_text(text)
    metrics, page = evaluate(folder, "--structures", str(made))
    by_row = {entry["row"]: (entry["cif"], entry["structure"]) for entry in metrics["top"]}
    # Row 4 has the only crystal of its composition; which NaCl is meant is not said.
    assert by_row.pop(4) == ("MgO.cif", {"energy": -5.5})
    assert set(by_row) == {1, 3, 5, 9} and all(x == (None, {"energy": None}) for x in by_row.values())
    assert metrics["structures"] == {
        "file": "structures.csv",
        "rows": 5,
        "with_cif": 3,
        "samples_with_cif": 1,
        "missing_files": ["cif/gone.cif"],
        "unmatched_rows": [2, 5],
    }
    assert "cif/gone.cif" in page and "belongs to no sample" in page
    links = re.findall(r'download="([^"]*)" href="data:chemical/x-cif;base64,([^"]*)"', page)
    assert [name for name, _ in links] == ["MgO.cif"]
    assert base64.b64decode(links[0][1]) == (made / "cif" / "MgO.cif").read_bytes()
    # The table itself can be named as well.
    assert measured(folder, "--structures", str(made / "structures.csv"))["top"] == metrics["top"]


def test_structures_as_build_writes_them(folder):
    made = folder / "built"
    (made / "cif").mkdir(parents=True)
    for name in ("row-000003", "row-000001", "row-000004"):
        (made / "cif" / f"{name}.cif").write_text(f"data_{name}\n")
    text = "id,row,formula,space_group,energy_above_hull,seconds,reason\nrow-000003,3,Na4 Cl4,225,0.1,1,\n"
    text += "row-000009,9,Na4 Cl4,225,,2,not built\nrow-000004,4,Na4 Cl4,225,0.2,1,\nrow-000001,1,Na4 Cl4,225,0.3,1,\n"
    (made / "structures.csv").write_text(text)
    metrics = measured(folder, "--structures", str(made))
    by_row = {entry["row"]: (entry["cif"], entry["structure"]["energy_above_hull"]) for entry in metrics["top"]}
    assert by_row[3] == ("row-000003.cif", 0.1) and by_row[1] == ("row-000001.cif", 0.3)
    assert by_row[9] == (None, None) and by_row[4] == (None, None)  # of row 4 the formula is another one
    assert metrics["structures"]["unmatched_rows"] == [3] and metrics["structures"]["missing_files"] == []
    assert list(metrics["top"][0]["structure"]) == ["energy_above_hull"]


class Page(HTMLParser):
    """Checks that tags are balanced and collects what a browser might fetch."""

    VOID = ("meta", "br", "link", "img", "input", "hr")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.note(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.note(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def note(self, tag, attrs):
        self.tags.add(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.addresses += [v for n, v in attrs if n in ("href", "src", "xlink:href", "srcset", "action", "poster")]


def test_the_page_is_whole_and_loads_nothing(whole):
    _, metrics, page = whole
    parser = Page()
    parser.feed(page)
    parser.close()
    assert parser.open == [] and {"svg", "table", "figure", "style", "script"} <= parser.tags
    assert not {"link", "iframe", "object", "embed"} & parser.tags
    assert parser.addresses and all(address.startswith(("#", "data:")) for address in parser.addresses)
    assert not re.search(r"https?://|@import|url\((?!#)", page)
    assert len(parser.ids) == len(set(parser.ids))
    inside = [address[1:] for address in parser.addresses if address.startswith("#")]
    assert set(inside) | set(re.findall(r"url\(#([^)]*)\)", page)) <= set(parser.ids)
    assert "mp-2" in page and "Fm-3m (225)" in page
    assert "prefers-color-scheme: dark" in page and "samples.csv" in page and metrics["version"] in page


def test_the_same_input_gives_the_same_bytes(whole, folder):
    evaluate(folder, "--reference", str(folder / "reference.csv"))
    for name in ("index.html", "metrics.json"):
        assert (whole[0] / "report" / name).read_bytes() == (folder / "report" / name).read_bytes()
    assert sorted(path.name for path in (folder / "report").iterdir()) == ["index.html", "metrics.json"]


def test_parquet_and_text_from_a_file_is_escaped(folder):
    frame = pd.read_csv(folder / "samples.csv")
    frame.loc[9, "formula"] = "<script>alert(1)</script>"
    frame["a $\\frac$ <i>"] = 1.0
    frame.to_parquet(folder / "samples.parquet")
    out = folder / "report"
    arguments = [str(folder / "samples.parquet"), "--samples", f"a $x$ <u>={folder / 'samples.csv'}", "--out", str(out)]
    assert cli.main(["evaluate", *arguments]) == 0
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    assert "<u>" not in page and "a $x$ &lt;u&gt;" in page
    assert "<i>" not in page and "a $\\frac$ &lt;i&gt;" in page


def test_smact_is_named_with_its_version_or_said_to_be_absent(whole, folder, monkeypatch):
    _, metrics, page = whole
    version = checks.smact_version()
    assert ("smact" in metrics["validity"]["samples"]) == (version is not None)
    assert metrics["settings"]["versions"]["smact"] == version
    if version is not None:
        assert f"SMACT {version}, oxidation states icsd24" in page
        passed = metrics["validity"]["samples"]["smact"]
        assert counted(passed) == (5, 6) and passed["first_failing_rows"] == [5]
    monkeypatch.setattr(checks, "smact_version", lambda: None)
    monkeypatch.setattr(measures, "smact_version", lambda: None)
    metrics = measured(folder)
    assert metrics["settings"]["versions"]["smact"] is None
    assert "not installed: pip install smact" in page_module._validity(metrics)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["none.csv"], "none.csv: no such file"),
        (["samples.csv", "--reference", "none.csv"], "none.csv: no such file"),
        (["samples.csv", "--reference", "damaged.parquet"], "damaged.parquet: cannot be read as parquet"),
        (["samples.csv", "--reference", "unusable.csv"], "unusable.csv: none of the 1 rows can be used; row 1, column"),
        (["empty.csv"], "empty.csv: the file is empty"),
        (["header.csv"], "header.csv: the table has no rows"),
        (["unusable.csv"], "none of the 1 rows can be used"),
        (["other.csv"], "other.csv: missing column(s) formula"),
        (["samples.csv", "--top", "0"], "--top: 0 is not allowed; it must be at least 1"),
        (["samples.csv", "--out", "header.csv"], "cannot be written"),
        (["samples.csv", "--properties", "hardness"], "column 'hardness' does not exist in"),
        (["samples.csv", "--properties", "oxidation_states"], "column 'oxidation_states' holds text in"),
        (["samples.csv", "--samples", "other.csv"], "'other.csv' is not allowed; it must be NAME=TABLE"),
        (["samples.csv", "--samples", "reference=samples.csv"], "the name 'reference' is taken"),
        (["samples.csv", "--samples", "x=none.csv"], "none.csv: no such file"),
        (["samples.csv", "--proxy", "Hardness"], "unknown proxy 'Hardness'"),
        (["samples.csv", "--weights", "w.pt"], "--weights: needs --proxy"),
        (
            ["samples.csv", "--oxidation-states", "mine"],
            "oxidation_states: 'mine' is not allowed; allowed: pymatgen_common",
        ),
        (["samples.csv", "--structures", "none"], "--structures: none: no such file"),
        (["samples.csv", "--structures", "."], "--structures: .: has no structures.csv"),
        (["samples.csv", "--structures", "samples.csv"], "no column names CIF files"),
    ],
)
def test_refused(folder, monkeypatch, capsys, options, message):
    monkeypatch.chdir(folder)
    header, row = SAMPLES.splitlines()[0], SAMPLES.splitlines()[-1]
    Path("empty.csv").write_text("")
    Path("header.csv").write_text(header + "\n")
    Path("unusable.csv").write_text(f"{header}\n{row}\n")
    Path("other.csv").write_text("x,y\n1,2\n")
    Path("damaged.parquet").write_bytes(b"PAR1 but no more")
    assert cli.main(["evaluate", *options]) == 2
    shown = capsys.readouterr()
    assert message in shown.err and "Traceback" not in shown.err
    assert shown.err.startswith("crystalgfn evaluate: error: ") and shown.err.count("\n") == 1
    assert not Path("report").exists()


def test_unreadable_rows_are_listed_on_the_page_and_in_the_terminal(whole, folder, capsys):
    _, _, page = whole
    measured(folder)
    shown = capsys.readouterr().out
    assert (
        "6 of 10 rows are crystals" in shown and "row 8): column alpha, beta, gamma are not angles of a cell" in shown
    )
    assert "4 rows could not be read" in page and "are not angles of a cell" in page and "Xx1" in page


def test_charges_agree_with_all_choices_tried():
    stream = random.Random(0)
    seen = set()
    for _ in range(300):
        symbols = stream.sample(["Na", "Fe", "O", "S", "Cl", "H", "He", "V", "Al"], stream.randint(1, 4))
        composition = {symbol: stream.randint(1, 5) for symbol in symbols}
        for mixed in (False, True):
            for name in OXIDATION_STATE_SETS:
                expected = helpers.is_neutral(composition, mixed, name)
                assert is_neutral(composition.items(), name, mixed) == expected, (composition, mixed, name)
                seen.add((mixed, expected))
    assert len(seen) == 4
    assert not is_neutral([("Fe", 3), ("O", 4)]) and is_neutral([("Fe", 3), ("O", 4)], mixed_valence=True)


def test_positions_agree_with_pyxtal_unaided(monkeypatch):
    from pyxtal.symmetry import Group

    stream = random.Random(0)
    seen = []
    for number_ in (1, 2, 19, 47, 99, 148, 164, 187, 191, 194, 216, 221, 225, 227, 230):
        group = Group(number_)
        for _ in range(12):
            counts = [stream.randint(1, 12) for _ in range(stream.randint(1, 3))]
            expected = bool(group.check_compatible(counts)[0])
            assert fits_wyckoff(number_, counts) == expected, (number_, counts)
            assert checks._search(number_, tuple(counts)) == expected, (number_, counts)
            seen.append(expected)
    assert 0.2 < np.mean(seen) < 0.8
    # Fm-3m has one position of 4 atoms twice and no other smaller than 8: thousands of atoms take no time.
    assert fits_wyckoff(225, [4, 4]) and not fits_wyckoff(225, [4, 4, 4]) and not fits_wyckoff(225, [9_998, 4])
    assert fits_wyckoff(225, [9_996, 4]) and fits_wyckoff(1, [9_999])


def test_shapes_of_cells():
    cubic, tetragonal = [5, 5, 5, 90, 90, 90], [5, 5, 6, 90, 90, 90]
    hexagonal, monoclinic, triclinic = [5, 5, 6, 90, 90, 120], [5, 6, 7, 90, 100, 90], [5, 6, 7, 80, 85, 95]
    cells = [cubic, tetragonal, [5, 6, 7, 90, 90, 90], monoclinic, hexagonal, triclinic]
    fits = {1: "111111", 2: "111111", 3: "111100", 15: "111100", 16: "111000", 74: "111000", 75: "110000"}
    fits |= {142: "110000", 143: "000010", 167: "000010", 168: "000010", 194: "000010", 195: "100000", 230: "100000"}
    for group, expected in fits.items():
        found = fits_lattice_system(np.full(len(cells), group), np.array(cells, dtype=float))
        assert "".join(str(int(x)) for x in found) == expected, group


def test_volumes_agree_with_pymatgen():
    from pymatgen.core import Lattice

    cells = np.array([[5, 6, 7, 80, 85, 95], [3, 3, 9, 90, 90, 120], [2, 2, 2, 60, 60, 60], [5, 5, 5, 10, 10, 90]])
    volumes = cell_volumes(cells.astype(float))
    assert volumes[:3] == pytest.approx([Lattice.from_parameters(*cell).volume for cell in cells[:3]])
    assert volumes[3] == 0


def test_cells_with_their_axes_in_another_order():
    one = np.array([[4, 5, 6, 90, 100, 90]] * 4, dtype=float)
    other = np.array(
        [[6, 5, 4, 90, 100, 90], [6, 5, 4, 100, 90, 90], [4.3, 4.9, 6.2, 92, 103, 88], [4.5, 5, 6, 90, 100, 90]]
    )
    assert same_cells(one, other).tolist() == [True, False, True, False]


def test_assignments():
    assert assignment_is_right("Na+:4 Cl-:4", {"Na": 4, "Cl": 4})
    assert assignment_is_right("Fe2+:1 Fe3+:2 O2-:4", {"Fe": 3, "O": 4})
    for text in ("Na+:4 Cl-:3", "Na+:4", "Na+:3 Cl-:4", "", "salt", "Na+:x Cl-:4"):
        assert not assignment_is_right(text, {"Na": 4, "Cl": 4}), text


def test_mean_distance_agrees_with_all_pairs():
    counts = np.random.default_rng(0).integers(0, 4, (40, 94))
    fractions = counts / counts.sum(1, keepdims=True)
    pairs = [np.abs(fractions[i] - fractions[j]).sum() / 2 for i, j in combinations(range(40), 2)]
    assert mean_distance(counts) == pytest.approx(np.mean(pairs))
    assert mean_distance(counts[:1]) is None


def test_small_measures():
    assert entropy([3, 3, 3, 0]) == pytest.approx({"classes": 3, "entropy": math.log(3), "effective": 3})
    assert statistics(np.array([np.nan]))["median"] is None
    assert percent({"count": 9999, "of": 10000, "share": 0.9999}) == ">\u00a099.9\u00a0%".replace(">", "&gt;")
    assert percent({"count": 0, "of": 0, "share": None}) == "–"
    assert [number(x) for x in (None, 12345, -0.5, 1234567.0, 1e-7)] == ["–", "12,345", "−0.5", "1,234,567", "1.00e−07"]


def test_help_needs_no_torch():
    import subprocess
    import sys

    code = "import sys, crystalgfn.commands.evaluate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
