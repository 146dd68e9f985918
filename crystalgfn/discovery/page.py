"""The page of the best new crystals: Markdown that GitHub shows, a table, CIF files and pictures.

Which crystals it shows follows from a rule, `choose`, not from anybody's taste.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalgfn.discovery.outcome import HOLE, SURVIVES, Outcome, decimal, proxy_errors
from crystalgfn.errors import InputError
from crystalgfn.evaluation.known import formula_keys
from crystalgfn.files import write_frame

if TYPE_CHECKING:
    import pandas as pd
    from pymatgen.core import Structure

PAGE, TABLE, CIFS, PICTURES = "index.md", "table.csv", "cif", "png"
"""What the folder holds."""

_PARTS = (PAGE, TABLE, CIFS, PICTURES)

MAX_BELOW = 10
"""Crystals below the known hull that are listed."""

TABLE_COLUMNS = (
    "name", "listed", "key", "source", "round", "formula", "reduced_formula", "new_formula", "space_group", "a", "b",
    "c", "alpha", "beta", "gamma", "formula_relaxed", "space_group_relaxed", "a_relaxed", "b_relaxed", "c_relaxed",
    "alpha_relaxed", "beta_relaxed", "gamma_relaxed", "formation_energy_relaxed", "energy_above_hull_relaxed",
    "energy_above_hull_sampled", "predicted", "predicted_uncertainty", "min_distance", "min_distance_ratio",
    "volume_change", "symmetry", "converged", "settled",
)  # fmt: skip
"""Columns of the table. ``listed`` is ``near`` or ``below``; energies in eV/atom, lengths in Å, angles in degrees."""

RULE = f"""\
1. A crystal *survives* if it was built and relaxed, and lies less than {SURVIVES} eV/atom above the hull.
2. It is *new* if the reference table has its reduced formula neither in the sampled space group nor in the one after
   relaxation. *Polymorph* marks those whose formula it has in other groups only.
3. Of each reduced formula the one with the lowest energy counts.
4. They are sorted by CHGNet's energy above the hull, lowest first, and the first {{top}} are shown. The uncertainty
   plays no part: it is the proxy's, and CHGNet has replaced the proxy's value.
5. Those more than {-HOLE} eV/atom below the hull are listed apart and take no place among the {{top}}."""


@dataclass(frozen=True)
class Choice:
    """Rows of the frame that the page shows, by position, best first.

    Attributes:
        near: the best new crystals within `SURVIVES` of the hull.
        below: new ones far below it.
        n_near: how many of the first kind there are, one a formula.
        n_below: and of the second.
    """

    near: list[int]
    below: list[int]
    n_near: int
    n_below: int


def choose(outcome: Outcome, top: int) -> Choice:
    """The crystals to show, by the fixed rule `RULE`; of equal energies the one evaluated first."""
    order = np.argsort(outcome.above_hull, kind="stable")
    order = order[(outcome.survives & outcome.new_in_group)[order]]
    first = np.unique(formula_keys(outcome.counts[order]), return_index=True)[1]
    kept = order[np.sort(first)].tolist()
    below = [row for row in kept if outcome.above_hull[row] < HOLE]
    near = [row for row in kept if outcome.above_hull[row] >= HOLE]
    return Choice(near[:top], below[:MAX_BELOW], len(near), len(below))


def write_page(
    outcome: Outcome,
    structure: Callable[[str], Structure | None],
    out: Path,
    *,
    top: int,
    about: Mapping[str, str],
) -> Choice:
    """Write the page and its files; an older page in the folder is replaced when all is made.

    Args:
        outcome: the crystals, with known ones.
        structure: the relaxed structure of a key, as `LabelDatabase.structure`.
        out: folder.
        top: crystals to show.
        about: what the page says of how it was made, name to text.

    Raises:
        InputError: if the folder holds something else or cannot be written, or a structure is missing.
    """
    check_folder(out)
    choice = choose(outcome, top)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".new-") as name:
            fresh = Path(name)
            table = _write_crystals(outcome, choice, structure, fresh)
            write_frame(table, fresh / TABLE)
            (fresh / PAGE).write_text(render(outcome, choice, table, top, about), encoding="utf-8")
            for folder in (CIFS, PICTURES):
                shutil.rmtree(out / folder, ignore_errors=True)
            for part in (CIFS, PICTURES, TABLE, PAGE):
                (fresh / part).replace(out / part)
    except OSError as error:
        raise InputError(f"--out: {out} cannot be written: {error}") from None
    return choice


def check_folder(out: Path) -> None:
    """Refuse a folder in which files of others could be lost.

    Raises:
        InputError: if it is a file, or holds anything but an older page.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"--out: {out} is a file; give a folder")
    others = sorted(p.name for p in out.iterdir() if p.name not in _PARTS) if out.exists() else []
    if others:
        raise InputError(f"--out: {out} holds other things ({', '.join(others[:3])}); give a folder for the page alone")


