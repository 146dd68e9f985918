"""The database of evaluated crystals, and the rows to train on that are made of it."""

import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pandas as pd
import pytest
import torch
from pymatgen.core import Lattice, Structure

from crystalgfn.atoms.potentials import CHGNet, SevenNet
from crystalgfn.atoms.potentials.references import ElementReferences
from crystalgfn.atoms.run import Workers
from crystalgfn.cli import main
from crystalgfn.commands import label as command
from crystalgfn.crystal.crystallography.space_groups import space_groups
from crystalgfn.crystal.crystals import Crystals
from crystalgfn.crystal.envs.crystal import Crystal
from crystalgfn.crystal.tables import read_table
from crystalgfn.discovery import labelling, labels, seeds
from crystalgfn.discovery.candidate import Candidate, candidates
from crystalgfn.discovery.database import LabelDatabase
from crystalgfn.errors import InputError
from crystalgfn.proxies.energy_above_hull import SHIPPED_HULL
from crystalgfn.proxies.hull import ConvexHull, load_hull

pytest.importorskip("ase")

SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
CUBE = (5.69, 5.69, 5.69, 90.0, 90.0, 90.0)


def salt(a=5.69, source="model", **more):
    return Candidate(225, {"Na": 4, "Cl": 4}, (a, a, a, 90.0, 90.0, 90.0), source, **more)


def outcome(candidate, sampled=-3.2, relaxed=-3.4, a=5.6, seconds=1.5):
    """A result as `build` returns it, without CHGNet."""
    structure = SALT.get_primitive_structure()
    end = structure.copy()
    end.scale_lattice(a**3 / 4)
    result = {"id": candidate.key, "reason": "", "seconds": seconds, "cpu_seconds": 1.0, "tries": 4}
    result |= {"energy_built": sampled, "structure_built": structure.as_dict(), "space_group_built": 225}
    result |= {"energy_relaxed": relaxed, "structure_relaxed": end.as_dict(), "space_group_relaxed": 225}
    return result | {"volume_change": -0.05, "converged": True, "settled": False, "positions": "Na:4a Cl:4b"}


def failure(candidate, reason="not built: atoms too close", **more):
    return {"id": candidate.key, "reason": reason, "seconds": 0.5, "cpu_seconds": 0.5} | more


def hull_of(elements=("Na", "Cl"), energy=-2.0):
    """A hull with one system and one facet, the same energy everywhere."""
    potentials = torch.full((1, len(elements)), energy, dtype=torch.float64)
    return ConvexHull(sorted(elements, key=["Na", "Mg", "Cl"].index), torch.tensor([0, 1]), potentials)


REFERENCES = ElementReferences({"Na": -1.0, "Cl": -2.0}, "CHGNet", "0.3.0")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        yield str(tmp_path / "labels.db")
        return
    server = os.environ.get("CRYSTALGFN_POSTGRES")
    if not server:
        pytest.skip("no server; CRYSTALGFN_POSTGRES=postgresql://USER@HOST:PORT/NAME names an empty database")
    psycopg2 = pytest.importorskip("psycopg2")
    tables = "information, number_key_values, text_key_values, keys, species, systems"
    for moment in ("before", "after"):
        connection = psycopg2.connect(server)
        with connection, connection.cursor() as cursor:
            cursor.execute(f"DROP TABLE IF EXISTS {tables}")
        connection.close()
        if moment == "before":
            yield server


def test_key_is_one_of_a_crystal():
    assert salt().key == salt(source="random", round=3, numbers={"predicted": 1.0}).key
    assert salt().key == Candidate(225, {"Cl": 4, "Na": 4}, (5.692, 5.688, 5.69, 90.04, 90, 90), "model").key
    others = [
        salt(5.71),
        Candidate(221, {"Na": 4, "Cl": 4}, CUBE, "model"),
        Candidate(225, {"Na": 4, "F": 4}, CUBE, ""),
    ]
    others.append(Candidate(225, {"Na": 4, "Cl": 4}, (5.69, 5.69, 5.69, 90.2, 90, 90), "model"))
    assert len({salt().key, *(other.key for other in others)}) == 5
    task = salt().task(4, 7, "CHGNet")
    assert task["id"] == salt().key and task["relax"] and task["tries"] == 4 and task["seed"] == 7


