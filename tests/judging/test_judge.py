"""Crystals are judged by several potentials; each mark and count is compared with what was put in."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure

from crystalgfn.atoms.potentials import make
from crystalgfn.atoms.potentials.references import ElementReferences
from crystalgfn.cli import main
from crystalgfn.errors import InputError
from crystalgfn.judging import Given, judge
from crystalgfn.judging.known import Reference
from crystalgfn.judging.relaxing import compare
from crystalgfn.judging.verdict import Judge, judge_crystals, slug, summarize
from crystalgfn.proxies.hull import ReferenceHull

NAMES = ("CHGNet", "SevenNet:7net-0")
A, B = map(slug, NAMES)


def salt(a=5.69, cation="Na", anion="Cl"):
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])


def caesium_chloride(a=3.5):
    return Structure.from_spacegroup("Pm-3m", Lattice.cubic(a), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


MOLECULE = Structure(Lattice.orthorhombic(5, 5, 6), ["H", "H", "O"], [[0, 0, 0], [0, 0, 0.74 / 6], [0.5, 0.5, 0.5]])


@pytest.fixture(scope="module")
def judges():
    """Both potentials, with references of 0: their energies are formation energies."""
    zero = dict.fromkeys(("Na", "Cl", "K", "H", "O", "Li", "F"), 0.0)
    return [Judge(make(name), ElementReferences(zero, name, "any")) for name in NAMES]


@pytest.fixture(scope="module")
def hull(tmp_path_factory):
    path = tmp_path_factory.mktemp("hull") / "known.csv"
    path.write_text("formula,formation_energy\nNaCl,-2.0\nLiF,-3.0\nH2O,-1.0\n")
    return ReferenceHull(path)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "known.parquet"
    pd.DataFrame({"id": ["salt"], "cif": [salt().to(fmt="cif")]}).to_parquet(path)
    return Reference(path)


def relaxed(structure, energy, group=225, change=0.0, match=True, **more):
    """A result of a relaxation."""
    return {
        "reason": "", "structure_relaxed": structure.as_dict(), "energy_relaxed": energy, "space_group_built": group,
        "space_group_relaxed": group, "volume_change": change, "match": match, "displacement": 0.1 if match else None,
        "min_distance_relaxed": 2.5, "converged": True, "cpu_seconds": 2.0, **more,
    }  # fmt: skip


CRYSTALS = {
    "known": (salt(), [relaxed(salt(), -2.0), relaxed(salt(5.7), -1.95)]),
    "new": (caesium_chloride(), [relaxed(caesium_chloride(), -1.92, 221), relaxed(caesium_chloride(), -1.95, 221)]),
    "twin": (caesium_chloride(3.6), [relaxed(caesium_chloride(3.6), -1.92, 221)] * 2),
    "one only": (salt(4, "Li", "F"), [relaxed(salt(4, "Li", "F"), -2.95), relaxed(salt(4, "Li", "F"), -2.8)]),
    "other group": (salt(), [relaxed(salt(), -1.99), relaxed(salt(), -1.99, 139, space_group_built=225)]),
    "larger": (salt(), [relaxed(salt(), -1.99, change=0.11), relaxed(salt(), -1.99, change=0.02)]),
    "alone": (salt(6.3, "K", "Cl"), [relaxed(salt(6.3, "K", "Cl"), -2.2)] * 2),
    "below": (salt(), [relaxed(salt(), -2.3), relaxed(salt(), -2.05)]),
    "molecule": (MOLECULE, [relaxed(MOLECULE, -1.0, 47)] * 2),
    "no structure": (None, [{}, {}]),
    "neither": (salt(), [{"reason": "not relaxed: it melts at 12.5 K", "space_group_built": 225}] * 2),
    "half": (salt(), [relaxed(salt(), -2.0), {"reason": "not relaxed: too slow", "space_group_built": 225}]),
}  # fmt: skip


@pytest.fixture(scope="module")
def frame(judges, hull, reference):
    given = [
        Given(name, structure, cpu_seconds=1.0, reason="" if structure else "not built: 12 atoms too close")
        for name, (structure, _) in CRYSTALS.items()
    ]
    results = [[own[i] for _, own in CRYSTALS.values()] for i in range(2)]
    return judge_crystals(given, results, judges, hull, reference).set_index("id", drop=False)


def marked(frame, column):
    return set(frame.index[frame[column].fillna(False).astype(bool)])


def test_energies_are_above_the_hull_of_the_reference(frame):
    assert frame.loc["new", f"{A}_energy_above_hull"] == pytest.approx(0.08)
    assert frame.loc["new", "energy_above_hull"] == pytest.approx(0.08)  # the higher of 0.08 and 0.05
    assert frame.loc["one only", [f"{A}_energy_above_hull", f"{B}_energy_above_hull"]].tolist() == pytest.approx(
        [0.05, 0.2]
    )
    assert math.isnan(frame.loc["half", "energy_above_hull"]) and math.isnan(
        frame.loc["no structure", "energy_above_hull"]
    )


def test_all_crystals_are_on_one_hull_together(frame):
    """``below`` lies 0.3 and 0.05 below the hull and raises what the others have to reach."""
    assert frame.loc["below", f"{A}_energy_above_hull_together"] == pytest.approx(0, abs=1e-6)
    assert frame.loc["known", f"{A}_energy_above_hull_together"] == pytest.approx(0.3)
    assert frame.loc["known", f"{B}_energy_above_hull_together"] == pytest.approx(0.1)
    assert frame.loc["one only", f"{A}_energy_above_hull_together"] == pytest.approx(0.05)


def test_survival_needs_all_potentials_and_a_competitor(frame):
    assert marked(frame, "survives") == {"known", "new", "twin", "other group", "larger", "below", "molecule"}
    assert not frame.loc["alone", "has_competitor"] and frame.loc["alone", "energy_above_hull"] < -1


def test_doubts_are_apart(frame):
    assert marked(frame, "far_below") == {"below", "alone"} and marked(frame, "molecules") == {"molecule"}
    assert marked(frame, "collapsed") == set() and "H2 (0.74 Å)" in frame.loc["molecule", "doubts"]
    assert marked(frame, "sound") == {"known", "new", "twin", "other group", "larger"}


def test_fidelity_needs_every_relaxation(frame):
    assert marked(frame, "keeps_group") == set(CRYSTALS) - {"other group", "no structure", "neither", "half"}
    assert marked(frame, "keeps_volume") == set(CRYSTALS) - {"larger", "no structure", "neither", "half"}
    assert marked(frame, "faithful") == {"known", "new", "twin", "below", "molecule"}
    assert frame.loc["other group", "space_group"] == 225 and frame.loc["new", "displacement"] == pytest.approx(0.1)


def test_novelty_is_that_of_relaxed_structures(frame):
    assert marked(frame, "unique") == {"known", "new", "one only", "alone", "molecule"}
    assert marked(frame, "novel") == {"new", "twin", "one only", "alone", "molecule"}
    assert set(frame.known_as[list(marked(frame, "keeps_group") - marked(frame, "novel"))]) == {"salt"}
    assert marked(frame, "new_prototype") == {"new", "twin", "molecule"}


def test_reasons(frame):
    assert frame.reason["no structure"] == "not built: 12 atoms too close"
    assert frame.reason["half"] == "SevenNet:7net-0: not relaxed: too slow"
    assert (frame.reason == "").sum() == len(CRYSTALS) - 3
    assert (frame.formula["no structure"], frame.formula["new"]) == ("", "Na1 Cl1")


def test_counts(frame):
    summary = summarize(frame, NAMES, True)
    n = len(CRYSTALS)
    counts = {t: {k: v["count"] for k, v in found.items()} for t, found in summary["survival"].items()}
    assert counts["0.1"][NAMES[0]] == 9 and counts["0.1"][NAMES[1]] == 7 and counts["0.1"]["all"] == 7
    assert counts["0.08"]["all"] == 7  # 0.08 itself counts
    assert counts["0"]["all"] == 2 and counts["0"][NAMES[0]] == 4
    assert counts["0.1"]["sound"] == 5 and counts["0.1"]["faithful"] == 5
    # By the second potential alone all stay within 0.1 eV/atom of ``below``; by the first none but itself does.
    assert counts["0.1"]["together"] == 2
    assert counts["0.1"]["sun"] == counts["0.1"]["ssun"] == 2 and counts["0.1"]["new_prototype"] == 3
    assert all(v["of"] == n for found in summary["survival"].values() for v in found.values())
    low, high = summary["survival"]["0.1"]["all"]["low"], summary["survival"]["0.1"]["all"]["high"]
    assert 0.3 < low < 7 / n < high < 0.9
    assert summary["apart"]["no_competitor"]["count"] == 1 and summary["apart"]["far_below"]["count"] == 2
    assert summary["failed"] == {
        "not built: N atoms too close": 1,
        "SevenNet:7net-0: not relaxed: too slow": 1,
        "not relaxed: it melts at N K": 1,
    }
    assert summary["cpu_seconds"]["making"] == n and summary["cpu_seconds"]["judging"][NAMES[1]] == 2.0 * (n - 3)
    json.dumps(summary, allow_nan=False)


def test_p1_does_not_count_as_symmetric(frame):
    lower = frame.copy()
    lower.loc["new", f"{B}_space_group"] = 1
    survival = summarize(lower, NAMES, True)["survival"]["0.1"]
    assert (survival["sun"]["count"], survival["ssun"]["count"]) == (2, 1)


def test_without_a_reference_nothing_is_said_about_novelty(judges, hull):
    structure, own = CRYSTALS["new"]
    frame = judge_crystals([Given("new", structure)], [[own[0]], [own[1]]], judges, hull, None)
    assert not frame.novel.any() and not frame.new_prototype.any() and frame.unique.all()
    summary = summarize(frame, NAMES, False)
    assert summary["survival"]["0.1"]["sun"] is None and summary["novelty"]["novel"] is None
    assert summary["cpu_seconds"]["making"] is None


def test_elements_without_hull_or_reference_are_told(judges, hull):
    xenon = Structure(Lattice.cubic(5), ["Xe"], [[0, 0, 0]])
    frame = judge_crystals([Given("x", xenon)], [[relaxed(xenon, -1.0)]] * 2, judges, hull, None)
    assert "no reference for Xe" in frame.reason[0] and not frame.survives[0]


def test_the_comparison_of_given_and_relaxed():
    same = compare(salt(), salt(5.8))
    assert same["match"] and same["displacement"] == pytest.approx(0, abs=1e-6)
    moved = salt().copy()
    moved.translate_sites([0], [0.02, 0, 0])  # 0.11 Å; the mean is over 8 atoms and their common shift
    shift = 0.02 * 5.69
    expected = shift * math.sqrt(1 / 8 - 1 / 64)
    assert compare(salt(), moved)["displacement"] == pytest.approx(expected, rel=0.02)
    assert compare(salt(), caesium_chloride()) == {"match": False}


# The whole way


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Two crystals judged by CHGNet, through the command line."""
    pytest.importorskip("chgnet")
    folder = tmp_path_factory.mktemp("judge")
    stretched = caesium_chloride(3.9)
    pd.DataFrame(
        {"id": ["salt", "stretched", "none"], "cif": [salt().to(fmt="cif"), stretched.to(fmt="cif"), ""]}
    ).to_csv(folder / "crystals.csv", index=False)
    pd.DataFrame({"id": ["known salt"], "cif": [salt(5.6).to(fmt="cif")]}).to_csv(folder / "known.csv", index=False)
    args = [
        "judge", str(folder / "crystals.csv"), "--out", str(folder / "out"), "--potential", "chgnet", "--reference",
        str(folder / "known.csv"),
    ]  # fmt: skip
    assert main(args) == 0
    return folder, args


