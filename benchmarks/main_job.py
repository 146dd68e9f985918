"""A table of what a trained model samples, compared with the Crystal-GFN paper (arXiv 2310.04925).

    python benchmarks/main_job.py samples.csv --config configs/eform.yaml [--reference TABLE]
    python benchmarks/main_job.py samples.csv --config configs/bandgap.yaml --wanted band_gap 1.04 1.64
    python benchmarks/main_job.py samples.csv --config configs/solar.yaml --wanted formation_energy none -1.55 \\
        --wanted band_gap 1.04 1.64 --wanted density none 5

The command reads a table of ``crystalgfn predict``, checks every crystal with pyxtal and pymatgen only, and prints a
Markdown table. The numbers of the paper are those of its model for the formation energy. If several properties are
given, the table also has the share of crystals for which all of them are in their ranges. With a reference table
(columns formula, formation_energy, split), the percentiles of its validation rows within the elements of the config are
printed too.

Results: docs/results/main_job.md, docs/results/rewards.md and docs/results/stability.md.
"""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from crystalgfn.crystal.crystallography import space_groups
from crystalgfn.crystal.crystallography.group_ranges import group_range
from crystalgfn.crystal.formulas import parse_formula
from crystalgfn.evaluation.checks import (
    assignment_is_right,
    cell_volumes,
    fits_lattice_system,
    fits_wyckoff,
    is_neutral,
)
from crystalgfn.settings import read_config

