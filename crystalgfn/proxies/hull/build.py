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

from crystalgfn.checks import at_least
from crystalgfn.crystal.tables import parse_formula
from crystalgfn.errors import InputError
from crystalgfn.files import atomic_path, check_writable
from crystalgfn.proxies.hull.facets import SystemFacets, enumerate_facets
from crystalgfn.proxies.hull.hull import ConvexHull, load_hull
from crystalgfn.proxies.hull.packing import STEP
from crystalgfn.proxies.hull.phases import PhaseTable, ordered_elements, read_phases
from crystalgfn.proxies.hull.sampling import fractions, random_compositions

PUBLISHED = "energy_above_hull"
"""Column that the report compares with, if the table has it."""

SAMPLES = 20_000
"""Random compositions that the file is compared with all facets on."""

CHECKED = 1000
"""The most of them that are also solved as linear programs."""

LIMITS = """\
- A phase that the table lacks is no competitor: crystals look more stable than they are.
- Energies are those of the table, at 0 K and without zero-point energy, with the errors of its level of theory.
- Negative energies above the hull are below every known mixture: a discovery, or an error of the prediction."""


def build_hull(
    table: Path,
    out: Path,
    label: str = "formation_energy",
    elements: Sequence[str] | None = None,
    max_elements: int = 5,
    seed: int = 0,
    samples: int = SAMPLES,
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
        seed: seed of the random compositions that the file is checked on.
        samples: number of them.
        command: how the command was called, for the card.
        log: called with lines of progress.

    Returns:
        the metrics.

    Raises:
        InputError: if the table or an option cannot be used or the output cannot be written.
    """
    if out.suffix != ".pt":
        raise InputError(f"out: {out} must end in .pt; the card and the metrics take its name with .md and .json")
    at_least("max_elements", max_elements, 1)
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
    starts, potentials = torch.from_numpy(every.starts), torch.from_numpy(every.potentials)
    settings = {
        "table": table.name,
        "label": label,
        "elements": list(phases.elements),
        "max_elements": max_elements,
        "seed": seed,
        "command": command,
    }
    with atomic_path(out) as temporary:
        ConvexHull(phases.elements, starts, potentials, max_elements).save(temporary, {"settings": settings})
        hull = load_hull(temporary)  # all that follows is measured on what the file holds
        metrics: dict[str, Any] = {
            "settings": settings,
            "rows": {"table": source.rows, "phases": source.used},
            "dropped": source.dropped,
            "on_hull": len(np.unique(every.members)),
            "systems": len(every.systems),
            "facets": len(every),
            "bytes": temporary.stat().st_size,
            "errors": errors(hull, every, max_elements, seed, samples),
            "published": compare(hull, source, label),
            "machine": f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}",
            "seconds": round(time.monotonic() - started),
        }
    with atomic_path(out.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(metrics, indent=1) + "\n")
    with atomic_path(out.with_suffix(".md")) as temporary:
        temporary.write_text(card(metrics))
    for name, error in metrics["errors"].items():
        log(f"{name}: " + ", ".join(f"{key} {value:.3g}" for key, value in error.items()))
    log(f"{out}: {len(every)} facets, {metrics['bytes'] / 1e6:.1f} MB, {metrics['seconds']} s")
    return metrics


def errors(
    hull: ConvexHull, every: SystemFacets, max_elements: int, seed: int, samples: int
) -> dict[str, dict[str, float]]:
    """How far the hull is from all facets before rounding, and from the linear program, on random compositions.

    Returns:
        for each of the two the number n of compositions and the largest difference ``max`` [eV/atom].
    """
    rows = random_compositions(len(hull.elements), samples, max_elements, np.random.default_rng([seed, 1]))
    sample = fractions(rows)
    found = hull.energy(torch.from_numpy(sample)).numpy()
    part = sample[:CHECKED]
    expected = {"facets": every.lookup(sample)[0], "linear program": every.phases.hull_energy(part)}
    return {
        name: {"n": len(energy), "max": float(np.abs(found[: len(energy)] - energy).max())}
        for name, energy in expected.items()
    }


def compare(hull: ConvexHull, source: PhaseTable, label: str) -> dict[str, float] | None:
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


def card(metrics: dict[str, Any]) -> str:
    """The model card, in Markdown."""
    settings, rows, checks = metrics["settings"], metrics["rows"], metrics["errors"]
    lines = [
        "# Convex hull of formation energies [eV/atom]",
        "",
        f"{metrics['facets']:,} facets of the {metrics['systems']:,} chemical systems, for compositions of up to "
        f"{settings['max_elements']} of the elements {' '.join(settings['elements'])}. Written by `crystalgfn "
        f"build-hull`. It holds chemical potentials, no formulas or structures; {metrics['bytes'] / 1e6:.1f} MB.",
        "",
        "## Reference phases",
        f"- Table: `{settings['table']}`, column `{settings['label']}`; all rows are used, of any split: the phases "
        "are what a crystal competes with.",
        f"- {rows['phases']:,} phases from {rows['table']:,} rows, and the pure elements at 0 eV/atom, by definition; "
        f"{metrics['on_hull']:,} of them are on the hull.",
        *(f"- Left out: {count:,} rows, {reason}." for reason, count in metrics["dropped"].items()),
        "",
        "## Facets",
        f"- All facets of every system: the hull is exact, but for chemical potentials rounded to {STEP:g} eV/atom.",
        *([f"- Command: `{settings['command']}`."] if settings["command"] else []),
        f"- Seed {settings['seed']}; {metrics['seconds']} s; {metrics['machine']}.",
        "",
        f"## Checks, random compositions of up to {settings['max_elements']} elements",
        f"- Largest difference from the facets before rounding: {checks['facets']['max']:.1e} eV/atom "
        f"({checks['facets']['n']:,} compositions).",
        f"- Largest difference from the linear program over the phases (HiGHS): "
        f"{checks['linear program']['max']:.1e} eV/atom ({checks['linear program']['n']:,} compositions).",
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