def test_candidates_of_a_batch():
    crystals = Crystals.from_arrays([225, 221], [{"Na": 4, "Cl": 4}, {"K": 1}], [CUBE, CUBE])
    first, second = candidates(crystals, "random", 2, {"predicted": torch.tensor([0.5, 1.0])})
    assert first == salt(source="random", round=2, numbers={"predicted": 0.5})
    assert second.counts == {"K": 1} and second.numbers == {"predicted": 1.0}


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ((0, {"Na": 1}, CUBE), "space_group: 0"),
        ((225, {"Xx": 1}, CUBE), "counts"),
        ((225, {}, CUBE), "counts"),
        ((225, {"Na": 0}, CUBE), "counts"),
        ((225, {"Na": 1}, CUBE[:5]), "lattice"),
        ((225, {"Na": 1}, (*CUBE[:5], math.nan)), "lattice"),
    ],
)
def test_no_crystal(values, match):
    with pytest.raises(InputError, match=match):
        Candidate(*values, "model")


def test_rows_come_back(url):
    database = LabelDatabase(url)
    good, bad = salt(round=2, numbers={"predicted": 0.25, "log_reward": math.nan}), salt(3.0, source="random")
    built = salt(6.1)
    assert database.keys() == set() and database.frame().empty
    assert database.add(good, outcome(good))
    assert database.add(bad, failure(bad))
    half = {k: v for k, v in outcome(built).items() if "relaxed" not in k} | {"reason": "not relaxed: falls apart"}
    assert database.add(built, half)
    again = LabelDatabase(url, create=False)
    assert again.keys() == {good.key, bad.key, built.key}
    frame = again.frame()
    assert frame["key"].tolist() == [good.key, bad.key, built.key]
    assert frame["status"].tolist() == ["relaxed", "failed", "built"]
    assert frame["reason"].tolist() == ["", "not built: atoms too close", "not relaxed: falls apart"]
    row = frame.iloc[0]
    assert (row["formula"], row["space_group"], row["a"], row["gamma"]) == ("Na4 Cl4", 225, 5.69, 90)
    assert (row["round"], row["source"], row["predicted"]) == (2, "model", 0.25)
    assert (row["energy_sampled"], row["energy_relaxed"]) == (-3.2, -3.4)
    assert (row["formula_relaxed"], row["space_group_relaxed"]) == ("Na4 Cl4", 225)
    assert row["a_relaxed"] == pytest.approx(5.6) and row["alpha_relaxed"] == pytest.approx(90)
    assert (row["symmetry"], bool(row["converged"]), bool(row["settled"])) == ("sampled", True, False)
    assert frame["formula_relaxed"].tolist() == ["Na4 Cl4", "", ""]
    assert frame["energy_sampled"].isna().tolist() == [False, True, False]
    assert frame["gave_up_after"].isna().all()
    structure = again.structure(good.key)
    assert structure.composition.reduced_formula == "NaCl"
    assert structure.volume == pytest.approx(5.6**3 / 4)
    assert again.structure(bad.key) is again.structure(built.key) is again.structure("nothing") is None


def test_a_key_is_stored_once(url):
    database = LabelDatabase(url)
    assert database.add(salt(), outcome(salt()))
    assert not LabelDatabase(url).add(salt(source="random"), outcome(salt(), sampled=0.0))
    assert database.frame()["source"].tolist() == ["model"]
    assert database.frame()["energy_sampled"].tolist() == [-3.2]


def test_given_up_is_tried_again_with_more_time(url):
    database = LabelDatabase(url)
    slow = failure(salt(), "not built: takes longer than 5 s", gave_up_after=5.0, seconds=None)
    database.add(salt(4.0), failure(salt(4.0)))
    assert database.add(salt(), slow)
    assert not database.add(salt(), slow)
    assert database.keys(timeout=5) == database.keys() == {salt().key, salt(4.0).key}
    assert database.keys(timeout=6) == {salt(4.0).key}
    assert database.add(salt(), slow | {"gave_up_after": 9.0})
    assert database.add(salt(), outcome(salt()))
    frame = database.frame()
    assert frame["status"].tolist() == ["failed", "relaxed"]
    assert frame["gave_up_after"].isna().all() and frame["reason"].tolist()[1] == ""


