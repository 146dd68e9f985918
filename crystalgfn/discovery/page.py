"""The page of the best new crystals: Markdown that GitHub shows, a table, CIF files and pictures.

The crystals on the page are chosen by a fixed rule, see `RULE` and `choose`.
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

from crystalgfn.atoms.doubts import MEANING
from crystalgfn.discovery.outcome import Ints, Outcome, decimal, proxy_errors
from crystalgfn.errors import InputError
from crystalgfn.evaluation.known import formula_keys
from crystalgfn.files import write_frame
from crystalgfn.judging.verdict import FAR_BELOW, SURVIVES

if TYPE_CHECKING:
    import pandas as pd
    from pymatgen.core import Structure

PAGE, TABLE, CIFS, PICTURES = "index.md", "table.csv", "cif", "png"
"""Names of the files and folders of the page."""

_PARTS = (PAGE, TABLE, CIFS, PICTURES)

MAX_BELOW = 10
"""Largest number of crystals below the known hull that are listed, and of doubtful crystals."""

TABLE_COLUMNS = (
    "name", "listed", "key", "source", "round", "formula", "reduced_formula", "new_formula", "space_group", "a", "b",
    "c", "alpha", "beta", "gamma", "formula_relaxed", "space_group_relaxed", "a_relaxed", "b_relaxed", "c_relaxed",
    "alpha_relaxed", "beta_relaxed", "gamma_relaxed", "formation_energy_relaxed", "energy_above_hull_relaxed",
    "energy_above_hull_sampled", "predicted", "predicted_uncertainty", "min_distance", "min_distance_ratio",
    "volume_change", "symmetry", "converged", "settled", "doubts",
)  # fmt: skip
"""Columns of the table. ``listed`` is ``near``, ``below`` or ``doubtful``; energies in eV/atom, lengths in Å."""

RULE = f"""\
1. A crystal *survives* if it was built and relaxed and lies less than {SURVIVES} eV/atom above the hull.
2. It is *new* if the reference table has its reduced formula neither in the sampled space group nor in the space group
   after relaxation. *Polymorph* marks a crystal whose formula the table has only in other space groups.
3. A crystal is *doubtful* if it shows one of these: {MEANING}. Doubtful crystals are listed separately.
4. For each reduced formula, only the crystal with the lowest energy above the hull is kept in each list.
5. The crystals are sorted by the potential's energy above the hull, lowest first, and the first {{top}} are shown. The
   uncertainty is not used.
6. Crystals more than {-FAR_BELOW} eV/atom below the hull are listed separately and are not counted among the \
{{top}}."""
"""The rule of the page as Markdown, to be formatted with ``top``, the number of crystals to show."""


@dataclass(frozen=True)
class Choice:
    """Positions, in the frame, of the crystals that the page shows, best first.

    Attributes:
        near: the best new crystals within `SURVIVES` of the hull.
        below: new crystals more than `-FAR_BELOW` below the hull.
        doubtful: new crystals for which `Outcome.doubts` has a reason; they are in neither of the other lists.
        n_near: number of all new crystals within `SURVIVES` of the hull, one per formula.
        n_below: number of all new crystals more than `-FAR_BELOW` below the hull, one per formula.
        n_doubtful: number of all new crystals that are doubtful, one per formula.
    """

    near: list[int]
    below: list[int]
    doubtful: list[int]
    n_near: int
    n_below: int
    n_doubtful: int


def choose(outcome: Outcome, top: int) -> Choice:
    """Choose the crystals to show, by the fixed rule `RULE`.

    Args:
        outcome: the evaluated crystals, with known crystals. Crystals of equal energy keep their order.
        top: largest number of crystals near the hull.

    Raises:
        ValueError: if ``outcome`` has no known crystals.
    """
    order = np.argsort(outcome.above_hull, kind="stable")
    order = order[(outcome.survives & outcome.new_in_group)[order]]
    sound, doubtful = (_first_of_each_formula(outcome, order[outcome.doubtful[order] == bad]) for bad in (False, True))
    below = [row for row in sound if outcome.above_hull[row] < FAR_BELOW]
    near = [row for row in sound if outcome.above_hull[row] >= FAR_BELOW]
    return Choice(near[:top], below[:MAX_BELOW], doubtful[:MAX_BELOW], len(near), len(below), len(doubtful))


def _first_of_each_formula(outcome: Outcome, order: Ints) -> list[int]:
    """The first row of each reduced formula, in the given order."""
    first = np.unique(formula_keys(outcome.counts[order]), return_index=True)[1]
    return order[np.sort(first)].tolist()


def write_page(
    outcome: Outcome,
    out: Path,
    *,
    top: int,
    about: Mapping[str, str],
) -> Choice:
    """Write the page and its files. An older page in the folder is replaced after all new files are complete.

    Args:
        outcome: the evaluated crystals, with known crystals and structures.
        out: folder of the page.
        top: largest number of crystals near the hull to show.
        about: lines about how the crystals and the page were made, name to text.

    Returns:
        the crystals that are shown.

    Raises:
        InputError: if the folder holds anything but an older page or cannot be written, or a structure is missing.
        ValueError: if ``outcome`` has no known crystals or no structures.
    """
    if outcome.structure is None:
        raise ValueError("the page needs structures")
    check_folder(out)
    choice = choose(outcome, top)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".new-") as name:
            fresh = Path(name)
            table = _write_crystals(outcome, choice, outcome.structure, fresh)
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
    """Refuse a folder in which other files could be lost.

    Raises:
        InputError: if it is a file, or holds anything but an older page.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"--out: {out} is a file; give a folder")
    others = sorted(p.name for p in out.iterdir() if p.name not in _PARTS) if out.exists() else []
    if others:
        raise InputError(f"--out: {out} holds other things ({', '.join(others[:3])}); give a folder of its own")


