"""The discovery loop: sample, screen, evaluate, teach the proxy, train on; and the final samples that nobody chose.

A run is a folder. Each stage leaves one file that appears complete or not at all, and a stage whose file is there is
not done again; training itself goes on from its last checkpoint, and evaluated crystals are in the database one by one.
So the same command goes on wherever it was stopped.

    round-0/               crystals to start with, evaluated, and the first fine-tuned proxy
    round-1/ ... round-R/  train/ (checkpoints), samples.csv, chosen.csv, proxy.pt
    final/                 train/, samples.csv, chosen.csv (the first samples, in order), and the model
    rounds.csv             one row a round: survival, errors of the proxy before it was trained on the round, diversity
    tensorboard/           the same as curves, and figures
    labels.db              all evaluated crystals, unless another database is named
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
    """Run, or go on with, a discovery.

    Args:
        settings: all settings.
        log: takes each line of progress.

    Returns:
        the summary of the final samples, see `Stages.conclude`.

    Raises:
        InputError: for settings, files or a database that cannot be used, or a folder of another run.
    """
    settings.check()
    _check_folder(settings)
    # Whatever may be wrong with settings and files is found before anything is written.
    ready = Stages(settings, log)
    _begin(settings)
    with _clock(settings.out) as clock, ready as stages:
        stages.start()
        for number in range(1, settings.rounds + 1):
            # What was begun is ended, so that a run which was stopped does what it would have done.
            if stages.has_begun(f"round-{number}"):
                pass
            elif stages.has_begun(FINAL):
                log(f"the final model was trained before round {number}: to its samples; more rounds need a new folder")
                break
            elif _is_spent(settings, stages, clock()):
                log(f"the budget is spent before round {number}: to the final samples")
                break
            stages.train(f"round-{number}", settings.first_steps if number == 1 else settings.steps)
            stages.choose(f"round-{number}", number)
            limit = _left(settings, stages, clock())
            stages.evaluate(f"round-{number}", limit[0], limit[1])
            stages.teach(f"round-{number}", number)
        return stages.conclude(settings.final_steps)


def _check_folder(settings: Run) -> None:
    """Refuse a folder that cannot be used, or was begun with other settings."""
    out, fixed = settings.out, settings.fixed()
    path = out / SETTINGS
    try:
        if out.exists() and not out.is_dir():
            raise InputError(f"out: {out} is a file; give a folder")
        if path.is_file():
            before, fixed = _without_nulls(json.loads(path.read_text())), _without_nulls(fixed)
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
    """Make the folder, with the settings that it is for."""
    path = settings.out / SETTINGS
    try:
        settings.out.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps(settings.fixed(), indent=1) + "\n")
    except OSError as error:
        raise InputError(f"out: {settings.out} cannot be used: {error}") from None


def _without_nulls(value: Any) -> Any:
    """Settings without those that are null: to say so and not to say it are the same."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _difference(key: str, before: Any, now: Any) -> str:
    """What differs between two settings, as deep as they are alike."""
    if isinstance(before, dict) and isinstance(now, dict):
        inner = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
        return "; ".join(_difference(f"{key}.{name}", before.get(name), now.get(name)) for name in inner)
    return f"{key}: then {yaml.safe_dump(before).split(chr(10))[0]}, now {yaml.safe_dump(now).split(chr(10))[0]}"


@contextmanager
def _clock(out: Path) -> Iterator[Callable[[], float]]:
    """Hours that the run has taken, earlier starts included; they are kept in the folder."""
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
    """Evaluations and seconds that are left of the budget; None without a limit."""
    budget = settings.budget
    evaluations = None if budget.evaluations is None else max(0, budget.evaluations - stages.evaluated())
    seconds = None if budget.hours is None else max(0.0, (budget.hours - hours) * 3600)
    return evaluations, seconds


def _is_spent(settings: Run, stages: Stages, hours: float) -> bool:
    return any(left is not None and left <= 0 for left in _left(settings, stages, hours))
