"""Make a hull from a table of reference phases, with a model card and metrics."""

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
"""Column of published energies above the hull; if the table has it, the metrics include a comparison."""

SAMPLES = 20_000
"""Number of random compositions for which the written hull is compared with all facets."""

CHECKED = 1000
"""Largest number of these compositions that are also solved as linear programs."""

LIMITS = """\
- Phases that are not in the table are not considered: crystals can look more stable than they are.
- Energies are those of the table: at 0 K, without zero-point energy, and with the errors of its level of theory.
- A negative energy above the hull is below every known mixture: it is a discovery, or an error of the prediction."""


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
    """Make a hull from a table and write it, with a model card (``.md``) and metrics (``.json``) next to it.

    Args:
        table: CSV or parquet file with a column ``formula`` and one of formation energies.
        out: file to write, ending in ``.pt``.
        label: column with the formation energy [eV/atom], relative to the elements' ground states.
        elements: symbols of the hull's elements; None for all elements of the table.
        max_elements: largest number of elements in a composition.
        seed: seed of the random compositions that are used to check the hull.
        samples: number of these compositions.
        command: the command line, for the card.
        log: called with each line of progress.

    Returns:
        the metrics, as in the JSON file.

    Raises:
        InputError: if the table or an option cannot be used or the output cannot be written.
    """
    if out.suffix != ".pt":
        raise InputError(f"out: {out} must end in .pt; the card and the metrics get the same name with .md and .json")
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
        hull = load_hull(temporary)  # the metrics describe the hull as the file stores it
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
    """Differences of the hull from all facets before rounding, and from the linear program, on random compositions.

    Args:
        hull: the hull, with rounded chemical potentials.
        every: all facets before rounding.
        max_elements: largest number of elements in a composition.
        seed: seed of the compositions.
        samples: number of compositions.

    Returns:
        for ``facets`` and ``linear program``: the number of compositions ``n`` and the largest difference ``max``
        [eV/atom].
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
    """Compare the energies above the hull of the table's rows with a published column.

    Args:
        hull: the hull.
        source: the table.
        label: column with the formation energy [eV/atom].

    Returns:
        number of rows ``n``, mean absolute difference, and percentiles of the difference, this hull minus the published
        values [eV/atom]; None if the table has no published values.
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
        f"{settings['max_elements']} of the elements {' '.join(settings['elements'])}. Written by "
        f"`crystalgfn build-hull`. It contains chemical potentials, no formulas or structures; "
        f"{metrics['bytes'] / 1e6:.1f} MB.",
        "",
        "## Reference phases",
        f"- Table: `{settings['table']}`, column `{settings['label']}`. The rows of all splits are used, because a "
        "crystal can decompose into any of these phases.",
        f"- {rows['phases']:,} phases from {rows['table']:,} rows, and the pure elements at 0 eV/atom, by definition; "
        f"{metrics['on_hull']:,} of them are on the hull.",
        *(f"- Left out: {count:,} rows, {reason}." for reason, count in metrics["dropped"].items()),
        "",
        "## Facets",
        f"- All facets of every system. The hull is exact, except that potentials are rounded to {STEP:g} eV/atom.",
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
            "hull contains phases, or energies, that the other does not contain.",
        ]
    return "\n".join([*lines, "", "## Limits", LIMITS, ""])
