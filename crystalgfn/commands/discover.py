"""``crystalgfn discover``: rounds in which a GFlowNet samples, CHGNet judges, and the proxy learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crystalgfn.discovery.loop import Run
from crystalgfn.discovery.settings import BudgetConfig, LabelConfig, ScreenConfig, StartConfig
from crystalgfn.proxies.network.tuning import TuningConfig


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
    from crystalgfn.commands.configs import with_configs
    from crystalgfn.atoms import require_extra

    parser = _parser()
    options = parser.parse_args(with_configs(args))
    require_extra()
    # Settings, not objects: each round makes its own, with another proxy.
    fit = _plain(options.pop("fit"))
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes
    values = instantiate(options).as_dict() | {"fit": fit}
    values.pop("config")
    from crystalgfn.discovery.loop import run

    run(discover(**values), _print)
    return 0


def _parser() -> Any:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog="crystalgfn discover",
        description="Sample, screen, evaluate with CHGNet, teach the proxy, train on; the same command goes on.",
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    parser.add_function_arguments(discover, as_group=False)
    return parser


def _plain(value: Any) -> Any:
    """The parser's own containers as dictionaries and lists."""
    if hasattr(value, "as_dict"):
        value = value.as_dict()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


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