PAPER = {
    "samples": "10,000, all unique",
    "median": "−3.1 to −3.2",
    "below": "95 %",
    "elements": "22 of 22; 15",
    "groups": "73 of 113; 19",
    "systems": "8 of 8; 4",
    "points": "5 of 5; 4",
    "held": "not reported",
    "correlation": "not reported",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", type=Path, help="table that crystalgfn predict wrote")
    parser.add_argument("--config", type=Path, required=True, help="config of the model")
    parser.add_argument("--reference", type=Path, help="table of known crystals with formation energies")
    parser.add_argument(
        "--wanted",
        nargs=3,
        action="append",
        metavar=("COLUMN", "LOW", "HIGH"),
        help="a property and its range; 'none' for no bound; may be repeated (default: formation_energy none -2)",
    )
    options = parser.parse_args()
    wanted = {
        column: (bound(low, -np.inf), bound(high, np.inf))
        for column, low, high in options.wanted or [("formation_energy", "none", "-2")]
    }
    table = pd.read_csv(options.samples)
    settings = read_config(options.config)["model"]["env"]["init_args"]
    problems = [problem for row in table.itertuples() if (problem := violation(row, settings))]
    rows = summary(table, settings, len(table) - len(problems), wanted)
    is_papers = list(wanted) == ["formation_energy"]
    print("| | paper | here |\n|---|---|---|" if is_papers else "| | here |\n|---|---|")
    for name, key, value in rows:
        print(f"| {name} | {PAPER[key]} | {value} |" if is_papers else f"| {name} | {value} |")
    for problem in problems[:10]:
        print(problem)
    if options.reference is not None:
        print(reference_line(options.reference, settings["elements"]))


def bound(text: str, none: float) -> float:
    return none if text == "none" else float(text)


def summary(
    table: pd.DataFrame, settings: dict, held: int, wanted: dict[str, tuple[float, float]]
) -> list[tuple[str, str, str]]:
    """For each row of the table: its name, the key of the number in the paper, and the number of the samples."""
    top = (
        table.nsmallest(100, "formation_energy")
        if list(wanted) == ["formation_energy"]
        else table.nlargest(100, "log_reward")
    )
    n_groups, n_elements = len(allowed_groups(settings["space_groups"])), len(settings["elements"])

    def both(count, possible: int | None = None) -> str:
        return f"{count(table)}{f' of {possible}' if possible else ''}; {count(top)}"

    key = table[["formula", "space_group"]].astype(str).agg("/".join, axis=1)
    properties = []
    on_target = pd.Series(True, index=table.index)
    for column, (low, high) in wanted.items():
        values, name = table[column], column.replace("_", " ")
        inside = (values > low) & (values < high)
        on_target &= inside
        ends = f"below {high:g}" if low == -np.inf else f"above {low:g}" if high == np.inf else f"{low:g} to {high:g}"
        properties.append((f"median {name}", "median", f"{values.median():.3f}"))
        properties.append((f"{name} {ends}", "below", f"{inside.mean():.1%}"))
    if len(wanted) > 1:
        properties.append(("all of these", "below", f"{on_target.mean():.1%}"))
    return [
        ("samples, unique", "samples", f"{len(table):,}, {len(table.drop_duplicates(CELL)):,} unique"),
        *properties,
        ("elements; in the top 100", "elements", both(lambda t: len(elements_of(t)), n_elements)),
        ("space groups; in the top 100", "groups", both(lambda t: t.space_group.nunique(), n_groups)),
        ("crystal-lattice systems; in the top 100", "systems", both(lambda t: classes(t, "crystal_lattice_system"), 8)),
        ("point symmetries; in the top 100", "points", both(lambda t: classes(t, "point_symmetry"), 5)),
        ("different compositions in a group", "held", f"{key.nunique():,}"),
        ("all constraints held", "held", f"{held:,} of {len(table):,}"),
        ("correlation of log p and log R", "correlation", f"{table.log_pf.corr(table.log_reward):.3f}"),
    ]


CELL = ["formula", "space_group", "a", "b", "c", "alpha", "beta", "gamma"]


def elements_of(table: pd.DataFrame) -> set[str]:
    return {symbol for formula in table.formula for symbol in counts_of(formula)}


def classes(table: pd.DataFrame, kind: str) -> int:
    return len({getattr(space_groups()[number - 1], kind) for number in table.space_group})


counts_of = cache(parse_formula)


def allowed_groups(entries: list) -> set[int]:
    return {number for entry in entries for number in group_range(entry)}


def violation(row, settings: dict) -> str | None:
    """The constraints that a crystal violates, checked with pyxtal and pymatgen; None if there are none."""
    counts = counts_of(row.formula)
    lengths, angles = np.array([row.a, row.b, row.c]), np.array([row.alpha, row.beta, row.gamma])
    lattice = np.concatenate([lengths, angles])[None]
    volume = cell_volumes(lattice)[0]
    n_atoms, n_elements = sum(counts.values()), len(counts)
    # The values of the table have full precision; 1e-6 is enough for sums and roots of them.
    checks = {
        "group": row.space_group in allowed_groups(settings["space_groups"]),
        "elements": set(counts) <= set(settings["elements"]),
        "number of elements": settings["min_elements"] <= n_elements <= settings["max_elements"],
        "number of atoms": settings["min_atoms"] <= n_atoms <= settings["max_atoms"],
        "atoms of an element": all(
            settings["min_atoms_per_element"] <= n <= settings["max_atoms_per_element"] for n in counts.values()
        ),
        "charge": is_neutral(counts.items()),
        "Wyckoff positions": fits_wyckoff(row.space_group, counts.values()),
        "lengths": within(lengths, settings["lengths"]),
        "angles": within(angles, settings["angles"]),
        "volume": volume > 1e-3,
        "lattice system": bool(fits_lattice_system(np.array([row.space_group]), lattice, 1e-6, 1e-6)[0]),
        "oxidation states": assignment_is_right(row.oxidation_states, counts),
    }
    if settings["volume_per_atom"] is not None:
        checks["volume per atom"] = within(np.array([volume / n_atoms]), settings["volume_per_atom"])
    broken = [name for name, holds in checks.items() if not holds]
    return f"{row.formula} ({row.space_group}): {', '.join(broken)}" if broken else None


def within(values: np.ndarray, ends: list[float]) -> bool:
    return bool((values >= ends[0] * (1 - 1e-6)).all() and (values <= ends[1] * (1 + 1e-6)).all())


def reference_line(path: Path, elements: list[str]) -> str:
    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    known = table[table.formation_energy.notna() & (table.split == "val")]
    allowed = set(elements)
    inside = known[[set(counts_of(formula)) <= allowed for formula in known.formula]]
    low, middle = np.percentile(inside.formation_energy, [5, 50])
    return (
        f"\nReference, validation rows within the {len(allowed)} elements ({len(inside)}): 5th percentile {low:.2f}, "
        f"median {middle:.2f} eV/atom"
    )


if __name__ == "__main__":
    main()
