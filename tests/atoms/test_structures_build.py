"""``crystalgfn build``: tables in, structures out; resuming, time-outs, workers, and what it says to wrong input."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Composition, Lattice, Structure

from crystalgfn.atoms import outputs, tables
from crystalgfn.atoms.potentials import CHGNet
from crystalgfn.atoms.relax import Relaxation
from crystalgfn.atoms.run import BACKENDS, Workers, results, run
from crystalgfn.commands import build as command
from crystalgfn.crystal.crystals import Crystals
from crystalgfn.errors import InputError
from crystalgfn.proxies.hull import ConvexHull

TABLE = """\
formula,space_group,a,b,c,alpha,beta,gamma,formation_energy,log_reward
Na4 Cl4,225,5.69,5.69,5.69,90,90,90,-2.0,3
Xx2,225,5.69,5.69,5.69,90,90,90,-2,2
Mg1 O1,225,4.2,4.2,4.2,90,90,90,-2,1
Ti1 O2,136,4.65,4.65,2.97,90,90,90,-3,0
K2,229,0.8,0.8,0.8,90,90,90,-1,-1
Cs1 Cl1,221,4.12,4.12,4.12,90,90,90,-2.1,9
Po1,221,3.3,3.3,3.3,90,90,90,0,-2
K1,221,30,30,30,90,90,90,0,-3
Na4 Cl4,225,5.69,5.69,9,90,90,90,-2.0,-4
"""
SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "samples.csv"
    path.write_text(TABLE)
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder as the command leaves it, made in the same process: no time is spent on starting another."""
    pytest.importorskip("chgnet")
    folder = tmp_path_factory.mktemp("build")
    (folder / "samples.csv").write_text(TABLE)
    known = folder / "known.csv"
    known.write_text("formula,formation_energy\nNaCl,-2.11\nCsCl,-2.15\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crystalgfn.atoms.isolated.run", in_this_process)
        args = [
            folder / "samples.csv",
            "--out",
            folder / "out",
            "--relax",
            "--hull",
            known,
            "--tries",
            2,
        ]
        assert command.main([str(arg) for arg in args]) == 0
    return folder


def in_this_process(function, task, timeout):
    from crystalgfn.atoms.build import build

    return json.loads(json.dumps(build(task)))


def frame_of(folder):
    return pd.read_csv(folder / "out" / "structures.csv", keep_default_na=False, na_values=[""]).set_index("row")


def structure_of(folder, row, stage="relaxed"):
    content = json.loads((folder / "out" / "crystals" / f"row-{row:06d}.json").read_text())
    return Structure.from_dict(content[f"structure_{stage}"])


def test_rock_salt_from_group_formula_and_cell(built):
    assert StructureMatcher().fit(structure_of(built, 1), SALT)
    row = frame_of(built).loc[1]
    assert row.space_group_built == row.space_group_symmetric == row.space_group_relaxed == 225
    assert row.symmetry == "sampled" and row.converged
    assert row.formation_energy_relaxed == pytest.approx(-2.11, abs=0.1)
    assert row.energy_above_hull == pytest.approx(row.formation_energy_relaxed + 2.11)
    assert row.proxy_formation_energy == -2.0
    assert abs(row.volume_change) < 0.05 and row.min_distance_relaxed == pytest.approx(2.845, abs=0.05)


def test_every_row_is_there_in_order_of_reward_with_its_reason(built):
    frame = frame_of(built)
    assert frame.index.tolist() == [6, 1, 2, 3, 4, 5, 7, 8, 9]
    whole = frame[frame.reason.isna()]
    assert whole.index.tolist() == [6, 1]
    assert set(outputs.COLUMNS) <= {*frame.columns, "row"}
    assert whole.drop(columns="reason").notna().all(axis=None)
    for row, words in {
        2: "'Xx2' has an element 'Xx'",
        3: "has numbers of atoms that no Wyckoff positions of the group hold",
        4: "has numbers of atoms that no Wyckoff positions of the group hold",
        5: "atoms too close or too crowded in all of",
        7: "CHGNet does not know Po",
        8: "atoms without neighbours",
        9: "is not the cell that a cubic group demands",
    }.items():
        assert words in frame.reason[row] and frame.reason[row].startswith("not built: ")
        assert np.isnan(frame.energy_built[row])


