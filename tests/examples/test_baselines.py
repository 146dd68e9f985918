"""The benchmark of generators: what each one makes, that more samples keep the earlier ones, and its table."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from pymatgen.core import Element, Lattice, Structure

from crystalgfn.atoms.build import space_group
from crystalgfn.atoms.outputs import symmetry
from crystalgfn.crystal.crystals import Crystals
from crystalgfn.crystal.formulas import formula_text, parse_formula, reduced
from crystalgfn.errors import InputError
from crystalgfn.evaluation.checks import is_neutral
from crystalgfn.evaluation.intervals import tally_with_interval
from crystalgfn.files import read_frame

ELEMENTS = ["Li", "Na", "K", "Mg", "Ca", "O", "S", "F", "Cl"]
SETTINGS = {
    "space_groups": [136, 216, 221, 225], "elements": ELEMENTS, "min_elements": 2, "max_elements": 3, "min_atoms": 2,
    "max_atoms": 24, "min_atoms_per_element": 1, "max_atoms_per_element": 16, "charge_neutral": True,
    "mixed_valence": False, "oxidation_states": "pymatgen_common", "lengths": [2.5, 20.0], "angles": [60.0, 120.0],
    "volume_per_atom": [5.0, 60.0], "angle_margin": 1.0, "components": 2, "log_lengths": True,
}  # fmt: skip


def salt(group: int, a: float, *sites: tuple[str, list[float]]) -> Structure:
    return Structure.from_spacegroup(group, Lattice.cubic(a), *map(list, zip(*sites, strict=True)))


def known_structures() -> dict[str, tuple[Structure, float]]:
    """Known crystals with their energies above the hull [eV/atom]."""
    origin, middle, quarter = [0, 0, 0], [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]
    rutile = Lattice.tetragonal(4.62, 3.05)
    return {
        "NaCl": (salt(225, 5.69, ("Na", origin), ("Cl", middle)), 0.0),
        "LiF": (salt(225, 4.08, ("Li", origin), ("F", middle)), 0.0),
        "MgO": (salt(225, 4.24, ("Mg", origin), ("O", middle)), 0.0),
        "CaF2": (salt(225, 5.50, ("Ca", origin), ("F", quarter)), 0.0),
        "MgF2": (Structure.from_spacegroup(136, rutile, ["Mg", "F"], [[0, 0, 0], [0.303, 0.303, 0]]), 0.0),
        "KMgF3": (salt(221, 4.06, ("K", middle), ("Mg", origin), ("F", [0.5, 0, 0])), 0.0),
        "CaO in another structure": (salt(216, 5.2, ("Ca", origin), ("O", quarter)), 0.3),
        "alloy": (salt(221, 3.2, ("Na", origin), ("K", middle)), 0.0),
        "outside of the space": (salt(225, 5.0, ("Cs", origin), ("F", middle)), 0.0),
    }


@pytest.fixture(scope="module")
def baselines():
    path = Path(__file__).parents[2] / "benchmarks" / "baselines.py"
    spec = importlib.util.spec_from_file_location("baselines", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["baselines"] = module  # dataclasses look up the module of their annotations
    spec.loader.exec_module(module)
    yield module
    del sys.modules["baselines"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Folder with the config of a small space, the table of known crystals and their structures."""
    folder = tmp_path_factory.mktemp("baselines")
    known = known_structures()
    frame = Crystals.from_structures([structure for structure, _ in known.values()]).to_frame()
    frame["material_id"], frame["energy_above_hull"] = list(known), [energy for _, energy in known.values()]
    frame.to_parquet(folder / "crystals.parquet")
    cifs = [structure.to(fmt="cif") for structure, _ in known.values()]
    pd.DataFrame({"material_id": list(known), "cif": cifs}).to_parquet(folder / "structures.parquet")
    for name, changes in {"space": {}, "free": {"charge_neutral": False}}.items():
        env = {"class_path": "Crystal", "init_args": SETTINGS | changes}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"model": {"env": env}}))
    return folder


