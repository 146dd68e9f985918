"""Distributions that are known exactly, and those that policies sample from, computed and not estimated."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from helpers import reachable_compositions
from torch import Tensor
from torch.quasirandom import SobolEngine

from crystalgfn.crystal.crystallography import element_symbols
from crystalgfn.crystal.crystals import LATTICE_PARAMETERS, Crystals
from crystalgfn.crystal.envs import Crystal, LatticeParameters
from crystalgfn.crystal.envs.cell_shape import unit_volume
from crystalgfn.gflownet.envs import Box, Environment
from crystalgfn.gflownet.policies import Policy
from crystalgfn.random import generator

SAMPLES = 10_000


def total_variation(one: Tensor, two: Tensor) -> float:
    return (one - two).abs().sum().item() / 2


def margins_of(angles: Tensor) -> Tensor:
    """(n,) twice the least distance of s, s - alpha, ... of (n, 3) angles from 0 and 180 degrees."""
    half_sum = angles.sum(1) / 2
    four = torch.cat([half_sum.unsqueeze(1), half_sum.unsqueeze(1) - angles], 1)
    return 2 * torch.minimum(four, 180 - four).amin(1)


def sampling_floor(probabilities: Tensor, samples: int = SAMPLES) -> float:
    """Mean total variation between a distribution and its own empirical one."""
    draws = torch.multinomial(probabilities.expand(50, -1), samples, True, generator=generator("floor"))
    counts = torch.stack([row.bincount(minlength=len(probabilities)) for row in draws])
    return sum(total_variation(row / samples, probabilities) for row in counts) / len(counts)


@torch.no_grad()
def terminating_distribution(env: Environment, policy: Policy) -> Tensor:
    """(m,) probability of each terminal state of an environment with discrete decisions, in order of `enumerate`."""
    listed = env.enumerate()
    place = {tuple(row): i for i, row in enumerate(listed.tolist())}
    result = torch.zeros(len(listed), dtype=torch.float64)
    states, flow = env.initial_states(1), torch.ones(1, dtype=torch.float64)
    while len(states):
        reached, arriving = [], []
        due = env.next_head(states)
        for position, (name, head) in enumerate(env.heads.items()):
            current, own = states[due == position], flow[due == position]
            if not len(current):
                continue
            support = env.support(name, current)
            distribution = head.distribution(policy(name, env.encode(name, current)), support)
            rows, options = support.nonzero(as_tuple=True)
            log_prob = torch.stack(
                [distribution.log_prob(torch.full((len(current), 1), float(k))) for k in range(support.shape[1])], 1
            )
            reached.append(env.step(name, current[rows], options.unsqueeze(1).to(torch.float64)))
            arriving.append(own[rows] * log_prob[rows, options].to(torch.float64).exp())
        states, where = torch.unique(torch.cat(reached), dim=0, return_inverse=True)
        flow = torch.zeros(len(states), dtype=torch.float64).index_add(0, where, torch.cat(arriving))
        ended = env.is_terminal(states)
        for row, probability in zip(states[ended].tolist(), flow[ended].tolist(), strict=True):
            result[place[tuple(row)]] += probability
        states, flow = states[~ended], flow[~ended]
    return result


@dataclass(frozen=True)
class CrystalSpace:
    """All (space group, composition) of an environment, with their exact weights.

    Attributes:
        env: the environment.
        log_reward: log R of n crystals.
        states: (m, state_size) a state for each, in which the lattice parameters are still open.
    """

    env: Crystal
    log_reward: Callable[[Crystals], Tensor]
    states: Tensor

    @staticmethod
    def of(env: Crystal, log_reward: Callable[[Crystals], Tensor]) -> CrystalSpace:
        columns = [element_symbols().index(symbol) for symbol in env.elements]
        groups, rows = [], []
        for number in env.space_groups:
            compositions = reachable_compositions(env, number)
            groups += [number] * len(compositions)
            rows += compositions
        counts = torch.zeros(len(rows), 94, dtype=torch.int64)
        counts[:, columns] = torch.tensor(rows)
        numbers = torch.tensor(groups)
        parts = [
            env.stage("space_group").states_of(numbers)[0],
            env.composition.states_under(numbers.unsqueeze(1), counts)[0],
        ]
        states = torch.cat([*parts, torch.zeros(len(rows), 10, dtype=torch.float64)], 1)
        states[:, -10:] = env.stage("lattice_parameters").start(env.condition("lattice_parameters", states))
        return CrystalSpace(env, log_reward, states)

    @property
    def groups_and_counts(self) -> Tensor:
        """(m, 95) number of the group and atoms of each element."""
        crystals = self.env.decode(self.states)
        return torch.cat([crystals.space_group.unsqueeze(1), crystals.counts], 1)

    def free_lengths(self) -> Tensor:
        """(m,) how many lengths are free: one in cubic cells, two in tetragonal ones."""
        return torch.where(self.env.decode(self.states).space_group >= 195, 1, 2)

    def grid(self, row: int, points: int) -> tuple[Crystals, Tensor, Tensor]:
        """Cells of one (space group, composition) at the midpoints of a grid in units of the lengths' range.

        Returns:
            the crystals; (p,) which of them have a legal volume per atom; and (p, 2) their a and c.
        """
        lattice = self.env.stage("lattice_parameters")
        assert isinstance(lattice, LatticeParameters)
        low, high = lattice._ranges["a"]
        axis = low + (high - low) * (torch.arange(points, dtype=torch.float64) + 0.5) / points
        cubic = self.free_lengths()[row] == 1
        a_and_c = torch.stack([axis, axis], 1) if cubic else torch.cartesian_prod(axis, axis)
        chosen = self.env.decode(self.states[row].expand(len(a_and_c), -1))
        cells = torch.cat([a_and_c[:, [0, 0, 1]], torch.full((len(a_and_c), 3), 90.0, dtype=torch.float64)], 1)
        crystals = Crystals(chosen.space_group, chosen.counts, cells)
        bounds = self.env.volume_per_atom or (0.0, math.inf)
        per_atom = crystals.volume / crystals.n_atoms
        return crystals, (per_atom >= bounds[0]) & (per_atom <= bounds[1]), a_and_c

    def log_weights(self, points: int = 120) -> Tensor:
        """(m,) log of the integral of R over the lattice parameters, each in units of its range."""
        weights = []
        for row in range(len(self.states)):
            crystals, legal, _ = self.grid(row, points)
            weights.append(torch.where(legal, self.log_reward(crystals), -math.inf).logsumexp(0) - math.log(len(legal)))
        return torch.stack(weights)

    def integrated_log_weights(self, exponent: float) -> Tensor:
        """(m,) as `log_weights` for cells of any system, if R is a power of the volume: R ~ volume^exponent.

        Integrated over quasi-random cells, with relative errors of about 0.1 %.
        """
        lattice = self.env.stage("lattice_parameters")
        assert isinstance(lattice, LatticeParameters)
        points = SobolEngine(6, scramble=True, seed=0).draw(2**18, dtype=torch.float64)
        low, high = torch.tensor([lattice._ranges[name] for name in LATTICE_PARAMETERS], dtype=torch.float64).unbind(1)
        points = low + (high - low) * points
        condition = self.env.condition("lattice_parameters", self.states)
        tied, fixed = lattice.prescribed(condition)
        chosen = self.env.decode(self.states)
        bounds = self.env.volume_per_atom or (0.0, math.inf)
        # R of one cell of each composition, with the volume 1.
        unit = torch.tensor([[1.0] * 3 + [90.0] * 3], dtype=torch.float64).expand(len(tied), -1)
        log_reward = self.log_reward(Crystals(chosen.space_group, chosen.counts, unit))
        weights = torch.full((len(tied),), -math.inf, dtype=torch.float64)
        for system in condition[:, 0].unique():
            rows = (condition[:, 0] == system).nonzero().squeeze(1)
            cells = points.clone()
            cells[:, :3] = torch.where(tied[rows[0]], cells[:, :1], cells[:, :3])
            cells[:, 3:] = torch.where(fixed[rows[0]] > 0, fixed[rows[0]], cells[:, 3:])
            volumes = unit_volume(cells[:, 3:]) * cells[:, :3].prod(1)
            if not (fixed[rows[0]] > 0).any():
                volumes = volumes.where(margins_of(cells[:, 3:]) >= self.env._settings.angle_margin, math.nan)
            for row in rows.tolist():
                per_atom = volumes / chosen.n_atoms[row]
                legal = (per_atom >= bounds[0]) & (per_atom <= bounds[1])
                weights[row] = volumes[legal].log().mul(exponent).logsumexp(0) - math.log(len(volumes))
        return weights + log_reward

    def log_density(self, policy: Policy, row: int, a_and_c: Tensor) -> Tensor:
        """(p,) log of the policy's density of a, and c where it is free, given one (space group, composition)."""
        env, states = self.env, self.states[row].expand(len(a_and_c), -1)
        total = torch.zeros(len(a_and_c), dtype=torch.float64)
        for head, column in (("a", 0), ("c", 1))[: int(self.free_lengths()[row])]:
            values = a_and_c[:, column : column + 1]
            distribution = env.forward_distribution(head, states, policy(head, env.encode(head, states)))
            total += distribution.log_prob(values)
            states = env.step(head, states, values)
        return total


