"""Settings of a discovery run, by the stage that they belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crystalgfn.checks import at_least, between, not_negative, positive
from crystalgfn.errors import InputError
from crystalgfn.proxies.network.tuning import TuningConfig

PROXY = "proxy.pt"
FINAL = "final"


@dataclass(frozen=True)
class StartConfig:
    """Crystals that are labelled before the first training, so that the proxy has met bad ones.

    Attributes:
        random: random legal crystals of the environment.
        perturbed: crystals of the reference table in another group, a scaled cell, or with elements swapped.
        real: crystals of the reference table as they are.
    """

    random: int = 0
    perturbed: int = 0
    real: int = 0

    def check(self) -> None:
        """Raise an `InputError` for a setting that is not allowed."""
        for name, value in vars(self).items():
            at_least(f"start.{name}", value, 0)


@dataclass(frozen=True)
class ScreenConfig:
    """Which of the sampled crystals are evaluated.

    Attributes:
        pool: samples to choose from, in each round.
        random_share: share of the evaluated ones that is drawn at random from the pool: they tell how good the model
            is, and keep the labels where the samples are.
        kappa: the others are those of the lowest prediction minus ``kappa`` times the uncertainty: promising, or
            unsure.
        max_per_formula: evaluated crystals of one reduced formula, in each round.
        max_per_group: evaluated crystals of one space group, in each round.
        skip_known: leave out crystals whose reduced formula and space group the reference table has.
    """

    pool: int = 4000
    random_share: float = 0.5
    kappa: float = 1.0
    max_per_formula: int = 1
    max_per_group: int = 8
    skip_known: bool = False

    def check(self) -> None:
        """Raise an `InputError` for a setting that is not allowed."""
        for name in ("pool", "max_per_formula", "max_per_group"):
            at_least(f"screen.{name}", getattr(self, name), 1)
        between("screen.random_share", self.random_share, 0, 1)
        not_negative("screen.kappa", self.kappa)


@dataclass(frozen=True)
class LabelConfig:
    """How crystals are evaluated, see docs/structures.md.

    Attributes:
        tries: arrangements of the atoms that are relaxed in the sampled cell.
        timeout: seconds after which a crystal is given up.
        jobs: crystals at the same time, one core each.
        backend: loky for this machine; dask or ray for a cluster.
        scheduler: address of the cluster; null starts a local one.
        cap: energy above the hull [eV/atom] beyond which all crystals are equally bad; crystals that no atoms can be
            put into are taught as that bad.
    """

    tries: int = 4
    timeout: float = 300.0
    jobs: int = 1
    backend: str = "loky"
    scheduler: str | None = None
    cap: float = 1.5

    def check(self) -> None:
        """Raise an `InputError` for a setting that is not allowed."""
        at_least("label.tries", self.tries, 1)
        positive("label.cap", self.cap)


@dataclass(frozen=True)
class BudgetConfig:
    """When a run goes to its end early: the samples of the model that it has by then are still evaluated.

    Attributes:
        evaluations: crystals evaluated before the final samples; null for as many as the rounds take.
        hours: hours of wall-clock time before the final samples, those of earlier starts of the run included; null for
            no limit. A stage that has begun is not cut short, except for the evaluation of crystals.
    """

    evaluations: int | None = None
    hours: float | None = None

    def check(self) -> None:
        """Raise an `InputError` for a setting that is not allowed."""
        if self.evaluations is not None:
            at_least("budget.evaluations", self.evaluations, 1)
        if self.hours is not None:
            positive("budget.hours", self.hours)


@dataclass(frozen=True)
class Run:
    """All settings of a discovery run.

    Attributes:
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

    fit: dict[str, Any]
    out: Path
    known: Path | None = None
    database: str | None = None
    seed: int = 0
    rounds: int = 4
    evaluations: int = 100
    first_steps: int = 1200
    steps: int = 600
    final_steps: int = 600
    final: int = 100
    start: StartConfig = StartConfig()
    screen: ScreenConfig = ScreenConfig()
    label: LabelConfig = LabelConfig()
    tuning: TuningConfig = TuningConfig()  # noqa: RUF009 - frozen
    budget: BudgetConfig = BudgetConfig()

    def check(self) -> None:
        """Raise an `InputError` for a setting that is not allowed."""
        at_least("rounds", self.rounds, 0)
        for name in ("evaluations", "first_steps", "steps", "final_steps"):
            at_least(name, getattr(self, name), 1)
        at_least("final", self.final, 0)
        for part in (self.start, self.screen, self.label, self.tuning, self.budget):
            part.check()
        needs_table = [name for name in ("perturbed", "real") if getattr(self.start, name)]
        if self.known is None and needs_table:
            raise InputError(f"start.{needs_table[0]}: needs a table of real crystals; set known, or use 0")
        if self.known is None and self.screen.skip_known:
            raise InputError("screen.skip_known: needs a table of known crystals; set known, or use false")
        if self.known is not None and not self.known.is_file():
            raise InputError(f"known: there is no file {self.known}")
        if not isinstance(self.fit.get("model"), Mapping):
            raise InputError("fit: needs the settings of 'crystalgfn fit': model, and what else there is to say")
        unknown = sorted(set(self.fit) - {"model", "trainer", "data", "threads"})
        if unknown:
            raise InputError(f"fit: there is no setting {unknown[0]!r}; allowed: model, trainer, data, threads")
        proxy_with_weights(self.fit["model"])

    def fixed(self) -> dict[str, Any]:
        """What the results depend on, as plain values; the rest may change when a run goes on."""
        values = asdict(self)
        for name in ("out", "database", "rounds", "final", "budget"):
            values.pop(name)
        for name in ("timeout", "jobs", "backend", "scheduler"):
            values["label"].pop(name)
        return dict(json.loads(json.dumps(values, default=str)))


def proxy_with_weights(model: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the proxy that is taught, of a model's settings.

    Raises:
        InputError: if none of the proxies is `EnergyAboveHull`.
    """
    several = model.get("proxy")
    for proxy in several if isinstance(several, list) else [several]:
        if isinstance(proxy, dict) and str(proxy.get("class_path", "")).rpartition(".")[2] == "EnergyAboveHull":
            return proxy
    raise InputError("fit.model.proxy: needs EnergyAboveHull, the proxy that is taught; name it, alone or in a list")
