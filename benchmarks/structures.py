"""Checks of the structures that ``crystalgfn build`` makes, and a report on folders of structures.

    python benchmarks/structures.py references --data FOLDER
    python benchmarks/structures.py calibrate --data FOLDER --out DIR
    python benchmarks/structures.py report STRUCTURES [...]
    python benchmarks/structures.py distances --data FOLDER
    python benchmarks/structures.py offset --data FOLDER --out DIR

FOLDER has crystals.parquet (material_id, formula, space_group, cell, formation_energy, energy_above_hull, split) and
structures.parquet (material_id, cif).

- `references` measures the errors of formation energies of one or more potentials on real structures.
- `calibrate` builds real stable crystals from space group, formula and cell only, and relaxes the real structures for
  comparison.
- `report` summarizes folders that ``crystalgfn build --relax`` wrote.
- `distances` measures how close atoms are in real structures.
- `offset` labels real crystals as ``crystalgfn label`` does and compares the labels with DFT.

If `calibrate` or `offset` was stopped, run it again: it continues.

Results: docs/results/structures.md; those of `offset` are in docs/results/discovery.md.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from crystalgfn.crystal.formulas import parse_formula

MAX_ATOMS = 20
NEAR = 0.1  # eV/atom above the hull
LABEL_ATOMS = 24  # atoms of the conventional cell in a discovery run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    references = commands.add_parser("references", help="errors of formation energies on real structures")
    calibrate = commands.add_parser("calibrate", help="build real crystals from space group, formula and cell")
    distances_ = commands.add_parser("distances", help="shortest distances in real structures")
    offset_ = commands.add_parser("offset", help="compare labels of real crystals with DFT")
    for command, n in ((references, 200), (calibrate, 50), (distances_, 3000), (offset_, 60)):
        command.add_argument("--data", type=Path, required=True, help="folder with the two tables")
        command.add_argument("--n", type=int, default=n, help=f"number of crystals (default {n})")
        command.add_argument("--seed", type=int, default=0, help="seed (default 0)")
    references.add_argument(
        "--potentials", nargs="+", default=["chgnet", "sevennet:7net-0", "sevennet"], help="potentials to compare"
    )
    calibrate.add_argument("--out", type=Path, required=True)
    calibrate.add_argument("--split", default="test")
    calibrate.add_argument("--tries", type=int, default=12)
    calibrate.add_argument("--jobs", type=int, default=1)
    offset_.add_argument("--out", type=Path, required=True)
    offset_.add_argument("--tries", type=int, default=4)
    offset_.add_argument("--jobs", type=int, default=1)
    report_ = commands.add_parser("report", help="summarize folders of structures")
    report_.add_argument("structures", type=Path, nargs="+")
    options = vars(parser.parse_args())
    functions = {
        "references": judge_references, "calibrate": calibration, "report": report, "distances": distances,
        "offset": offset,
    }  # fmt: skip
    functions[options.pop("command")](**options)


def judge_references(data: Path, n: int, seed: int, potentials: list[str]) -> None:
    """Print the errors of formation energies on real structures of the test split with exact labels."""
    from crystalgfn.atoms.potentials import make
    from crystalgfn.atoms.potentials.fitting import corrected_energies, join, read_structures
    from crystalgfn.atoms.potentials.references import ElementReferences
    from crystalgfn.discovery.labelling import environment

    rows = join(data / "crystals.parquet", data / "structures.parquet")
    rows = rows[(rows.split == "test") & (rows.n_atoms <= 60)].sample(n, random_state=seed)
    structures = read_structures(rows)
    labels = rows.formation_energy.to_numpy(dtype=float)
    predicted, seconds = {}, {}
    for name in potentials:
        potential = make(name)
        table = ElementReferences.load(potential)
        known = [not table.missing(structure.composition) for structure in structures]
        potential.prepare()
        start = time.process_time()
        part = corrected_energies(potential, [s for s, use in zip(structures, known, strict=True) if use]).tolist()
        seconds[name] = time.process_time() - start
        values = iter(part)
        predicted[name] = np.array([
            table.formation_energy(next(values), structure.composition) if use else np.nan
            for structure, use in zip(structures, known, strict=True)
        ])  # fmt: skip
    everywhere = np.isfinite(list(predicted.values())).all(axis=0)  # the same crystals for all potentials
    wbm = (rows.source == "wbm").to_numpy()
    few = set(environment("eform.yaml").elements)
    in_few = np.array([few >= set(parse_formula(formula)) for formula in rows.formula])
    print("| potential | crystals | n | MAE [eV/atom] | median | mean error |\n|---|---|--:|--:|--:|--:|")
    for name, prediction in predicted.items():
        errors = prediction - labels
        for part, mask in (
            ("Materials Project", ~wbm), (f"Materials Project, {len(few)} elements", ~wbm & in_few),
            ("WBM", wbm), (f"WBM, {len(few)} elements", wbm & in_few),
        ):  # fmt: skip
            some = errors[mask & everywhere]
            print(f"| {make(name).name} | {part} | {len(some)} | {np.abs(some).mean():.3f} | "
                  f"{np.median(np.abs(some)):.3f} | {some.mean():+.3f} |")  # fmt: skip
    print("\n".join(f"{name}: {spent:.0f} s of processor time" for name, spent in seconds.items()))
    for one, other in itertools.combinations(predicted, 2):
        for part, mask in (("Materials Project", ~wbm), ("WBM", wbm)):
            errors = [(predicted[name] - labels)[everywhere & mask] for name in (one, other)]
            print(f"correlation of the errors of {one} and {other}, {part}: {np.corrcoef(*errors)[0, 1]:.2f}")


def calibration(data: Path, n: int, seed: int, out: Path, split: str, tries: int, jobs: int) -> None:
    """Build real stable crystals, relax the real structures, and print both for comparison."""
    from crystalgfn.atoms import outputs
    from crystalgfn.atoms.potentials import DEFAULT, make
    from crystalgfn.atoms.potentials.fitting import join, read_structures
    from crystalgfn.atoms.potentials.references import ElementReferences
    from crystalgfn.atoms.run import Workers, run
    from crystalgfn.atoms.tables import build_table
    from crystalgfn.proxies.hull.phases import ReferenceHull

    rows = join(data / "crystals.parquet", data / "structures.parquet")
    stable = (rows.split == split) & (rows.energy_above_hull == 0) & (rows.n_atoms <= MAX_ATOMS)
    rows = rows[stable].sample(n, random_state=seed).reset_index(drop=True)
    out.mkdir(parents=True, exist_ok=True)
    table = out / "real.csv"
    columns = ["material_id", "formula", "space_group", "a", "b", "c", "alpha", "beta", "gamma", "formation_energy"]
    rows[columns].to_csv(table, index=False)
    workers = Workers(jobs=jobs, timeout=600)
    hull = data / "crystals.parquet"
    built = build_table(table, out / "built", True, None, tries, seed, workers, hull, "formation_energy")
    structures = read_structures(rows)
    tasks = [
        {"id": name, "structure": structure.as_dict(), "seed": seed, "potential": DEFAULT}
        for name, structure in zip(built["id"], structures, strict=True)
    ]
    settings = {"seed": seed, "split": split, "n": n}
    results = run(tasks, settings, out / "real", workers, "crystalgfn.atoms.build:relax_given")
    inputs = built[["id", "row", "formula", "space_group"]]
    real = outputs.make_table(results, inputs, ElementReferences.load(make()), ReferenceHull(hull), relaxed=True)
    matches = _matches(out, built["id"], structures)
    print(f"{n} stable crystals of the {split} split, up to {MAX_ATOMS} atoms in the conventional cell, seed {seed}\n")
    print("| | built | real |\n|---|--:|--:|")
    for name, value in (
        ("within 0.1 eV/atom of the hull", lambda t: f"{int((t.energy_above_hull < NEAR).sum())} of {n}"),
        ("median energy above hull [eV/atom]", lambda t: f"{t.energy_above_hull.median():.3f}"),
        ("relaxed", lambda t: f"{int(t.energy_relaxed.notna().sum())}"),
        ("in the given space group after relaxation", lambda t: f"{int((t.symmetry == 'sampled').sum())}"),
        ("in a higher one", lambda t: f"{int((t.symmetry == 'higher').sum())}"),
        ("seconds of processor time, all together", lambda t: f"{t.cpu_seconds.sum():.0f}"),
    ):
        print(f"| {name} | {value(built)} | {value(real)} |")
    print(f"| the real structure found (StructureMatcher) | {int(matches.sum())} of {n} | |")
    print(
        f"| of these before relaxation of the cell | {int(_matches(out, built['id'], structures, 'built').sum())} | |"
    )
    frame = built.assign(real_above_hull=real.energy_above_hull, match=matches, material_id=rows.material_id)
    names = ["material_id", "formula", "space_group", "positions", "energy_above_hull", "real_above_hull", "match"]
    print(
        "\nfarther than 0.1 eV/atom:\n" + frame.loc[~(built.energy_above_hull < NEAR), [*names, "reason"]].to_string()
    )


def _matches(out: Path, names: pd.Series, real: list, stage: str = "relaxed") -> np.ndarray:
    """(n,) bool, True where pymatgen's StructureMatcher with default settings matches a structure with the real one."""
    import json

    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

    matcher, found = StructureMatcher(), []
    for name, structure in zip(names, real, strict=True):
        content = json.loads((out / "built" / "crystals" / f"{name}.json").read_text()).get(f"structure_{stage}")
        found.append(content is not None and bool(matcher.fit(structure, Structure.from_dict(content))))
    return np.array(found)