def test_two_writers(url):
    """Each thread has its own connection; every key is there once, and can be found by its pairs."""
    shared = [salt(4 + 0.02 * i, source=f"batch {i}") for i in range(12)]
    LabelDatabase(url)
    added = []

    def write():
        database = LabelDatabase(url)
        added.extend(database.add(c, outcome(c, sampled=-float(i))) for i, c in enumerate(shared))

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(added) == len(shared) and len(added) == 2 * len(shared)
    database = LabelDatabase(url)
    assert len(database.frame()) == len(database.keys()) == len(shared)
    for i, candidate in enumerate(shared):
        found = [row.unique_id for row in database._db.select(source=f"batch {i}", energy_sampled=-float(i))]
        assert found == [candidate.key]


WRITER = """
import sys
sys.path[:0] = ["tests/discovery", "tests/support"]
from test_labels import *
database = LabelDatabase(sys.argv[1])
print("open", flush=True)
for i in range(100_000):
    candidate = salt(4 + 0.02 * i)
    database.add(candidate, outcome(candidate))
"""


@pytest.mark.long
def test_killed_while_it_writes(tmp_path):
    path = tmp_path / "labels.db"
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"open\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    database = LabelDatabase(path)
    n = len(database.keys())
    frame = database.frame()
    assert n == len(frame) and (frame["status"] == "relaxed").all()
    with sqlite3.connect(path) as connection:
        for table in ("text_key_values", "number_key_values", "keys", "species"):
            assert connection.execute(f"SELECT count(DISTINCT id) FROM {table}").fetchone() == (n,)
    connection.close()
    assert database.add(salt(3.5), failure(salt(3.5)))


@pytest.mark.parametrize("kind", ["text", "short", "sqlite", "ase", "folder", "missing", "url", "under a file"])
def test_no_such_database(tmp_path, kind):
    path = tmp_path / "labels.db"
    create = True
    if kind == "text":
        path.write_text("formula,space_group\n" * 100)
        match = "not a database"
    elif kind == "short":
        path.write_text("{")
        match = "not a database"
    elif kind == "sqlite":
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE other (id INTEGER)")
        connection.close()
        match = "not an ASE database"
    elif kind == "ase":
        from ase import Atoms
        from ase.db import connect

        connect(path).write(Atoms("H2"))
        match = "other content"
    elif kind == "folder":
        path, match = tmp_path, "is a folder"
    elif kind == "missing":
        create, match = False, "no such database"
    elif kind == "url":
        path, match = "mysql://me:secret@host/labels", r"mysql://me:\*\*\*@host.*allowed: a file for SQLite"
    else:
        (tmp_path / "file").write_text("")
        path, match = tmp_path / "file" / "labels.db", "cannot be written"
    with pytest.raises(InputError, match=match):
        LabelDatabase(path, create)
    if kind == "short":
        assert path.read_text() == "{"
    elif kind == "missing":
        assert not path.exists()


def test_other_model(tmp_path):
    database = LabelDatabase(tmp_path / "labels.db")
    database._db.metadata = database._db.metadata | {"model": "9.9"}
    with pytest.raises(InputError, match=r"energies of CHGNet 9\.9"):
        LabelDatabase(tmp_path / "labels.db")


def test_one_potential_for_one_database(tmp_path):
    path = tmp_path / "labels.db"
    database = LabelDatabase(path, potential=SevenNet("7net-0"))
    database.add(salt(), outcome(salt()))
    again = LabelDatabase(path)
    assert again.potential.name == "SevenNet:7net-0" and again.frame()["potential"].tolist() == ["SevenNet:7net-0"]
    with pytest.raises(InputError, match=r"has energies of SevenNet:7net-0 7net-0_11jul2024, not of CHGNet 0\.3\.0"):
        LabelDatabase(path, potential=CHGNet())


def test_a_database_of_a_stranger_runs_no_class_that_it_names(tmp_path):
    path, ran = tmp_path / "labels.db", tmp_path / "ran"
    database = LabelDatabase(path)
    evil = f"AseCalculator:os.mkdir,path={ran}"
    database._db.metadata = database._db.metadata | {"potential": evil, "model": ""}
    database.add(salt(), outcome(salt()))
    opened = LabelDatabase(path)
    assert len(opened.frame()) == 1 and opened.potential.name == evil
    with pytest.raises(InputError, match=r"labels\.db: names the calculator AseCalculator:os\.mkdir.* --potential"):
        labelling.evaluate([salt(2.0)], opened, Workers(), tries=1, seed=0)
    assert not ran.exists()
    assert LabelDatabase(path, potential=opened.potential).potential_to_run() is opened.potential