def test_files_can_be_read_by_others(built):
    import ase.io

    for row, number in ((1, 225), (6, 221)):
        path = built / "out" / "cif" / f"row-{row:06d}.cif"
        structure = Structure.from_file(path)
        formula = TABLE.splitlines()[row].split(",")[0]
        assert structure.composition == Composition(formula)
        assert structure.get_space_group_info()[1] == number
        assert f"# space group {number} " in path.read_text() and "standard setting: Hall number" in path.read_text()
    frames = ase.io.read(built / "out" / "structures.extxyz", index=":")
    assert [atoms.info["id"] for atoms in frames] == ["row-000006", "row-000001"]
    assert frames[1].info["formation_energy_relaxed"] == pytest.approx(frame_of(built).formation_energy_relaxed[1])
    assert sorted(p.name for p in (built / "out").iterdir()) == [
        "cif", "crystals", "run.json", "structures.csv", "structures.extxyz",
    ]  # fmt: skip


def test_same_seed_same_structures_whatever_else_is_built(built, tmp_path, monkeypatch):
    monkeypatch.setattr("crystalgfn.atoms.isolated.run", in_this_process)
    args = [built / "samples.csv", "--out", tmp_path / "out", "--relax", "--tries", 2, "--top", 1]
    command.main([str(arg) for arg in args])
    frame = frame_of(tmp_path)
    # The shipped hull is the default; it has no caesium.
    assert frame.index.tolist() == [6] and frame.energy_above_hull.isna().all()
    assert "no energy above the hull: the hull has no phases with Cs" in frame.reason[6]
    kept = ["energy_built", "energy_relaxed", "volume_change", "min_distance_relaxed"]
    pd.testing.assert_series_equal(frame[kept].loc[6], frame_of(built)[kept].loc[6])


def test_a_relaxation_goes_on_where_it_stopped_and_ends_when_it_has_settled():
    pytest.importorskip("chgnet")
    stretched = SALT.copy()
    stretched.scale_lattice(SALT.volume * 1.1)
    whole = Relaxation(CHGNet(), stretched, symmetric=True).run(40)
    parts = Relaxation(CHGNet(), stretched, symmetric=True).run(2)
    assert parts.steps == 2 and not parts.converged and parts.energy > whole.energy
    parts.run(38)
    assert whole.converged and parts.converged
    assert parts.energy == pytest.approx(whole.energy, abs=1e-4)
    assert parts.structure().volume == pytest.approx(whole.structure().volume, rel=1e-3)
    assert parts.run(100).steps == parts.steps
    # A shallow valley: the force asked for is never reached, the energy hardly falls.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crystalgfn.atoms.relax.MAX_FORCE", 0.0)
        settled = Relaxation(CHGNet(), stretched, symmetric=True).run(60)
    assert settled.settled and not settled.converged and settled.steps < 60
    assert settled.energy == pytest.approx(whole.energy, abs=1e-3)


def test_one_of_each_formula(built):
    inputs, tasks = tables.read_tasks(built / "samples.csv", None, None, {}, distinct=True)
    assert inputs.row.tolist() == [6, 1, 2, 3, 4, 5, 7, 9]  # row 8 is potassium again, row 9 is no crystal
    assert len(tasks) == len(inputs)
    assert tables.read_tasks(built / "samples.csv", 2, None, {}, distinct=True)[0].row.tolist() == [6, 1]


