"""The page of a report: one HTML file that needs no other file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np

from crystalgfn.evaluation import figures
from crystalgfn.evaluation.checks import MAX_EDGE, MAX_EDGE_RATIO, REAL_SHARES
from crystalgfn.evaluation.markup import (
    NONE,
    Cell,
    figure,
    fixed,
    formula_html,
    int_cell,
    number,
    percent,
    section,
    share_cell,
    sortable,
    table,
    tile,
    words,
)
from crystalgfn.evaluation.measures import QUANTILES
from crystalgfn.evaluation.results import REFERENCE_TABLE, SAMPLES, Evaluation
from crystalgfn.evaluation.top_table import top_section

KINDS = {
    "elements": "elements",
    "space_groups": "space groups",
    "crystal_systems": "crystal systems",
    "crystal_lattice_systems": "crystal-lattice systems",
    "lattice_systems": "lattice systems",
    "point_symmetries": "point symmetries",
}
"""Names of the kinds of classes on the page."""


def render(evaluation: Evaluation) -> str:
    """The page of an evaluation, as HTML."""
    metrics = evaluation.metrics
    parts = {
        "validity": ("Validity", _validity(metrics)),
        "diversity": ("Uniqueness and diversity", _diversity(metrics)),
        "novelty": ("Novelty", _novelty(metrics)),
        "properties": ("Properties", _properties(evaluation)),
        "coverage": ("Coverage", _coverage(evaluation)),
        "sampler": ("Sampler", _sampler(evaluation)),
        "top": ("Best crystals", top_section(evaluation)),
        "tables": ("Tables", _tables(metrics)),
    }
    parts = {key: (title, body) for key, (title, body) in parts.items() if body}
    links = "".join(f'<li><a href="#{key}">{title}</a></li>' for key, (title, _) in parts.items())
    sections = "".join(section(key, title, body) for key, (title, body) in parts.items())
    name = escape(metrics["tables"][SAMPLES]["file"])
    assets = files("crystalgfn.evaluation") / "assets"
    style = (assets / "page.css").read_text(encoding="utf-8")
    script = (assets / "page.js").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name} – crystalgfn evaluation</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f'<header class="page"><p class="eyebrow">crystalgfn evaluation</p><h1>{name}</h1>\n{_lead(metrics)}</header>\n'
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n'
        f'<main>\n<div class="tiles">\n{_tiles(metrics)}</div>\n{sections}</main>\n'
        f"<footer>crystalgfn {escape(metrics['version'])}. All numbers of this page are in metrics.json.</footer>\n"
        f"<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _lead(metrics: Mapping[str, Any]) -> str:
    tables = metrics["tables"]
    text = f"{tables[SAMPLES]['rows']:,} rows"
    others = [name for name in tables if name not in (SAMPLES, REFERENCE_TABLE)]
    if others:
        named = ", ".join(f"{escape(name)} ({tables[name]['rows']:,})" for name in others)
        text += f", shown with {named}"
    if REFERENCE_TABLE in tables:
        text += f", compared with {tables[REFERENCE_TABLE]['rows']:,} rows of {escape(tables[REFERENCE_TABLE]['file'])}"
    return f'<p class="note">{text}.</p>\n'


def _tiles(metrics: Mapping[str, Any]) -> str:
    tables, valid = metrics["tables"][SAMPLES], metrics["validity"][SAMPLES]
    unread = tables["rows"] - tables["readable"]
    unique, coverage = metrics["uniqueness"][SAMPLES], metrics["coverage"][SAMPLES]
    tiles = [
        tile(
            "Crystals",
            f"{tables['readable']:,}",
            f'<span class="bad">{unread:,} rows could not be read</span>' if unread else "every row could be read",
        ),
        tile("Valid", percent(valid["valid"]), "charge, Wyckoff positions, lattice, volume"),
        tile(
            "Usual cell shape",
            percent(valid["cell_shape"]),
            f"edges at most 1 : {MAX_EDGE_RATIO:g} and {MAX_EDGE:g} Å long; {_of_real('cell_shape')}",
        ),
        tile(
            "Unique",
            percent(unique["crystals"]),
            f"{unique['compositions_in_group']['count']:,} pairs of composition and space group",
        ),
    ]
    if metrics["novelty"] is not None:
        new = metrics["novelty"][SAMPLES]
        tiles.append(
            tile(
                "New crystals",
                percent(new["new_crystal"]),
                f"of the unique crystals; {percent(new['new_formula'])} have a new formula",
            )
        )
    name = next(iter(metrics["properties"]), None)
    if name is not None and SAMPLES in metrics["properties"][name]["all"]:
        entry = metrics["properties"][name]
        top, known = entry["top"].get(SAMPLES), entry["all"].get(REFERENCE_TABLE)
        unit = f" {escape(entry['unit'])}" if entry["unit"] else ""
        tiles.append(
            tile(
                f"Median {words(name)}",
                number(entry["all"][SAMPLES]["median"], 3),
                f"{unit.strip()}" if unit else "",
                f"best {top['n']:,}: {number(top['median'], 3)}" if top is not None else "",
                f"reference: {number(known['median'], 3)}" if known is not None else "",
            )
        )
    tiles.append(
        tile(
            "Elements",
            f"{coverage['elements']['all']}",
            f"{coverage['space_groups']['all']} space groups, {coverage['crystal_lattice_systems']['all']} of 8 "
            "crystal-lattice systems",
        )
    )
    sampler = metrics["sampler"][SAMPLES]
    if sampler is not None:
        tiles.append(tile("log p and log R", fixed(sampler["pearson"], 3), "correlation; 1 is a perfect sampler"))
    return "".join(tiles)


def _of_real(check: str) -> str:
    """How many real crystals pass a check, as text."""
    return f"real crystals: {REAL_SHARES[check]:g} %"


def _charge_rule(settings: Mapping[str, Any]) -> str:
    """What the check of charges asks for, as HTML."""
    valence = "one or two of one sign per element" if settings["mixed_valence"] else "one per element"
    text = (
        f"oxidation states other than 0 from {escape(settings['oxidation_states'])} of pymatgen "
        f"{settings['versions']['pymatgen']}, {valence}, sum to zero. Metals, alloys and compounds with two oxidation "
        "states of an element are real but fail"
    )
    is_default = settings["oxidation_states"] == "pymatgen_common" and not settings["mixed_valence"]
    return f"{text}; {_of_real('charge_neutral')}" if is_default else text


def _validity(metrics: Mapping[str, Any]) -> str:
    settings, results = metrics["settings"], metrics["validity"]
    versions = settings["versions"]
    low, high = settings["density_range"]
    length, angle = settings["lattice_system_tolerance"]
    smact = f"SMACT {versions['smact']}, oxidation states {settings['smact_states']}: neutral, with anions more "
    smact += "electronegative than cations, or an alloy or an element"
    texts = {
        "readable": ("Readable", "rows of the file that describe a crystal; the others are listed under Tables"),
        "valid": ("Valid", "rows of the file that pass the next four checks"),
        "charge_neutral": ("Charge neutral", _charge_rule(settings)),
        "wyckoff": ("Wyckoff positions", f"positions for all atoms exist, by pyxtal {versions['pyxtal']}"),
        "lattice_system": (
            "Lattice system",
            f"the cell has the shape that the space group requires, within {100 * length:g} % and {angle:g}°",
        ),
        "positive_volume": ("Positive volume", "lengths and angles form a cell"),
        "cell_shape": ("Usual cell shape", f"passes the next two checks; {_of_real('cell_shape')}"),
        "edge_ratio": (
            "Ratio of edges",
            f"the longest edge is at most {MAX_EDGE_RATIO:g} times the shortest; {_of_real('edge_ratio')}",
        ),
        "longest_edge": ("Longest edge", f"at most {MAX_EDGE:g} Å; {_of_real('longest_edge')}"),
        "density_in_range": (
            "Plausible density",
            f"{number(low, 3)} to {number(high, 3)} g/cm³, "
            + (
                "percentiles 0.1 to 99.9 of the reference"
                if REFERENCE_TABLE in results
                else "the range of solid elements"
            ),
        ),
        "assignment": ("Oxidation states in the table", "cover the formula and sum to zero"),
        "smact": ("SMACT", smact if versions["smact"] else "not installed: pip install smact"),
    }
    rows = [
        [f"{title}<small>{text}</small>", *(share_cell(results[name].get(key)) for name in results)]
        for key, (title, text) in texts.items()
        if key == "smact" or any(key in result for result in results.values())
    ]
    return (
        "<p>The checks do not use the rules by which the sampler builds crystals; they are computed in another way. "
        "A crystal is valid if it passes the checks of charge, Wyckoff positions, lattice system and volume. A valid "
        "crystal need not be realistic: the shape of the cell, density and SMACT are only reported.</p>\n"
        + table(["check", *_names(results)], rows)
    )


def _diversity(metrics: Mapping[str, Any]) -> str:
    unique, diverse = metrics["uniqueness"], metrics["diversity"]

    def effective(key: str) -> list[str]:
        return [
            f"{number(entry[key]['effective'], 4)}<small>entropy {fixed(entry[key]['entropy'], 2)}, "
            f"{entry[key]['classes']:,} occur</small>"
            for entry in diverse.values()
        ]

    rows = [
        [
            "Distinct crystals<small>same composition, space group and cell (0.001 Å, 0.01°): counted once</small>",
            *(share_cell(entry["crystals"]) for entry in unique.values()),
        ],
        [
            "Distinct pairs of composition and space group",
            *(share_cell(entry["compositions_in_group"]) for entry in unique.values()),
        ],
        ["Elements, effective number<small>exp of the entropy [nats]</small>", *effective("elements")],
        ["Space groups, effective number", *effective("space_groups")],
        ["Chemical systems, effective number<small>sets of elements</small>", *effective("chemical_systems")],
        [
            "Distance between two compositions<small>half the L1 distance of the atomic fractions, mean of all pairs; "
            "1: no element in common</small>",
            *(fixed(entry["composition_distance"], 3) for entry in diverse.values()),
        ],
    ]
    return table(["measure", *_names(diverse)], rows)


def _novelty(metrics: Mapping[str, Any]) -> str:
    if metrics["novelty"] is None:
        return ""
    results = metrics["novelty"]
    length, angle = metrics["settings"]["novelty_tolerance"]
    texts = {
        "new_formula": ("New formula", "the reference has no crystal with this reduced formula"),
        "new_formula_in_group": (
            "New formula in its space group",
            "the reference has no crystal with this reduced formula and space group",
        ),
        "new_crystal": (
            "New crystal",
            "the reference has no crystal with the same reduced formula, space group, number of atoms in the cell, and "
            f"lattice within {100 * length:g} % and {angle:g}°",
        ),
        "not_comparable": (
            "Not counted as new: cannot be compared",
            "the reference has this reduced formula and space group in a row that cannot be used, for example because "
            "of its cell",
        ),
        "valid_unique_new": ("Valid, unique and new", "share of all rows of the file"),
    }
    unused = _unused(metrics["tables"][REFERENCE_TABLE])
    if not unused:
        del texts["not_comparable"]
    rows = _described(texts, results, share_cell)
    body = "<p>Shares of the distinct crystals that are not in the reference. Atomic positions are not compared.</p>\n"
    body += unused
    body += table(["", *_names(results)], rows)
    found = results[SAMPLES]["rediscovered"]
    if found:
        body += "<h3>Known crystals among the samples</h3>\n" + sortable(
            [
                ("row", False),
                ("formula", True),
                ("group", False),
                ("row of the reference", False),
                ("identifier", True),
            ],
            [
                [
                    int_cell(entry["row"]),
                    Cell(formula_html(entry["formula"]), entry["formula"]),
                    int_cell(entry["space_group"]),
                    int_cell(entry["reference_row"]),
                    Cell(escape(entry["reference_id"] or NONE), entry["reference_id"] or ""),
                ]
                for entry in found
            ],
        )
    return body


def _unused(reference: Mapping[str, Any]) -> str:
    """A paragraph about the rows of the reference that cannot be used, as HTML; empty if there are none."""
    if reference["rows"] == reference["readable"]:
        return ""
    reasons = "; ".join(
        f"{problem['count']:,}: {escape(problem['column'])} {escape(problem['reason'])}"
        for problem in reference["problems"]
    )
    return (
        f'<p class="bad">{reference["rows"] - reference["readable"]:,} of {reference["rows"]:,} rows of the reference '
        f"cannot be used ({reasons}). They count with their formula and space group, but their cells are not compared. "
        "The rows are listed under Tables.</p>\n"
    )


def _properties(evaluation: Evaluation) -> str:
    drawings: list[str] = []
    rows: list[list[str]] = []
    for name, entry in evaluation.metrics["properties"].items():
        values = {p.name: p.properties[name] for p in evaluation.pools if entry["all"].get(p.name, {}).get("n")}
        values = {key: column[np.isfinite(column)] for key, column in values.items()}
        known = entry["all"].get(REFERENCE_TABLE, {}).get("n")
        reference = evaluation.reference.properties[name] if evaluation.reference is not None and known else None
        if reference is not None:
            reference = reference[np.isfinite(reference)]
        title = words(name) + (f" [{escape(entry['unit'])}]" if entry["unit"] else "")
        if SAMPLES in values:
            svg = figures.property_svg(name, entry["unit"], values, reference, f"property-{len(drawings)}")
            drawings.append(figure(svg, _property_caption(name, entry)))
        for index, (key, stats) in enumerate(entry["all"].items()):
            note = "<small>predicted by the proxy</small>" if key in entry["predicted_for"] else ""
            rows.append([title if index == 0 else "", escape(key) + note, *_quantities(stats)])
            if key in entry["top"] and key != REFERENCE_TABLE:
                best = entry["top"][key]
                rows.append(["", f"best of {escape(key)}", *_quantities(best)])
    head = ["property", "crystals", "n", "mean", "std", "min", "5 %", "25 %", "median", "75 %", "95 %", "max"]
    return f'<div class="pair">{"".join(drawings)}</div>\n' + table(head, rows, 2)


def _quantities(stats: Mapping[str, Any]) -> list[str]:
    return [number(stats[key]) for key in ("n", "mean", "std", *QUANTILES)]


def _property_caption(name: str, entry: Mapping[str, Any]) -> str:
    everything = entry["all"]
    median, known = everything[SAMPLES]["median"], everything.get(REFERENCE_TABLE)
    unit = f" {escape(entry['unit'])}" if entry["unit"] else ""
    text = f"<b>{words(name).capitalize()}.</b> The median of the samples is {number(median, 3)}{unit}"
    if known is not None and known["n"]:
        text += f", that of the reference is {number(known['median'], 3)}{unit}"
    return text + ". Bars and outlines show shares of the crystals of each table. The outermost 1 % is not shown."


def _coverage(evaluation: Evaluation) -> str:
    results = evaluation.metrics["coverage"]
    head = ["seen at least once", "possible"]
    for name in _names(results):
        head += [name]
    rows = []
    for kind, title in KINDS.items():
        cells = []
        for name, result in results.items():
            top = result[kind]["top"]
            note = f"<small>best: {top}</small>" if top is not None and name != REFERENCE_TABLE else ""
            cells.append(f"{result[kind]['all']}{note}")
        rows.append([title, str(results[SAMPLES][kind]["possible"]), *cells])
    samples, reference = evaluation.pools[0], evaluation.reference
    counts = results[SAMPLES]
    element, n_element = _largest(counts["elements"]["counts"])
    group, n_group = _largest(counts["space_groups"]["counts"])
    beside = " Diamonds show the reference." if reference is not None else ""
    return (
        table(head, rows)
        + figure(
            figures.elements_svg(samples),
            f"<b>Elements.</b> Share of the samples that contain each element. The most frequent one is {element} with "
            f"{100 * n_element / len(samples):.0f} %. Grey elements do not occur.",
            wide=True,
        )
        + figure(
            figures.space_groups_svg(samples, reference),
            "<b>Space groups.</b> Share of the samples in each space group, coloured by crystal system. The most "
            f"frequent one is {group} with {100 * n_group / len(samples):.0f} %.{beside}",
            wide=True,
        )
    )


def _sampler(evaluation: Evaluation) -> str:
    results = {name: result for name, result in evaluation.metrics["sampler"].items() if result is not None}
    if not results:
        return ""
    texts = {
        "n": ("Crystals", "with numbers in the columns log_reward and log_pf"),
        "pearson": ("Correlation", "Pearson, between log p and log R; 1 is perfect"),
        "spearman": ("Rank correlation", "Spearman"),
        "slope": ("Slope", "log p over log R, least squares; 1 is perfect"),
        "ess": ("Effective share of samples", "with the weights R / p; 1 is perfect"),
        "log_z_bound": ("Mean of log R − log p", "at most log Z"),
        "log_z": ("log Z", "log of the mean of R / p"),
    }
    rows = _described(texts, results, number)
    body = (
        "<p>The sampler should draw a crystal with a probability proportional to its reward. Each crystal has only one "
        "trajectory, so the column log_pf is its log p.</p>\n"
    )
    body += table(["", *_names(results)], rows)
    drawings = [
        figure(
            figures.sampler_svg(pool, results[pool.name]["log_z"], f"sampler-{index}"),
            f"<b>log p over log R, {escape(pool.name)}.</b> Each point is a crystal. With a perfect sampler, all "
            "points lie on one line with the slope of the drawn line.",
        )
        for index, pool in enumerate(evaluation.pools)
        if pool.name in results
    ]
    return f'{body}<div class="pair">{"".join(drawings)}</div>\n'


def _tables(metrics: Mapping[str, Any]) -> str:
    rows: list[list[str]] = []
    problems: list[list[str]] = []
    if metrics["structures"] is not None:
        built = metrics["structures"]
        for name in built["missing_files"]:
            problems.append(["structures", NONE, "CIF file", "does not exist", escape(name), "1"])
        if built["unmatched_rows"]:
            shown = _some(built["unmatched_rows"])
            count = number(len(built["unmatched_rows"]))
            problems.append(["structures", shown, "row, formula, space_group", "belongs to no sample", NONE, count])
    for name, entry in metrics["tables"].items():
        rows.append([escape(name), escape(entry["file"]), number(entry["rows"]), number(entry["readable"])])
        for problem in entry["problems"]:
            problems.append(
                [
                    escape(name),
                    _some(problem["rows"]),
                    escape(problem["column"]),
                    f"{escape(problem['reason'])}<small>allowed: {escape(problem['allowed'])}</small>",
                    escape(problem["first_value"]) or "(empty)",
                    number(problem["count"]),
                ]
            )
    body = table(["name", "file", "rows", "readable"], rows, 2)
    if not problems:
        return body + "<p>Every row of every table could be read.</p>\n"
    head = ["table", "rows (from 1)", "column", "what is wrong", "first value", "count"]
    return body + "<h3>What could not be used</h3>\n" + table(head, problems, 5)


def _some(rows: Sequence[int]) -> str:
    """The first ten of some row numbers as text."""
    return ", ".join(map(str, rows[:10])) + (", …" if len(rows) > 10 else "")


def _described(
    texts: Mapping[str, tuple[str, str]], results: Mapping[str, Any], show: Callable[[Any], str]
) -> list[list[str]]:
    """Rows of a table: title and explanation of a measure, then its value in each result."""
    return [
        [f"{title}<small>{text}</small>", *(show(result[key]) for result in results.values())]
        for key, (title, text) in texts.items()
    ]


def _names(results: Iterable[str]) -> list[str]:
    return [escape(name) for name in results]


def _largest(counts: Mapping[str, int]) -> tuple[str, int]:
    """The most frequent class and its count; if several are equally frequent, the first one."""
    return max(counts.items(), key=lambda item: item[1])