def test_a_database_of_an_older_version_is_one_of_chgnet(tmp_path):
    path = tmp_path / "labels.db"
    database = LabelDatabase(path)
    database.add(salt(), outcome(salt()))
    about = {name: value for name, value in database._db.metadata.items() if name != "potential"}
    database._db.metadata = about
    database._db.update(1, delete_keys=["potential"])
    old = LabelDatabase(path)
    assert old.potential.name == "CHGNet" and old.frame()["potential"].tolist() == ["CHGNet"]
    with pytest.raises(InputError, match=r"has energies of CHGNet 0\.3\.0, not of SevenNet:7net-l3i5"):
        LabelDatabase(path, potential=SevenNet())


def test_the_potential_of_the_command(tmp_path, known, monkeypatch, capsys):
    """It is that of the database unless another is named, and reaches the tasks and the references."""
    pytest.importorskip("chgnet")
    pytest.importorskip("sevenn")
    asked = []

    def note(function, task, timeout):
        asked.append(task["potential"])
        return json.loads(json.dumps(outcome(salt()) | {"id": task["id"]}))

    monkeypatch.setattr("crystalgfn.atoms.isolated.run", note)
    database = tmp_path / "labels.db"
    assert command.main([str(known), "--db", str(database), "--potential", "sevennet:7net-0"]) == 0
    assert set(asked) == {"SevenNet:7net-0"}
    out = tmp_path / "rows.csv"
    assert command.main(["--db", str(database), "--export", str(out)]) == 0
    frame = pd.read_csv(out)
    references = ElementReferences.load(SevenNet("7net-0"))
    row = frame[(frame["kind"] == "relaxed") & (frame["formula"] == "Na4 Cl4")].iloc[0]
    expected = references.formation_energy(-3.4, SALT.composition)
    assert row["formation_energy"] == pytest.approx(expected)
    with pytest.raises(InputError, match=r"has energies of SevenNet:7net-0 .*, not of CHGNet"):
        command.main([str(known), "--db", str(database), "--potential", "chgnet"])


def test_postgres_without_a_server_or_the_package(monkeypatch):
    url = "postgresql://me:secret@127.0.0.1:1/labels"
    pytest.importorskip("ase_db_backends")
    with pytest.raises(InputError, match=r"me:\*\*\*@127.*refused") as caught:
        LabelDatabase(url)
    assert "secret" not in str(caught.value)
    monkeypatch.setattr("crystalgfn.discovery.database.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'crystalgfn\[postgres\]'"):
        LabelDatabase(url)


def test_name_of_a_number_that_is_taken(tmp_path):
    database = LabelDatabase(tmp_path / "labels.db")
    for name in ("energy", "status", "two words"):
        with pytest.raises(InputError, match="cannot be used for a number"):
            database.add(salt(numbers={name: 1.0}), failure(salt()))
    assert database.frame().empty


def rows_of(tmp_path, *entries, hull=None, offset=0.0, cap=1.5):
    database = LabelDatabase(tmp_path / "labels.db")
    for candidate, result in entries:
        database.add(candidate, result)
    frame = labels.with_energies(database.frame(), REFERENCES, hull or hull_of(), offset)
    return frame, labels.training_rows(frame, cap)


def test_energies(tmp_path):
    frame, rows = rows_of(tmp_path, (salt(), outcome(salt(), -3.2, -3.4, a=5.0)), offset=0.1)
    row = frame.iloc[0]
    assert row["hull_energy"] == pytest.approx(-2.0)
    assert row["formation_energy_sampled"] == pytest.approx(-3.2 + 1.5 - 0.1)
    assert row["formation_energy_relaxed"] == pytest.approx(-3.4 + 1.5 - 0.1)
    assert row["energy_above_hull_sampled"] == pytest.approx(0.2)
    assert row["energy_above_hull_relaxed"] == pytest.approx(0.0)
    assert rows["kind"].tolist() == ["sampled", "relaxed"]
    assert rows["formation_energy"].tolist() == pytest.approx([-1.8, -2.0])
    assert rows["a"].tolist() == pytest.approx([5.69, 5.0]) and rows["weight"].tolist() == [1, 1]
    assert rows["key"].tolist() == [salt().key] * 2
    Crystals.from_arrays(rows["space_group"], [{"Na": 4, "Cl": 4}] * 2, rows[["a"] * 3 + ["alpha"] * 3].to_numpy())


