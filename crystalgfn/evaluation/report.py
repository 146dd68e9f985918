"""Write a report: read the tables, measure the samples, draw the figures, write the page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crystalgfn.checks import at_least
from crystalgfn.crystal.crystallography import oxidation_state_set
from crystalgfn.evaluation.page import render
from crystalgfn.evaluation.pools import read_pool
from crystalgfn.evaluation.results import REFERENCE_TABLE, SAMPLES, Evaluation, measure
from crystalgfn.files import atomic_path, check_writable

if TYPE_CHECKING:
    from crystalgfn.gflownet.proxies.base import Proxy

PAGE, METRICS = "index.html", "metrics.json"
"""Files of a report."""


def evaluate(
    samples: Path,
    *,
    out: Path,
    reference: Path | None = None,
    others: Mapping[str, Path] | None = None,
    top: int = 100,
    structures: Path | None = None,
    proxy: Proxy | None = None,
    properties: Sequence[str] | None = None,
    oxidation_states: str = "pymatgen_common",
    mixed_valence: bool = False,
) -> Evaluation:
    """Measure a table of samples and write a report: a page and its numbers.

    The same input gives the same bytes; no random number is drawn.

    Args:
        samples: table of crystals, such as ``crystalgfn predict`` writes.
        out: folder for `PAGE` and `METRICS`; they are replaced if they exist.
        reference: table of known crystals.
        others: further tables of samples, by their names in the report.
        top: number of the best distinct crystals to show, by ``log_reward``.
        structures: folder or table of structures of the samples, see `read_structures`.
        proxy: predicts its property for tables without such a column.
        properties: columns to compare; None for all columns of numbers and `crystalgfn.evaluation.pools.DERIVED`.
        oxidation_states: name of the set of oxidation states for the check of charges.
        mixed_valence: whether that check allows two oxidation states of the same sign for one element.

    Returns:
        the evaluation that was written.

    Raises:
        InputError: for a table or setting that cannot be used, or a folder that cannot be written.
    """
    at_least("--top", top, 1)
    oxidation_state_set(oxidation_states)
    tables = {SAMPLES: samples, **(others or {})}
    pools = [read_pool(name, path, top) for name, path in tables.items()]
    known = read_pool(REFERENCE_TABLE, reference, top) if reference is not None else None
    for file in (PAGE, METRICS):
        check_writable(out / file)
    result = measure(
        pools,
        known,
        top=top,
        structures=structures,
        proxy=proxy,
        properties=properties,
        oxidation_states=oxidation_states,
        mixed_valence=mixed_valence,
    )
    texts = {
        PAGE: render(result),
        METRICS: json.dumps(result.metrics, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
    }
    for file, text in texts.items():
        with atomic_path(out / file) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    return result
