"""The discovery loop: sample, screen, evaluate, fine-tune the proxy, train again. Then train a new model, and sample.

A run is stored in one folder. Each stage writes one file, which is either complete or absent. A stage is skipped if its
file exists. Training continues from its last checkpoint, and each evaluated crystal is stored in the database at once.
After an interruption, the same command therefore continues the run.

    round-0/               chosen.csv (the crystals to start with), proxy.pt (the first fine-tuned proxy)
    round-1/ ... round-R/  train/ (checkpoints), samples.csv, chosen.csv, proxy.pt
    final/                 train/, samples.csv, chosen.csv (the first samples, in order), the model, summary.json
    judged/                what the potential of the setting ``judge`` says of random samples of the first round and of
                           the final samples
    rounds.csv             one row per round: survivors, errors of the proxy before training on the round and how far
                           its uncertainty was off, diversity
    tensorboard/           the same as curves, and figures
    labels.db              all evaluated crystals, unless another database is set
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from crystalgfn.discovery.settings import FINAL, Run
from crystalgfn.discovery.stages import Stages
from crystalgfn.errors import InputError
from crystalgfn.files import atomic_path

SETTINGS = "settings.json"


def run(settings: Run, log: Callable[[str], None] = print) -> dict[str, Any]:
    """Start or continue a discovery run.

    Args:
        settings: all settings.
        log: called with each line of progress.

    Returns:
        the summary of the final samples, see `Stages.conclude`.

    Raises:
        InputError: for settings, files or a database that cannot be used, or a folder that belongs to another run.
    """
    settings.check()
    _check_folder(settings)
    # Errors in settings and files must be found before anything is written.
    ready = Stages(settings, log)
    _begin(settings)
    with _clock(settings.out) as clock, ready as stages:
        stages.start()
        for number in range(1, settings.rounds + 1):
            # A round that has begun is always finished, so that an interrupted run gives the same result as any other.
            if stages.has_begun(f"round-{number}"):
                pass
            elif stages.has_begun(FINAL):
                log(f"round {number} is left out: the final training has begun; more rounds need a new folder")
                break
            elif _is_spent(settings, stages, clock()):
                log(f"the budget is spent before round {number}; the final samples are next")
                break
            stages.train(f"round-{number}", settings.first_steps if number == 1 else settings.steps)
            stages.choose(f"round-{number}", number)
            limit = _left(settings, stages, clock())
            stages.evaluate(f"round-{number}", limit[0], limit[1])
            stages.teach(f"round-{number}", number)
        return stages.conclude(settings.final_steps)


def _check_folder(settings: Run) -> None:
    """Refuse a folder that cannot be used or was begun with other settings."""
    out, fixed = settings.out, settings.fixed()
    path = out / SETTINGS
    try:
        if out.exists() and not out.is_dir():
            raise InputError(f"out: {out} is a file; give a folder")
        if path.is_file():
            before, fixed = _without_nulls(json.loads(path.read_text())), _without_nulls(fixed)
            if before.get("procedure") != fixed["procedure"]:
                raise InputError(
                    f"out: {out} was begun by a version of crystalgfn that runs a discovery in another way; continue "
                    "it with that version, or use another folder"
                )
            changed = [key for key in sorted({*before, *fixed}) if before.get(key) != fixed.get(key)]
            if changed:
                what = "; ".join(_difference(key, before.get(key), fixed.get(key)) for key in changed)
                raise InputError(f"out: {out} was begun with other settings ({what}); use them, or another folder")
        elif out.is_dir() and any(out.iterdir()):
            raise InputError(f"out: {out} is not empty and holds no discovery run; give another folder")
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"out: {out} cannot be used: {error}") from None


def _begin(settings: Run) -> None:
    """Create the folder and store the settings in it."""
    path = settings.out / SETTINGS
    try:
        settings.out.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps(settings.fixed(), indent=1) + "\n")
    except OSError as error:
        raise InputError(f"out: {settings.out} cannot be used: {error}") from None


def _without_nulls(value: Any) -> Any:
    """Settings without null values. A null setting and a missing setting mean the same."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _difference(key: str, before: Any, now: Any) -> str:
    """The difference of two settings as text. For nested settings, only the entries that differ are named."""
    if isinstance(before, dict) and isinstance(now, dict):
        inner = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
        return "; ".join(_difference(f"{key}.{name}", before.get(name), now.get(name)) for name in inner)
    return f"{key}: then {yaml.safe_dump(before).split(chr(10))[0]}, now {yaml.safe_dump(now).split(chr(10))[0]}"


@contextmanager
def _clock(out: Path) -> Iterator[Callable[[], float]]:
    """A function that returns the hours the run has taken, earlier starts included. They are stored in the folder."""
    path = out / "hours.json"
    before = float(json.loads(path.read_text())["hours"]) if path.is_file() else 0.0
    began = time.monotonic()

    def hours() -> float:
        total = before + (time.monotonic() - began) / 3600
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps({"hours": total}) + "\n")
        return total

    try:
        yield hours
    finally:
        hours()


def _left(settings: Run, stages: Stages, hours: float) -> tuple[int | None, float | None]:
    """Evaluations and seconds that remain of the budget; None without a limit."""
    budget = settings.budget
    evaluations = None if budget.evaluations is None else max(0, budget.evaluations - stages.evaluated())
    seconds = None if budget.hours is None else max(0.0, (budget.hours - hours) * 3600)
    return evaluations, seconds


def _is_spent(settings: Run, stages: Stages, hours: float) -> bool:
    return any(left is not None and left <= 0 for left in _left(settings, stages, hours))
