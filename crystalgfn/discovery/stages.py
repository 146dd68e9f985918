"""The stages of a discovery run. A stage is skipped if its result exists already."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from pytorch_lightning import Callback, Trainer

from crystalgfn.atoms.potentials import make
from crystalgfn.atoms.potentials.references import ElementReferences
from crystalgfn.atoms.run import Workers, results
from crystalgfn.crystal.crystals import LATTICE_PARAMETERS, Crystals
from crystalgfn.crystal.envs.crystal import Crystal
from crystalgfn.crystal.formulas import count_rows, formula_text, parse_formula
from crystalgfn.crystal.tables import CRYSTAL_COLUMNS, read_table
from crystalgfn.discovery import judged
from crystalgfn.discovery.calibration import found_over_expected, uncertainty_scale
from crystalgfn.discovery.candidate import Candidate, candidates
from crystalgfn.discovery.database import LabelDatabase
from crystalgfn.discovery.labels import training_rows, with_energies
from crystalgfn.discovery.outcome import KnownCrystals, Outcome, absolute_errors, column, proxy_errors, rounds_table
from crystalgfn.discovery.screen import screen
from crystalgfn.discovery.selection import of_samples
from crystalgfn.discovery.settings import FINAL, PROXY, Run, proxy_with_weights
from crystalgfn.errors import InputError
from crystalgfn.evaluation.known import formula_in_group_keys, formula_keys
from crystalgfn.files import atomic_path, write_frame
from crystalgfn.gflownet.checkpoint_files import link, newest_checkpoint, write_compact
from crystalgfn.gflownet.envs.base import Environment
from crystalgfn.gflownet.proxies import predict_in_batches
from crystalgfn.judging import judge
from crystalgfn.proxies import EnergyAboveHull
from crystalgfn.proxies.network.property_network import PropertyNetwork
from crystalgfn.proxies.network.tuning import tune
from crystalgfn.runs.quiet import warnings_only
from crystalgfn.runs.runner import LAST, check_fit, run
from crystalgfn.settings import instantiate

if TYPE_CHECKING:
    import pandas as pd

MODEL = "model.ckpt"
FIT = "fit.yaml"
COMPACT = "discovered.ckpt"
SAMPLES = "samples.csv"
CHOSEN = "chosen.csv"

SOURCE = "model"
"""Source of the crystals that are sampled in a round."""


class Stages:
    """The stages of one run and their common state, as a context manager. Inside it, the files of the run are open.

    A new object checks everything that the settings name. It writes nothing, except that as the last step it creates
    the database that the settings name, if there is none.

    Args:
        settings: settings of the run.
        log: called with each line of progress.

    Raises:
        InputError: if the settings, the database, the table of known crystals or the proxy cannot be used.
    """

    def __init__(self, settings: Run, log: Callable[[str], None]) -> None:
        self._settings, self._log, self._out = settings, log, settings.out
        label = settings.label
        self._workers = Workers(label.jobs, label.backend, label.scheduler, label.timeout)
        try:
            self._workers.check()
        except InputError as error:
            raise InputError(str(error).replace("--", "label.", 1)) from None
        check_fit(settings.fit, "fit")
        self._potential = make(settings.potential)
        self._references = ElementReferences.load(self._potential)
        given = dict(proxy_with_weights(settings.fit["model"]).get("init_args") or {})
        self._start = EnergyAboveHull(**given)
        self._hull = self._start.hull
        self._known = KnownCrystals.read(settings.known) if settings.known is not None else None
        self._old, self._held_out = self._table_rows()
        has_started = (self._folder("round-0") / CHOSEN).is_file()
        self._first = None if has_started else self._first_candidates()
        self._given_database = (
            LabelDatabase(settings.database, potential=self._potential) if settings.database is not None else None
        )

    def __enter__(self) -> Stages:
        from torch.utils.tensorboard import SummaryWriter
        from tqdm import tqdm

        settings = self._settings
        self._database = self._given_database or LabelDatabase(self._out / "labels.db", potential=self._potential)
        self._board = SummaryWriter(str(self._out / "tensorboard"))
        planned = sum(vars(settings.start).values()) + settings.rounds * settings.evaluations + settings.final
        self._bar: Any = tqdm(total=planned, unit="crystal", smoothing=0.05, dynamic_ncols=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._board.close()

    # The stages

    def start(self) -> None:
        """Evaluate the crystals to start with and fine-tune the proxy on them."""
        self._folder("round-0").mkdir(exist_ok=True)
        if self._first is not None:
            self._write_candidates(self._folder("round-0") / CHOSEN, self._first)
        self.evaluate("round-0")
        self.teach("round-0", 0)

    def train(self, name: str, steps: int) -> None:
        """Train the GFlowNet with the newest proxy.

        A round starts from the networks of the previous round. The final model starts as the settings of ``fit`` say,
        so that nothing is left in it of what earlier, worse proxies rewarded.

        Args:
            name: name of the round.
            steps: training steps.
        """
        folder = self._folder(name)
        if (folder / MODEL).is_file():
            return
        folder.mkdir(exist_ok=True)
        config = self._fit_settings(name, steps)
        path = folder / FIT
        with atomic_path(path) as temporary:
            temporary.write_text(yaml.safe_dump(config, sort_keys=False))

        self._say(f"{name}: train")
        bar = _bar_callback(self._bar, f"{name}: train")
        with warnings_only():
            run("fit", config, LAST, [bar], trust=True)
        newest = newest_checkpoint(folder / "train")
        assert newest is not None
        with atomic_path(folder / MODEL) as temporary:
            link(newest, temporary)

    def choose(self, name: str, number: int) -> None:
        """Sample crystals and choose those to evaluate. In the final stage, these are the first samples.

        Args:
            name: name of the round.
            number: number of the round.
        """
        folder = self._folder(name)
        if (folder / CHOSEN).is_file():
            return
        settings = self._settings
        is_final = name == FINAL
        if not (folder / SAMPLES).is_file():
            self._sample(name, number, settings.screen.pool)
        table = read_table(folder / SAMPLES)
        frame = table.frame.reset_index(drop=True)
        proxy = self._start.name
        predicted = column(frame, proxy)
        uncertainty = column(frame, f"{proxy}_uncertainty")
        if is_final:
            rows = np.arange(min(settings.final, len(frame)))
            drawn = np.ones(len(rows), dtype=np.bool_)
        else:
            counts, groups = table.crystals.counts.numpy(), table.crystals.space_group.numpy()
            in_groups = formula_in_group_keys(counts, groups)
            rows, drawn = screen(
                formula_keys(counts), in_groups, groups, predicted, uncertainty, settings.evaluations, settings.screen,
                self._left_out(), np.random.default_rng([settings.seed, number]),
            )  # fmt: skip
        numbers = {
            "predicted": predicted[rows],
            "predicted_uncertainty": uncertainty[rows],
            "drawn": drawn.astype(float),
        }
        for extra in ("log_reward", "log_pf"):
            numbers[extra] = column(frame, extra)[rows]
        chosen = candidates(table.crystals[torch.from_numpy(rows)], FINAL if is_final else SOURCE, number, numbers)
        self._write_candidates(folder / CHOSEN, chosen)

    def evaluate(self, name: str, most: int | None = None, seconds: float | None = None) -> None:
        """Evaluate the chosen crystals, as far as the budget allows, and store the results.

        Args:
            name: name of the round.
            most: largest number of evaluations; None for no limit.
            seconds: time after which the evaluation ends [s]; None for no limit.
        """
        if (self._folder(name) / PROXY).is_file():
            return
        chosen = {candidate.key: candidate for candidate in self._read_candidates(self._folder(name) / CHOSEN)}
        there = self._database.keys()
        waiting = [candidate for key, candidate in chosen.items() if key not in there][:most]
        self._say(f"{name}: evaluate")
        self._bar.n = self.evaluated() + (len(chosen.keys() & there) if name == FINAL else 0)
        self._bar.refresh()
        label = self._settings.label
        tasks = [candidate.task(label.tries, self._settings.seed, self._potential.name) for candidate in waiting]
        end = None if seconds is None else time.monotonic() + seconds
        if not tasks:
            return
        for result in results(tasks, self._workers):
            self._database.add(chosen[result["id"]], result)
            self._bar.update()
            if end is not None and time.monotonic() > end:
                self._log(f"{name}: the time is spent; not all of the {len(tasks)} chosen crystals are evaluated")
                break

    def teach(self, name: str, number: int) -> None:
        """Measure the errors of the proxy on the new labels, then fine-tune it on all labels, without final samples.

        Fine-tuning fits the uncertainty to the errors of all samples of the round, also of those that were chosen for a
        low or uncertain prediction. It is then multiplied by a factor (`crystalgfn.discovery.calibration`) that is
        fitted to the samples that were drawn at random.

        Args:
            name: name of the round.
            number: number of the round.
        """
        path = self._folder(name) / PROXY
        if path.is_file():
            return
        frame = self.labels()
        own = self._own(frame)
        frame = frame[frame["source"] != FINAL]
        self._say(f"{name}: teach")
        rows = training_rows(frame, self._settings.label.cap) if len(frame) else frame
        if not len(rows):  # no crystal yet, or none with a label: the proxy is not changed
            self._report(own, number)
            self._start.formation_energy.network.save(path)
            return
        rows = rows.sort_values(["key", "kind"], kind="stable")
        # Only errors of the newest proxy: those of older proxies would make the predicted uncertainty too large.
        errors = _errors_before(own[own["round"] == number], self._settings.label.cap)
        known_errors = [
            errors.get(key, np.nan) if kind == "sampled" else np.nan
            for key, kind in zip(rows["key"], rows["kind"], strict=True)
        ]
        tuned = tune(
            self._start.formation_energy.network,
            _crystals(rows),
            torch.tensor(rows["formation_energy"].to_numpy(dtype=np.float32)),
            torch.tensor(rows["weight"].to_numpy(dtype=np.float32)),
            torch.tensor(known_errors, dtype=torch.float32),
            self._old,
            self._held_out,
            self._settings.tuning,
            self._settings.seed,
            self._log_detail(name),
        )
        tuned.set_uncertainty_scale(self._uncertainty_scale(own))
        self._log_detail(name)(f"uncertainty: times {tuned.uncertainty_scale:.3f}")
        self._report(own, number)
        tuned.save(path)

    def conclude(self, steps: int) -> dict[str, Any]:
        """Train the final model with the last proxy, evaluate its first samples, and write the results.

        Args:
            steps: training steps.

        Returns:
            the content of ``final/summary.json``.
        """
        number = self._last_round() + 1
        self.train(FINAL, steps)
        # The compact checkpoint is the file that users get, so it is the one to sample from.
        compact = self._folder(FINAL) / COMPACT
        if not compact.is_file():
            write_compact(self._folder(FINAL) / MODEL, compact, self._settings.fit["model"]["proxy"])
        self.choose(FINAL, number)
        self.evaluate(FINAL)
        chosen = self._read_candidates(self._folder(FINAL) / CHOSEN)
        frame = self.labels()
        # Each sample counts, even if two samples are the same crystal.
        final = of_samples(frame, self._folder(FINAL) / CHOSEN, str(self._database)) if chosen else frame[:0]
        outcome = Outcome(final, self._known, self._database.structure)
        cap = self._settings.label.cap
        errors = proxy_errors(final, cap=cap)
        ratio, standard_error = found_over_expected(absolute_errors(final, cap), column(final, "predicted_uncertainty"))
        summary: dict[str, Any] = {
            "rows": outcome.rows(),
            "survivors": outcome.survivors,
            "doubtful": int(outcome.doubtful.sum()),
            "evaluated": outcome.evaluated,
            "elements": outcome.elements,
            "groups": outcome.groups,
            "median_energy_above_hull": outcome.median,
            "proxy_mae": errors.mae,
            "proxy_bias": errors.bias,
            "proxy_uncertainty": errors.uncertainty,
            "calibration": ratio,
            "calibration_se": standard_error,
            "judged": self._judged(chosen),
        }
        with atomic_path(self._folder(FINAL) / "summary.json") as temporary:
            temporary.write_text(json.dumps(summary, indent=1) + "\n")
        for title, text in outcome.rows().items():
            self._log(f"{title}: {text.replace('**', '')}")
        for name, found in (summary["judged"] or {}).items():
            self._log(f"{name}: {judged.line(found, self._potential.name)}")
        return summary

    # What the stages share

    def has_begun(self, name: str) -> bool:
        """Whether training of the GFlowNet of a round has begun."""
        return (self._folder(name) / FIT).is_file()

    def evaluated(self) -> int:
        """Number of evaluated crystals that this run has chosen, without the final samples."""
        chosen = list(self._out.glob(f"round-*/{CHOSEN}"))
        keys = {candidate.key for path in chosen for candidate in self._read_candidates(path)}
        return len(keys & self._database.keys())

    def labels(self) -> pd.DataFrame:
        """All evaluated crystals with their energies, in an order that does not depend on the order of evaluation."""
        frame = self._database.frame()
        frame = with_energies(frame, self._references, self._hull)
        return frame.sort_values(["round", "key"], kind="stable").reset_index(drop=True)

    def _own(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Labels of the crystals that this run chose, with its own predictions. Other runs may share the database."""
        paths = self._out.glob(f"round-*/{CHOSEN}")
        asked = {candidate.key: candidate for path in paths for candidate in self._read_candidates(path)}
        part = frame[frame["key"].isin(asked.keys())]
        own = [asked[key] for key in part["key"]]
        names = ("predicted", "predicted_uncertainty", "drawn")
        numbers: dict[str, Any] = {name: [c.numbers.get(name, np.nan) for c in own] for name in names}
        return part.assign(round=[candidate.round for candidate in own], **numbers)

    def _judged(self, final: list[Candidate]) -> dict[str, Any] | None:
        """What another potential says of random samples of the first round and of the final samples.

        Returns:
            for each of the two the content of `crystalgfn.discovery.judged.compared`; None if no potential is to judge.
        """
        settings, label = self._settings, self._settings.label
        if settings.judge is None:
            return None
        path = self._folder("round-1") / CHOSEN
        first = self._read_candidates(path) if path.is_file() else []
        found = {}
        for name, chosen in (("round-1", [c for c in first if c.numbers.get("drawn") == 1]), (FINAL, final)):
            if not chosen:
                continue
            self._say(f"{name}: judge")
            judgement = judge(
                judged.of_candidates(chosen, self._database), [settings.potential, settings.judge],
                reference=settings.known_structures, hull=self._hull, out=self._out / "judged" / name,
                seed=settings.seed, jobs=label.jobs, backend=label.backend, scheduler=label.scheduler,
                timeout=label.timeout, source=f"{name} of {self._out}",
            )  # fmt: skip
            found[name] = judged.compared(judgement, self._potential.name, make(settings.judge).name)
        return found

    def _uncertainty_scale(self, own: pd.DataFrame) -> float:
        """Factor for the uncertainty of the next proxy, from the random samples of all rounds so far."""
        drawn = own[column(own, "drawn") == 1]
        # The uncertainty of a round is that of the proxy of the round before, whose factor is taken out again.
        before = {number: self._folder(f"round-{number - 1}") / PROXY for number in drawn["round"].unique().tolist()}
        scales = {number: PropertyNetwork.load(path).uncertainty_scale for number, path in before.items()}
        return uncertainty_scale(
            absolute_errors(drawn, self._settings.label.cap),
            column(drawn, "predicted_uncertainty") / drawn["round"].map(scales).to_numpy(dtype=float),
        )

    def _folder(self, name: str) -> Path:
        return self._out / name

    def _last_round(self) -> int:
        """The last round whose fine-tuned proxy exists; 0 if there is none."""
        return max((int(p.parent.name.partition("-")[2]) for p in self._out.glob(f"round-*/{PROXY}")), default=0)

    def _newest(self, name: str) -> Path | None:
        """The file of this name from the newest round that has one; None if there is none."""
        found = [self._folder(f"round-{i}") / name for i in range(self._last_round(), -1, -1)]
        return next((path for path in found if path.is_file()), None)

    def _fit_settings(self, name: str, steps: int) -> dict[str, Any]:
        """Settings of `crystalgfn fit` for one round."""
        config: dict[str, Any] = copy.deepcopy(dict(self._settings.fit))
        model, trainer = config["model"], config.setdefault("trainer", {})
        before = int(trainer.get("max_steps") or steps)
        trainer["max_steps"] = steps
        if model.get("exploration_steps"):
            model["exploration_steps"] = max(1, round(steps * model["exploration_steps"] / before))
        proxy, weights = proxy_with_weights(model), self._newest(PROXY)
        if weights is not None:
            proxy["init_args"] = {**(proxy.get("init_args") or {}), "weights": str(weights)}
        start = None if name == FINAL else self._newest(MODEL)
        if start is not None:
            model["start_from"] = str(start)
        number = 0 if name == FINAL else int(name.partition("-")[2])
        model["seed"] = 1000 * self._settings.seed + number
        folder = self._folder(name) / "train"
        trainer["logger"] = {"class_path": "TensorBoardLogger", "init_args": {"save_dir": str(folder), "name": ""}}
        trainer |= {"enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
        callbacks = trainer.get("callbacks") or []
        if not any(c["class_path"].endswith("Checkpoints") for c in callbacks):
            callbacks = [{"class_path": "crystalgfn.callbacks.Checkpoints"}, *callbacks]
        trainer["callbacks"] = callbacks
        return config

    def _sample(self, name: str, number: int, n: int) -> None:
        self._say(f"{name}: sample")
        folder = self._folder(name)
        checkpoint = folder / (COMPACT if name == FINAL else MODEL)
        with warnings_only():
            data = {"num_samples": n, "seed": 1000 * self._settings.seed + number, "out": str(folder / SAMPLES)}
            run("predict", {"data": data, "trainer": {"enable_progress_bar": False}}, checkpoint, trust=True)

    def _first_candidates(self) -> list[Candidate]:
        """Random, perturbed and real crystals, with the predictions of the proxy before any fine-tuning."""
        from crystalgfn.discovery import seeds

        start, seed = self._settings.start, self._settings.seed
        found: list[Candidate] = []
        env = instantiate({"env": self._settings.fit["model"]["env"]}, {"env": Environment}, "fit.model.env").env
        if not isinstance(env, Crystal):
            raise InputError(f"fit.model.env: {type(env).__name__} is not allowed; discover needs Crystal")
        if start.random:
            found += seeds.random_crystals(env, start.random, seed)
        if self._settings.known is not None:
            if start.perturbed:
                found += seeds.perturbed_crystals(self._settings.known, env, start.perturbed, seed)
            if start.real:
                found += seeds.real_crystals(self._settings.known, env, start.real, seed)
        return with_predictions(found, self._start)

    def _left_out(self) -> set[int]:
        """Keys of formula and space group of evaluated crystals and, if they are skipped, of known crystals."""
        frame = self._database.frame()
        keys: set[int] = set()
        if len(frame):
            counts = count_rows(map(parse_formula, frame["formula"])).numpy()
            groups = frame["space_group"].to_numpy(dtype=np.int64)
            keys |= set(formula_in_group_keys(counts, groups).tolist())
        if self._settings.screen.skip_known and self._known is not None:
            keys |= set(self._known.in_groups.tolist())
        return keys

    def _table_rows(self) -> tuple[tuple[Crystals, torch.Tensor] | None, tuple[Crystals, torch.Tensor] | None]:
        """Rows of the table of known crystals to train on again, and rows that were never used for training."""
        if self._settings.known is None:
            return None, None
        from crystalgfn.proxies.network.splits import DataConfig, split_table

        split = split_table(DataConfig(self._settings.known, "formation_energy", bad_rows="skip"), 0)
        assert split.table.labels is not None
        crystals, labels = split.table.crystals, split.table.labels.float()
        train, val = split.rows["train"], split.rows["val"]
        return (crystals[train], labels[train]), (crystals[val], labels[val])

    def _report(self, frame: pd.DataFrame, number: int) -> None:
        """Write the curves and figures of a round, and ``rounds.csv`` with all rounds so far."""
        from crystalgfn.discovery.figures import rounds_figure

        if not len(frame):
            return
        rounds = rounds_table(frame, self._known, self._settings.label.cap)
        write_frame(rounds, self._out / "rounds.csv")
        last = rounds[rounds["round"] == number]
        if not len(last):
            return
        row = last.iloc[0].to_dict()
        drawn = frame[(frame["round"] == number) & (column(frame, "drawn") == 1)]
        if len(drawn):
            row["rate_of_random_samples"] = Outcome(drawn).rate
        for key, value in row.items():
            if key != "round" and value is not None and np.isfinite(value):
                self._board.add_scalar(f"discover/{key}", float(value), number)
        self._board.add_figure("discover/rounds", rounds_figure(rounds, frame), number)
        self._board.flush()
        rate = f"{row['survivors']:.0f} of {row['evaluated']:.0f} survive"
        self._log(
            f"round {number}: {rate}; proxy before training on them: mean absolute error {row['mae_before']:.3f} "
            f"eV/atom, mean predicted uncertainty {row['uncertainty_before']:.3f} eV/atom"
            + (f"; of random samples, error over uncertainty {row['calibration']:.2f}" if len(drawn) else "")
        )

    def _say(self, what: str) -> None:
        self._bar.set_description(what)

    def _log_detail(self, name: str) -> Callable[[str], None]:
        """A function that appends the lines of a stage to a file, because the terminal shows only one progress bar."""
        path = self._folder(name) / "teach.log"

        def log(line: str) -> None:
            with path.open("a") as file:
                file.write(line + "\n")

        return log

    @staticmethod
    def _write_candidates(path: Path, chosen: list[Candidate]) -> None:
        import pandas as pd

        rows = [
            {
                "formula": formula_text(c.counts),
                "space_group": c.space_group,
                **dict(zip(LATTICE_PARAMETERS, c.lattice, strict=True)),
                "source": c.source,
                "round": c.round,
                **c.numbers,
            }
            for c in chosen
        ]
        names = [*CRYSTAL_COLUMNS, "source", "round"]
        write_frame(pd.DataFrame(rows) if rows else pd.DataFrame(columns=names), path)

    @staticmethod
    def _read_candidates(path: Path) -> list[Candidate]:
        if len(path.read_text().splitlines()) < 2:  # the header alone
            return []
        table = read_table(path)
        frame = table.frame.reset_index(drop=True)
        names = list(frame.columns)
        extra = names[names.index("round") + 1 :]
        found = []
        for row, candidate in enumerate(candidates(table.crystals, "")):
            record = frame.iloc[row]
            numbers = {name: float(record[name]) for name in extra if record[name] == record[name]}
            found.append(
                Candidate(
                    candidate.space_group, candidate.counts, candidate.lattice, str(record["source"]),
                    int(record["round"]), numbers,
                )
            )  # fmt: skip
        return found


def with_predictions(found: list[Candidate], proxy: EnergyAboveHull) -> list[Candidate]:
    """The candidates with the predictions of a proxy.

    Args:
        found: the candidates.
        proxy: a proxy with an uncertainty.

    Returns:
        copies with the numbers ``predicted`` and ``predicted_uncertainty`` [eV/atom].
    """
    if not found:
        return found
    crystals = Crystals.from_arrays(
        [candidate.space_group for candidate in found],
        [candidate.counts for candidate in found],
        [candidate.lattice for candidate in found],
    )
    prediction = predict_in_batches(proxy, crystals)
    assert prediction.uncertainty is not None
    values, doubts = prediction.value.tolist(), prediction.uncertainty.tolist()
    return [
        replace(candidate, numbers={**candidate.numbers, "predicted": value, "predicted_uncertainty": doubt})
        for candidate, value, doubt in zip(found, values, doubts, strict=True)
    ]


def _errors_before(frame: pd.DataFrame, cap: float) -> dict[str, float]:
    """Key to absolute error [eV/atom] of the prediction for the sampled cell, if prediction and label are known."""
    pairs = zip(frame["key"], absolute_errors(frame, cap).tolist(), strict=True)
    return {key: value for key, value in pairs if math.isfinite(value)}


def _bar_callback(bar: Any, title: str) -> Callback:
    """A callback that shows training steps on the progress bar of the run."""

    class Steps(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
            if trainer.global_step % 10 == 0:
                bar.set_description(f"{title} {trainer.global_step}/{trainer.max_steps}")

    return Steps()


def _crystals(rows: pd.DataFrame) -> Crystals:
    """The crystals of rows with formula, space group and cell."""
    return Crystals.from_arrays(
        rows["space_group"].tolist(),
        [parse_formula(formula) for formula in rows["formula"]],
        rows[list(LATTICE_PARAMETERS)].to_numpy(dtype=np.float64).tolist(),
    )
