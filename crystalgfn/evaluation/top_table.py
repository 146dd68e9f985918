"""The table of the best samples, with their structures inside the page."""

from __future__ import annotations

import base64
from html import escape

from crystalgfn.crystal.crystals import LATTICE_PARAMETERS
from crystalgfn.evaluation.markup import NONE, Cell, float_cell, formula_html, int_cell, sortable, words
from crystalgfn.evaluation.measures import HARD_CHECKS
from crystalgfn.evaluation.results import Evaluation


def top_section(evaluation: Evaluation) -> str:
    """The part of the page about the best samples, as HTML."""
    entries = evaluation.metrics["top"]
    if not entries:
        return "<p>The table has no column log_reward with numbers, so the crystals cannot be ranked.</p>\n"
    best = evaluation.pools[0].top
    assert best is not None
    first = entries[0]
    structures = evaluation.structures
    columns = [("rank", False), ("formula", True), ("group", False), ("system", True)]
    columns += [("structure", True)] if structures is not None else []
    columns += [("log R", False), *((words(name), False) for name in first["properties"])]
    columns += [(words(name), False) for name in first["structure"] or ()]
    columns += [("checks", True)] + ([("reference", True)] if evaluation.reference is not None else [])
    columns += [(f"{name} [Å]" if name in "abc" else f"{name} [°]", False) for name in LATTICE_PARAMETERS]
    columns += [("log p", False), ("row", False)]
    rows = []
    for entry, sample in zip(entries, best.tolist(), strict=True):
        row = [int_cell(entry["rank"]), Cell(formula_html(entry["formula"]), entry["formula"])]
        row.append(Cell(f"{escape(entry['symbol'])} ({entry['space_group']})", str(entry["space_group"])))
        row.append(Cell(escape(entry["crystal_lattice_system"]), entry["crystal_lattice_system"]))
        if structures is not None:
            file = structures.content(sample)
            row.append(Cell(_download(*file), file[0]) if file is not None else Cell(NONE, ""))
        row += [float_cell(entry["log_reward"]), *map(float_cell, entry["properties"].values())]
        row += [float_cell(value) for value in (entry["structure"] or {}).values()]
        failed = ", ".join(words(name) for name in entry["failed"])
        hard = "bad" if set(entry["failed"]) & set(HARD_CHECKS) else ""
        verdict = f'<span class="{hard}">failed: {failed}</span>' if failed else '<span class="good">✓</span>'
        row.append(Cell(verdict, failed))
        if evaluation.reference is not None:
            row.append(Cell(entry["known"], entry["known"]))
        row += [float_cell(entry[name], 3 if name in "abc" else 2) for name in LATTICE_PARAMETERS]
        row += [float_cell(entry["log_pf"]), int_cell(entry["row"])]
        rows.append(row)
    text = f"The {len(entries):,} best distinct samples by log R. Press a heading to sort by it."
    if structures is not None:
        count = sum(entry["cif"] is not None for entry in entries)
        text += f" {count:,} have a structure from {escape(structures.path.name)}; the CIF files are inside this page."
    return f"<p>{text}</p>\n" + sortable(columns, rows)


def _download(name: str, content: bytes) -> str:
    data = base64.b64encode(content).decode("ascii")
    return f'<a download="{escape(name)}" href="data:chemical/x-cif;base64,{data}">{escape(name)}</a>'