def test_equal_crystals_share_the_lower_label(tmp_path):
    _, rows = rows_of(tmp_path, (salt(), outcome(salt(), -3.0, -3.4, a=5.65)))
    assert rows["formation_energy"].tolist() == pytest.approx([-1.9, -1.9]) and rows["weight"].tolist() == [0.5, 0.5]


def test_cap_failures_and_what_nothing_is_known_of(tmp_path):
    high, bad, slow, deep = salt(5.0), salt(2.0), salt(4.0), salt(7.0)
    entries = [
        (slow, failure(slow, gave_up_after=5.0)),
        (bad, failure(bad)),
        (high, outcome(high, sampled=40.0, relaxed=-3.3)),
        (deep, outcome(deep, sampled=-9.0, relaxed=-12.0)),
    ]
    frame, rows = rows_of(tmp_path, *entries, cap=1.2)
    assert frame["energy_above_hull_sampled"].iloc[2] > 40
    assert rows["kind"].tolist() == ["failed", "sampled", "relaxed"]
    assert rows["key"].tolist() == [bad.key, high.key, high.key]
    assert rows["formation_energy"].tolist() == pytest.approx([-0.8, -0.8, -1.8])
    assert rows["weight"].tolist() == [0.5, 1, 1]
    with pytest.raises(InputError, match="cap: 0"):
        labels.training_rows(frame, 0)


def test_a_fault_of_the_input_is_no_label(tmp_path):
    """Counts that no positions hold, a primitive cell: no such crystal exists, so nothing is learned of it."""
    counts = Candidate(225, {"Na": 1, "Cl": 1}, CUBE, "model")
    cell = Candidate(225, {"Na": 4, "Cl": 4}, (3.99, 3.99, 3.99, 60.0, 60.0, 60.0), "model")
    tried = salt(2.0)
    entries = [(candidate, failure(candidate, "not built: reason")) for candidate in (counts, cell, tried)]
    frame, rows = rows_of(tmp_path, *entries, (salt(), outcome(salt())))
    assert labels.contradicts_itself(frame).tolist() == [True, True, False, False]
    assert rows["key"].tolist() == [tried.key, salt().key, salt().key]
    assert rows["kind"].tolist() == ["failed", "sampled", "relaxed"]


FAULTY = """\
formula,space_group,a,b,c,alpha,beta,gamma
Na1 Cl1,225,3.99,3.99,3.99,60,60,60
Na1 Cl1,225,5.69,5.69,5.69,90,90,90
Na4 Cl4,225,5.69,5.69,5.69,90,90,90
Na2 Cl2,225,5.69,5.69,5.69,90,90,90
"""


def test_faulty_rows_get_no_label(tmp_path, capsys):
    table = tmp_path / "table.csv"
    table.write_text(FAULTY)
    assert [candidate.key for candidate in labelling.table_crystals(table)] == [salt().key]
    shown = capsys.readouterr().out
    assert "table.csv: 3 of 4 rows are refused and get no label" in shown
    assert "1 (row 1): column space_group, a, b, c, alpha, beta, gamma is not the cell that a cubic group" in shown
    assert "2 (row 2, 4): column formula, space_group has numbers of atoms that no Wyckoff positions" in shown


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_run_says_what_is_kept(tmp_path, known, monkeypatch, capsys, stop):
    pytest.importorskip("chgnet")

    def stop_at_third(function, task, timeout):
        stop_at_third.calls += 1
        if stop_at_third.calls == 3:
            raise stop(143)
        return {"id": task["id"], "reason": "not built: atoms too close"}

    stop_at_third.calls = 0
    monkeypatch.setattr("crystalgfn.atoms.isolated.run", stop_at_third)
    database = tmp_path / "labels.db"
    assert main(["label", str(known), "--db", str(database)]) == (130 if stop is KeyboardInterrupt else 143)
    shown = capsys.readouterr().err
    n = len(LabelDatabase(database, create=False).keys())
    assert 0 < n < 6
    assert f"{n} of 6 crystals are evaluated and kept in {database}; the same command evaluates the others" in shown


