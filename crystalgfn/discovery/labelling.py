"""Evaluate crystals with a potential into a database of labels."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from crystalgfn.atoms.run import Workers, results
from crystalgfn.crystal.envs.crystal import Crystal
from crystalgfn.crystal.tables import read_table
from crystalgfn.discovery.candidate import Candidate, candidates
from crystalgfn.discovery.database import LabelDatabase
from crystalgfn.errors import InputError
from crystalgfn.evaluation.pools import problem_lines, problems_of
from crystalgfn.gflownet.envs.base import Environment
from crystalgfn.judging.verdict import SURVIVES
from crystalgfn.runs.model import read_restriction
from crystalgfn.settings import find_config, instantiate, read_config

NUMBERS = ("predicted", "predicted_uncertainty", "log_reward")
"""Columns of numbers in a table that are kept with its crystals."""


def environment(config: str, restrict: str | None = None) -> Crystal:
    """The crystal environment of a config.

    Args:
        config: config file, or the name of a shipped config.
        restrict: YAML file with a restriction of the environment; None for no restriction.

    Raises:
        InputError: if the config does not exist or has no crystal environment, or the restriction cannot be used.
    """
    path = find_config(config)
    model = read_config(path).get("model")
    if not isinstance(model, dict) or "env" not in model:
        raise InputError(f"config: {path} has no environment (model.env)")
    env = instantiate({"env": model["env"]}, {"env": Environment}, f"config: {path}").env
    if not isinstance(env, Crystal):
        raise InputError(f"config: {path} has the environment {type(env).__name__}; only Crystal is allowed")
    return env if restrict is None else env.restricted(read_restriction(restrict))


def table_crystals(path: Path) -> list[Candidate]:
    """The usable crystals of a table, source ``table``. Other rows get no label; their reasons are counted and printed.

    Raises:
        InputError: if the table cannot be used or no row is a crystal.
    """
    data = read_table(path, strict=False)
    bad = [(row, problem) for row, problem in enumerate(data.problems, start=1) if problem is not None]
    if not len(data.rows):
        raise InputError(f"{path}: no row is a crystal; row 1: {bad[0][1]}")
    if bad:
        print(f"{path}: {len(bad)} of {len(data.problems)} rows are refused and get no label")
        print("\n".join(problem_lines(problems_of(data))))
    rows = data.frame.iloc[data.rows.tolist()]
    numbers = {name: pd.to_numeric(rows[name], errors="coerce").tolist() for name in NUMBERS if name in rows.columns}
    return candidates(data.crystals, "table", numbers=numbers)


def evaluate(waiting: list[Candidate], database: LabelDatabase, workers: Workers, tries: int, seed: int) -> int:
    """Build and relax the crystals that the database does not have, and store each one as soon as it is finished.

    The potential is that of the database, see `LabelDatabase.potential_to_run`.

    A crystal that was given up after less time than the timeout of ``workers`` is tried again.

    Args:
        waiting: the crystals.
        database: database for the results.
        workers: settings of the processes that do the work.
        tries: number of arrangements that are relaxed in the sampled cell.
        seed: seed of the arrangements.

    Returns:
        number of crystals that were written.

    Raises:
        InputError: if only the database names the class of a calculator.
    """
    name = database.potential_to_run().name
    known = database.keys(workers.timeout)
    left = {candidate.key: candidate for candidate in waiting if candidate.key not in known}
    tasks = [candidate.task(tries, seed, name) for candidate in left.values()]
    found = results(tasks, workers, progress="label", done=len(waiting) - len(left))
    return sum(database.add(left[result["id"]], result) for result in found)


def summary(frame: pd.DataFrame, name: str, asked: int, new: int) -> list[str]:
    """Lines of text that summarize a database: the number of crystals and, for each source, counts and medians.

    Args:
        frame: what `with_energies` returned.
        name: name of the database.
        asked: number of crystals that were to be evaluated; 0 leaves this number and ``new`` out.
        new: number of crystals that were written.
    """
    asked_for = f" ({asked} asked for, {new} new)" if asked else ""
    lines = [f"{name}: {len(frame)} crystals{asked_for}"]
    if frame.empty:
        return lines
    heads = ("crystals", "relaxed", "failed", "given up", "survive", "sampled", "after")
    lines.append(f"{'source':<20}" + "".join(f"{head:>10}" for head in heads) + "   (medians above hull, eV/atom)")
    for source, part in frame.groupby("source", sort=True):
        given_up = part["gave_up_after"].notna()
        above = part["energy_above_hull_relaxed"]
        counts = (
            len(part),
            (part["status"] == "relaxed").sum(),
            ((part["status"] == "failed") & ~given_up).sum(),
            given_up.sum(),
            (above < SURVIVES).sum(),
        )
        medians = (part["energy_above_hull_sampled"].median(), above.median())
        texts = [str(count) for count in counts] + ["-" if math.isnan(m) else f"{m:.3f}" for m in medians]
        lines.append(f"{source!s:<20}" + "".join(f"{text:>10}" for text in texts))
    return lines
