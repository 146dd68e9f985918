"""``crystalgfn discover``: rounds in which a GFlowNet samples, CHGNet judges, and the proxy learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crystalgfn.discovery.loop import Run
from crystalgfn.discovery.settings import BudgetConfig, LabelConfig, ScreenConfig, StartConfig
from crystalgfn.proxies.network.tuning import TuningConfig

DESCRIPTION = "Sample, screen, evaluate with CHGNet, teach the proxy, train on; the same command goes on."


def main(args: list[str]) -> int:
    """Run the command.

    Args:
        args: what follows ``discover``: ``--config configs/discover.yaml [...]``.

    Returns:
        exit status 0.

    Raises:
        InputError: for settings, files or a database that cannot be used.
        SystemExit: with status 2 for options that cannot be parsed, with 0 after ``--help``.
    """
    from crystalgfn.atoms import require_extra
    from crystalgfn.settings import parse_function

    # Settings of training, not objects: each round makes its own, with another proxy.
    values = parse_function("crystalgfn discover", DESCRIPTION, discover, args, plain=("fit",))
    require_extra()
    from crystalgfn.discovery.loop import run

    run(discover(**values), _print)
    return 0


def _print(line: str) -> None:
    from tqdm import tqdm

    tqdm.write(line)  # above the bar


def discover(
    fit: dict[str, Any],
    out: Path,
    known: Path | None = None,
    database: str | None = None,
    seed: int = 0,
    rounds: int = 4,
    evaluations: int = 100,
    first_steps: int = 1200,
    steps: int = 600,
    final_steps: int = 600,
    final: int = 100,
    start: StartConfig = StartConfig(),  # noqa: B008 - frozen
    screen: ScreenConfig = ScreenConfig(),  # noqa: B008 - frozen
    label: LabelConfig = LabelConfig(),  # noqa: B008 - frozen
    tuning: TuningConfig = TuningConfig(),  # noqa: B008 - frozen
    budget: BudgetConfig = BudgetConfig(),  # noqa: B008 - frozen
) -> Run:
    """Settings of a discovery run.

    Args:
        fit: settings as of 'crystalgfn fit': model, trainer, threads; the proxy, or one of them, is EnergyAboveHull.
        out: folder of the run; the same command goes on with what it holds.
        known: table of known crystals with formation_energy (docs/proxies.md): the proxy goes on training on them too,
            and novelty is counted against them; null for none.
        database: where evaluated crystals are kept: a file for SQLite, or postgresql://USER@HOST:PORT/NAME; null for
            labels.db in the folder. Crystals that others have put there are learned from and not evaluated again.
        seed: of all random choices.
        rounds: rounds of sampling, evaluating and teaching.
        evaluations: crystals evaluated in each round.
        first_steps: training steps of the GFlowNet in the first round.
        steps: training steps in each later round, which goes on from the one before.
        final_steps: training steps with the last proxy.
        final: samples of the final model that are evaluated, the first ones, unchosen.
        start: crystals evaluated before the first training.
        screen: which samples are evaluated.
        label: how crystals are evaluated.
        tuning: how the proxy is taught.
        budget: when the run goes to its final samples early.
    """
    return Run(
        fit, out, known, database, seed, rounds, evaluations, first_steps, steps, final_steps, final, start, screen,
        label, tuning, budget,
    )  # fmt: skip
