"""Which crystals of a table do the constraints of the environment exclude?

    python benchmarks/constraints.py crystals.parquet [--config CONFIG ...]

The table has one crystal in each row (docs/proxies.md). Each rule is measured alone: it is one setting of an
environment whose other settings are as wide as possible (`WIDEST`). Its percentage refers to the rows that fit the
widest environment. Neutrality is checked with `crystalgfn.evaluation.is_neutral`, because look-ahead tables for the
charges of up to 192 atoms of an element would need many GB. ``crystals.yaml`` and each CONFIG are measured with all of
their rules together; their percentages refer to all rows that can be read.

Results: docs/results/constraints.md.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from crystalgfn import Crystals
from crystalgfn.crystal.crystallography import OXIDATION_STATE_SETS
from crystalgfn.crystal.envs import Crystal
from crystalgfn.crystal.formulas import symbol_counts
from crystalgfn.discovery.labelling import environment
from crystalgfn.evaluation import is_neutral

WIDEST: dict[str, Any] = {
    "max_elements": 8,
    "max_atoms": 8 * 192,
    "max_atoms_per_element": 192,
    "charge_neutral": False,
    "lengths": (0.5, 1000.0),
    "angles": (5.0, 175.0),
    "angle_margin": 0.1,
}
BATCH = 2048


def rules() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each rule for atoms and cells: what it says, and its settings."""
    for most in (20, 24, 40, 80):
        yield f"at most {most} atoms", {"max_atoms": most}
    for most in (16, 24):
        yield f"at most {most} atoms of an element", {"max_atoms_per_element": most}
    yield "at most 5 elements", {"max_elements": 5}
    yield "lengths of 2–60 Å", {"lengths": (2.0, 60.0)}
    yield "angles of 55–140 degrees", {"angles": (55.0, 140.0)}
    for low, high in ((5.0, 100.0), (7.0, 60.0), (7.0, 40.0)):
        yield f"volume of {low:g}–{high:g} Å³ per atom", {"volume_per_atom": (low, high)}


def reasons_of(env: Crystal, crystals: Crystals, tolerance: float) -> list[str]:
    """The reason why each crystal does not fit an environment; empty if it does."""
    parts = torch.arange(len(crystals)).split(BATCH)
    return [reason for part in parts for reason in env.states_of(crystals[part], tolerance)[1]]


def share(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.2f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="CSV or parquet file with one crystal per row")
    parser.add_argument(
        "--config", action="append", default=[], help="another config whose rules are measured; may be repeated"
    )
    parser.add_argument("--tolerance", type=float, default=0.01, help="largest relative deviation of a cell (0.01)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # space groups and elements that a rule excludes
    started = time.process_time()

    widest = Crystal(**WIDEST)
    table = widest.read_table(args.table)
    crystals = table.objects
    print(f"{len(table.frame)} rows, {len(table.problems)} of them cannot be read", end="")
    print("".join(f"; {reason}: {count}" for reason, count in Counter(table.problems.values()).most_common()))
    reasons = reasons_of(widest, crystals, args.tolerance)
    fits = torch.tensor([not reason for reason in reasons])
    faults = Counter({"lattice system": 0, "Wyckoff positions": 0})
    faults.update(filter(None, reasons))
    print("\n| rule | rows | excludes |\n|---|--:|--:|")
    for reason, count in faults.items():
        print(f"| widest environment: {reason} | {count} | {share(count, len(crystals))} |")
    judged = crystals[fits]
    formulas = [tuple(counts.items()) for counts in symbol_counts(judged.counts)]

    def print_rule(name: str, n: int) -> None:
        print(f"| {name} | {n} | {share(n, len(judged))} |", flush=True)

    print_rule("any charge", 0)
    for known in OXIDATION_STATE_SETS:
        for mixed in (False, True):
            n = sum(not is_neutral(formula, known, mixed) for formula in formulas)
            print_rule(f"neutral, `{known}`, {'one or two states' if mixed else 'one state'} of an element", n)
    for name, settings in rules():
        # Where a rule bounds the number of atoms, no element has more.
        most = min(WIDEST["max_atoms_per_element"], settings.get("max_atoms", WIDEST["max_atoms"]))
        env = Crystal(**WIDEST | {"max_atoms_per_element": most} | settings)
        print_rule(name, sum(map(bool, reasons_of(env, judged, args.tolerance))))

    print("\n| all rules of | rows | excludes | first reason |\n|---|--:|--:|---|")
    for config in ("crystals.yaml", *args.config):
        found = Counter(filter(None, reasons_of(environment(config), crystals, args.tolerance)))
        why = ", ".join(f"{reason} {share(count, len(crystals))}" for reason, count in found.most_common())
        print(f"| `{config}` | {found.total()} | {share(found.total(), len(crystals))} | {why} |", flush=True)
    print(f"\n{time.process_time() - started:.0f} s of processor time")


if __name__ == "__main__":
    main()