def offset(data: Path, n: int, seed: int, out: Path, tries: int, jobs: int) -> None:
    """Print CHGNet minus DFT for real crystals of the elements of configs/eform.yaml.

    The crystals are labelled in the same way as sampled crystals, and their real structures are evaluated too. Half of
    the crystals are from the Materials Project and half from WBM.
    """
    from crystalgfn.atoms.potentials import DEFAULT
    from crystalgfn.atoms.potentials.fitting import join, read_structures
    from crystalgfn.atoms.potentials.references import ElementReferences
    from crystalgfn.atoms.run import Workers, run
    from crystalgfn.discovery.candidate import Candidate
    from crystalgfn.discovery.database import LabelDatabase
    from crystalgfn.discovery.labelling import environment, evaluate
    from crystalgfn.discovery.labels import with_energies
    from crystalgfn.proxies.energy_above_hull import SHIPPED_HULL
    from crystalgfn.proxies.hull import load_hull

    elements = set(environment("crystals.yaml").elements)
    rows = join(data / "crystals.parquet", data / "structures.parquet")
    rows = rows[(rows.split == "train") & (rows.n_atoms <= LABEL_ATOMS)]
    rows = rows[[elements >= set(parse_formula(formula)) for formula in rows.formula]]
    wbm = rows.source == "wbm"
    halves = [rows[~wbm].sample(n - n // 2, random_state=seed), rows[wbm].sample(n // 2, random_state=seed)]
    rows = pd.concat(halves, ignore_index=True)
    cells = rows[["a", "b", "c", "alpha", "beta", "gamma"]].to_numpy(dtype=float).tolist()
    crystals = [
        Candidate(int(group), parse_formula(formula), tuple(cell), "real")
        for group, formula, cell in zip(rows.space_group, rows.formula, cells, strict=True)
    ]
    workers = Workers(jobs=jobs, timeout=600)
    out.mkdir(parents=True, exist_ok=True)
    database = LabelDatabase(out / "labels.db")
    evaluate(crystals, database, workers, tries, seed)
    references = ElementReferences.load(database.potential)
    frame = with_energies(database.frame(), references, load_hull(SHIPPED_HULL)).set_index("key")
    frame = frame.loc[[crystal.key for crystal in crystals]].reset_index()
    structures = read_structures(rows)
    tasks = [
        {"id": name, "structure": structure.as_dict(), "seed": seed, "potential": DEFAULT}
        for name, structure in zip(rows.material_id, structures, strict=True)
    ]
    real = run(tasks, {"seed": seed}, out / "real", workers, "crystalgfn.atoms.build:relax_given")
    values = {
        "label, sampled cell": frame.formation_energy_sampled.to_numpy(),
        "label, relaxed": frame.formation_energy_relaxed.to_numpy(),
    }
    for stage, name in (("built", "real structure, as it is"), ("relaxed", "real structure, relaxed")):
        energies = [result.get(f"energy_{stage}", float("nan")) for result in real]
        values[name] = np.array(
            [references.formation_energy(e, s.composition) for e, s in zip(energies, structures, strict=True)]
        )
    label = rows.formation_energy.to_numpy(dtype=float)
    is_wbm = (rows.source == "wbm").to_numpy()
    print(f"CHGNet minus DFT [eV/atom], {n} real crystals of the train split, up to {LABEL_ATOMS} atoms, seed {seed}\n")
    print("| energy | source | n | mean | median | MAE | MAE less the median |\n|---|---|--:|--:|--:|--:|--:|")
    for name, value in values.items():
        for source, mask in (("Materials Project", ~is_wbm), ("WBM", is_wbm), ("all", is_wbm | True)):
            error = (value - label)[mask & np.isfinite(value)]
            middle = np.median(error)
            print(f"| {name} | {source} | {len(error)} | {error.mean():+.3f} | {middle:+.3f} | "
                  f"{np.abs(error).mean():.3f} | {np.abs(error - middle).mean():.3f} |")  # fmt: skip
    print(f"\nseconds of processor time for each label: {frame.cpu_seconds.mean():.1f}")
    worst = (frame.formation_energy_sampled - label).abs().sort_values(ascending=False).index[:5]
    columns = ["formula", "space_group", "formation_energy_sampled", "formation_energy_relaxed", "status", "reason"]
    print("\n" + frame.assign(dft=label).loc[worst, [*columns, "dft"]].to_string())


def distances(data: Path, n: int, seed: int) -> None:
    """Print how close atoms are in real structures, and how many neighbours they have.

    The table has the shares of structures whose closest atoms are closer than a ratio of the sum of covalent radii.
    """
    from crystalgfn.atoms.arrangements import crowding, distance_ratios
    from crystalgfn.atoms.potentials.fitting import join, read_structures

    rows = join(data / "crystals.parquet", data / "structures.parquet", exact=False).sample(n, random_state=seed)
    structures = read_structures(rows)
    ratios = distance_ratios(structures)[0]
    hydrogen = np.array(["H" in structure.composition.as_dict() for structure in structures])
    print("| ratio | without hydrogen | with |\n|--:|--:|--:|")
    print(f"| crystals | {int((~hydrogen).sum())} | {int(hydrogen.sum())} |")
    for ratio in (0.5, 0.55, 0.6, 0.65, 0.7, 0.8):
        print(f"| {ratio} | {(ratios[~hydrogen] < ratio).mean():.2%} | {(ratios[hydrogen] < ratio).mean():.2%} |")
    pairs = crowding(structures)
    values = ", ".join(f"{value:.0f}" for value in np.percentile(pairs, (50, 95, 99, 100)))
    print(f"\npairs of neighbours within 3 Å per atom, median, 95th and 99th percentile, largest: {values}")


def _share(k: int, n: int) -> str:
    """A share with its 95 % interval (Wilson)."""
    interval = binomtest(k, n).proportion_ci(0.95, "wilson")
    return f"{k} of {n} ({interval.low:.0%} to {interval.high:.0%})"


def report(structures: list[Path]) -> None:
    """Print a Markdown table with a column for each folder, then the failures and the best structures of each."""
    old = {  # names of version 0.2
        "chgnet_formation_energy_built": "formation_energy_built",
        "chgnet_formation_energy": "formation_energy_relaxed",
    }
    frames = {folder.name: pd.read_csv(folder / "structures.csv").rename(columns=old) for folder in structures}
    columns = {name: describe(frame) for name, frame in frames.items()}
    rows = list(dict.fromkeys(row for column in columns.values() for row in column))
    print(f"| | {' | '.join(columns)} |\n|---|{'--:|' * len(columns)}")
    for row in rows:
        print(f"| {row} | {' | '.join(column.get(row, '') for column in columns.values())} |")
    for name, frame in frames.items():
        print(f"\n{name}")
        failures = frame.reason.dropna().astype(str).str.replace(r"\d+", "N", regex=True).value_counts()
        for reason, count in failures.items():
            print(f"{count} × {reason}")
        relaxed = frame[frame.energy_relaxed.notna()]
        order = "energy_above_hull" if "energy_above_hull" in frame.columns else "formation_energy_relaxed"
        proxies = [column for column in frame.columns if column.startswith("proxy_")]
        names = ["formula", "space_group", "space_group_relaxed", "formation_energy_relaxed", *proxies, order]
        print(relaxed.sort_values(order)[list(dict.fromkeys(names))].head(10).round(3).to_string(index=False))


def describe(frame: pd.DataFrame) -> dict[str, str]:
    """The rows of the report about one table of structures."""
    relaxed = frame[frame.energy_relaxed.notna()]
    kept = relaxed[relaxed.symmetry.isin(["sampled", "higher"])]
    atoms = frame.formula.map(lambda formula: sum(parse_formula(formula).values()))
    change = relaxed.volume_change
    rows = {
        "crystals; atoms in the conventional cell, median": f"{len(frame)}; {atoms.median():.0f}",
        "built; relaxed": f"{int(frame.energy_built.notna().sum())}; {len(relaxed)}",
        "in the sampled group; in a higher one; elsewhere": (
            f"{int((relaxed.symmetry == 'sampled').sum())}; {int((relaxed.symmetry == 'higher').sum())}; "
            f"{len(relaxed) - len(kept)}"
        ),
        "change of the volume, median; 10th, 90th percentile": (
            f"{change.median():+.0%}; {change.quantile(0.1):+.0%}, {change.quantile(0.9):+.0%}"
        ),
    }
    for column in (column for column in frame.columns if column.startswith("proxy_")):
        stages = {"sampled cell": "formation_energy_built", "relaxed": "formation_energy_relaxed"}
        if column.endswith("above_hull"):
            stages = {"relaxed": "energy_above_hull"}
        for stage, values in stages.items():
            difference = relaxed[values] - relaxed[column]
            rows[f"potential ({stage}) less proxy [eV/atom]: mean; mean absolute; correlation"] = (
                f"{difference.mean():+.2f}; {difference.abs().mean():.2f}; {relaxed[values].corr(relaxed[column]):.2f}"
            )
        rows[f"{column}, mean [eV/atom]"] = f"{relaxed[column].mean():.2f}"
    rows["formation energy, mean [eV/atom]"] = f"{relaxed.formation_energy_relaxed.mean():.2f}"
    if "energy_above_hull" in frame.columns:
        above = relaxed.energy_above_hull
        rows["below 0.1 eV/atom above the hull (95 % interval)"] = _share(int((above < NEAR).sum()), len(frame))
        rows["energy above hull, best; median [eV/atom]"] = f"{above.min():.3f}; {above.median():.3f}"
    time = frame.cpu_seconds
    rows["processor time of a crystal, median; all together [s]"] = f"{time.median():.0f}; {time.sum():.0f}"
    return rows


if __name__ == "__main__":
    main()
