"""The page of a judgement: counts, and all crystals with structures that turn. One HTML file, without other files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from crystalgfn.crystal.crystallography import space_groups
from crystalgfn.evaluation import pages
from crystalgfn.evaluation.markup import NONE, fixed, formula_html
from crystalgfn.judging.sources import GIVEN
from crystalgfn.judging.verdict import FAR_BELOW, SURVIVES, VOLUME_KEPT, slug

if TYPE_CHECKING:
    import pandas as pd

TEMPLATE = "judging/judged.html"

SUN_THRESHOLD = "0.08"
"""Threshold [eV/atom] of the overview's S.U.N.: the one of the literature."""

FILTERS = {"survives": "survivors only", "novel": "novel only", "faithful": "faithful only"}
"""Marks of crystals by which the table is filtered, and the labels of their boxes."""

NAMES = (
    "name", "space group as given", "atoms in the cell as given", "highest energy above the hull [eV/atom]",
    "competing compound on the hull", f"survives at {SURVIVES:g} eV/atom", "sound", "faithful", "doubts",
    "keeps the space group", f"keeps the volume within {100 * VOLUME_KEPT:g} %", "unique", "novel", "prototype",
    "time to make [s]", "failure",
)  # fmt: skip
"""Names of the facts of a crystal that do not belong to one potential."""

EACH = {
    "energy_above_hull": "energy above the hull [eV/atom]",
    "energy_above_hull_together": "… of all crystals together [eV/atom]",
    "formation_energy": "formation energy [eV/atom]",
    "space_group": "space group",
    "volume_change": "change of the volume [%]",
    "match": "same structure as given",
    "displacement": "displacement of the atoms [Å]",
    "min_distance": "shortest distance [Å]",
    "converged": "converged",
    "cpu_seconds": "processor time [s]",
}
"""Columns of each potential and their names on the page."""

DECIMALS = {"displacement": 3, "min_distance": 2, "cpu_seconds": 1}
"""Decimals of the columns of each potential; energies have 3."""


def render(summary: Mapping[str, Any], frame: pd.DataFrame, structures: Mapping[str, Mapping[str, str]]) -> str:
    """The page of a judgement, as HTML.

    Args:
        summary: content of ``judged.json``, see `crystalgfn.judging.verdict.summarize`, with ``about``: the source of
            the crystals, the hull, the reference and the version, as texts by name.
        frame: one row for each crystal, see `crystalgfn.judging.verdict.judge_crystals`; from memory or from
            ``judged.csv``. Values that are not known are missing.
        structures: for each crystal with a structure, by its name: the text of a CIF file under `GIVEN` and under the
            name of each potential that relaxed it.
    """
    potentials = list(summary["potentials"])
    crystals = [{str(name): plain(value) for name, value in row.items()} for row in frame.to_dict("records")]
    is_compared = summary["novelty"]["novel"] is not None
    return pages.render(
        TEMPLATE,
        summary=summary,
        about={name.replace("_", " "): text for name, text in summary["about"].items()},
        potentials=potentials,
        survives=f"{SURVIVES:g}",
        sun_threshold=SUN_THRESHOLD,
        far_below=f"{-FAR_BELOW:g}",
        volume_kept=f"{100 * VOLUME_KEPT:g}",
        columns=_columns(potentials, is_compared),
        rows_of_crystals=[_row(crystal, potentials, is_compared) for crystal in crystals],
        filters=[(mark, label) for mark, label in FILTERS.items() if is_compared or mark != "novel"],
        kinds=[GIVEN, *potentials],
        facts=_facts(crystals, potentials, is_compared),
        structures={str(name): {kind: own[kind] for kind in own} for name, own in structures.items()},
    )


def plain(value: Any) -> bool | int | float | str | None:
    """A value of a table as a plain one; None if it is missing, not finite or an empty text."""
    import numpy as np
    import pandas as pd

    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) or None


def _columns(potentials: Sequence[str], is_compared: bool) -> list[tuple[str, bool]]:
    """Headings of the table of crystals, and whether the column holds text."""
    columns = [("formula", True), ("space group", False), ("atoms", False), ("above hull [eV/atom]", False)]
    columns += [(f"by {name}", False) for name in potentials]
    columns += [(name, False) for name in ("survives", "sound", "faithful", "keeps group", "keeps volume", "unique")]
    columns += [("novel", False), ("known as", True)] if is_compared else []
    return [*columns, ("doubts", True), ("failure", True), ("name", True)]


