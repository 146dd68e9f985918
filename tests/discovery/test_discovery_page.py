"""What comes out of discovery: measures known by hand, the rule of the page, its files, the figure of the rounds."""

import importlib.util
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Circle
from pymatgen.core import Composition, Lattice, Structure
from scipy.optimize import minimize

from crystalgfn.atoms.doubts import doubts
from crystalgfn.atoms.potentials import CHGNet
from crystalgfn.atoms.potentials.references import ElementReferences
from crystalgfn.commands import discovery_page
from crystalgfn.discovery.candidate import Candidate
from crystalgfn.discovery.database import LabelDatabase
from crystalgfn.discovery.figures import crystal_figure, rounds_figure
from crystalgfn.discovery.labels import with_energies
from crystalgfn.discovery.outcome import KnownCrystals, Outcome, proxy_errors, round_row, rounds_table
from crystalgfn.discovery.page import choose
from crystalgfn.discovery.selection import of_samples, of_sources
from crystalgfn.errors import InputError
from crystalgfn.evaluation.drawing import to_image
from crystalgfn.evaluation.intervals import wilson
from crystalgfn.proxies.energy_above_hull import SHIPPED_HULL
from crystalgfn.proxies.hull import load_hull

REFERENCE = """\
formula,space_group,a,b,c,alpha,beta,gamma
Na4 Cl4,225,5.7,5.7,5.7,90,90,90
Mg1 O1,221,2.6,2.6,2.6,90,90,90
Li2 F2,129,4,4,4,90,90,90
"""

# Each: formula, group sampled and relaxed (None: not relaxed), above hull sampled and relaxed, predicted, uncertainty.
CRYSTALS = [
    ("Na4 Cl4", 225, 225, 0.05, 0.0, 0.1, 0.1),  # known
    ("Mg4 O4", 225, 225, 0.3, 0.05, 0.0, 0.2),  # a new polymorph
    ("Li4 F4", 225, 129, 0.2, 0.02, 0.0, 0.3),  # relaxes into a known crystal
    ("K4 F4", 225, 225, 0.1, 0.08, 0.2, 0.4),  # new
    ("K1 F1", 221, 221, 0.09, 0.07, 0.0, 0.5),  # new, the same formula, lower
    ("Al4 N4", 225, 225, 0.0, -0.3, 0.0, 0.1),  # a hole
    ("Na4 F4", 225, 225, 0.5, 0.1, 0.0, 0.1),  # at the bound: no survivor
    ("Li4 Cl4", 225, 225, 9.0, 2.0, 0.0, 0.1),
    ("Mg4 S4", 225, None, 0.4, None, 0.0, 0.1),  # built
    ("Al4 S4", 225, None, None, None, 0.0, 0.1),  # failed
]


def make_frame():
    rows = []
    for number, (formula, group, relaxed, sampled, above, predicted, uncertainty) in enumerate(CRYSTALS):
        status = "relaxed" if above is not None else "built" if sampled is not None else "failed"
        rows.append(
            {
                "key": f"x{number}",
                "round": 1 + number // 5,
                "source": "model" if number % 2 else "final",
                "formula": formula,
                "space_group": group,
                **dict(zip("abc", (5.0,) * 3, strict=True)),
                **dict.fromkeys(("alpha", "beta", "gamma"), 90.0),
                "predicted": predicted,
                "predicted_uncertainty": uncertainty,
                "status": status,
                "reason": ""
                if above is not None
                else f"not relaxed: after {number}.5 steps"
                if sampled
                else "not built",
                "space_group_relaxed": relaxed or 0,
                "cpu_seconds": 60.0,
                "drawn": number % 2 if number else np.nan,
                "energy_above_hull_sampled": np.nan if sampled is None else sampled,
                "energy_above_hull_relaxed": np.nan if above is None else above,
            }
        )
    return pd.DataFrame(rows)


@pytest.fixture
def reference(tmp_path):
    path = tmp_path / "known.csv"
    path.write_text(REFERENCE)
    return path


@pytest.fixture
def outcome(reference):
    return Outcome(make_frame(), KnownCrystals.read(reference))