@pytest.fixture(scope="module")
def space(baselines, files):
    return baselines.read_space(*(files / name for name in ("space.yaml", "crystals.parquet", "structures.parquet")))


def without_time(row):
    return {name: value for name, value in row.items() if name != "cpu_seconds"}


def structure_of(row) -> Structure:
    return Structure.from_str(row["cif"], fmt="cif")


# What the generators make


def test_known_crystals_of_the_space(baselines, files, space):
    assert set(space.parents["material_id"]) == set(known_structures()) - {"alloy", "outside of the space"}
    stable = {"NaCl", "LiF", "MgO", "CaF2", "MgF2", "KMgF3"}
    assert {parent.name for parent in baselines.exchangeable(space)} == stable
    free = baselines.read_space(files / "free.yaml", files / "crystals.parquet", files / "structures.parquet")
    assert set(free.parents["material_id"]) == set(known_structures()) - {"outside of the space"}
    # Without a rule for charges the alloy is in the space, but its ions cannot be exchanged.
    assert {parent.name for parent in baselines.exchangeable(free)} == stable


def test_ion_exchange_changes_one_element_of_a_stable_crystal(baselines, space):
    known = known_structures()
    formulas = {formula_text(dict(sorted(reduced(parse_formula(s.formula)).items()))) for s, _ in known.values()}
    parents = baselines.exchangeable(space)
    rows = [baselines.ion_exchange(space, parents, 0, i) for i in range(40)]
    for row in rows:
        parent, structure = known[row["parent"]][0], structure_of(row)
        counts, before = structure.composition.get_el_amt_dict(), parent.composition.get_el_amt_dict()
        assert set(before) - set(counts) == {row["from"]} and set(counts) - set(before) == {row["to"]}
        assert counts.pop(row["to"]) == before.pop(row["from"]) and counts == before
        whole = parse_formula(row["formula"])
        assert set(whole) <= set(ELEMENTS) and is_neutral(tuple(whole.items()), "pymatgen_common", False)
        assert int(row["oxidation_state"]) in Element(row["to"]).common_oxidation_states
        assert formula_text(dict(sorted(reduced(whole).items()))) not in formulas
        assert row["space_group"] == space_group(structure) == space_group(parent)
        assert np.allclose(structure.frac_coords, parent.frac_coords) and row["reason"] == ""
    assert len({(row["parent"], row["from"], row["to"]) for row in rows}) > 10
    assert sum(row["known_formula"] for row in rows) > 0  # such as Na in LiF by K, Mg in MgO by Ca


def test_ion_exchange_depends_on_seed_and_number_alone(baselines, space):
    parents = baselines.exchangeable(space)
    one, other = (baselines.ion_exchange(space, parents, 0, i) for i in (7, 3))
    np.random.seed(1)  # noqa: NPY002  the global generator must not matter
    assert without_time(baselines.ion_exchange(space, parents, 0, 3)) == without_time(other)
    assert without_time(baselines.ion_exchange(space, parents, 0, 7)) == without_time(one)
    changed = [without_time(baselines.ion_exchange(space, parents, 1, i)) for i in (7, 3)]
    assert changed != [without_time(one), without_time(other)]


def test_ion_exchange_without_a_new_formula(baselines, space, monkeypatch):
    monkeypatch.setattr(baselines, "MAX_DRAWS", 50)
    salts = [parent for parent in baselines.exchangeable(space) if parent.name in ("MgF2", "CaF2")]
    full = baselines.Space(space.env, space.settings, space.parents, AllFormulas())
    with pytest.raises(InputError, match=r"50 draws gave no new formula; rejected: .*known_formula"):
        baselines.ion_exchange(full, salts, 0, 0)


class AllFormulas(frozenset):
    """Every formula is known."""

    def __contains__(self, formula):
        return True


