"""Make a hull from a table of reference phases, and report on it."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crystalgfn.errors import InputError
from crystalgfn.stability.facets import SystemFacets, enumerate_facets
from crystalgfn.stability.hull import ConvexHull, Hull, SystemHull
from crystalgfn.stability.phases import PhaseTable, ordered_elements, read_phases
from crystalgfn.stability.sampling import fractions, random_compositions
from crystalgfn.stability.selection import EXACT, select_facets
from crystalgfn.tables import atomic_path, check_writable, parse_formula

PUBLISHED = "energy_above_hull"
"""Column that the report compares with, if the table has it."""

FRESH = 20_000
"""Random compositions of each kind that errors are measured on."""

CHECKED = 500
"""The most of them that are also solved as linear programs."""

LIMITS = """\
- A phase that the table lacks is no competitor: crystals look more stable than they are.
- Energies are those of the table, at 0 K and without zero-point energy, with the errors of its level of theory.
- A table for all elements that lacks facets makes the hull too low there, so energies above it too high: pessimistic.
- Negative energies above the hull are below every known mixture: a discovery, or an error of the prediction."""


def build_hull(
    table: Path,
    out: Path,
    label: str = "formation_energy",
    elements: Sequence[str] | None = None,
    max_elements: int = 5,
    max_facets: int | None = None,
    seed: int = 0,
    samples: int = FRESH,
    command: str = "",
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Make a hull from a table and write it with a model card (``.md``) and metrics (``.json``) beside it.

    Args:
        table: CSV or parquet file with a column ``formula`` and one of formation energies.
        out: file to write, ending in ``.pt``.
        label: column with the formation energy [eV/atom], relative to the elements' ground states.
        elements: symbols of the hull's elements; null for all in the table.
        max_elements: most elements of a composition.
        max_facets: null for an exact hull with all facets of every chemical system; a number for a small file with
            that many facets of all elements together, a lower bound whose error the card states.
        seed: seed of the random compositions that choose and check facets.
        samples: random compositions of each kind that the errors are measured on.
        command: how the command was called, for the card.
        log: called with lines of progress.

    Returns:
        the metrics.

    Raises:
        InputError: if the table or an option cannot be used or the output cannot be written.
    """
    if out.suffix != ".pt":
        raise InputError(f"out: {out} must end in .pt; the card and the metrics take its name with .md and .json")
    if max_elements < 1:
        raise InputError(f"max_elements: {max_elements} is not allowed; it must be at least 1")
    if max_facets is not None and max_facets < 1:
        raise InputError(f"max_facets: {max_facets} is not allowed; it must be at least 1, or null for all")
    for path in (out, out.with_suffix(".md"), out.with_suffix(".json")):
        check_writable(path)
    started = time.monotonic()
    source = read_phases(table, label, None if elements is None else ordered_elements(elements), max_elements)
    phases = source.phases
    log(f"{table}: {source.used} phases from {source.rows} rows, {len(phases.elements)} elements")
    for reason, count in source.dropped.items():
        log(f"  left out: {count} rows, {reason}")
    every = enumerate_facets(phases, max_elements)
    log(f"{len(every)} facets in {len(every.systems)} systems of {every.systems.shape[1]} elements")
    hull: Hull
    if max_facets is None:
        starts, potentials = torch.from_numpy(every.starts), torch.from_numpy(every.potentials)
        hull, covered = SystemHull(phases.elements, starts, potentials, max_elements), 1.0
        rows = len(every)
    else:
        chosen = select_facets(every, max_facets, max_elements, seed, log)
        hull, covered = ConvexHull(phases.elements, torch.from_numpy(chosen.facets), max_elements), chosen.covered
        rows = len(chosen.facets)
    settings = {
        "table": table.name,
        "label": label,
        "elements": list(phases.elements),
        "max_elements": max_elements,
        "max_facets": max_facets,
        "seed": seed,
        "command": command,
    }
    metrics: dict[str, Any] = {
        "settings": settings,
        "rows": {"table": source.rows, "phases": source.used},
        "dropped": source.dropped,
        "on_hull": len(np.unique(every.members)),
        "systems": len(every.systems),
        "facets_of_systems": len(every),
        "facets": rows,
        "facets_held": covered,
        "errors": errors(hull, every, max_elements, seed, samples),
        "published": compare(hull, source, label),
        "machine": f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}",
        "seconds": round(time.monotonic() - started),
    }
    hull.save(out, {"settings": settings, "facets_held": covered})
    with atomic_path(out.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(metrics, indent=1) + "\n")
    with atomic_path(out.with_suffix(".md")) as temporary:
        temporary.write_text(card(metrics, hull))
    for name, error in metrics["errors"].items():
        log(f"{name}: " + ", ".join(f"{key} {value:.3g}" for key, value in error.items()))
    log(f"{out}: {rows} {hull.kind}, {metrics['seconds']} s")
    return metrics