def _write_crystals(
    outcome: Outcome, choice: Choice, structure: Callable[[str], Structure | None], out: Path
) -> pd.DataFrame:
    """CIF files of all that is listed, pictures of the best; returns the table."""
    from crystalgfn.atoms.arrangements import distance_ratios
    from crystalgfn.atoms.outputs import write_cif
    from crystalgfn.discovery.figures import crystal_figure

    for folder in (CIFS, PICTURES):
        (out / folder).mkdir()
    rows = choice.near + choice.below
    table = outcome.frame.iloc[rows].reset_index(drop=True)
    table["listed"] = ["near"] * len(choice.near) + ["below"] * len(choice.below)
    table["new_formula"] = outcome.new_formula[rows]
    names, reduced, shortest = [], [], []
    for place, (key, formula, listed) in enumerate(
        zip(table["key"], table["formula"], table["listed"], strict=True), start=1
    ):
        crystal = structure(key)
        if crystal is None:
            raise InputError(f"{key}: the database has no relaxed structure of {formula}")
        reduced.append(reduced_formula(formula))
        is_near = listed == "near"
        name = f"{place:02d}_{reduced[-1]}" if is_near else f"below_{place - len(choice.near):02d}_{reduced[-1]}"
        names.append(name)
        write_cif(crystal, out / CIFS / f"{name}.cif", name)
        ratio, distance = distance_ratios([crystal])
        shortest.append((float(distance[0]), float(ratio[0])))
        if is_near:
            crystal_figure(crystal).savefig(out / PICTURES / f"{name}.png", metadata={"Software": None})
    table["name"], table["reduced_formula"] = names, reduced
    table["min_distance"], table["min_distance_ratio"] = np.array(shortest).reshape(-1, 2).T
    return table.reindex(columns=list(TABLE_COLUMNS)).round(4)


def render(outcome: Outcome, choice: Choice, table: pd.DataFrame, top: int, about: Mapping[str, str]) -> str:
    """The page as Markdown."""
    lines = [
        "# The best new crystals",
        "",
        f"The {len(choice.near)} best new crystals of {outcome.evaluated} evaluated ones, chosen by the rule below. "
        "Energies are CHGNet's and no DFT was done: they are candidates for a calculation, no discoveries yet.",
        "",
        *(f"- {name}: {text}" for name, text in about.items()),
        "",
        "| | |",
        "|---|--:|",
        *(f"| {name} | {text} |" for name, text in outcome.rows().items()),
        f"| new survivors, one a formula: within ±{SURVIVES} eV/atom; below | {choice.n_near}; {choice.n_below} |",
        *(f"| {name} | {text} |" for name, text in proxy_rows(outcome.frame).items()),
        "",
        "## The rule",
        "",
        RULE.format(top=top),
        "",
        f"## Within {SURVIVES} eV/atom of the hull",
        "",
        "Groups: sampled → relaxed. E above hull, E formation: CHGNet's, of the relaxed crystal. Proxy: the energy "
        "above the hull that it predicted, and what it expected its error to be. Energies in eV/atom. d min: shortest "
        "distance of two atoms, and its ratio to the sum of covalent radii. ΔV: change of the volume on relaxation. A "
        "picture shows the conventional cell; atoms on a face are drawn on the opposite one too.",
        "",
        *_listing(table[table["listed"] == "near"], with_pictures=True),
    ]
    if choice.below:
        lines += [
            "",
            "## Below the known hull",
            "",
            f"More than {-HOLE} eV/atom below. That is first of all a sign that the reference lacks a known phase of "
            "these elements, or that CHGNet is wrong, and only then a discovery. "
            f"The lowest {len(choice.below)} of {choice.n_below}:",
            "",
            *_listing(table[table["listed"] == "below"], with_pictures=False),
        ]
    failures = failure_rows(outcome.frame)
    if failures:
        lines += ["", "## Not built or not relaxed", "", "| reason | crystals |", "|---|--:|"]
        lines += [f"| {reason} | {count} |" for reason, count in failures.items()]
    return "\n".join(lines) + "\n"