def _row(crystal: Mapping[str, Any], potentials: Sequence[str], is_compared: bool) -> dict[str, Any]:
    """A crystal in the table, as the macro ``explorer`` of evaluation/crystals.html takes it."""
    formula = crystal["formula"] or ""
    group = _whole(crystal["space_group"])
    energies = [crystal["energy_above_hull"], *(crystal[f"{slug(name)}_energy_above_hull"] for name in potentials)]
    marks = ["survives", "sound", "faithful", "keeps_group", "keeps_volume", "unique"]
    cells = [
        (Markup(formula_html(formula)) if formula else NONE, formula),
        _cell(_group(group), group),
        _cell(_text(_whole(crystal["n_atoms"])), _whole(crystal["n_atoms"])),
        *(_cell(_decimals(energy, 3), energy) for energy in energies),
        *(_mark(crystal[name]) for name in [*marks, *(["novel"] if is_compared else [])]),
        *(_cell(crystal[name], crystal[name]) for name in [*(["known_as"] if is_compared else []), "doubts", "reason"]),
        _cell(_text(crystal["id"]), crystal["id"]),
    ]
    return {
        "id": _text(crystal["id"]) or "",
        "formula": formula,
        "group": group,
        "symbol": _symbol(group) or "",
        "marks": [mark for mark in FILTERS if crystal[mark] is True],
        "cells": cells,
    }


def _facts(crystals: Sequence[Mapping[str, Any]], potentials: Sequence[str], is_compared: bool) -> dict[str, Any]:
    """Facts of all crystals, as the macro ``data`` of evaluation/crystals.html takes them."""
    return {
        "names": list(NAMES),
        "columns": list(potentials),
        "rows": list(EACH.values()),
        "crystals": {
            _text(crystal["id"]) or "": {
                "facts": _facts_of(crystal, is_compared),
                "table": [[_each(crystal, name, column) for name in potentials] for column in EACH],
            }
            for crystal in crystals
        },
    }


def _facts_of(crystal: Mapping[str, Any], is_compared: bool) -> list[str | None]:
    novel, prototype = _yes(crystal["novel"]), crystal["prototype"]
    if crystal["known_as"]:
        novel = f"no: the reference has it as {crystal['known_as']}"
    if prototype and is_compared:
        prototype = f"{prototype}, {'new' if crystal['new_prototype'] else 'known'}"
    return [
        _text(crystal["id"]),
        _group(_whole(crystal["space_group"])),
        _text(_whole(crystal["n_atoms"])),
        _decimals(crystal["energy_above_hull"], 3),
        *(_yes(crystal[name]) for name in ("has_competitor", "survives", "sound", "faithful")),
        crystal["doubts"],
        *(_yes(crystal[name]) for name in ("keeps_group", "keeps_volume", "unique")),
        novel if is_compared else None,
        prototype,
        _decimals(crystal["cpu_seconds"], 1),
        crystal["reason"],
    ]


def _each(crystal: Mapping[str, Any], potential: str, column: str) -> str | None:
    """What a potential says of a crystal, as text."""
    value = crystal[f"{slug(potential)}_{column}"]
    if column == "space_group":
        return _group(_whole(value))
    if column in ("match", "converged"):
        return _yes(value)
    if column == "volume_change":
        return None if value is None else f"{round(100 * value, 1) + 0.0:+.1f}".replace("-", "−")
    return _decimals(value, DECIMALS.get(column, 3))


def _whole(value: float | None) -> int | None:
    """A whole number, which a table with missing values holds as a float."""
    return None if value is None else round(value)


def _symbol(group: int | None) -> str | None:
    return space_groups()[group - 1].symbol if group is not None and 1 <= group <= 230 else None


def _group(group: int | None) -> str | None:
    """A space group as text: ``Fm-3m (225)``."""
    return None if group is None else f"{_symbol(group) or '?'} ({group})"


def _decimals(value: float | None, decimals: int) -> str | None:
    # Adding 0.0 turns a rounded −0 into 0.
    return None if value is None else fixed(round(value, decimals) + 0.0, decimals)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _yes(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"


def _cell(text: str | None, value: object) -> tuple[str, object]:
    """A cell of the table: what is shown, and the value to sort by."""
    return (NONE, "") if text is None else (text, value)


def _mark(value: bool | None) -> tuple[str, object]:
    """A cell with a check mark, or nothing for what does not hold."""
    return (NONE, "") if value is None else ("✓", 1) if value else ("", 0)
