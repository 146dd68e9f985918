"""The shipped contracts find what they are for: each broken class fails the test that is named beside it."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import make_crystal
from pymatgen.core import Lattice, Structure
from torch import Tensor

from crystalgfn.atoms.potentials import Evaluation, Potential
from crystalgfn.crystal.envs import Crystal
from crystalgfn.gflownet.distributions import BetaMixture
from crystalgfn.gflownet.envs import BetaMixtureHead, Environment, HyperGrid
from crystalgfn.gflownet.proxies.base import Proxy
from crystalgfn.testing import EnvironmentContract, PotentialContract, ProxyContract


class NoWayOut(HyperGrid):
    def support(self, head: str, states: Tensor) -> Tensor:
        mask = super().support(head, states)
        mask[:, -1] = states[:, 0] < 3
        return mask


class ShortSchedule(HyperGrid):
    def __init__(self) -> None:
        super().__init__()
        self.schedule = self.schedule[:2]


class ForgetsParents(HyperGrid):
    def parent_actions(self, head: str, states: Tensor) -> Tensor:
        mask = super().parent_actions(head, states)
        mask[:, 0] &= states[:, 1] == 0
        return mask


class InventsParents(HyperGrid):
    def parent_actions(self, head: str, states: Tensor) -> Tensor:
        mask = super().parent_actions(head, states)
        mask[:, 0] |= states[:, 1] > 0
        return mask


class StepsBackTooFar(HyperGrid):
    def step_back(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        return super().step_back(head, states, actions).clamp_max(5)


class WritesIntoStates(HyperGrid):
    def step(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        return states.scatter_add_(1, actions.long(), torch.ones_like(actions))


class WideEncoding(HyperGrid):
    def encode(self, head: str, states: Tensor) -> Tensor:
        return torch.cat([super().encode(head, states), states], 1).float()


class TooFewNames(HyperGrid):
    def option_names(self, head: str) -> tuple[str, ...]:
        return ("one",)


class EqualNames(HyperGrid):
    def input_names(self, head: str) -> tuple[str, ...]:
        return ("one",) * self.heads[head].input_size


class ImpliesAColumn(HyperGrid):
    def input_names(self, head: str) -> tuple[str, ...]:
        return tuple(f"column {i}" for i in range(self.heads[head].input_size))

    def implied_inputs(self, head: str) -> dict[str, Tensor]:
        return {"column 0": torch.zeros(self.heads[head].input_size)}


class EncodesTheBatch(HyperGrid):
    def encode(self, head: str, states: Tensor) -> Tensor:
        return super().encode(head, states) - states[:, 0].mean().float()


class DrawsGlobally(HyperGrid):
    def encode(self, head: str, states: Tensor) -> Tensor:
        torch.rand(1)
        return super().encode(head, states)


class SinglePrecision(HyperGrid):
    def step(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        return super().step(head, states, actions).float()


class PersistentTable(HyperGrid):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(2))


class LooseTable(HyperGrid):
    def __init__(self) -> None:
        super().__init__()
        self.table = torch.zeros(2)


class ListsTwice(HyperGrid):
    def enumerate(self) -> Tensor:
        return super().enumerate().repeat(2, 1)


class ListsTooFew(HyperGrid):
    def enumerate(self) -> Tensor:
        return super().enumerate()[1:]


class FirstRowOnly(HyperGrid):
    def to_frame(self, states: Tensor) -> pd.DataFrame:
        return super().to_frame(states).head(1)


class _TwiceTheDensity(BetaMixtureHead):
    def distribution(self, logits: Tensor, support: Tensor) -> BetaMixture:
        low, high = self.reference
        return BetaMixture(logits, support, (low, 2 * high - low), self.log_scale)


def wrong_measure() -> Crystal:
    env = make_crystal(elements=["Na", "Cl"], space_groups=[225])
    env.heads = {
        name: _TwiceTheDensity(**vars(head)) if isinstance(head, BetaMixtureHead) else head
        for name, head in env.heads.items()
    }
    return env


@pytest.mark.parametrize(
    ("make", "test", "message"),
    [
        (NoWayOut, "test_no_dead_ends", "dead end"),
        (ShortSchedule, "test_no_dead_ends", "have not ended"),
        (ForgetsParents, "test_action_is_parent_action", "leaves out the action"),
        (ForgetsParents, "test_legal_actions_are_parent_actions", "P_B of the child is 0"),
        (InventsParents, "test_parent_actions_are_legal", "parent action"),
        (StepsBackTooFar, "test_step_back_undoes_step", "does not return"),
        (WritesIntoStates, "test_states_are_not_modified", "in place"),
        (WideEncoding, "test_encodings", "has shape"),
        (TooFewNames, "test_names", "has 1 names"),
        (EqualNames, "test_names", "'one' twice"),
        (ImpliesAColumn, "test_names", "'column 0' has a column"),
        (EncodesTheBatch, "test_rows_do_not_interact", "depends on the"),
        (DrawsGlobally, "test_same_seed_same_trajectories", "global generator of torch"),
        (SinglePrecision, "test_states_are_finite_float64", "float32"),
        (PersistentTable, "test_tables_follow_the_module", "persistent=False"),
        (LooseTable, "test_tables_follow_the_module", "leaves .*table.* behind"),
        (ListsTwice, "test_enumerate", "twice"),
        (ListsTooFew, "test_enumerate", "leaves out"),
        (FirstRowOnly, "test_tables_for_people", "one row"),
        (wrong_measure, "test_continuous_densities", "integrates to"),
    ],
)
def test_broken_environments_are_found(make: Callable[[], Environment], test: str, message: str) -> None:
    own = getattr(EnvironmentContract(), test)
    arguments = {name: value for name, value in {"n": 48, "scale": 0.0}.items() if name in signature(own).parameters}
    with pytest.raises(AssertionError, match=message):
        own(make(), **arguments)


class Mean(Proxy):
    """A proxy that does what it should; the others below do not."""

    name = "mean"

    def forward(self, objects: Tensor) -> Tensor:
        return objects.mean(1)


class Column(Mean):
    def forward(self, objects: Tensor) -> Tensor:
        return objects.mean(1, keepdim=True)


class NotANumber(Mean):
    def forward(self, objects: Tensor) -> Tensor:
        return objects.mean(1).log()


class Centred(Mean):
    def forward(self, objects: Tensor) -> Tensor:
        return objects.mean(1) - objects.mean()


class Noisy(Mean):
    def forward(self, objects: Tensor) -> Tensor:
        return objects.mean(1) + torch.rand(len(objects))


class Overwrites(Mean):
    def forward(self, objects: Tensor) -> Tensor:
        return objects.mul_(2).mean(1)


class Squeezes(Mean):
    def forward(self, objects: Tensor) -> Tensor:
        return objects.mean(1).squeeze()


class Unnamed(Mean):
    name = "mean of x"


@pytest.mark.parametrize(
    ("make", "test", "message", "arguments"),
    [
        (Column, "test_one_finite_value_for_each_object", r"\(5, 1\)", {}),
        (NotANumber, "test_one_finite_value_for_each_object", "not finite", {}),
        (Centred, "test_rows_do_not_interact", "other objects", {"tolerance": 1e-5}),
        (Noisy, "test_deterministic", "global generator of torch", {}),
        (Overwrites, "test_objects_are_not_modified", "in place", {}),
        (Squeezes, "test_small_batches", "1 objects give shape", {"n": 1}),
        (Unnamed, "test_declares_its_property", "'mean of x'", {}),
    ],
)
def test_broken_proxies_are_found(make: type[Proxy], test: str, message: str, arguments: dict[str, Any]) -> None:
    objects = torch.linspace(-1, 1, 15).reshape(5, 3)
    given = () if test == "test_declares_its_property" else (objects,)
    with pytest.raises(AssertionError, match=message):
        getattr(ProxyContract(), test)(make(), *given, **arguments)


class TestMean(ProxyContract):
    @pytest.fixture
    def proxy(self) -> Mean:
        return Mean()

    @pytest.fixture
    def objects(self) -> Tensor:
        return torch.linspace(-1, 1, 15).reshape(5, 3)


class Springs(Potential):
    """Springs of equal length between all neighbours within a radius: a potential that does what it should."""

    version = "1"
    elements = frozenset({"Na", "Cl"})
    stiffness = 0.1

    def _evaluate(self, structures: Any, forces: bool, stresses: bool) -> Evaluation:
        found = Evaluation.empty(structures, forces, stresses)
        for row, structure in enumerate(structures):
            first, second, images, _ = structure.get_neighbor_list(5.0)
            fractions = structure.frac_coords
            arrows = (fractions[second] + images - fractions[first]) @ structure.lattice.matrix
            lengths = np.linalg.norm(arrows, axis=1)
            # Energy (5 - d)^3 / 2 of each ordered pair, which fades out smoothly at 5 Å.
            found.energies[row] = self.stiffness * ((5 - lengths) ** 3).sum() / 2
            pulls = -1.5 * self.stiffness * ((5 - lengths) ** 2 / lengths)[:, None] * arrows
            if found.forces is not None:
                found.forces[row][:] = 0
                np.add.at(found.forces[row], first, 2 * pulls)
            if found.stresses is not None:
                found.stresses[row] = arrows.T @ pulls / structure.volume
        return found


class OfOneAtom(Springs):
    def _evaluate(self, structures: Any, forces: bool, stresses: bool) -> Evaluation:
        found = super()._evaluate(structures, forces, stresses)
        return Evaluation(found.energies / [len(structure) for structure in structures], found.forces, found.stresses)


class UphillForces(Springs):
    def _evaluate(self, structures: Any, forces: bool, stresses: bool) -> Evaluation:
        found = super()._evaluate(structures, forces, stresses)
        return Evaluation(found.energies, found.forces and [-force for force in found.forces], found.stresses)


class Pressure(Springs):
    """Has the sign of a pressure, not of a stress."""

    def _evaluate(self, structures: Any, forces: bool, stresses: bool) -> Evaluation:
        found = super()._evaluate(structures, forces, stresses)
        return Evaluation(found.energies, found.forces, None if found.stresses is None else -found.stresses)


class FloatForces(Springs):
    def _evaluate(self, structures: Any, forces: bool, stresses: bool) -> Evaluation:
        found = super()._evaluate(structures, forces, stresses)
        single = found.forces and [force.astype(np.float32) for force in found.forces]
        return Evaluation(found.energies, single, found.stresses)


class OneMoleculeAtATime(Springs):
    def _evaluate(self, structures: Any, forces: bool, stresses: bool) -> Evaluation:
        found = super()._evaluate(structures, forces, stresses)
        found.energies[1:] += 1.0
        return found


class Gravity(Springs):
    def _evaluate(self, structures: Any, forces: bool, stresses: bool) -> Evaluation:
        found = super()._evaluate(structures, forces, stresses)
        found.energies[:] += [structure.cart_coords[:, 2].sum() for structure in structures]
        return found


class NoisyForces(Springs):
    def _evaluate(self, structures: Any, forces: bool, stresses: bool) -> Evaluation:
        torch.rand(1)
        return super()._evaluate(structures, forces, stresses)


class Wraps(Springs):
    def _evaluate(self, structures: Any, forces: bool, stresses: bool) -> Evaluation:
        for structure in structures:
            structure.translate_sites(range(len(structure)), [0.5, 0, 0])
        return super()._evaluate(structures, forces, stresses)


class TakesAnything(Springs):
    def evaluate(self, structures: Any, forces: bool = False, stresses: bool = False) -> Evaluation:
        return self._evaluate(structures, forces, stresses)


@pytest.fixture
def salts() -> list[Structure]:
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    cells = [salt.get_primitive_structure(), salt]
    moves = np.random.default_rng(0).normal(scale=0.2, size=(10, 3))
    return [
        Structure(cell.lattice, cell.species, cell.cart_coords + moves[: len(cell)], coords_are_cartesian=True)
        for cell in cells
    ]


@pytest.mark.parametrize(
    ("make", "test", "message", "names"),
    [
        (OfOneAtom, "test_the_energy_is_that_of_the_cell", "Not equal to tolerance", "tolerance"),
        (
            UphillForces,
            "test_forces_are_the_negative_gradient",
            "negative derivative",
            "tolerance derivative_tolerance",
        ),
        (Pressure, "test_stresses_are_the_derivative_by_strain", "derivative of the energy", "derivative_tolerance"),
        (FloatForces, "test_shapes", "are float32", ""),
        (OneMoleculeAtATime, "test_batch_equals_single", "Not equal to tolerance", "tolerance"),
        (Gravity, "test_symmetries", "a shifted structure has other energies", "tolerance"),
        (NoisyForces, "test_is_deterministic_and_changes_nothing", "global generator of torch", ""),
        (Wraps, "test_is_deterministic_and_changes_nothing", "changes the structures", ""),
        (TakesAnything, "test_unknown_elements_are_refused", "DID NOT RAISE", ""),
    ],
)
def test_broken_potentials_are_found(
    make: type[Potential], test: str, message: str, names: str, salts: list[Structure]
) -> None:
    tolerances = {name: {"tolerance": 1e-6, "derivative_tolerance": 0.01}[name] for name in names.split()}
    check = getattr(PotentialContract(), test)
    check(Springs(), salts, **tolerances)
    with pytest.raises((AssertionError, pytest.fail.Exception), match=message):
        check(make(), salts, **tolerances)


def test_a_potential_that_is_not_registered_is_found() -> None:
    with pytest.raises(AssertionError, match="Springs is not registered"):
        PotentialContract().test_is_made_from_its_name(Springs())