@pytest.mark.filterwarnings("ignore:No data available")
def test_volume_of_exchanged_ions(baselines):
    salt, _ = known_structures()["NaCl"]
    larger, by = baselines.exchanged(salt, "Na", "K")
    smaller, _ = baselines.exchanged(salt, "Na", "Li")
    assert by == "RLS" and smaller.volume < salt.volume < larger.volume
    assert salt.composition.reduced_formula == "NaCl"
    heavy, by = baselines.exchanged(salt, "Na", "Xe")
    cubes = [float(Element("Na").atomic_radius) ** 3, 1.08**3, float(Element("Cl").atomic_radius) ** 3]
    assert by == "radii" and heavy.composition.reduced_formula == "XeCl"
    assert heavy.volume == pytest.approx(salt.volume * (cubes[1] + cubes[2]) / (cubes[0] + cubes[2]))


def test_random_sites_have_composition_and_symmetry(baselines, space):
    rows = [baselines.random_sites(space.parents, 0, i) for i in range(12)]
    made = [row for row in rows if row["cif"]]
    assert len(made) > 6 and all(row["cif"] or row["reason"].startswith("pyxtal") for row in rows)
    of_parent = space.parents.set_index("material_id")
    for row in made:
        structure, counts = structure_of(row), parse_formula(row["formula"])
        assert counts == parse_formula(of_parent.loc[row["parent"], "formula"])
        assert row["space_group"] == of_parent.loc[row["parent"], "space_group"]
        assert structure.composition.get_el_amt_dict() == counts
        assert symmetry(structure, row["space_group"], counts) in ("sampled", "higher")
    np.random.seed(5)  # noqa: NPY002
    assert without_time(baselines.random_sites(space.parents, 0, 4)) == without_time(rows[4])
    assert baselines.random_sites(space.parents, 1, 4)["cif"] != rows[4]["cif"]


def test_random_sites_that_fail(baselines, space, monkeypatch):
    from pyxtal import pyxtal

    def refuse(*args, **kwargs):
        raise RuntimeError("no\nplace")

    def never_end(*args, **kwargs):
        while True:
            pass

    monkeypatch.setattr(pyxtal, "from_random", refuse)
    row = baselines.random_sites(space.parents, 0, 0)
    assert (row["cif"], row["reason"]) == ("", "pyxtal: RuntimeError: no place")
    monkeypatch.setattr(pyxtal, "from_random", never_end)
    monkeypatch.setattr(baselines, "PYXTAL_SECONDS", 0.05)
    row = baselines.random_sites(space.parents, 0, 0)
    assert (row["cif"], row["reason"]) == ("", "pyxtal needs more than 0.05 s of processor time")
    assert row["cpu_seconds"] >= 0.04


def test_uniform_samples_are_in_the_space_and_can_be_extended(baselines, space, tmp_path):
    few, many = tmp_path / "few" / "samples.csv", tmp_path / "many" / "samples.csv"
    baselines.sample_uniformly(space.env, few, 3, 0)
    first = few.read_text()
    baselines.sample_uniformly(space.env, few, 3, 0)
    assert few.read_text() == first
    baselines.sample_uniformly(space.env, few, 6, 0)
    baselines.sample_uniformly(space.env, many, 6, 0)
    assert few.read_text() == many.read_text() and few.read_text().startswith(first)
    content = space.env.read_table(many)
    assert space.env.states_of(content.objects)[1] == [""] * 6
    assert json.loads((tmp_path / "few" / "sampling.json").read_text())["samples"] == 6
    baselines.sample_uniformly(space.env, tmp_path / "other.csv", 6, 1)
    assert (tmp_path / "other.csv").read_text() != many.read_text()