def test_a_finished_run_is_not_repeated_and_other_settings_are_refused(built, monkeypatch):
    def never(*_):
        raise AssertionError("built again")

    monkeypatch.setattr("crystalgfn.atoms.isolated.run", never)
    args = [str(built / "samples.csv"), "--out", str(built / "out"), "--relax", "--tries", "2"]
    before = frame_of(built)
    known = ["--hull", str(built / "known.csv")]
    command.main([*args, *known, "--jobs", "2"])
    pd.testing.assert_frame_equal(frame_of(built), before)
    with pytest.raises(InputError, match=r"begun with other settings \(seed: then 0, now 1\); use them"):
        command.main([*args, "--seed", "1"])
    other = built / "other.csv"
    other.write_text(TABLE.replace("-2.0", "-2.5"))
    with pytest.raises(InputError, match=r"begun with other settings \(table: then"):
        command.main([str(other), *args[1:]])


def test_energies_above_the_hull_where_nothing_competes(built, tmp_path):
    """The table of known crystals has no compound of Cs and Cl."""
    known = tmp_path / "known.csv"
    known.write_text("formula,formation_energy\nNaCl,-2.11\nKCl,-2.2\n")
    out = built / "out"
    given = (built / "samples.csv", out, True, None, 2, 0, Workers())  # as in the run that is there
    frame = tables.build_table(*given, hull=known)
    by_row = frame.set_index("row")
    assert by_row.has_competitor[[1, 6]].tolist() == [True, False] and by_row.energy_above_hull[6] < -1
    first, above, warning, *_ = tables.summary(frame, out)
    assert "2 of 9 crystals built" in first
    # Caesium chloride lies 2 eV/atom below the elements, and is neither among the near ones nor the best.
    assert above.startswith("energy above hull: 1 below 0.1 eV/atom, best ") and float(above.split()[8].strip(",")) > -1
    assert warning.startswith("warning: for 1 crystals the hull has no competing compound") and "Cs1Cl1" in warning
    shipped = tables.build_table(*given).set_index("row")
    assert bool(shipped.has_competitor[1]) and abs(shipped.energy_above_hull[1]) < 0.1
    # A hull of a file: in one without compounds, sodium chloride has no competitor.
    elements = tmp_path / "elements.pt"
    potentials = torch.zeros(1, 2, dtype=torch.float64)
    ConvexHull(["Na", "Cl"], torch.tensor([0, 1]), potentials).save(elements, {})
    other = tables.build_table(*given, hull=elements).set_index("row")
    assert not other.has_competitor[1] and other.energy_above_hull[1] == other.formation_energy_relaxed[1]
    tables.build_table(*given, hull=built / "known.csv")


def tasks(tmp_path, n):
    return [{"id": f"row-{i}", "mark": str(tmp_path / "mark"), "seconds": 0.0} for i in range(n)]


def test_goes_on_where_it_was_killed(tmp_path):
    """A process that builds is killed while it works on the third crystal; the next call does the rest only."""
    code = (
        "import sys; sys.path.insert(0, {tests!r})\n"
        "from pathlib import Path\nfrom crystalgfn.atoms.run import Workers, run\n"
        "tasks = [dict(id=f'row-{{i}}', mark={mark!r}) for i in range(6)]\n"
        "if __name__ == '__main__': run(tasks, {{'seed': 0}}, Path({out!r}), Workers(), 'sleepers:stop_at_three')\n"
    ).format(tests=str(Path(__file__).parents[1] / "support"), mark=str(tmp_path / "mark"), out=str(tmp_path / "out"))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not (tmp_path / "mark").exists() and time.monotonic() < end:
        time.sleep(0.1)  # at the third crystal it sets the mark and sleeps
    process.kill()
    process.wait()
    assert (tmp_path / "mark").exists()
    folder = tmp_path / "out" / "crystals"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert sorted(before) == ["row-0.json", "row-1.json", "row-2.json"]
    results = run(tasks(tmp_path, 6), {"seed": 0}, tmp_path / "out", Workers(), "sleepers:stop_at_three")
    assert [result["id"] for result in results] == [f"row-{i}" for i in range(6)]
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(after) == 6 and {name: after[name] for name in before} == before


