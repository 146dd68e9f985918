"""Fraction of the allowed elements and space groups that occurs among the samples."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from crystalgfn.callbacks.sink import Sink
from crystalgfn.callbacks.window import Metrics, WindowCallback, crystal_environment, environment
from crystalgfn.crystal.crystallography import N_ELEMENTS, N_SPACE_GROUPS, atomic_numbers
from crystalgfn.crystal.crystals import Crystals
from crystalgfn.crystal.envs import Crystal
from crystalgfn.crystal.group_classes import group_classes
from crystalgfn.gflownet.metrics import Coverage, class_coverage, merge_classes, seen

CLASSES = {
    "crystal_systems": "crystal_system",
    "lattice_systems": "lattice_system",
    "crystal_lattice_systems": "crystal_lattice_system",
    "point_symmetries": "point_symmetry",
}
"""Classifications of space groups: the name in a tag, and the kind of class for `group_classes`."""


class LogCoverage(WindowCallback):
    """Logs which share of the allowed elements, space groups and classes of space groups occurs among the samples.

    The settings of the environment determine what is allowed. Tags: ``coverage/elements``, ``coverage/space_groups``,
    ``coverage/crystal_systems``, ``coverage/lattice_systems``, ``coverage/crystal_lattice_systems`` and
    ``coverage/point_symmetries``, each a share. Tags with ``n_`` before the name give the number that occurs.

    Args:
        every_n_steps: number of training steps between two logs.

    Raises:
        InputError: if the interval is not positive, or the environment builds no crystals.
    """

    def __init__(self, every_n_steps: int = 100) -> None:
        super().__init__(every_n_steps)

    def make_metrics(self, pl_module: LightningModule) -> Metrics:
        return coverage_metrics(crystal_environment(pl_module, self))

    def update(self, metrics: Metrics, pl_module: LightningModule, outputs: Mapping[str, Tensor]) -> None:
        update_coverage(metrics, environment(pl_module).decode(outputs["states"]))

    def report(self, metrics: Metrics, pl_module: LightningModule, sink: Sink) -> None:
        values: dict[str, Tensor] = {}
        for name in ("elements", "space_groups"):
            result = metrics[name].compute()
            values |= {f"coverage/{name}": result["fraction"], f"coverage/n_{name}": result["seen"]}
            groups, possible_groups = result["counts"], metrics[name].possible
        for name, kind in CLASSES.items():
            classes = group_classes(kind)
            counts, possible = (
                merge_classes(x, classes.of_group, len(classes.names)) for x in (groups, possible_groups)
            )
            values |= {
                f"coverage/{name}": class_coverage(counts, possible > 0),
                f"coverage/n_{name}": seen(counts, possible > 0),
            }
        sink.scalars(values)


def coverage_metrics(env: Crystal) -> Metrics:
    """Make metrics for the elements and space groups that an environment allows.

    Args:
        env: an environment of crystals.

    Returns:
        ``elements``, with the class atomic number - 1, and ``space_groups``, with the class number - 1.
    """
    numbers = atomic_numbers()
    elements = torch.zeros(N_ELEMENTS, dtype=torch.bool)
    elements[[numbers[symbol] - 1 for symbol in env.elements]] = True
    groups = torch.zeros(N_SPACE_GROUPS, dtype=torch.bool)
    groups[[number - 1 for number in env.space_groups]] = True
    return {"elements": Coverage(N_ELEMENTS, elements), "space_groups": Coverage(N_SPACE_GROUPS, groups)}


def update_coverage(metrics: Metrics, crystals: Crystals) -> None:
    """Add crystals to the metrics made by `coverage_metrics`."""
    metrics["elements"].update(crystals.counts > 0)
    metrics["space_groups"].update(crystals.space_group - 1)