def test_samples_of_a_model_are_extended_by_the_same_samples(baselines, tmp_path, monkeypatch):
    samples, called = tmp_path / "samples.csv", []

    def predict(*words):
        called.append([str(word) for word in words])
        rows = "".join(f"{name}{i}\n" for i in range(int(called[-1][called[-1].index("--data.num_samples") + 1])))
        Path(words[-1]).write_text(f"formula\n{rows}")

    monkeypatch.setattr(baselines, "run", predict)
    name, model = "Na", {"checkpoint": "universal", "restrict": True}
    for n in (3, 3, 2, 5):
        baselines.sample_model(model, SETTINGS, samples, n, 4)
    assert samples.read_text().split() == ["formula", "Na0", "Na1", "Na2", "Na3", "Na4"] and len(called) == 2
    restriction = called[0][called[0].index("--data.restrict") + 1]
    assert yaml.safe_load(Path(restriction).read_text())["elements"] == ELEMENTS
    assert called[0][:3] == ["predict", "--ckpt_path", "universal"] and called[0][-4:-2] == ["--data.seed", "4"]
    name = "K"
    with pytest.raises(InputError, match="others than before"):
        baselines.sample_model(model, SETTINGS, samples, 7, 4)
    assert len(samples.read_text().split()) == 6


def test_restriction_gives_the_smaller_space(space, baselines):
    from crystalgfn.crystal.envs.crystal import Crystal

    larger = {"elements": [*ELEMENTS, "Cs", "Br"], "space_groups": [129, 136, "215-225"], "charge_neutral": False}
    whole = Crystal(**SETTINGS | larger)
    env = whole.restricted(baselines.restriction_to(SETTINGS))
    assert env.charge_neutral and env.space_groups == space.env.space_groups
    table = {row["material_id"]: row["formula"] for row in space.parents.to_dict("records")}
    crystals = Crystals.from_structures([s for s, _ in known_structures().values()])
    allowed = [name for name, why in zip(known_structures(), env.states_of(crystals, 0.01)[1], strict=True) if not why]
    assert allowed == list(table)
    assert not {"charge_neutral", "mixed_valence"} & set(baselines.restriction_to(SETTINGS | {"charge_neutral": False}))


def test_rows_of_built_structures(baselines, tmp_path, monkeypatch):
    salt = known_structures()["NaCl"][0]
    Crystals.from_structures([salt, salt, salt]).to_frame().to_csv(tmp_path / "samples.csv")
    results = [
        {"reason": "", "structure_built": salt.get_primitive_structure().as_dict(), "cpu_seconds": 2.5},
        {"reason": "not built: takes longer than 600 s", "seconds": None, "gave_up_after": 600.0},
    ]
    seen = []
    monkeypatch.setattr("crystalgfn.atoms.run.run", lambda tasks, *_: seen.extend(tasks) or results)
    rows = baselines.place(tmp_path / "samples.csv", tmp_path / "built", 2, 4, 9, 1)
    assert [row["id"] for row in rows] == [task["id"] for task in seen] == ["row-000001", "row-000002"]
    assert {task["tries"] for task in seen} == {4} and {task["seed"] for task in seen} == {9}
    assert not any(task["relax"] for task in seen)
    assert [row["space_group"] for row in rows] == [225, 225] and [row["cpu_seconds"] for row in rows] == [2.5, 600.0]
    assert structure_of(rows[0]).composition.formula == "Na1 Cl1"
    assert rows[1]["cif"] == "" and rows[1]["reason"] == "not built: takes longer than 600 s"


# The whole benchmark, with a judge that only counts


def judged(potentials, crystals, survivors):
    one = tally_with_interval(survivors, crystals)
    marks = ("all", "sound", "together", "faithful", "sun", "ssun", "new_prototype")
    survival = {t: dict.fromkeys((*potentials, *marks), one) for t in ("0", "0.08", "0.1")}
    return {
        "crystals": crystals, "potentials": potentials, "failed": {"too slow": 1, "no place": 2},
        "survival": survival, "fidelity": {}, "displacement": 0.125,
        "novelty": {"unique": one, "novel": None, "new_prototype": None},
        "apart": dict.fromkeys(("no_competitor", "far_below", "molecules", "collapsed"), one),
        "cpu_seconds": {"making": 10.0, "judging": dict.fromkeys(potentials, 1.0)},
    }  # fmt: skip


