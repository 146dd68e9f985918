"""The shipped contracts find what they are for: each broken class fails the test that is named beside it."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import pandas as pd
import pytest
import torch
from helpers import make_crystal
from torch import Tensor

from crystalgfn.crystal.envs import Crystal
from crystalgfn.gflownet.distributions import BetaMixture
from crystalgfn.gflownet.envs import BetaMixtureHead, Environment, HyperGrid
from crystalgfn.gflownet.proxies.base import Proxy
from crystalgfn.testing import EnvironmentContract, ProxyContract


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