def test_a_crystal_that_takes_too_long_has_a_reason(tmp_path):
    given = tasks(tmp_path, 3)
    given[1]["seconds"] = 60.0
    results = run(given, {}, tmp_path / "out", Workers(timeout=1.5), "sleepers:sleep")
    assert [result["reason"] for result in results] == ["", "not built: takes longer than 1.5 s", ""]
    path = tmp_path / "out" / "crystals" / "row-1.json"
    before = path.stat().st_mtime_ns
    given[1]["seconds"] = 0.0
    run(given, {}, tmp_path / "out", Workers(timeout=1.0), "sleepers:sleep")
    assert path.stat().st_mtime_ns == before  # less time would not help
    results = run(given, {}, tmp_path / "out", Workers(timeout=30), "sleepers:sleep")
    assert [result["reason"] for result in results] == [""] * 3


@pytest.mark.parametrize("backend", ["loky", "dask"])
def test_workers_make_no_difference(tmp_path, backend):
    if backend == "dask":
        pytest.importorskip("distributed")
    results = run(tasks(tmp_path, 5), {}, tmp_path / "out", Workers(2, backend, timeout=60), "sleepers:sleep")
    assert [result["id"] for result in results] == [f"row-{i}" for i in range(5)]
    # At most two workers, each with a process of its own for its crystals.
    processes = {result["process"] for result in results}
    assert os.getpid() not in processes and 1 <= len(processes) <= 2


def test_results_come_as_they_are_ready(tmp_path, capfd):
    slow, *others = tasks(tmp_path, 3)
    slow["seconds"] = 2.0
    found = results([slow, *others], Workers(2, timeout=60), "sleepers:sleep")
    first = next(found)["id"]
    assert first != slow["id"] and {first, *(result["id"] for result in found)} == {"row-0", "row-1", "row-2"}
    assert "crystal" not in capfd.readouterr().err  # no bar
    assert list(results([], Workers(), "sleepers:sleep")) == []
    with pytest.raises(InputError, match="--jobs: 0"):
        list(results([], Workers(0)))


def test_an_address_of_a_cluster(tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    ) as cluster:
        workers = Workers(2, "dask", cluster.scheduler_address, timeout=60)
        results = run(tasks(tmp_path, 4), {}, tmp_path / "out", workers, "sleepers:sleep")
    assert [result["reason"] for result in results] == [""] * 4


def test_refused(table, tmp_path):
    def refused(words, *args, given=table):
        with pytest.raises(InputError, match=words):
            command.main([str(arg) for arg in (given, "--out", tmp_path / "out", *args)])
        assert not (tmp_path / "out").exists()

    refused("no such file", given=tmp_path / "none.csv")
    refused("--top: 0 is not allowed; it must be at least 1", "--top", 0)
    refused("--tries: 0 is not allowed", "--tries", 0)
    refused("--jobs: 0 is not allowed", "--jobs", 0)
    refused("--timeout: 0.0 is not allowed", "--timeout", 0)
    refused("--backend: 'threads' is not allowed; allowed: loky, dask, ray", "--backend", "threads")
    refused("--scheduler: only with --backend dask or ray", "--scheduler", "tcp://127.0.0.1:1")
    refused("has no column 'band_gap'; it has: formula", "--proxy-column", "band_gap")
    refused("references.json: cannot be read", "--element-references", tmp_path / "references.json")
    refused("known.csv: no such file", "--hull", tmp_path / "known.csv")
    refused("none.pt: no such file with a hull", "--hull", tmp_path / "none.pt")
    (tmp_path / "bare.csv").write_text("formula,space_group\nNa4 Cl4,225\n")
    refused(r"missing column\(s\) a, b, c", given=tmp_path / "bare.csv")
    for name in ("file", "full"):
        target = tmp_path / name
        target.write_text("x") if name == "file" else (target.mkdir(), (target / "x").write_text("x"))
        with pytest.raises(InputError, match=r"is a file; give a folder|is not empty and holds no run"):
            command.main([str(table), "--out", str(target)])
    assert BACKENDS == ("loky", "dask", "ray")