def test_elements_that_the_hull_or_the_references_do_not_know(tmp_path):
    bad = salt(2.0)
    frame, rows = rows_of(tmp_path, (salt(), outcome(salt())), (bad, failure(bad)), hull=hull_of(["Mg", "Cl"]))
    assert frame["energy_above_hull_sampled"].isna().all() and frame["energy_above_hull_relaxed"].isna().all()
    assert frame["formation_energy_sampled"].iloc[0] == pytest.approx(-1.7)
    assert rows["kind"].tolist() == ["sampled", "relaxed"]
    potassium = Candidate(225, {"K": 4, "Cl": 4}, CUBE, "model")
    radon = Candidate(225, {"Ra": 4, "Cl": 4}, CUBE, "model")
    database = LabelDatabase(tmp_path / "labels.db")
    database.add(potassium, outcome(potassium))
    database.add(radon, failure(radon, "not built: CHGNet does not know Ra"))
    frame = labels.with_energies(database.frame(), REFERENCES, load_hull(SHIPPED_HULL))
    assert frame["formation_energy_sampled"].isna().tolist() == [False, True, True, True]
    assert frame["hull_energy"].isna().tolist() == [False, False, False, True]
    rows = labels.training_rows(frame.assign(hull_energy=-1.0))
    assert radon.key not in set(rows["key"])


def test_empty(tmp_path):
    frame, rows = rows_of(tmp_path)
    assert frame.empty and rows.empty and "formation_energy" in rows


KNOWN = """\
formula,space_group,a,b,c,alpha,beta,gamma,split
Na4 Cl4,225,5.69,5.69,5.69,90,90,90,train
K4 F4,225,5.35,5.35,5.35,90,90,90,train
Mg2 F4,136,4.62,4.62,3.05,90,90,90,train
Na2 K2 Cl4,123,5.6,5.6,6.0,90,90,90,train
K4 Cl4,225,6.29,6.29,6.29,90,90,90,test
Fe2,229,2.87,2.87,2.87,90,90,90,train
"""


@pytest.fixture(scope="module")
def small():
    """An environment that holds the crystals of KNOWN but for iron."""
    return Crystal(
        space_groups=[1, 2, 14, 62, 123, 136, 139, 166, 194, 221, 225],
        elements=["F", "Na", "Mg", "Cl", "K"],
        max_elements=3,
        max_atoms=12,
        volume_per_atom=(7, 60),
        lengths=(1.5, 60),
    )


@pytest.fixture
def known(tmp_path):
    path = tmp_path / "known.csv"
    path.write_text(KNOWN)
    return path


def test_random_crystals_are_legal_and_the_same_for_a_seed(small):
    found = seeds.random_crystals(small, 40, 1)
    assert len({candidate.key for candidate in found}) == 40 and {c.source for c in found} == {"random"}
    crystals = Crystals.from_arrays(
        [c.space_group for c in found], [dict(c.counts) for c in found], [c.lattice for c in found]
    )
    assert small.states_of(crystals)[1] == [""] * 40
    assert seeds.random_crystals(small, 40, 1) == found != seeds.random_crystals(small, 40, 2)


def test_real_crystals_are_those_of_the_table_that_fit(small, known):
    found = seeds.real_crystals(known, small, 4, 0)
    names = {"".join(f"{s}{n}" for s, n in sorted(c.counts.items())) for c in found}
    assert names == {"Cl4Na4", "F4K4", "F4Mg2", "Cl4K2Na2"} and {c.source for c in found} == {"real"}
    with pytest.raises(InputError, match=r"n: 5 is too many; .*has only 4 different real crystals"):
        seeds.real_crystals(known, small, 5, 0)