@pytest.fixture
def benchmark(baselines, files, tmp_path, monkeypatch, capsys):
    """Runs the benchmark; returns the commands that it ran and what it printed."""
    plan = {
        "tries": 4,
        "spaces": {"small": {"config": str(files / "space.yaml"), "models": {}, "hull": "$REFERENCE"}},
    }  # fmt: skip
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    monkeypatch.setattr(baselines, "SPACES", tmp_path / "plan.yaml")
    ran = []

    def run(*words):
        words = [str(word) for word in words]
        ran.append(words)
        n = int(words[words.index("--n") + 1])
        assert len(read_frame(words[1])) >= n
        out = Path(words[words.index("--out") + 1])
        out.mkdir(exist_ok=True)
        (out / "judged.json").write_text(json.dumps(judged(["CHGNet", "SevenNet:7net-0"], n, n // 2)))

    monkeypatch.setattr(baselines, "run", run)

    def call(*words):
        ran.clear()
        tables = ["--reference", str(files / "crystals.parquet"), "--structures", str(files / "structures.parquet")]
        baselines.main(["--space", "small", "--out", str(tmp_path), *tables, *words])
        return list(ran), capsys.readouterr().out

    return call


def test_benchmark_goes_on_and_grows(benchmark, files, tmp_path):
    only = ("--only", "ion exchange", "random sites")
    ran, first = benchmark(*only, "--n", "4")
    assert [words[0] for words in ran] == ["judge", "judge"]
    assert ran[0][ran[0].index("--hull") + 1] == str(files / "crystals.parquet")
    assert ran[0].count("--potential") == 2
    assert first.startswith("| | ion exchange | random sites |\n|---|--:|--:|\n| crystals | 4 | 4 |\n")
    folders = [tmp_path / "small" / name for name in ("ion_exchange", "random_sites")]
    before = [read_frame(folder / "structures.parquet") for folder in folders]
    assert benchmark(*only, "--n", "4") == ([], first)
    ran, grown = benchmark(*only, "--n", "8")
    assert len(ran) == 2 and "| crystals | 8 | 8 |" in grown
    for old, folder in zip(before, folders, strict=True):
        new = read_frame(folder / "structures.parquet")
        assert len(new) == 8
        pd.testing.assert_frame_equal(new[:4], old)
    making = json.loads((folders[0] / "making.json").read_text())
    assert making["samples"] == 8 and making["draws"] == 8 + sum(making["rejected"].values())
    # Fewer samples are the first ones: nothing is made, and these are judged.
    ran, fewer = benchmark(*only, "--n", "4")
    assert len(ran) == 2 and fewer == first
    with pytest.raises(SystemExit, match="begun with other settings"):
        benchmark(*only, "--n", "4", "--seed", "1")
    with pytest.raises(SystemExit, match="prior not in space small; it has: uniform, ion exchange, random sites"):
        benchmark("--only", "prior")


def test_table_has_a_row_for_each_measure(baselines):
    names = ["CHGNet", "SevenNet:7net-0"]
    columns = {"model": (judged(names, 100, 37), 5.0), "prior": (judged(names, 50, 0), 0.0)}
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in baselines.table(columns).splitlines()]
    assert lines[0] == ["", "model", "prior"]
    cells = {line[0]: line[1:] for line in lines[2:]}
    assert cells["crystals"] == ["100", "50"] and cells["failed"] == ["3", "3"]
    for measure in ("at most 0 above the hull by CHGNet", "at most 0.1 above the hull by all", "S.S.U.N. at 0.08"):
        assert cells[measure] == ["37 of 100 (28 to 47 %)", "0 of 50 (0 to 7 %)"]
    assert cells["novel"] == ["–", "–"]
    assert cells["displacement, median [Å]"] == ["0.12", "0.12"]
    assert cells["making a sample, processor time [s]"] == ["0.15", "0.20"]
    assert cells["making a survivor by all at 0.1, processor time [s]"] == ["0.41", "–"]