def test_measures_count_failures(outcome):
    assert (outcome.evaluated, outcome.relaxed, outcome.survivors, outcome.holes) == (10, 8, 6, 1)
    assert outcome.rate == 0.6 and outcome.cpu_seconds == 600
    assert outcome.elements == ["Li", "N", "O", "F", "Na", "Mg", "Al", "Cl", "K"] and outcome.groups == [221, 225]
    assert outcome.number_of(outcome.new_formula) == 3  # two K F, Al N
    assert outcome.number_of(outcome.new_in_group) == 4  # and Mg O
    # Sorted: -0.3 0 0.02 0.05 0.07 | 0.08 0.1 2 inf inf
    assert outcome.median == pytest.approx(0.075)
    assert math.isinf(Outcome(make_frame()[7:]).median)


def test_interval_is_wilsons():
    low, high = wilson(6, 10)
    z = 1.959964
    middle, half = (0.6 + z**2 / 20) / (1 + z**2 / 10), z * math.sqrt(0.024 + z**2 / 400) / (1 + z**2 / 10)
    assert (low, high) == pytest.approx((middle - half, middle + half), abs=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)


def test_errors_of_the_proxy():
    errors = proxy_errors(make_frame())
    differences = np.array([0.05, -0.3, -0.2, 0.1, -0.09, 0.0, -0.5, -1.5, -0.4])  # predicted less label, capped
    assert errors.n == 9
    assert errors.mae == pytest.approx(np.abs(differences).mean()) and errors.bias == pytest.approx(differences.mean())
    assert errors.uncertainty == pytest.approx(np.mean([0.1, 0.2, 0.3, 0.4, 0.5, 0.1, 0.1, 0.1, 0.1]))
    ranks = [pd.Series(x).rank() for x in ([0.1, 0, 0, 0.2, *[0] * 5], [0.05, 0.3, 0.2, 0.1, 0.09, 0, 0.5, 1.5, 0.4])]
    assert errors.spearman == pytest.approx(ranks[0].corr(ranks[1]), abs=1e-6)
    assert sum(n for n, _, _ in errors.bins) == 9 and len(errors.bins) == 5
    assert errors.bins[-1] == (1, pytest.approx(0.5), pytest.approx(0.09))
    assert proxy_errors(make_frame(), "relaxed").n == 8
    nothing = proxy_errors(make_frame().drop(columns=["predicted", "predicted_uncertainty"]))
    assert nothing.n == 0 and math.isnan(nothing.mae) and nothing.bins == ()


def test_rule_of_the_page(outcome):
    choice = choose(outcome, 20)
    formulas = outcome.frame["formula"]
    # The known one, the one that relaxes into a known one and the higher K F are out.
    assert [formulas[row] for row in choice.near] == ["Mg4 O4", "K1 F1"]
    assert [formulas[row] for row in choice.below] == ["Al4 N4"]
    assert (choice.n_near, choice.n_below) == (2, 1)
    assert choose(outcome, 1).near == choice.near[:1] and choose(outcome, 1).n_near == 2


def molecules(symbol="H", distance=0.75, a=6.0):
    """A cell with two atoms of an element at a distance, and one of sodium."""
    coordinates = [[0, 0, 0], [distance, 0, 0], [a / 2] * 3]
    return Structure(Lattice.cubic(a), [symbol, symbol, "Na"], coordinates, coords_are_cartesian=True)


@pytest.mark.parametrize(
    ("structure", "change", "symmetry", "expected"),
    [
        (molecules("H", 0.75), 0.1, "sampled", {"molecules": "molecules: H2 (0.75 Å)"}),
        (molecules("N", 1.11), 0.1, "sampled", {"molecules": "molecules: N2 (1.11 Å)"}),
        (molecules("O", 1.23), 0.1, "sampled", {"molecules": "molecules: O2 (1.23 Å)"}),
        (molecules("F", 1.42), 0.1, "sampled", {"molecules": "molecules: F2 (1.42 Å)"}),
        (molecules("Cl", 2.0), 0.1, "higher", {"molecules": "molecules: Cl2 (2.00 Å)"}),
        # Ions with such bonds are no molecules: superoxide, peroxide, azide, and hydrogen in hydrides.
        (molecules("O", 1.29), 0.1, "sampled", {}),
        (molecules("O", 1.49), 0.1, "sampled", {}),
        (molecules("N", 1.18), 0.1, "sampled", {}),
        (molecules("H", 1.6), 0.1, "sampled", {}),
        (molecules("Na", 1.9), 0.0, "sampled", {"collapsed": "collapsed: d min 1.90 Å, 72.0 Å³ for each atom"}),
        (molecules("Na", 3.5, a=2.4), 0.0, "sampled", None),
        (molecules("Cl", 3.0), 1.58, "sampled", {"other volume": "ΔV +158%"}),
        (molecules("Cl", 3.0), -0.31, "sampled", {"other volume": "ΔV −31%"}),
        (molecules("Cl", 3.0), 0.29, "lower", {"lost symmetry": "lost symmetry"}),
        (None, math.nan, "", {}),
    ],
)
def test_doubts(structure, change, symmetry, expected):
    found = doubts(structure, change, symmetry)
    assert "collapsed" in found if expected is None else found == expected


