"""The contract of environments, on every one the package has."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from helpers import PAPER_ELEMENTS, PAPER_GROUPS, make_crystal
from torch import Tensor

from crystalgfn.crystal.crystallography import CRYSTAL_LATTICE_SYSTEMS, oxidation_state_set
from crystalgfn.crystal.envs import Composition, LatticeParameters, SpaceGroup
from crystalgfn.crystal.envs.lattice_parameters import ANGLES, LENGTHS
from crystalgfn.gflownet.envs import Box, Environment, HyperGrid, Sequence, Set, Stack
from crystalgfn.registry import ENVIRONMENTS
from crystalgfn.testing import EnvironmentContract

PAPER = {"space_groups": PAPER_GROUPS, "elements": PAPER_ELEMENTS}


class _Doped(Stack):
    """Which items are allowed depends on a walk on a grid, and a word follows."""

    def __init__(self) -> None:
        super().__init__({"grid": HyperGrid(1, 3), "first": Set(5, 2), "second": Set(4, 3), "word": Sequence("abc", 2)})

    def condition(self, name: str, states: Tensor) -> Tensor:
        condition = super().condition(name, states).clone()
        if name == "first":
            condition[:, 0] = (self.part("grid", states)[:, 0] > 0).double()
        return condition


REGISTERED: dict[str, Callable[[], Environment]] = {
    "HyperGrid": HyperGrid,
    "HyperGrid, 1 x 2": lambda: HyperGrid(1, 2),
    "HyperGrid, 3 x 4": lambda: HyperGrid(3, 4),
    "Box": Box,
    "Box, one step": lambda: Box(1, 1, 0.6, 2),
    "Box, many steps": lambda: Box(3, 4, 0.15, 3),
    "Set": lambda: Set(6, 3),
    "Set, all": lambda: Set(3, 3),
    "Sequence": lambda: Sequence("01", 6),
    "Sequence, both ends": lambda: Sequence("abc", 4, "both"),
    "Sequence, one letter": lambda: Sequence("ab", 1, "both"),
    "Stack": lambda: Stack({"grid": HyperGrid(2, 3), "crystal": make_crystal(elements=["Na", "Cl"])}),
    "Stack, continuous": lambda: Stack({"items": Set(3, 2), "box": Box(1, 3, 0.3), "word": Sequence("ab", 2, "both")}),
    "Stack, discrete": lambda: Stack({"one": HyperGrid(2, 3), "two": HyperGrid(1, 3), "word": Sequence("ab", 3)}),
    "Stack, with conditions": _Doped,
    "Crystal": make_crystal,
    "Crystal, paper": lambda: make_crystal(**PAPER),
    "Crystal, paper, volume": lambda: make_crystal(**PAPER, volume_per_atom=(5.0, 40.0)),
    "Crystal, mixed valence": lambda: make_crystal(
        elements=["Fe", "Mn", "Cu", "V", "O", "S"], space_groups=[1, "140-150", 225, 227], mixed_valence=True
    ),
    "Crystal, not neutral": lambda: make_crystal(
        space_groups=[2, 14, 62, 194, 230], max_elements=3, charge_neutral=False, max_atoms_per_element=8
    ),
    "Crystal, tight atoms": lambda: make_crystal(
        elements=PAPER_ELEMENTS, min_atoms=5, max_atoms=7, min_elements=2, max_elements=3, space_groups=["1-230"]
    ),
    "Crystal, many atoms": lambda: make_crystal(
        space_groups=[1, 12, 47, 123, 187, 216, 227], elements=["Na", "Mg", "Al", "O", "F", "Cl"],
        min_atoms=24, max_atoms=30, min_atoms_per_element=2, max_atoms_per_element=12, max_elements=4,
    ),
    "Crystal, narrow cells": lambda: make_crystal(
        space_groups=[1, 2, 14, 62, 123, 148, 167, 194, 225, 227], elements=PAPER_ELEMENTS, lengths=(4.0, 6.0),
        angles=(85.0, 121.0), volume_per_atom=(8.0, 12.0), max_atoms=30,
    ),
    "Crystal, upright cells alone are large enough": lambda: make_crystal(
        space_groups=[1, 2, 14, 62, 225], elements=["Na", "Mg", "O", "Cl"], lengths=(3.0, 8.0),
        volume_per_atom=(8.0, 20.0), max_atoms=63,
    ),
    "Crystal, sharp triclinic cells": lambda: make_crystal(
        elements=["Na", "Cl"], lengths=(2.0, 9.0), angles=(20.0, 70.0), angle_margin=5.0, log_lengths=False,
        volume_per_atom=(2.0, 30.0), components=2,
    ),
}  # fmt: skip


class _LatticeOf(LatticeParameters):
    """The lattice stage alone, for one crystal-lattice system and a range of volumes [Å³]."""

    def __init__(self, system: str, volume: tuple[float, float] | None, **ranges: tuple[float, float]) -> None:
        defaults = dict.fromkeys(LENGTHS, (2.0, 12.0)) | dict.fromkeys(ANGLES, (50.0, 130.0))
        super().__init__(defaults | ranges, angle_margin=1.0, components=3, log_lengths=True)
        ends = torch.tensor(volume or (0.0, float("inf")), dtype=torch.float64).log().tolist()
        self._default = (float(CRYSTAL_LATTICE_SYSTEMS.index(system)), *ends)

    def default_condition(self) -> Tensor:
        return torch.tensor(self._default, dtype=torch.float64)


def _composition(group: int, **changes: Any) -> Composition:
    elements = ("F", "O", "Cl", "Fe", "Na")
    known = oxidation_state_set("pymatgen_common")
    settings: dict[str, Any] = {"elements": elements, "atoms_by_group": {group: (1, 40)}, "n_elements": (1, 4)}
    settings |= {"count": (1, 8), "charge_neutral": True, "mixed_valence": False, "oxidation_states": known}
    return Composition(**(settings | changes))


STAGES: dict[str, Callable[[], Environment]] = {
    "SpaceGroup": lambda: SpaceGroup(range(1, 231)),
    "SpaceGroup, few": lambda: SpaceGroup([2, 16, 225]),
    "Composition, 1": lambda: _composition(1),
    "Composition, 187": lambda: _composition(187, mixed_valence=True),
    "Composition, 225": lambda: _composition(225, n_elements=(2, 3)),
    "Composition, tight": lambda: _composition(62, atoms_by_group={62: (8, 12)}, charge_neutral=False),
    **{
        f"LatticeParameters, {s}": lambda s=s: _LatticeOf(s, None)  # type: ignore[misc]
        for s in CRYSTAL_LATTICE_SYSTEMS
    },
    "LatticeParameters, volume": lambda: _LatticeOf("triclinic", (100.0, 130.0)),
    "LatticeParameters, upright triclinic cells": lambda: _LatticeOf("triclinic", (1200.0, 1500.0)),
    "LatticeParameters, leaning triclinic cells": lambda: _LatticeOf("triclinic", (900.0, 950.0), gamma=(100.0, 130.0)),
    "LatticeParameters, upright monoclinic cells": lambda: _LatticeOf("monoclinic", (1500.0, 1700.0)),
    "LatticeParameters, flat monoclinic cells": lambda: _LatticeOf("monoclinic", (1.0, 7.0), beta=(95.0, 130.0)),
    "LatticeParameters, tied lengths": lambda: _LatticeOf("cubic", (30.0, 300.0), a=(2.0, 9.0), b=(3.0, 8.0)),
}

SETTINGS = REGISTERED | STAGES


@cache
def _built(name: str) -> Environment:
    return SETTINGS[name]()


@pytest.fixture(params=SETTINGS)
def env(request: pytest.FixtureRequest) -> Environment:
    return _built(request.param)


class TestEnvironments(EnvironmentContract):
    @pytest.fixture
    def n(self) -> int:
        return 24


def test_every_registered_environment_is_tested() -> None:
    own = {name for name in ENVIRONMENTS if ENVIRONMENTS.get(name).__module__.startswith("crystalgfn.")}
    tested = {type(_built(name)).__name__ for name in REGISTERED}
    assert own <= tested, f"add a setting of {own - tested} to REGISTERED"
