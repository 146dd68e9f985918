"""Settings of a discovery run, grouped by stage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crystalgfn.atoms import require_extra
from crystalgfn.atoms.potentials import DEFAULT, Potential, make
from crystalgfn.atoms.potentials.references import ElementReferences
from crystalgfn.checks import at_least, between, not_negative, positive, quoted
from crystalgfn.errors import InputError
from crystalgfn.proxies.network.tuning import TuningConfig

PROXY = "proxy.pt"
"""File of the fine-tuned proxy in the folder of a round."""

PROCEDURE = 2
"""Number of the procedure, to increase when the same settings and seed give other results than before."""

FINAL = "final"
"""Name of the last stage, of its folder and of the source of its samples."""


@dataclass(frozen=True)
class StartConfig:
    """Crystals that are evaluated before the first training, so that the proxy is also trained on unstable crystals.

    Attributes:
        random: number of random crystals of the environment.
        perturbed: number of known crystals with another space group, a changed cell, or other elements.
        real: number of unchanged known crystals.
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
        pool: number of samples to choose from, in each round.
        random_share: share of the evaluated crystals that is drawn at random from the pool. These crystals show how
            good the model is, and they keep the labels similar to the samples.
        kappa: weight of the uncertainty: the other evaluated crystals are those with the lowest prediction minus
            ``kappa`` times the uncertainty.
        max_per_formula: largest number of evaluated crystals of one reduced formula, in each round.
        max_per_group: largest number of evaluated crystals of one space group, in each round. It does not apply to the
            crystals drawn at random, and it is dropped if too few crystals are left.
        skip_known: leave out crystals whose reduced formula and space group occur in the table of known crystals.
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
        tries: number of arrangements of the atoms that are relaxed in the sampled cell.
        timeout: seconds after which a crystal is given up.
        jobs: number of crystals that are evaluated at the same time, on one core each.
        backend: loky for this machine; dask or ray for a cluster.
        scheduler: address of the cluster; null starts a local one.
        cap: largest energy above the hull [eV/atom] in the training of the proxy. Higher energies are set to it.
            Crystals that could not be built get this energy as well.
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
    """Limits at which the rounds end early. The final model is still trained, and its samples are evaluated.

    Attributes:
        evaluations: largest number of crystals evaluated before the final samples; null for no limit.
        hours: largest wall-clock time [h] before the final model is trained, earlier starts of the run included; null
            for no limit. A stage that has begun is not cut short, except for the evaluation of crystals.
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
        fit: settings of 'crystalgfn fit': model, trainer, threads; the proxy, or one of them, must be EnergyAboveHull.
        out: folder of the run; the same command continues the run in this folder.
        known: table of known crystals with formation_energy (docs/proxies.md); the proxy is trained on them as well,
            and a crystal that is not among them is new; null for none.
        database: database of the evaluated crystals: a file for SQLite, or postgresql://USER@HOST:PORT/NAME; null for
            labels.db in the folder. Crystals of other runs in it are used for training and not evaluated again.
        potential: the potential that evaluates the crystals, such as chgnet or sevennet:7net-0.
        judge: another potential, which judges random samples of the first round and the final samples. It tells what
            the loop gained by errors of the first one (docs/judging.md); null for none.
        known_structures: known crystals with atoms, for what this judgement says about novelty; null for none.
        seed: seed of all random choices.
        rounds: number of rounds of sampling, evaluation and fine-tuning.
        evaluations: number of crystals evaluated in each round.
        first_steps: training steps of the GFlowNet in the first round.
        steps: training steps in each later round, which starts from the model of the previous round.
        final_steps: training steps of the final model, with the last proxy; it does not continue the model of the last
            round, so it needs as many steps as the first round.
        final: number of samples of the final model that are evaluated; these are the first ones, without screening.
        start: crystals evaluated before the first training.
        screen: which samples are evaluated.
        label: how crystals are evaluated.
        tuning: how the proxy is fine-tuned.
        budget: limits at which the rounds end early.
    """

    fit: dict[str, Any]
    out: Path
    known: Path | None = None
    database: str | None = None
    potential: str = DEFAULT
    judge: str | None = None
    known_structures: Path | None = None
    seed: int = 0
    rounds: int = 4
    evaluations: int = 100
    first_steps: int = 1200
    steps: int = 600
    final_steps: int = 1200
    final: int = 100
    start: StartConfig = StartConfig()
    screen: ScreenConfig = ScreenConfig()
    label: LabelConfig = LabelConfig()
    tuning: TuningConfig = TuningConfig()  # noqa: RUF009 - frozen
    budget: BudgetConfig = BudgetConfig()

    def check(self) -> None:
        """Raise an `InputError` for a setting that is not allowed."""
        potential = make(self.potential)
        require_extra(potential.packages, potential.install)
        ElementReferences.load(potential)
        if self.judge is not None:
            self._check_judge(potential.name, make(self.judge))
        elif self.known_structures is not None:
            raise InputError("known_structures: only used where another potential judges; set judge, or leave it out")
        if self.known_structures is not None and not self.known_structures.exists():
            raise InputError(f"known_structures: there is no file or folder {self.known_structures}")
        at_least("rounds", self.rounds, 0)
        for name in ("evaluations", "first_steps", "steps", "final_steps"):
            at_least(name, getattr(self, name), 1)
        at_least("final", self.final, 0)
        for part in (self.start, self.screen, self.label, self.tuning, self.budget):
            part.check()
        needs_table = [name for name in ("perturbed", "real") if getattr(self.start, name)]
        if self.known is None and needs_table:
            raise InputError(f"start.{needs_table[0]}: needs a table of known crystals; set known, or use 0")
        if self.known is None and self.screen.skip_known:
            raise InputError("screen.skip_known: needs a table of known crystals; set known, or use false")
        if self.known is not None and not self.known.is_file():
            raise InputError(f"known: there is no file {self.known}")
        if not isinstance(self.fit.get("model"), Mapping):
            raise InputError("fit: needs the settings of 'crystalgfn fit': model, and if needed trainer and threads")
        unknown = sorted(set(self.fit) - {"model", "trainer", "data", "threads"})
        if unknown:
            raise InputError(f"fit: there is no setting {quoted(unknown[0])}; allowed: model, trainer, data, threads")
        proxy_with_weights(self.fit["model"])

    def _check_judge(self, first: str, judge: Potential) -> None:
        require_extra(judge.packages, judge.install)
        ElementReferences.load(judge)
        if judge.name == first:
            raise InputError(f"judge: {self.judge!r} is the potential that evaluates the crystals; name another one")

    def fixed(self) -> dict[str, Any]:
        """The settings that must not change when a run is continued, as plain values, with the procedure's number."""
        values = {"procedure": PROCEDURE, **asdict(self)}
        for name in ("out", "database", "judge", "known_structures", "rounds", "final", "budget"):
            values.pop(name)
        values["potential"] = make(self.potential).name
        for name in ("timeout", "jobs", "backend", "scheduler"):
            values["label"].pop(name)
        return dict(json.loads(json.dumps(values, default=str)))


def proxy_with_weights(model: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the proxy that is fine-tuned, from the settings of a model.

    Args:
        model: the section ``model`` of the settings of ``crystalgfn fit``; ``proxy`` is one proxy or a list.

    Raises:
        InputError: if none of the proxies is `EnergyAboveHull`.
    """
    several = model.get("proxy")
    for proxy in several if isinstance(several, list) else [several]:
        if isinstance(proxy, dict) and str(proxy.get("class_path", "")).rpartition(".")[2] == "EnergyAboveHull":
            return proxy
    raise InputError("fit.model.proxy: needs EnergyAboveHull, the proxy that is fine-tuned, alone or in a list")
