"""Cells that a bound on the volume leaves, against random cells and numerical integration."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from exact import margins_of
from helpers import make_crystal, reachable_compositions
from torch import Tensor
from torch.quasirandom import SobolEngine

from crystalgfn.crystal.crystallography import CRYSTAL_LATTICE_SYSTEMS
from crystalgfn.crystal.crystals import ANGLES, LATTICE_PARAMETERS, LENGTHS
from crystalgfn.crystal.envs import Crystal, LatticeParameters
from crystalgfn.crystal.envs.cell_shape import Ranges, TriclinicShapes, triclinic_shapes, unit_volume
from crystalgfn.crystal.envs.cell_space import FREE, CellSpace, fixed_angles
from crystalgfn.crystal.restriction import Restriction
from crystalgfn.errors import InputError
from crystalgfn.random import generator

RANGES: list[Ranges] = [
    ((50, 150), (50, 150), (50, 150)),
    ((20, 60), (20, 60), (20, 60)),
    ((95, 110), (95, 110), (95, 110)),
    ((60, 70), (95, 130), (50, 85)),
    ((100, 170), (20, 80), (10, 150)),
]


@pytest.mark.parametrize("margin", [0.1, 1.0, 40.0])
@pytest.mark.parametrize("ranges", RANGES, ids=str)
def test_intervals_are_those_of_sufficient_volumes(ranges: Ranges, margin: float) -> None:
    """All random shapes are in the intervals, and all choices in the intervals lead to sufficient shapes."""
    shapes = triclinic_shapes(ranges, margin)
    assert shapes is not None
    low, high = torch.tensor(ranges, dtype=torch.float64).unbind(1)
    stream = generator("shapes")
    angles = low + (high - low) * torch.rand(50_000, 3, dtype=torch.float64, generator=stream)
    angles = angles[margins_of(angles) >= margin]
    volumes = unit_volume(angles)
    least, largest = shapes.volumes
    assert volumes.max() <= largest * (1 + 1e-9) and volumes.min() >= least * (1 - 1e-9)
    for share in (0.0, 0.1, 0.5, 0.9, 0.99, 1 - 2e-6):
        bound = least + (largest - least) * share
        fitting = angles[volumes >= bound]
        bounds = torch.full((len(fitting),), bound, dtype=torch.float64)
        intervals = (
            shapes.alpha_interval(bounds),
            shapes.beta_interval(fitting[:, 0], bounds),
            shapes.gamma_interval(fitting[:, 0], fitting[:, 1], bounds),
        )
        for column, (first, last) in enumerate(intervals):
            assert (fitting[:, column] >= first - 1e-9).all() and (fitting[:, column] <= last + 1e-9).all()
        # Half of the choices at an end of the interval.
        u = torch.rand(2_000, 3, dtype=torch.float64, generator=stream)
        u = torch.where(torch.rand(2_000, 3, generator=stream) < 0.5, u.round(), u)
        bounds = torch.full((len(u),), bound, dtype=torch.float64)
        alpha = between(shapes.alpha_interval(bounds), u[:, 0])
        beta = between(shapes.beta_interval(alpha, bounds), u[:, 1])
        chosen = torch.stack([alpha, beta, between(shapes.gamma_interval(alpha, beta, bounds), u[:, 2])], 1)
        assert (unit_volume(chosen) >= bound * (1 - 1e-7)).all(), "a dead end"
        assert (margins_of(chosen) >= margin - 1e-6).all()
        assert (chosen >= low - 1e-6).all() and (chosen <= high + 1e-6).all()


def between(ends: tuple[Tensor, Tensor], u: Tensor) -> Tensor:
    low, high = ends
    assert (high >= low - 1e-5).all(), "an empty interval"
    return low + (high - low) * u


def test_two_ways_to_the_ends_of_alpha() -> None:
    """Ranges with right angles have a closed form; the search must agree with it."""
    shapes = triclinic_shapes(((50, 150), (50, 150), (60, 90)), 1.0)
    assert isinstance(shapes, TriclinicShapes)
    least = torch.linspace(0.2, 0.999, 50, dtype=torch.float64)
    torch.testing.assert_close(shapes.alpha_interval(least), shapes._ends_of_alpha(least), rtol=0, atol=1e-8)


# The share of a range that is legal, by walks and by integration

CELLS: dict[str, dict[str, Any]] = {
    "triclinic": {"volume": (380.0, 500.0)},
    "triclinic, narrow": {"volume": (250.0, 262.0)},
    "triclinic, leaning": {"volume": (300.0, 400.0), "gamma": (100.0, 130.0)},
    "triclinic, no bound on angles": {"volume": (20.0, 200.0), "angles": (70.0, 110.0)},
    "monoclinic": {"volume": (400.0, 480.0)},
    "monoclinic, obtuse and small": {"volume": (20.0, 40.0), "beta": (90.0, 150.0), "lengths": (3.0, 4.0)},
    "monoclinic, acute and small": {"volume": (20.0, 30.0), "beta": (50.0, 80.0), "lengths": (3.0, 4.0)},
}


@pytest.mark.parametrize("name", CELLS)
def test_walks_reach_the_whole_legal_volume(name: str) -> None:
    """The mean of 1 / density of uniform walks is the volume of what they reach, in units of the ranges."""
    case = dict(CELLS[name])
    system, volume = name.partition(",")[0], case.pop("volume")
    angles, lengths = case.pop("angles", (50.0, 150.0)), case.pop("lengths", (3.0, 8.0))
    ranges = dict.fromkeys(LENGTHS, lengths) | dict.fromkeys(ANGLES, angles) | case
    stage = LatticeParameters(ranges, 1.0, 3, log_lengths=False)
    walks = 20_000
    condition = torch.tensor([[CRYSTAL_LATTICE_SYSTEMS.index(system), *volume]], dtype=torch.float64)
    condition[:, 1:] = condition[:, 1:].log()
    states, log_density = stage.start(condition.expand(walks, -1)), torch.zeros(walks, dtype=torch.float64)
    stream = generator("walks", name)
    for head in stage.schedule:
        if head in FREE[system]:
            logits = torch.zeros(walks, stage.heads[head].n_logits, dtype=torch.float64)
            distribution = stage.forward_distribution(head, states, logits).uniform()
            actions = distribution.sample(stream)
            log_density += distribution.log_prob(actions)
            states = stage.step(head, states, actions)
    cells = stage.decode(states)
    volumes = unit_volume(cells[:, 3:]) * cells[:, :3].prod(1)
    assert (volumes >= volume[0] * (1 - 1e-6)).all() and (volumes <= volume[1] * (1 + 1e-6)).all()
    reached = (-log_density).exp()
    truth = legal_share(system, ranges, volume)
    error = float(reached.std()) / walks**0.5
    assert truth > 1e-4 and error < 0.05 * truth
    assert abs(float(reached.mean()) - truth) < 4 * error + 0.005 * truth


def legal_share(system: str, ranges: dict[str, tuple[float, float]], volume: tuple[float, float]) -> float:
    """Share of the cells in the ranges that have an allowed volume, from quasi-random points."""
    points = SobolEngine(6, scramble=True, seed=0).draw(2**19, dtype=torch.float64)
    for column, name in enumerate(LATTICE_PARAMETERS):
        low, high = ranges[name]
        points[:, column] = low + (high - low) * points[:, column]
        if name not in FREE[system]:
            points[:, column] = fixed_angles(system)[name]
    volumes = unit_volume(points[:, 3:]) * points[:, :3].prod(1)
    legal = (volumes >= volume[0]) & (volumes <= volume[1])
    if system == "triclinic":
        legal &= margins_of(points[:, 3:]) >= 1.0
    return float(legal.double().mean())


# Numbers of atoms

TIGHT: dict[str, Any] = {
    "space_groups": [1, 2, 14, 123, 225], "elements": ["Na", "Mg", "O", "Cl"], "max_elements": 3, "max_atoms": 12,
    "max_atoms_per_element": 6, "components": 3,
}  # fmt: skip


def pairs(env: Crystal) -> set[tuple[int, tuple[int, ...]]]:
    return {(number, counts) for number in env.space_groups for counts in reachable_compositions(env, number)}


@pytest.mark.parametrize(
    "bound", [{"lengths": (3.0, 8.0)}, {"lengths": (3.0, 5.0)}, {"lengths": (3.0, 5.0), "angles": (60.0, 90.0)}]
)
def test_a_bound_on_the_volume_loses_no_composition(bound: dict[str, Any]) -> None:
    """A composition is possible exactly if its number of atoms fits a cell of its system."""
    every = make_crystal(**TIGHT, **bound)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = Crystal(**TIGHT, **bound, volume_per_atom=(8.0, 20.0))
    # Three right angles are in the ranges, so the longest edges decide.
    expected = {(g, c) for g, c in pairs(every) if sum(c) * 8.0 <= bound["lengths"][1] ** 3}
    assert pairs(env) == expected
    assert {g for g, _ in expected} >= {1, 2, 14, 123}


def test_flat_cells_that_are_left_out_are_told() -> None:
    """Cells of few atoms whose shortest lengths are too long unless the cell is flat."""
    settings = TIGHT | {"lengths": (6.0, 8.0), "volume_per_atom": (8.0, 20.0)}
    text = "volume_per_atom: some crystals .* triclinic with 2-10 atoms .* monoclinic with 6-10 atoms"
    with pytest.warns(UserWarning, match=text):
        env = Crystal(**settings)
    assert {sum(counts) for _, counts in pairs(env)} == {11, 12}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env.restricted(Restriction(elements=["Mg", "O"]))  # what the model has lost is not said again
    # On one side of 90 degrees, flat monoclinic cells have one interval of beta.
    with pytest.warns(UserWarning, match=r"triclinic with 2-10 atoms \([\d.]+% of the triclinic cells") as caught:
        env = Crystal(**settings, angles=(90.0, 150.0))
    assert not any("monoclinic" in str(w.message) for w in caught)
    assert {sum(counts) for number, counts in pairs(env) if number == 14} == {6, 8, 10, 12}
    with pytest.raises(InputError, match=r"leave no cell .* triclinic with 2-10 atoms"):
        Crystal(**settings | {"space_groups": [1], "max_atoms": 10})


def test_few_atoms_without_a_composition_are_not_told() -> None:
    """One atom cannot be charge neutral, so nothing is lost."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Crystal(**TIGHT, lengths=(3.0, 8.0), volume_per_atom=(8.0, 20.0))
    with pytest.warns(UserWarning, match="triclinic with 1 atoms"):
        Crystal(**TIGHT, lengths=(3.0, 8.0), volume_per_atom=(8.0, 20.0), charge_neutral=False)


def test_share_of_some_numbers_of_atoms() -> None:
    space = CellSpace(dict.fromkeys(LENGTHS, (3.0, 8.0)) | dict.fromkeys(ANGLES, (50.0, 150.0)), 1.0)
    shares = [space.share("triclinic", (8.0, 20.0), [n], range(1, 64)) for n in range(1, 64)]
    assert sum(shares) == pytest.approx(1) and max(shares) == max(shares[2:30])
