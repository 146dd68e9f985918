"""The database of evaluated crystals, and the rows to train on that are made of it."""

import math
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
import torch
from pymatgen.core import Lattice, Structure

from crystalgfn.crystals import Crystals
from crystalgfn.discovery import labels
from crystalgfn.discovery.candidate import Candidate, candidates
from crystalgfn.discovery.database import LabelDatabase
from crystalgfn.errors import InputError
from crystalgfn.proxies.energy_above_hull import SHIPPED_HULL
from crystalgfn.stability import ConvexHull, load_hull
from crystalgfn.structures.references import References

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


REFERENCES = References({"Na": -1.0, "Cl": -2.0})


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
    task = salt().task(4, 7)
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
sys.path.insert(0, "tests")
from test_labels import *
database = LabelDatabase(sys.argv[1])
print("open", flush=True)
for i in range(100_000):
    candidate = salt(4 + 0.02 * i)
    database.add(candidate, outcome(candidate))
"""


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


@pytest.mark.parametrize("kind", ["text", "sqlite", "ase", "folder", "missing", "url", "under a file"])
def test_no_such_database(tmp_path, kind):
    path = tmp_path / "labels.db"
    create = True
    if kind == "text":
        path.write_text("formula,space_group\n" * 100)
        match = "not a database"
    elif kind == "sqlite":
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE other (id INTEGER)")
        connection.close()
        match = "no database of ase"
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
    assert not path.exists() if kind == "missing" else True


def test_other_model(tmp_path):
    database = LabelDatabase(tmp_path / "labels.db")
    database._db.metadata = database._db.metadata | {"model": "9.9"}
    with pytest.raises(InputError, match=r"energies of CHGNet 9\.9"):
        LabelDatabase(tmp_path / "labels.db")


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