def _write_crystals(
    outcome: Outcome, choice: Choice, structure: Callable[[str], Structure | None], out: Path
) -> pd.DataFrame:
    """Write CIF files of all listed crystals and pictures of the best ones. Returns the table."""
    from crystalgfn.atoms.arrangements import distance_ratios
    from crystalgfn.atoms.outputs import write_cif
    from crystalgfn.discovery.figures import crystal_figure

    for folder in (CIFS, PICTURES):
        (out / folder).mkdir()
    lists = {"near": choice.near, "below": choice.below, "doubtful": choice.doubtful}
    rows = [row for part in lists.values() for row in part]
    table = outcome.frame.iloc[rows].reset_index(drop=True)
    table["listed"] = [listed for listed, part in lists.items() for _ in part]
    places = [place for part in lists.values() for place in range(1, len(part) + 1)]
    table["doubts"] = ["; ".join(outcome.doubts[row].values()) for row in rows]
    table["new_formula"] = outcome.new_formula[rows]
    names, reduced, shortest = [], [], []
    for place, key, formula, listed in zip(places, table["key"], table["formula"], table["listed"], strict=True):
        crystal = structure(key)
        if crystal is None:
            raise InputError(f"{key}: the database has no relaxed structure of {formula}")
        reduced.append(reduced_formula(formula))
        is_near = listed == "near"
        name = f"{'' if is_near else f'{listed}_'}{place:02d}_{reduced[-1]}"
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
    potential = _potential(outcome.frame)
    lines = [
        "# The best new crystals",
        "",
        f"The {len(choice.near)} best new crystals of {outcome.evaluated} evaluated ones, chosen by the rule below. "
        f"All energies are from {potential}; no DFT calculation was done. The crystals are candidates for a "
        "calculation.",
        "",
        *(f"- {name}: {text}" for name, text in about.items()),
        "",
        "| | |",
        "|---|--:|",
        *(f"| {name} | {text} |" for name, text in outcome.rows().items()),
        f"| new survivors, one per formula: within ±{SURVIVES} eV/atom; below; doubtful | {choice.n_near}; "
        f"{choice.n_below}; {choice.n_doubtful} |",
        *(f"| {name} | {text} |" for name, text in proxy_rows(outcome.frame).items()),
        "",
        "## The rule",
        "",
        RULE.format(top=top),
        "",
        f"## Within {SURVIVES} eV/atom of the hull",
        "",
        "Groups: space groups, sampled → relaxed. E above hull, E formation: energies of the relaxed crystal from "
        f"{potential}. Proxy: predicted energy above the hull ± predicted uncertainty. Energies in eV/atom. d min: "
        "shortest distance between two atoms; in brackets, the smallest ratio of a distance to the sum of the covalent "
        "radii. ΔV: change of the volume on relaxation. A picture shows the conventional cell; atoms on a face are "
        "also drawn on the opposite face.",
        "",
        *_listing(table[table["listed"] == "near"], with_pictures=True),
    ]
    if choice.below:
        lines += [
            "",
            "## Below the known hull",
            "",
            f"These crystals lie more than {-FAR_BELOW} eV/atom below the hull. Most likely the reference lacks a "
            "known phase of these elements, or the potential is wrong; a discovery is less likely. "
            f"The lowest {len(choice.below)} of {choice.n_below}:",
            "",
            *_listing(table[table["listed"] == "below"], with_pictures=False),
        ]
    if choice.doubtful:
        lines += [
            "",
            "## Doubtful",
            "",
            "These crystals would be listed above if nothing spoke against them. Look at the structure before you "
            f"calculate one. The lowest {len(choice.doubtful)} of {choice.n_doubtful}:",
            "",
            *_listing(table[table["listed"] == "doubtful"], with_pictures=False, with_doubts=True),
        ]
    failures = failure_rows(outcome.frame)
    if failures:
        lines += ["", "## Not built or not relaxed", "", "| reason | crystals |", "|---|--:|"]
        lines += [f"| {reason} | {count} |" for reason, count in failures.items()]
    return "\n".join(lines) + "\n"


