"""Evaluated crystals as crystals to judge, and what another potential says of the survivors of the first one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crystalgfn.checks import listed
from crystalgfn.discovery.candidate import Candidate
from crystalgfn.discovery.database import LabelDatabase
from crystalgfn.errors import InputError
from crystalgfn.evaluation.intervals import tally_with_interval
from crystalgfn.judging import Given, Judgement
from crystalgfn.judging.verdict import SURVIVES, TOLERANCE, slug


def of_database(url: str, source: str | None = None) -> list[Given]:
    """The crystals of a database in their sampled cells, before relaxation, in the order in which they were written.

    Args:
        url: the database, see `LabelDatabase`.
        source: only crystals of this source; None for all.

    Raises:
        InputError: if the database cannot be read or has no such crystals.
    """
    database = LabelDatabase(url, create=False)
    frame = database.frame()
    if source is not None:
        if source not in set(frame["source"]):
            present = listed(frame["source"].unique())
            raise InputError(f"--source: {database} has no source {source!r}; it has: {present}")
        frame = frame[frame["source"] == source]
    structures = database.sampled_structures()
    columns = zip(frame["key"].astype(str), frame["space_group"].tolist(), frame["reason"].astype(str), strict=True)
    return [
        Given(key, structures.get(key), int(group), reason="" if key in structures else reason)
        for key, group, reason in columns
    ]


def of_candidates(chosen: Sequence[Candidate], database: LabelDatabase) -> list[Given]:
    """The evaluated candidates in their sampled cells, named by their numbers, because two may be the same crystal."""
    structures = database.sampled_structures()
    frame = database.frame()
    reasons = dict(zip(frame["key"], frame["reason"], strict=True))
    return [
        Given(
            f"sample-{number:06d}",
            structures.get(candidate.key),
            candidate.space_group,
            reason="" if candidate.key in structures else reasons.get(candidate.key, "not evaluated"),
        )
        for number, candidate in enumerate(chosen, start=1)
    ]


def compared(judgement: Judgement, first: str, second: str) -> dict[str, Any]:
    """How many survivors of the first potential the second one confirms.

    Args:
        judgement: n crystals judged by both.
        first: name of the potential that the proxy learns from.
        second: name of the other one.

    Returns:
        ``first``, ``second`` and ``both``, tallies of the survivors at `SURVIVES`, of n crystals; ``confirmed``, tally
        of the survivors of the first that are survivors of both; ``difference``, mean energy above the hull by the
        second less that by the first [eV/atom] of the survivors of the first, None if there are none.
    """
    frame = judgement.frame
    one, other = (frame[f"{slug(name)}_energy_above_hull"].to_numpy(float) for name in (first, second))
    competes = frame["has_competitor"].to_numpy(bool)
    survives, confirmed = competes & (one <= SURVIVES + TOLERANCE), competes & (other <= SURVIVES + TOLERANCE)
    both, n = int((survives & confirmed).sum()), len(frame)
    difference = (other - one)[survives & np.isfinite(other)]
    return {
        "first": tally_with_interval(int(survives.sum()), n),
        "second": tally_with_interval(int(confirmed.sum()), n),
        "both": tally_with_interval(both, n),
        "confirmed": tally_with_interval(both, int(survives.sum())),
        "difference": float(difference.mean()) if len(difference) else None,
    }


def line(found: Mapping[str, Any], first: str) -> str:
    """The result of `compared` as one line of text."""
    confirmed, difference = found["confirmed"], found["difference"]
    mean = "" if difference is None else f"; its energies are {difference:+.3f} eV/atom higher on average"
    return (
        f"{confirmed['count']} of {confirmed['of']} survivors of {first} survive by the other potential too "
        f"({100 * confirmed['low']:.0f} to {100 * confirmed['high']:.0f} %){mean}"
    )