def test_doubtful_crystals_are_listed_apart(reference):
    frame = make_frame().assign(volume_change=0.0, symmetry="sampled")
    frame.loc[[1, 4], "volume_change"] = [1.58, -0.5]  # Mg O, and the lower of the two K F
    outcome = Outcome(frame, KnownCrystals.read(reference), lambda key: None)
    choice = choose(outcome, 20)
    formulas = outcome.frame["formula"]
    assert [formulas[row] for row in choice.near] == ["K4 F4"]  # the higher one takes its place
    assert [formulas[row] for row in choice.doubtful] == ["Mg4 O4", "K1 F1"] and choice.n_doubtful == 2
    assert [formulas[row] for row in choice.below] == ["Al4 N4"]
    rows = outcome.rows()
    (title,) = [name for name in rows if name.startswith("survivors with doubts")]
    assert title == "survivors with doubts; molecules; collapsed; other volume; lost symmetry"
    assert rows[title] == "2 of 6 (33%); 0; 0; 2; 0"


def test_faulty_rows_of_the_reference_are_not_new(tmp_path):
    path = tmp_path / "known.csv"
    path.write_text(REFERENCE + "K1 F1,225,3.8,3.8,3.8,60,60,60\nAl4 N4,cubic,5,5,5,90,90,90\n")
    outcome = Outcome(make_frame(), KnownCrystals.read(path))
    assert [f for f, new in zip(outcome.frame["formula"], outcome.new_formula, strict=True) if new] == [
        "Na4 F4", "Li4 Cl4", "Mg4 S4", "Al4 S4",
    ]  # fmt: skip
    assert not outcome.new_in_group[3] and outcome.new_in_group[4]  # K F is known in group 225, not in 221


def test_rounds(outcome):
    table = rounds_table(outcome.frame, outcome.known)
    assert table["round"].tolist() == [1, 2] and table["evaluated"].tolist() == [5, 5]
    assert table["survivors"].tolist() == [5, 1] and table["novel"].tolist() == [3, 1]
    assert table["rate"].tolist() == [1.0, 0.2]
    assert table["drawn"].tolist() == [2, 3] and table["drawn_survivors"].tolist() == [2, 1]
    assert round_row(3, outcome.frame)["novel"] is None
    empty = round_row(4, outcome.frame[:0], outcome.known)
    assert empty["evaluated"] == empty["survivors"] == 0 and math.isnan(empty["rate"])


def test_figure_of_the_rounds(outcome):
    table = rounds_table(outcome.frame, outcome.known)
    one_axes = rounds_figure(table).axes
    assert len(one_axes) == 3
    figure = rounds_figure(table, outcome.frame)
    rate = figure.axes[0].containers[0].lines[0].get_ydata()
    assert np.allclose(rate, [100, 20])
    assert np.allclose(figure.axes[0].containers[1].lines[0].get_ydata(), [100, 100 / 3])
    assert to_image(figure).std() > 0
    # A first round without predictions, crystals or known ones must not break it.
    bare = pd.DataFrame([round_row(0, outcome.frame[:0]), round_row(1, outcome.frame[9:])])
    assert to_image(rounds_figure(bare, outcome.frame[:0])).std() > 0


