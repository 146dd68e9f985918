"""A judgement as lines of text for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crystalgfn.judging.judgement import PAGE, Judgement


def share(tally: Mapping[str, Any] | None) -> str:
    """A tally as text: ``37 of 100 (28 to 47 %)``; a dash if there is none."""
    if tally is None:
        return "–"
    return f"{tally['count']} of {tally['of']} ({100 * tally['low']:.0f} to {100 * tally['high']:.0f} %)"


def lines(judgement: Judgement, out: Path) -> list[str]:
    """The main counts. Intervals are 95 % confidence intervals."""
    summary = judgement.summary
    names = ", ".join(summary["potentials"])
    text = [f"{out / PAGE}: {summary['crystals']} crystals judged by {names}"]
    for threshold, found in summary["survival"].items():
        each = "; ".join(f"{name} {found[name]['count']}" for name in summary["potentials"])
        text.append(f"at most {threshold} eV/atom above the hull by all: {share(found['all'])}; by each: {each}")
    last = list(summary["survival"].values())[-1]
    text.append(f"  of these without doubt: {share(last['sound'])}")
    text.append(f"  of these with space group and volume kept: {share(last['faithful'])}")
    text.append(f"  of these on the hull of all crystals together: {share(last['together'])}")
    if last["sun"] is not None:
        text.append(f"  of these unique and novel: {share(last['sun'])}; not in P1: {share(last['ssun'])}")
    apart = summary["apart"]
    text.append(
        f"apart: {apart['no_competitor']['count']} without a competing compound, {apart['far_below']['count']} far "
        f"below the hull, {apart['molecules']['count']} with molecules, {apart['collapsed']['count']} collapsed"
    )
    text += [f"failed: {count} {reason}" for reason, count in summary["failed"].items()]
    return text