def test_perturbed_crystals_differ_in_one_thing(small, known):
    real = {(c.space_group, *sorted(c.counts.items())): c for c in seeds.real_crystals(known, small, 4, 0)}
    volumes = {tuple(sorted(c.counts.items())): volume(c) for c in real.values()}
    found = seeds.perturbed_crystals(known, small, 60, 0)
    assert seeds.perturbed_crystals(known, small, 60, 0) == found
    assert len({c.key for c in found} - {c.key for c in real.values()}) == 60
    by_source = {name: [c for c in found if c.source == f"perturbed-{name}"] for name in ("group", "cell", "elements")}
    assert [len(part) for part in by_source.values()] == [20, 20, 20]
    for c in by_source["group"]:
        assert (c.space_group, *sorted(c.counts.items())) not in real
        assert volume(c) == pytest.approx(volumes[tuple(sorted(c.counts.items()))])
    systems = {space_groups()[c.space_group - 1].crystal_system for c in by_source["group"]}
    assert len(systems) >= 4  # triclinic and monoclinic cells among them
    factors = []
    for c in by_source["cell"]:
        before = real[c.space_group, *sorted(c.counts.items())]
        assert c.lattice[3:] == before.lattice[3:]
        factors.append(volume(c) / volume(before))
    assert min(factors) < 0.8 and max(factors) > 1.3
    cells = {(c.space_group, c.lattice) for c in real.values()}
    for c in by_source["elements"]:
        assert (c.space_group, c.lattice) in cells
    # All that the environment asks for holds, but for charges.
    crystals = Crystals.from_arrays(
        [c.space_group for c in found], [dict(c.counts) for c in found], [c.lattice for c in found]
    )
    assert set(small.states_of(crystals, 1e-6)[1]) <= {"", "charge"}


def volume(candidate):
    return float(Crystals.from_arrays([1], [{"H": 1}], [candidate.lattice]).volume[0])


def test_sets_that_cannot_be_had(small, tmp_path):
    path = tmp_path / "iron.csv"
    path.write_text(KNOWN.splitlines()[0] + "\n" + KNOWN.splitlines()[-1] + "\n")
    with pytest.raises(InputError, match=r"can build none of its crystals \(.*\)"):
        seeds.perturbed_crystals(path, small, 3, 0)
    for function in (seeds.real_crystals, seeds.perturbed_crystals):
        with pytest.raises(InputError, match="n: 0 is not allowed"):
            function(path, small, 0, 0) if function is seeds.perturbed_crystals else seeds.random_crystals(small, 0, 0)
        with pytest.raises(InputError, match="no such file"):
            function(tmp_path / "none.csv", small, 3, 0)


CONFIG = """\
model:
  env:
    class_path: Crystal
    init_args:
      {space_groups: [225, 221, 136], elements: [F, Na, Mg, Cl, K], max_elements: 2, max_atoms: 12, lengths: [2, 20]}
"""


def pretend(function, task, timeout):
    """What takes the place of CHGNet: rock salt for everything with chlorine, time-outs and failures for others."""
    if "Cl" in task["counts"]:
        pretend.done.append(task["id"])
        assert task["tries"] == 3 and timeout == 9
        return json.loads(json.dumps(outcome(salt()) | {"id": task["id"]}))
    if "Mg" in task["counts"]:
        from crystalgfn.atoms.isolated import Failed

        raise Failed("takes longer than 9 s")
    return {"id": task["id"], "reason": "not built: atoms too close"}


def test_the_command(tmp_path, known, monkeypatch, capsys):
    pytest.importorskip("chgnet")
    monkeypatch.setattr("crystalgfn.atoms.isolated.run", pretend)
    pretend.done = []
    (tmp_path / "small.yaml").write_text(CONFIG)
    database, out = tmp_path / "labels.db", tmp_path / "labels.parquet"
    words = f"{known} --db {database} --tries 3 --timeout 9 --config {tmp_path / 'small.yaml'} --random 5"
    assert command.main(words.split()) == 0
    first = capsys.readouterr().out
    assert "11 crystals (11 asked for, 11 new)" in first
    line = next(text for text in first.splitlines() if text.startswith("table")).split()
    assert line[1:5] == ["6", "3", "2", "1"]  # relaxed, failed, given up
    n = len(pretend.done)
    assert command.main([*words.split(), "--export", str(out)]) == 0
    text = capsys.readouterr().out
    assert "11 crystals (11 asked for, 0 new)" in text and len(pretend.done) == n
    rows = read_table(out, label="formation_energy")
    assert len(rows.frame) == int(text.split("labels.parquet: ")[1].split()[0])
    assert set(rows.frame["kind"]) == {"sampled", "relaxed", "failed"}
    # One of the failures has iron and one potassium: the shipped hull knows both.
    assert (rows.frame["source"] == "table").sum() == 3 * 2 + 2
    more = pd.read_parquet(out)
    assert command.main(["--db", str(database), "--export", str(out), "--offset", "0.1"]) == 0
    computed = (more["kind"] != "failed").to_numpy()
    change = (more["formation_energy"] - pd.read_parquet(out)["formation_energy"]).to_numpy()
    assert change[computed] == pytest.approx(0.1) and change[~computed] == pytest.approx(0)