@torch.no_grad()
def box_density(env: Box, policy: Policy, points: int = 64, nodes: int = 24) -> tuple[Tensor, Tensor]:
    """Density of the points that a policy samples in a box, by quadrature over all trajectories.

    One increment after the other: p(y) = integral of p(y - delta) P_F(delta | y - delta), along one axis, by
    Gauss-Legendre over the increments that can have led to y, with p interpolated between the points of a grid.

    Returns:
        (points^d, d) midpoints of the cells of a grid, and (points^d,) the density there.
    """
    d = env.dimensions
    middle = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    axes = [reach * (2 * middle - 1) for reach in env._reach[1:]]
    # The first step: each coordinate is its own increment.
    grid = torch.cartesian_prod(*[axes[0]] * d).reshape(-1, d)
    states, density = env.initial_states(len(grid)), torch.ones(len(grid), dtype=torch.float64)
    for i in range(d):
        head, actions = f"first_x{i}", grid[:, i : i + 1]
        logits = policy(head, env.encode(head, states))
        density *= env.forward_distribution(head, states, logits).log_prob(actions).exp()
        states = env.step(head, states, actions)
    density = density.reshape([points] * d)
    places, weights = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(nodes))
    for step in range(1, env.steps):
        for i in range(d):
            head, turn = f"x{i}", step * d + i
            old, new = axes[step - 1], axes[step]
            # Axes before this one have been moved already.
            own = [new if j <= i else old for j in range(d)]
            grid = torch.cartesian_prod(*own).reshape(-1, d)
            after = torch.cat([grid, torch.full((len(grid), 1), turn + 1.0)], 1)
            low, high = env.parent_actions(head, after).unsqueeze(2).unbind(1)
            actions = (low + high) / 2 + (high - low) / 2 * places
            before = after.repeat_interleave(nodes, 0)
            before[:, i] -= actions.flatten()
            before[:, -1] -= 1
            logits = policy(head, env.encode(head, before))
            pf = env.forward_distribution(head, before, logits).log_prob(actions.reshape(-1, 1)).exp()
            at = ((before[:, i] - old[0]) / (old[1] - old[0])).clamp(0, points - 1)
            left = at.long().clamp_max(points - 2)
            table = density.movedim(i, -1).reshape(-1, points)
            row = torch.arange(points**d).reshape([points] * d).movedim(i, -1)
            line = torch.empty(points**d, dtype=torch.int64)
            line[row.reshape(-1, points)] = torch.arange(points ** (d - 1)).unsqueeze(1).expand(-1, points)
            line = line.repeat_interleave(nodes)
            share = at - left
            earlier = table[line, left] * (1 - share) + table[line, left + 1] * share
            density = ((earlier * pf).reshape(-1, nodes) * weights * (high - low) / 2).sum(1).reshape([points] * d)
    return torch.cartesian_prod(*[axes[-1]] * d).reshape(-1, d) + 0.5, density.flatten()