def proxy_rows(frame: pd.DataFrame) -> dict[str, str]:
    """What a table says of the proxy's predictions, name to text; nothing without predictions."""
    rows = {}
    for stage, name in (("sampled", "sampled cell"), ("relaxed", "relaxed crystal")):
        errors = proxy_errors(frame, stage)
        if errors.n:
            rows[f"proxy less CHGNet, {name}: mean; mean absolute; expected by the proxy; rank correlation"] = (
                f"{errors.bias:+.2f}; {errors.mae:.2f}; {decimal(errors.uncertainty, 2)} eV/atom; "
                f"{decimal(errors.spearman, 2)}"
            ).replace("-", "−")
    return rows


def failure_rows(frame: pd.DataFrame) -> dict[str, int]:
    """Why crystals were not built or relaxed, and how many; numbers in the reasons do not tell them apart."""
    reasons = frame.loc[frame["status"] != "relaxed", "reason"].fillna("").astype(str)
    kinds = reasons.map(lambda text: re.sub(r"\d+(\.\d+)?", "N", text).replace("|", "/").replace("\n", " "))
    return {str(reason): int(count) for reason, count in kinds.value_counts(sort=True).items()}


def _listing(table: pd.DataFrame, with_pictures: bool) -> list[str]:
    if table.empty:
        return ["None."]
    head = ["", *(["crystal"] if with_pictures else []), "formula", "groups", "E above hull", "E formation", "proxy",
            "d min [Å]", "ΔV", "CIF"]  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|--:|" + "---|" * (len(head) - 1)]
    for place, row in enumerate(table.to_dict("records"), start=1):
        cells = [str(place)]
        if with_pictures:
            cells.append(f'<img src="{PICTURES}/{row["name"]}.png" width="170" alt="{row["formula"]}">')
        marks = "" if row["new_formula"] else "<br>polymorph"
        cells += [
            f"{_subscripts(row['formula'])}{marks}",
            f"{row['space_group']:.0f} → {row['space_group_relaxed']:.0f}",
            f"**{decimal(row['energy_above_hull_relaxed'])}**",
            decimal(row["formation_energy_relaxed"]),
            _with_uncertainty(_float(row["predicted"]), _float(row["predicted_uncertainty"])),
            f"{decimal(row['min_distance'], 2)} ({decimal(row['min_distance_ratio'], 2)})",
            f"{_float(row['volume_change']):+.1%}".replace("-", "−"),
            f"[cif]({CIFS}/{row['name']}.cif)",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _with_uncertainty(value: float, uncertainty: float) -> str:
    return decimal(value, 2) + (f" ± {decimal(uncertainty, 2)}" if np.isfinite(uncertainty) else "")


def _float(value: Any) -> float:
    return float(value) if value is not None else float("nan")


def _subscripts(formula: str) -> str:
    """``Na4 Cl4`` as HTML that Markdown takes."""
    return re.sub(r"(\d+)", lambda m: "" if m[1] == "1" else f"<sub>{m[1]}</sub>", formula).replace(" ", "")


def reduced_formula(formula: str) -> str:
    """A formula over its greatest common divisor, elements as pymatgen orders them."""
    from pymatgen.core import Composition

    return str(Composition(formula).reduced_formula)