def test_the_command(judged, capsys):
    folder, _ = judged
    frame = pd.read_csv(folder / "out" / "judged.csv").set_index("id")
    assert frame.known_as["salt"] == "known salt" and frame.survives["salt"] and frame.faithful["salt"]
    assert abs(frame.chgnet_energy_above_hull["salt"]) < 0.06  # two times the error of CHGNet
    assert frame.chgnet_volume_change["stretched"] < -0.1 and not frame.keeps_volume["stretched"]
    assert frame.reason["none"] == "no structure"
    summary = json.loads((folder / "out" / "judged.json").read_text())
    assert summary["crystals"] == 3 and summary["failed"] == {"no structure": 1}
    assert summary["about"]["reference"].endswith("known.csv: 1 structures")
    assert (folder / "out" / "index.html").stat().st_size > 10_000
    cifs = {str(path.relative_to(folder / "out" / "cif")) for path in (folder / "out" / "cif").rglob("*.cif")}
    assert cifs == {f"{kind}/{name}.cif" for kind in ("as_given", "chgnet") for name in ("salt", "stretched")}
    assert Structure.from_file(folder / "out" / "cif" / "chgnet" / "salt.cif").composition.reduced_formula == "NaCl"


def test_a_finished_judgement_is_not_computed_again(judged, monkeypatch, capsys):
    folder, args = judged
    before = (folder / "out" / "judged.csv").read_bytes()
    monkeypatch.setattr("crystalgfn.atoms.isolated.run", lambda *_: pytest.fail("relaxed again"))
    assert main(args) == 0
    assert (folder / "out" / "judged.csv").read_bytes() == before
    out = capsys.readouterr().out
    assert "3 crystals judged by CHGNet" in out and "failed: 1 no structure" in out
    assert main([*args, "--n", "1"]) == 0  # fewer crystals
    assert "1 crystals judged" in capsys.readouterr().out
    with pytest.raises(pytest.fail.Exception, match="relaxed again"):  # what a result depends on has changed
        main([*args, "--seed", "1"])
    assert main(args) == 0
    (folder / "built").mkdir()
    (folder / "built" / "file").write_text("")
    assert main([*args[:2], "--out", str(folder / "built")]) == 2
    assert "is not empty and holds no run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--n", "0"], "--n: 0 is not allowed"),
        (["--source", "final"], "--source: only for a database"),
        (["--potential", "nothing"], "potential: 'nothing' is not allowed"),
        (["--hull", "absent.pt"], "absent.pt: no such file with a hull"),
        (["--jobs", "0"], "--jobs: 0 is not allowed"),
    ],
)
def test_wrong_options(judged, capsys, tmp_path, change, message):
    _, args = judged
    assert main([*args[:2], "--out", str(tmp_path / "out"), "--potential", "chgnet", *change]) == 2
    text = capsys.readouterr().err
    assert message in text and "Traceback" not in text and not (tmp_path / "out").exists()


def test_references_of_a_potential_that_does_not_judge(tmp_path):
    file = tmp_path / "references.json"
    file.write_text(json.dumps({"energies": {"Na": 0.0}, "potential": "Other", "model": "1", "recipe": {}}))
    with pytest.raises(InputError, match="is for Other, which does not judge; potentials: CHGNet"):
        judge([salt()], ["chgnet"], element_references=[file])


def test_structures_from_python(monkeypatch):
    pytest.importorskip("chgnet")
    from crystalgfn.judging import relaxing

    monkeypatch.setattr("crystalgfn.atoms.isolated.run", lambda _, task, __: relaxing.relax(task))
    judgement = judge([salt(), salt(5.7)], ["chgnet"])
    assert len(judgement) == 2 and judgement.frame.unique.tolist() == [True, False]
    assert set(judgement.structures["row-000001"]) == {"as given", "CHGNet"}
    assert len(judgement.structures["row-000001"]["CHGNet"]) == 2  # the primitive cell
    assert np.isfinite(judgement.frame.energy_above_hull).all()