def test_picture_shows_all_atoms_and_elements():
    salt = Structure.from_spacegroup(225, Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    figure = crystal_figure(salt.get_primitive_structure())
    assert [text.get_text() for text in figure.legends[0].texts] == ["Na", "Cl"]
    # 14 Na at corners and on faces, 13 Cl on edges and inside, each a circle; no atom is left out of the picture.
    circles = [patch for patch in figure.axes[0].patches if isinstance(patch, Circle)]
    assert len(circles) == 27
    image = to_image(figure)
    assert (image[[0, -1]] == 255).all() and (image[:, [0, -1]] == 255).all()


def test_rate_over_labels_is_the_likeliest():
    path = Path(__file__).parents[2] / "benchmarks" / "discovery.py"
    spec = importlib.util.spec_from_file_location("discovery_benchmark", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    x, k, n = np.log([50.0, 100.0, 200.0, 400.0]), np.array([3.0, 6.0, 9.0, 15.0]), np.full(4, 30.0)
    mean, covariance, dispersion = benchmark.fit(x, k, n)

    def loss(beta):
        logit = beta[0] + beta[1] * x
        return float(((n + 1) * np.logaddexp(0, logit) - (k + 0.5) * logit).sum())

    best = minimize(loss, np.zeros(2), method="BFGS", options={"gtol": 1e-9})
    assert mean == pytest.approx(best.x, abs=1e-4) and dispersion == 1.0
    step = 1e-3
    shift = np.array([0, step])
    curvature = (loss(mean + shift) - 2 * loss(mean) + loss(mean - shift)) / step**2
    assert np.linalg.inv(covariance)[1, 1] == pytest.approx(curvature, rel=1e-3)
    needed = benchmark.labels_for(0.5, np.array([mean, [-1.0, -0.1]]))
    assert mean[0] + mean[1] * needed[0] == pytest.approx(0) and np.isinf(needed[1])
    rounds = rounds_table(make_frame())
    labels, survivors, drawn = benchmark.points(rounds, (30, 100))
    assert [labels.tolist(), survivors.tolist(), drawn.tolist()] == [[5, 10], [1, 30], [3, 100]]


@pytest.fixture
def database(template, tmp_path):
    """A copy of the database for each test."""
    return Path(shutil.copy(template, tmp_path))


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A database of rock salts with chosen energies above the hull, and one failure."""
    references = ElementReferences.load(CHGNet())
    hull = load_hull(SHIPPED_HULL)
    path = tmp_path_factory.mktemp("labels") / "labels.db"
    labels = LabelDatabase(path)
    for number, (metal, other, above) in enumerate(
        [("Na", "Cl", 0.0), ("Mg", "S", 0.05), ("Li", "N", 0.03), ("K", "F", -0.3), ("Al", "N", None)]
    ):
        cell = (5.2 + 0.1 * number,) * 3 + (90.0,) * 3
        predicted = {"predicted": 0.01, "predicted_uncertainty": 0.1}
        candidate = Candidate(225, {metal: 4, other: 4}, cell, "final" if number else "model", 1, predicted)
        if above is None:
            labels.add(candidate, {"id": candidate.key, "reason": "not built: too | close"})
            continue
        built = Structure.from_spacegroup(225, Lattice.cubic(5), [metal, other], [[0, 0, 0], [0.5, 0.5, 0.5]])
        structure = built.get_primitive_structure().as_dict()
        result = {"id": candidate.key, "reason": "", "seconds": 2.0, "cpu_seconds": 1.0, "volume_change": -0.05}
        result |= {"converged": True, "settled": False, "space_group_relaxed": 225, "space_group_built": 225}
        result |= {"structure_built": structure, "structure_relaxed": structure}
        composition = Composition(f"{metal}{other}")
        # What lies on the hull has this energy; no other way to a chosen one.
        frame = pd.DataFrame([{"formula": f"{metal}4 {other}4", "energy_sampled": 0.0, "energy_relaxed": 0.0}])
        zero = with_energies(frame, references, hull)["energy_above_hull_relaxed"].iloc[0]
        assert references.missing(composition) == []
        result |= {"energy_built": above - zero + 0.1, "energy_relaxed": above - zero}
        assert labels.add(candidate, result)
    return path


def page(*options):
    return discovery_page.main([*map(str, options)])


def test_page(database, reference, tmp_path, capsys):
    out = tmp_path / "page"
    arguments = ("--db", database, "--reference", reference, "--out", out)
    assert page(*arguments, "--recipe", "crystalgfn predict, seed 0") == 0
    assert "evaluated: 5" in capsys.readouterr().out
    text = (out / "index.md").read_text()
    assert "`crystalgfn predict, seed 0`" in text and str(tmp_path) not in text
    assert "| evaluated | 5 |" in text and "| not built or not relaxed | 1 |" in text
    assert "**4** of 5" in text and "| not built: too / close | 1 |" in text
    table = pd.read_csv(out / "table.csv")
    assert table["name"].tolist() == ["01_LiN", "02_MgS", "below_01_KF"]
    assert table["energy_above_hull_relaxed"].tolist() == pytest.approx([0.03, 0.05, -0.3], abs=1e-4)
    assert table["min_distance"].tolist() == [2.5] * 3 and table["volume_change"].tolist() == [-0.05] * 3
    links = re.findall(r'src="([^"]+)"|\]\(([^)]+)\)', text)
    linked = {picture or file for picture, file in links}
    there = {str(path.relative_to(out)) for path in out.glob("*/*")}
    assert linked == there == {
        "png/01_LiN.png", "png/02_MgS.png", "cif/01_LiN.cif", "cif/02_MgS.cif", "cif/below_01_KF.cif"
    }  # fmt: skip
    crystal = Structure.from_file(out / "cif" / "02_MgS.cif")
    assert crystal.composition == Composition("Mg4 S4") and crystal.get_space_group_info()[1] == 225
    # Again, of fewer crystals: the older page goes away, and the same crystals make the same files.
    picture = (out / "png" / "01_LiN.png").read_bytes()
    assert "## Doubtful" not in text and "survivors with doubts" in text
    assert page(*arguments, "--source", "final", "--top", 1) == 0
    assert sorted(path.name for path in out.iterdir()) == ["cif", "index.md", "png", "table.csv"]
    assert [path.name for path in (out / "png").iterdir()] == ["01_LiN.png"]
    assert (out / "png" / "01_LiN.png").read_bytes() == picture
    assert "**3** of 4" in (out / "index.md").read_text()


SAMPLES = """\
formula,space_group,a,b,c,alpha,beta,gamma,energy_above_hull,energy_above_hull_uncertainty
Mg4 S4,225,5.3,5.3,5.3,90,90,90,0.5,0.25
Na4 Cl4,225,5.2,5.2,5.2,90,90,90,0.75,0.125
Mg4 S4,225,5.3,5.3,5.3,90,90,90,0.5,0.25
"""


def test_samples_are_found_whatever_their_source(database, tmp_path):
    samples = tmp_path / "samples.csv"
    samples.write_text(SAMPLES)
    frame = of_samples(LabelDatabase(database).frame(), samples, "labels.db")
    assert frame["formula"].tolist() == ["Mg4 S4", "Na4 Cl4", "Mg4 S4"]
    assert frame["source"].tolist() == ["final", "model", "final"]
    assert frame["predicted"].tolist() == [0.5, 0.75, 0.5]
    assert frame["predicted_uncertainty"].tolist() == [0.25, 0.125, 0.25]
    renamed = SAMPLES.replace("energy_above_hull", "predicted")
    samples.write_text(renamed)
    again = of_samples(LabelDatabase(database).frame(), samples, "labels.db")
    pd.testing.assert_frame_equal(again, frame)
    samples.write_text(SAMPLES + "K4 Cl4,225,5,5,5,90,90,90,0,0\n")
    with pytest.raises(InputError, match=r"1 of 4 crystals are not in labels.db \(first: row 4, K4 Cl4\)"):
        of_samples(LabelDatabase(database).frame(), samples, "labels.db")
    with pytest.raises(InputError, match="holds no crystals"):
        of_sources(frame[:0], None, "labels.db")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--source", "best"], "--source: best not in"),
        (["--top", "0"], "--top: 0 is not allowed"),
        (["--db", "none.db"], "none.db: no such database"),
        (["--reference", "none.csv"], "none.csv: no such file"),
        (["--hull", "none.pt"], "none.pt"),
        (["--samples", "none.csv"], "none.csv: no such file"),
        (["--out", "."], "holds other things (known.csv"),
        (["--out", "known.csv"], "known.csv is a file"),
    ],
)
def test_wrong_input(database, reference, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    given = {"--db": "labels.db", "--reference": "known.csv", "--out": "page"} | {options[0]: options[1]}
    with pytest.raises(InputError, match=re.escape(message)):
        page(*(part for pair in given.items() for part in pair))
    assert not (tmp_path / "page").exists() and not (tmp_path / "none.db").exists()
