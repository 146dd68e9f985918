"""From crystals back to states: which ones an environment can build, and why it cannot build the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from crystalgfn.crystal.crystals import LATTICE_PARAMETERS, Crystals
from crystalgfn.crystal.envs.lattice_parameters import ANGLES, LatticeParameters
from crystalgfn.crystal.envs.space_group import SpaceGroup
from crystalgfn.gflownet.envs.base import BetaMixtureHead, CategoricalHead, Environment

if TYPE_CHECKING:
    from crystalgfn.crystal.envs.crystal import Crystal


def encode_crystals(env: Crystal, crystals: Crystals, tolerance: float) -> tuple[Tensor, list[str]]:
    """Terminal states of crystals.

    Args:
        env: the environment.
        crystals: n crystals in conventional cells.
        tolerance: largest relative deviation of lengths that the lattice system ties together from their mean, and of
            angles from those that it fixes. Cells within it are made exact.

    Returns:
        (n, state_size) the states, rows of zeros where there is none, and for each crystal the reason why there is
        none, an empty text for the others.
    """
    states = torch.zeros(len(crystals), env.state_size, dtype=torch.float64, device=env.device)
    reasons = [""] * len(crystals)
    left = torch.arange(len(crystals), device=env.device)
    crystals = crystals.to(env.device)

    def drop(bad: Tensor, reason: str) -> None:
        nonlocal left
        for row in left[bad].tolist():
            reasons[row] = reason
        left = left[~bad]

    groups = torch.tensor(env.space_groups, device=env.device)
    drop(~torch.isin(crystals.space_group, groups), "space group")
    composition = env.composition
    known = composition.decode(torch.ones(1, composition.state_size, dtype=torch.float64, device=env.device))[0] > 0
    drop((crystals.counts[left] * ~known).sum(1) > 0, "element")
    counts = composition.heads["count"]
    assert isinstance(counts, CategoricalHead)
    drop((crystals.counts[left] > counts.n_options).any(1), "number of atoms of an element")
    most = composition.schedule.count("count")
    drop((crystals.counts[left] > 0).sum(1) > most, "number of elements")
    stage = env.stage("space_group")
    assert isinstance(stage, SpaceGroup)
    numbers = crystals.space_group[left]
    part = composition.terminal_states(crystals.counts[left], numbers)
    drop_now = ~composition.fits(part)
    part, numbers = part[~drop_now], numbers[~drop_now]
    drop(drop_now, "Wyckoff positions")
    neutral = composition.is_neutral(part)
    part, numbers = part[neutral], numbers[neutral]
    drop(~neutral, "charge")
    built = torch.zeros(len(left), env.state_size, dtype=torch.float64, device=env.device)
    width = stage.state_size + composition.state_size
    built[:, :width] = torch.cat([stage.states_of(numbers), part], 1)
    legal = _is_legal(env, built, (*stage.heads, *composition.heads))
    built = built[legal]
    # What is left of what can be wrong: bounds from below, and sums.
    drop(~legal, "number of elements or atoms")
    cells, fitting = _to_system(env, built, crystals.lattice[left], tolerance)
    built, cells = built[fitting], cells[fitting]
    drop(~fitting, "lattice system")
    built[:, width:], faults = _draw(env, built, cells)
    for fault in ("angles", "lengths", "volume per atom"):
        bad = torch.tensor([own == fault for own in faults], dtype=torch.bool, device=env.device)
        faults = [own for own in faults if own != fault]
        built = built[~bad]
        drop(bad, fault)
    states[left] = built
    return states, reasons


def _is_legal(env: Environment, states: Tensor, heads: tuple[str, ...]) -> Tensor:
    """(n,) bool, whether legal decisions of these heads, the last of which led to the states, can have led there."""
    legal = torch.ones(len(states), dtype=torch.bool, device=states.device)
    current = states.clone()
    for head in reversed([name for name in env.schedule if name in heads]):
        rows = (env.previous_head(current) == env.head_position(head)).nonzero().squeeze(1)
        if not len(rows):
            continue
        actions = env.parent_actions(head, current[rows])
        parents = env.step_back(head, current[rows], actions)
        options = env.support(head, parents)
        chosen = actions.long().clamp(0, options.shape[1] - 1)
        legal[rows] &= (chosen == actions).squeeze(1) & options.gather(1, chosen).squeeze(1)
        current[rows] = parents
    return legal & (env.previous_head(current) < 0)


def _to_system(env: Crystal, states: Tensor, cells: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Cells (n, 6) made exact for their lattice systems, and (n,) bool whether they were near enough."""
    stage = env.stage("lattice_parameters")
    assert isinstance(stage, LatticeParameters)
    tied, fixed = stage.prescribed(env.condition("lattice_parameters", states))
    lengths, angles = cells[:, :3], cells[:, 3:]
    # As a difference from a, so that equal lengths stay as they are to the last bit.
    away = torch.where(tied, lengths - lengths[:, :1], 0.0).sum(1) / (1 + tied.sum(1))
    mean = lengths[:, 0] + away
    joined = tied.clone()
    joined[:, 0] = tied.any(1)
    exact_lengths = torch.where(joined, mean.unsqueeze(1), lengths)
    exact_angles = torch.where(fixed > 0, fixed, angles)
    exact = torch.cat([exact_lengths, exact_angles], 1)
    return exact, ((cells - exact).abs() <= tolerance * exact).all(1)


def _draw(env: Crystal, states: Tensor, cells: Tensor) -> tuple[Tensor, list[str]]:
    """Draw given cells (n, 6), parameter by parameter.

    Returns:
        the lattice stage's columns of the states, and for each row what cannot be drawn, an empty text if all can.
    """
    stage = env.stage("lattice_parameters")
    part = stage.start(env.condition("lattice_parameters", states))
    faults = [""] * len(states)
    for name in stage.schedule:
        rows = (stage.next_head(part) == stage.head_position(name)).nonzero().squeeze(1)
        if not len(rows):
            continue
        values = cells[rows][:, LATTICE_PARAMETERS.index(name)].unsqueeze(1)
        head = stage.heads[name]
        assert isinstance(head, BetaMixtureHead)
        logits = torch.zeros(len(rows), head.n_logits, dtype=torch.float64, device=states.device)
        inside = head.distribution(logits, stage.support(name, part[rows])).log_prob(values).isfinite()
        low, high = head.reference
        in_range = (values >= low) & (values <= high)
        for row, ordinary in zip(rows[~inside].tolist(), in_range[~inside, 0].tolist(), strict=True):
            kind = "angles" if name in ANGLES else "volume per atom" if ordinary else "lengths"
            # A cell that has gone wrong once has no meaningful intervals after that.
            faults[row] = faults[row] or kind
        part[rows] = stage.step(name, part[rows], values)
    return part, faults