def errors(hull: Hull, every: SystemFacets, max_elements: int, seed: int, samples: int) -> dict[str, dict[str, float]]:
    """How far the hull is below the exact one, on fresh random compositions, and how exact the exact one is.

    Returns:
        for neutral and for any compositions: the number n, the mean gap, its 99th percentile and maximum [eV/atom] and
        the share of compositions without one; for the linear program: n and the largest difference of the facets
        from it.
    """
    stream = np.random.default_rng([seed, 1])
    elements = every.phases.elements
    result: dict[str, dict[str, float]] = {}
    for name, neutral in (("neutral compositions", True), ("any compositions", False)):
        sample = fractions(random_compositions(elements, samples, max_elements, neutral, stream))
        gap = every.lookup(sample)[0] - hull.energy(torch.from_numpy(sample)).numpy()
        result[name] = {
            "n": len(sample),
            "mean": float(gap.mean()),
            "p99": float(np.percentile(gap, 99)),
            "max": float(gap.max()),
            "exact": float((np.abs(gap) < EXACT).mean()),
        }
    part = sample[:CHECKED]
    difference = float(np.abs(every.lookup(part)[0] - every.phases.hull_energy(part)).max())
    result["linear program"] = {"n": len(part), "max": difference}
    return result


def compare(hull: Hull, source: PhaseTable, label: str) -> dict[str, float] | None:
    """Energies above the hull of the table's rows beside a published column, if there is one.

    Returns:
        number of rows n, percentiles of the difference, ours minus theirs [eV/atom], and the mean absolute one.
    """
    import pandas as pd

    if source.frame.get(PUBLISHED) is None:
        return None
    frame = source.frame.iloc[source.usable]
    theirs = pd.to_numeric(frame[PUBLISHED], errors="coerce").to_numpy(dtype="float64", na_value=np.nan)
    rows = np.flatnonzero(np.isfinite(theirs))
    if len(rows) == 0:
        return None
    place = {symbol: i for i, symbol in enumerate(hull.elements)}
    counts = np.zeros((len(rows), len(place)), dtype=np.int64)
    for i, formula in enumerate(frame["formula"].iloc[rows].tolist()):
        for symbol, count in parse_formula(formula).items():
            counts[i, place[symbol]] = count
    energy = pd.to_numeric(frame[label], errors="coerce").to_numpy(dtype="float64")[rows]
    difference = energy - hull.energy(torch.from_numpy(fractions(counts))).numpy() - theirs[rows]
    result = {f"p{p}": float(np.percentile(difference, p)) for p in (1, 5, 50, 95, 99)}
    return {"n": len(rows), "mean_absolute": float(np.abs(difference).mean())} | result


def card(metrics: dict[str, Any], hull: Hull) -> str:
    """The model card, in Markdown."""
    settings, rows, n = metrics["settings"], metrics["rows"], metrics["errors"]["any compositions"]["n"]
    lines = [
        "# Convex hull of formation energies [eV/atom]",
        "",
        f"{metrics['facets']:,} {hull.kind}, for compositions of up to {settings['max_elements']} of the elements "
        f"{' '.join(settings['elements'])}. Written by `crystalgfn build-hull`. It holds chemical potentials, no "
        "formulas or structures.",
        "",
        "## Reference phases",
        f"- Table: `{settings['table']}`, column `{settings['label']}`; all rows are used, of any split: the phases "
        "are what a crystal competes with.",
        f"- {rows['phases']:,} phases from {rows['table']:,} rows, and the pure elements at 0 eV/atom, by definition; "
        f"{metrics['on_hull']:,} of them are on the hull.",
        *(f"- Left out: {count:,} rows, {reason}." for reason, count in metrics["dropped"].items()),
        "",
        "## Facets",
        f"- All {metrics['facets_of_systems']:,} facets of the {metrics['systems']:,} chemical systems were found.",
        f"- This file holds {100 * metrics['facets_held']:.1f} % of them"
        + (": it is exact." if metrics["facets_held"] == 1 else "; elsewhere it is a lower bound."),
        *([f"- Command: `{settings['command']}`."] if settings["command"] else []),
        f"- Seed {settings['seed']}; {metrics['seconds']} s; {metrics['machine']}.",
        "",
        f"## Error: exact hull minus this one [eV/atom], {n:,} random compositions each",
        "",
        "| compositions | mean | p99 | max | share exact to 1e-9 |",
        "|---|--:|--:|--:|--:|",
    ]
    for name in ("neutral compositions", "any compositions"):
        error = metrics["errors"][name]
        lines.append(
            f"| {name} | {error['mean']:.2g} | {error['p99']:.2g} | {error['max']:.2g} | {error['exact']:.3f} |"
        )
    program = metrics["errors"]["linear program"]
    lines += [
        "",
        f"All facets against the linear program, {program['n']} compositions: largest difference {program['max']:.1e}.",
    ]
    published = metrics["published"]
    if published is not None:
        shown = ", ".join(f"{key}: {value:+.4f}" for key, value in published.items() if key.startswith("p"))
        lines += [
            "",
            f"Energy above this hull minus the table's column `{PUBLISHED}`, {published['n']:,} rows: mean absolute "
            f"difference {published['mean_absolute']:.4f} eV/atom; percentiles {shown}. They differ where one "
            "hull knows phases, or energies, that the other does not.",
        ]
    return "\n".join([*lines, "", "## Limits", LIMITS, ""])
