"""Discovery runs of seconds: tiny networks, few crystals, and an evaluation that is made up."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import yaml
from pymatgen.core import Lattice, Structure

from crystalgfn.atoms.potentials import CHGNet
from crystalgfn.atoms.potentials.references import ElementReferences
from crystalgfn.atoms.run import Workers
from crystalgfn.crystal.crystals import Crystals
from crystalgfn.crystal.envs import Crystal
from crystalgfn.discovery.seeds import random_crystals
from crystalgfn.proxies.energy_above_hull import SHIPPED_HULL
from crystalgfn.proxies.hull import ConvexHull, hull_energies, load_hull
from crystalgfn.proxies.network.error_model import ErrorConfig
from crystalgfn.proxies.network.fitting import OptimizerConfig
from crystalgfn.proxies.network.networks import NetworkSizes
from crystalgfn.proxies.network.splits import DataConfig
from crystalgfn.proxies.network.training import train_proxy

RESULTS = "crystalgfn.discovery.stages.results"
"""What evaluates crystals in a run; tests put `Evaluation` there."""

ENV = {"space_groups": [2, 123, "221-225"], "elements": ["Li", "Na", "O", "F"], "max_elements": 3}


class Evaluation:
    """Makes up results in the form of `crystalgfn.atoms.build.build`; one in seven fails, some are given up.

    Args:
        order: seeds the order in which results come; None for that of the tasks.
        stop_after: crystals after which it raises `KeyboardInterrupt`; None for never.
    """

    def __init__(self, order: int | None = None, stop_after: int | None = None) -> None:
        self.order, self.stop_after = order, stop_after
        self.asked: list[str] = []
        self.workers: Workers | None = None

    def __call__(self, tasks: Sequence[Mapping[str, Any]], workers: Workers, *_: Any) -> Iterator[dict[str, Any]]:
        self.workers = workers
        tasks = list(tasks)
        if self.order is not None:
            random.Random(self.order).shuffle(tasks)
        for task in tasks:
            if self.stop_after is not None and len(self.asked) >= self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(task["id"])
            yield made_up(task)


@cache
def _hull() -> ConvexHull:
    return load_hull(SHIPPED_HULL)


@cache
def _references() -> dict[str, float]:
    return dict(ElementReferences.load(CHGNet()).energies)


def made_up(task: Mapping[str, Any]) -> dict[str, Any]:
    """A result that depends on the crystal alone."""
    number = int(sha256(task["id"].encode()).hexdigest()[:8], 16)
    row: dict[str, Any] = {"id": task["id"], "reason": "", "seconds": 1.0, "cpu_seconds": 0.5}
    if number % 7 == 0:
        return row | {"reason": "not built: made up"}
    if number % 11 == 0:
        return row | {"reason": "not built: too slow", "gave_up_after": 300.0}
    counts = Crystals.from_arrays([task["space_group"]], [task["counts"]], [task["lattice"]]).counts
    elements = sum(_references()[symbol] * n for symbol, n in task["counts"].items()) / sum(task["counts"].values())
    base = float(elements + hull_energies(counts, _hull())[0])
    symbols = [*task["counts"], *task["counts"]][:2]
    built = Structure.from_spacegroup("Pm-3m", Lattice.cubic(4.0), symbols, [[0, 0, 0], [0.5, 0.5, 0.5]])
    relaxed = built.copy().scale_lattice(60.0)
    sampled = number % 1000 / 1000
    row |= {"tries": task["tries"], "energy_built": base + sampled, "structure_built": built.as_dict()}
    row |= {"space_group_built": 221, "space_group_relaxed": 221, "volume_change": -0.05, "converged": True}
    return row | {"energy_relaxed": base + sampled / 5, "structure_relaxed": relaxed.as_dict(), "settled": True}


def prepare(folder: Path) -> tuple[Path, Path]:
    """A table of known crystals and weights of a tiny network that was trained on it, in a folder."""
    crystals = random_crystals(Crystal(**ENV), 120, seed=9)
    batch = Crystals.from_arrays(
        [c.space_group for c in crystals], [dict(c.counts) for c in crystals], [list(c.lattice) for c in crystals]
    )
    energy = torch.rand(len(batch), generator=torch.Generator().manual_seed(0)) - 2
    known, weights = folder / "known.csv", folder / "tiny.pt"
    batch.to_frame().assign(formation_energy=energy.numpy()).to_csv(known, index=False)
    train_proxy(
        DataConfig(known, label="formation_energy"),
        weights,
        network=NetworkSizes(members=2, embedding=4, hidden=8, layers=1),
        optimizer=OptimizerConfig(epochs=1, min_steps=5, batch_size=16),
        error=ErrorConfig(epochs=1, embedding=4, hidden=4),
        log=lambda _: None,
    )
    return known, weights


def settings_of(known: Path | None, weights: Path) -> dict[str, Any]:
    """Settings of `crystalgfn discover` for a run of two rounds, without ``out``."""
    return {
        "known": None if known is None else str(known),
        "rounds": 2,
        "evaluations": 4,
        "first_steps": 4,
        "steps": 3,
        "final_steps": 3,
        "final": 5,
        "start": {"random": 3} if known is None else {"random": 3, "perturbed": 3, "real": 2},
        "screen": {"pool": 30, "max_per_group": 2},
        "label": {"jobs": 2, "timeout": 50.0},
        "tuning": {"steps": 2, "batch_size": 8, "error_steps": 2},
        "fit": {
            "trainer": {
                "max_steps": 4,
                "log_every_n_steps": 1,
                "callbacks": [{"class_path": "crystalgfn.callbacks.Checkpoints", "init_args": {"every_n_steps": 1}}],
            },
            "model": {
                "env": {"class_path": "Crystal", "init_args": ENV},
                "proxy": {"class_path": "EnergyAboveHull", "init_args": {"weights": str(weights)}},
                "reward": {"class_path": "Boltzmann", "init_args": {"beta": 4.0, "caution": 1.0, "enough": 0.0}},
                "policy": {"class_path": "MLP", "init_args": {"hidden": [16]}},
                "batch_size": 8,
                "epsilon": 0.1,
                "exploration_steps": 4,
            },
        },
    }


def write_settings(folder: Path, settings: Mapping[str, Any], name: str = "discover.yaml") -> Path:
    """The settings as a file in the folder."""
    path = folder / name
    path.write_text(yaml.safe_dump(dict(settings), sort_keys=False))
    return path