def test_summary():
    frame = pd.DataFrame({"source": ["model"] * 3 + ["random"], "status": ["relaxed"] * 3 + ["failed"]})
    frame["gave_up_after"] = [math.nan] * 3 + [9.0]
    frame["energy_above_hull_sampled"] = [0.5, 1.0, 3.0, math.nan]
    frame["energy_above_hull_relaxed"] = [0.0, 0.1, 0.3, math.nan]
    _, _, model, random = labelling.summary(frame, "labels.db", 0, 0)
    # Exactly 0.1 eV/atom is no survivor, as everywhere.
    assert model.split() == ["model", "3", "3", "0", "0", "1", "1.000", "0.100"]
    assert random.split() == ["random", "1", "0", "0", "1", "0", "-", "-"]


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("--db {d}/none.db", "none.db: no such database"),
        ("{d}/none.csv --db {d}/a.db", "none.csv: no such file"),
        ("{d}/bad.csv --db {d}/a.db", "no row is a crystal; row 1: column formula"),
        ("--db {d}/a.db --random 0 --config eform.yaml", "--random: 0 is not allowed"),
        ("--db {d}/a.db --random 5", "--random: needs --config"),
        ("--db {d}/a.db --real 5 --config eform.yaml", "--real: needs --known"),
        ("--db {d}/a.db --random 5 --config none.yaml", "no file none.yaml"),
        ("--db {d}/a.db --random 5 --config {d}/grid.yaml", "environment HyperGrid; only Crystal is allowed"),
        ("--db {d}/a.db --random 5 --config {d}/wrong.yaml", "max_atoms"),
        ("--db {d}/a.db --random 5 --config {d}/empty.yaml", "has no environment"),
        ("--db {d}/a.db --tries 0", "--tries: 0"),
        ("--db {d}/a.db --cap 0", "--cap: 0"),
        ("--db {d}/a.db --jobs 0", "--jobs: 0"),
        ("--db {d}/a.db --export {d}/rows.txt", "must end in .csv"),
        ("--db {d}/a.db --hull {d}/bad.csv", "bad.csv"),
        ("--db {d}/a.db --element-references {d}/bad.csv", "no table of references"),
    ],
)
def test_refused(words, match, tmp_path):
    pytest.importorskip("chgnet")
    (tmp_path / "bad.csv").write_text("formula,space_group,a,b,c,alpha,beta,gamma\nXx,1,1,1,1,90,90,90\n")
    (tmp_path / "grid.yaml").write_text("model: {env: {class_path: HyperGrid}}")
    (tmp_path / "wrong.yaml").write_text(CONFIG.replace("max_atoms: 12", "max_atoms: many"))
    (tmp_path / "empty.yaml").write_text("model: {}")
    with pytest.raises(InputError, match=match):
        command.main(words.format(d=tmp_path).split())
    assert not (tmp_path / "a.db").exists()


def test_rock_salt_with_chgnet(tmp_path, monkeypatch):
    pytest.importorskip("chgnet")

    def in_this_process(function, task, timeout):
        from crystalgfn.atoms.build import build

        return json.loads(json.dumps(build(task)))

    monkeypatch.setattr("crystalgfn.atoms.isolated.run", in_this_process)

    database = LabelDatabase(tmp_path / "labels.db")
    squeezed = salt(5.2)
    assert labelling.evaluate([squeezed, salt(2.0)], database, Workers(), tries=2, seed=0) == 2
    frame = labels.with_energies(database.frame(), ElementReferences.load(CHGNet()), load_hull(SHIPPED_HULL)).set_index(
        "key"
    )
    row = frame.loc[squeezed.key]
    assert frame.loc[salt(2.0).key, "status"] == "failed"
    assert row["status"] == "relaxed" and row["space_group_relaxed"] == 225 and row["formula_relaxed"] == "Na4 Cl4"
    assert abs(row["energy_above_hull_relaxed"]) < 0.1 < row["energy_above_hull_sampled"]
    rows = labels.training_rows(frame.reset_index())
    assert set(rows["kind"]) == {"sampled", "relaxed", "failed"}
    assert rows.loc[rows["kind"] == "relaxed", "a"].item() == pytest.approx(5.69, abs=0.15)