def proxy_rows(frame: pd.DataFrame) -> dict[str, str]:
    """Rows of the table about the errors of the proxy, name to text; empty without predictions."""
    rows = {}
    potential = _potential(frame)
    for stage, name in (("sampled", "sampled cell"), ("relaxed", "relaxed crystal")):
        errors = proxy_errors(frame, stage)
        if errors.n:
            rows[
                f"proxy minus {potential}, {name}: mean; mean absolute; mean predicted uncertainty; rank correlation"
            ] = (
                f"{errors.bias:+.2f}; {errors.mae:.2f}; {decimal(errors.uncertainty, 2)} eV/atom; "
                f"{decimal(errors.spearman, 2)}"
            ).replace("-", "−")
    return rows


def _potential(frame: pd.DataFrame) -> str:
    """Name of the potential of the energies. A database has one."""
    return ", ".join(frame["potential"].unique()) if len(frame) else "no potential"


def failure_rows(frame: pd.DataFrame) -> dict[str, int]:
    """Number of crystals for each reason why they were not built or relaxed.

    Reasons that differ only in their numbers count as one reason; ``N`` stands for the numbers.
    """
    reasons = frame.loc[frame["status"] != "relaxed", "reason"].fillna("").astype(str)
    kinds = reasons.map(lambda text: re.sub(r"\d+(\.\d+)?", "N", text).replace("|", "/").replace("\n", " "))
    return {str(reason): int(count) for reason, count in kinds.value_counts(sort=True).items()}


def _listing(table: pd.DataFrame, with_pictures: bool, with_doubts: bool = False) -> list[str]:
    if table.empty:
        return ["None."]
    head = ["", *(["crystal"] if with_pictures else []), "formula", "groups", "E above hull", "E formation", "proxy",
            "d min [Å]", "ΔV", *(["doubts"] if with_doubts else []), "CIF"]  # fmt: skip
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
            *([row["doubts"]] if with_doubts else []),
            f"[cif]({CIFS}/{row['name']}.cif)",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _with_uncertainty(value: float, uncertainty: float) -> str:
    return decimal(value, 2) + (f" ± {decimal(uncertainty, 2)}" if np.isfinite(uncertainty) else "")


def _float(value: Any) -> float:
    return float(value) if value is not None else float("nan")


def _subscripts(formula: str) -> str:
    """A formula such as ``Na4 Cl4`` with subscripts as HTML, for Markdown."""
    return re.sub(r"(\d+)", lambda m: "" if m[1] == "1" else f"<sub>{m[1]}</sub>", formula).replace(" ", "")


def reduced_formula(formula: str) -> str:
    """The reduced formula, with the elements in pymatgen's order."""
    from pymatgen.core import Composition

    return str(Composition(formula).reduced_formula)