def test_a_missing_backend_is_named(monkeypatch, table, tmp_path):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr("crystalgfn.atoms.find_spec", lambda name: None if name == "ray" else real(name))
    with pytest.raises(InputError, match="--backend ray: the package ray is not installed"):
        command.main([str(table), "--out", str(tmp_path / "out"), "--backend", "ray"])
    monkeypatch.setattr("crystalgfn.atoms.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'crystalgfn\[structures\]'"):
        command.main([str(table), "--out", str(tmp_path / "out")])


def test_the_python_front_uses_the_shipped_hull(monkeypatch):
    pytest.importorskip("chgnet")
    monkeypatch.setattr("crystalgfn.atoms.isolated.run", in_this_process)
    crystals = Crystals.from_arrays([225], [{"Na": 4, "Cl": 4}], [[5.69, 5.69, 5.69, 90, 90, 90]])
    row = tables.build_crystals(crystals, relax=False, tries=1).frame.iloc[0]
    assert bool(row.has_competitor) and abs(row.energy_above_hull) < 0.1


def test_importing_the_commands_is_light():
    code = (
        "import sys, crystalgfn.commands.build, crystalgfn.commands.references\n"
        "sys.exit(bool({'torch', 'numpy', 'joblib', 'chgnet'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_known_energies():
    """Formation energies of rock salt and caesium chloride, from CHGNet's energies and the shipped references."""
    pytest.importorskip("chgnet")
    from crystalgfn.atoms.potentials.references import ElementReferences

    caesium = Structure(Lattice.cubic(4.12), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    references = ElementReferences.load(CHGNet())
    cells = [SALT, caesium]
    found = [
        references.formation_energy(float(e), c.composition)
        for e, c in zip(CHGNet().energies_per_atom(cells), cells, strict=True)
    ]
    assert found == pytest.approx([-2.11, -2.15], abs=0.1)


def test_chgnet_is_silent(capfd):
    pytest.importorskip("chgnet")
    from crystalgfn.atoms.potentials import chgnet

    chgnet._load.cache_clear()
    CHGNet().evaluate([SALT])
    shown = capfd.readouterr()
    assert shown.out == "" and shown.err == ""


def test_references_from_tables(tmp_path, capsys):
    """The command, on structures whose labels are CHGNet's energies less known references."""
    pytest.importorskip("chgnet")
    from crystalgfn.atoms.potentials.references import ElementReferences
    from crystalgfn.commands.references import main

    cells = [
        SALT.copy(),
        Structure(Lattice.cubic(4.3), ["Na"], [[0, 0, 0]]),
        Structure(Lattice.cubic(3), ["Cl"], [[0, 0, 0]]),
    ]
    true = {"Na": -1.3, "Cl": -1.8}
    labels = [
        float(e) - sum(x * true[s.symbol] for s, x in c.composition.fractional_composition.items())
        for e, c in zip(CHGNet().energies_per_atom(cells), cells, strict=True)
    ]
    names = ["a", "b", "c"]
    table, structures = tmp_path / "t.csv", tmp_path / "s.csv"
    pd.DataFrame({"material_id": names, "formula": [c.formula for c in cells], "formation_energy": labels}).to_csv(
        table, index=False
    )
    pd.DataFrame({"material_id": names, "cif": [c.to(fmt="cif") for c in cells]}).to_csv(structures, index=False)
    out = tmp_path / "references.json"
    assert main([str(table), str(structures), "--out", str(out)]) == 0
    assert "2 elements from" in capsys.readouterr().out
    assert ElementReferences.load(CHGNet(), out).energies == pytest.approx(true, abs=1e-3)
    with pytest.raises(InputError, match=r"missing column\(s\) cif"):
        main([str(table), str(table), "--out", str(tmp_path / "x.json")])
    twice = tmp_path / "twice.csv"
    pd.concat([pd.read_csv(structures)] * 2).to_csv(twice, index=False)
    with pytest.raises(InputError, match="material_id: value 'a' occurs twice"):
        main([str(table), str(twice), "--out", str(tmp_path / "x.json")])
    with pytest.raises(InputError, match="--per-element: 0"):
        main([str(table), str(structures), "--out", str(tmp_path / "x.json"), "--per-element", "0"])
    assert not (tmp_path / "x.json").exists()
