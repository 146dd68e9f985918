"""Trained samplers against distributions that are known exactly, and broken losses that must not pass.

What a policy samples is computed, not estimated: by dynamic programming over the cells of a grid, and by evaluating
every (space group, composition) of a small crystal space, whose lattice parameters are integrated numerically. The
yardstick for the total variation is the *sampling floor*: what a perfect sampler's empirical distribution would show.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from helpers import make_crystal, reachable_compositions
from torch import Tensor

from crystalgfn.crystallography import element_symbols
from crystalgfn.crystals import Crystals
from crystalgfn.envs import Crystal, Environment, HyperGrid, LatticeParameters, SpaceGroup
from crystalgfn.losses import trajectory_balance
from crystalgfn.policies import MLP, Policy
from crystalgfn.proxies import Prediction
from crystalgfn.proxies.density import Density
from crystalgfn.proxies.hypergrid import HyperGridModes
from crystalgfn.random import generator
from crystalgfn.rewards import Identity, Power
from crystalgfn.rollout import log_forward, sample_backward, sample_forward

SAMPLES = 10_000

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def train(
    env: Environment, log_reward: Callable[[Tensor], Tensor], loss: Loss, steps: int, batch: int, lr: float
) -> tuple[Policy, float]:
    """The training loop in its simplest form; the policy and log Z."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = MLP({name: (head.input_size, head.n_logits) for name, head in env.heads.items()}, (64, 64))
    log_z = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    optimizer = torch.optim.Adam([{"params": list(policy.parameters())}, {"params": [log_z], "lr": 0.1}], lr=lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    stream = generator("train")
    for step in range(steps):
        trajectories, _ = sample_forward(env, policy, batch, stream, epsilon=0.05)
        log_pf, target = log_forward(env, policy, trajectories), log_reward(trajectories.states)
        if step == 0:
            log_z.data.fill_((target + trajectories.log_pb - log_pf.detach()).mean())
        value = loss(log_z, log_pf, trajectories.log_pb, target)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        scheduler.step()
    return policy, log_z.item()


def total_variation(one: Tensor, two: Tensor) -> float:
    return (one - two).abs().sum().item() / 2


def sampling_floor(probabilities: Tensor) -> float:
    """Mean total variation between a distribution and its own empirical one from SAMPLES samples."""
    draws = torch.multinomial(probabilities.expand(50, -1), SAMPLES, True, generator=generator("floor"))
    counts = torch.stack([row.bincount(minlength=len(probabilities)) for row in draws])
    return sum(total_variation(row / SAMPLES, probabilities) for row in counts) / len(counts)


@dataclass(frozen=True)
class Result:
    """What a trained sampler has learned, beside the truth."""

    exact: Tensor
    learned: Tensor
    sampled: Tensor
    log_z_exact: float
    log_z: float

    def flaws(self) -> list[str]:
        """Why the sampler does not draw x with probability R(x) / Z; empty if it does."""
        floor = sampling_floor(self.exact)
        found = []
        if not abs(self.learned.sum().item() - 1) < 1e-4:
            found.append(f"probabilities sum to {self.learned.sum().item()}")
        learned, sampled = total_variation(self.learned, self.exact), total_variation(self.sampled, self.exact)
        if not learned < floor:
            found.append(f"the policy's distribution is {learned:.4f} from R / Z; the floor is {floor:.4f}")
        if not sampled < 2 * floor:
            found.append(f"{SAMPLES} samples are {sampled:.4f} from R / Z; the floor is {floor:.4f}")
        if not abs(self.log_z - self.log_z_exact) < 0.02:
            found.append(f"log Z is {self.log_z:.3f}, not {self.log_z_exact:.3f}")
        return found


# The hypergrid


def terminating_distribution(env: HyperGrid, policy: Policy) -> Tensor:
    """(cells,) probability of stopping in each cell, in the order of `enumerate`."""
    cells = env.enumerate()
    cells[:, -1] = 0
    strides = env.height ** torch.arange(env.dimensions - 1, -1, -1)
    visits = torch.zeros(len(cells), dtype=torch.float64)
    visits[0] = 1.0
    stops = torch.zeros_like(visits)
    for total in range(env.dimensions * (env.height - 1) + 1):
        level = torch.nonzero(cells.sum(1) == total).squeeze(1)
        logits = policy("move", env.encode("move", cells[level]))
        distribution = env.forward_distribution("move", cells[level], logits)
        for option in range(env.dimensions + 1):
            actions = torch.full((len(level), 1), float(option), dtype=torch.float64)
            flow = visits[level] * distribution.log_prob(actions).exp()
            if option == env.dimensions:
                stops[level] += flow
            else:
                moves = flow > 0
                visits.index_add_(0, level[moves] + strides[option], flow[moves])
    return stops


@torch.no_grad()
def hypergrid_result(loss: Loss) -> Result:
    env, proxy, reward = HyperGrid(2, 8), HyperGridModes(8), Identity()

    def log_reward(states: Tensor) -> Tensor:
        return reward({proxy.name: Prediction(proxy(env.decode(states)))})

    with torch.enable_grad():
        policy, log_z = train(env, log_reward, loss, steps=300, batch=128, lr=1e-2)
    exact = log_reward(env.enumerate())
    sampled, _ = sample_forward(env, policy, SAMPLES, generator("samples"))
    index = env.decode(sampled.states) @ torch.tensor([env.height, 1])
    return Result(
        exact=exact.softmax(0),
        learned=terminating_distribution(env, policy),
        sampled=index.bincount(minlength=len(exact)) / SAMPLES,
        log_z_exact=exact.logsumexp(0).item(),
        log_z=log_z,
    )


def test_hypergrid() -> None:
    assert hypergrid_result(trajectory_balance).flaws() == []


BROKEN: dict[str, Loss] = {
    "log P_B is left out": lambda log_z, log_pf, log_pb, log_reward: trajectory_balance(
        log_z, log_pf, torch.zeros_like(log_pb), log_reward
    ),
    "log R has the wrong sign": lambda log_z, log_pf, log_pb, log_reward: trajectory_balance(
        log_z, log_pf, log_pb, -log_reward
    ),
    "log Z is left out": lambda log_z, log_pf, log_pb, log_reward: trajectory_balance(
        0 * log_z, log_pf, log_pb, log_reward
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_losses_are_found(name: str) -> None:
    assert hypergrid_result(BROKEN[name]).flaws()


# A crystal space that can be listed


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
        stage, numbers = env.stage("space_group"), torch.tensor(groups)
        assert isinstance(stage, SpaceGroup)
        parts = [stage.states_of(numbers), env.composition.terminal_states(counts, numbers)]
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
def check_crystal_space(env: Crystal, tolerance: float) -> None:
    density, power = Density(), Power(1.5)

    def log_reward(crystals: Crystals) -> Tensor:
        return power({"density": Prediction(density(crystals))})

    space = CrystalSpace.of(env, log_reward)
    with torch.enable_grad():
        policy, log_z = train(
            env, lambda states: log_reward(env.decode(states)), trajectory_balance, steps=400, batch=128, lr=1e-2
        )
    log_weights = space.log_weights()
    trajectories = sample_backward(env, space.states, generator("backward"))
    sampled, _ = sample_forward(env, policy, SAMPLES, generator("samples"))
    crystals = env.decode(sampled.states)
    drawn = torch.cat([crystals.space_group.unsqueeze(1), crystals.counts], 1)
    position = {tuple(row): i for i, row in enumerate(space.groups_and_counts.tolist())}
    index = torch.tensor([position[tuple(row)] for row in drawn.tolist()])
    result = Result(
        exact=log_weights.softmax(0),
        learned=log_forward(env, policy, trajectories).exp(),
        sampled=index.bincount(minlength=len(log_weights)) / SAMPLES,
        log_z_exact=log_weights.logsumexp(0).item(),
        log_z=log_z,
    )
    assert result.flaws() == []
    # The most likely one of each kind of cell; the others have the same shape of density.
    for free in (1, 2):
        row = int(torch.where(space.free_lengths() == free, log_weights, -math.inf).argmax())
        crystals, legal, a_and_c = space.grid(row, 300)
        exact = torch.where(legal, log_reward(crystals), -math.inf).softmax(0)
        own = torch.where(legal, space.log_density(policy, row, a_and_c), -math.inf).exp() / len(legal)
        assert abs(own.sum().item() - 1) < 0.02, "the density does not integrate to 1 in units of the range"
        assert total_variation(own, exact) < tolerance, f"lattice density of {free} free lengths"


def test_crystal_space() -> None:
    env = make_crystal(
        space_groups=[123, 129, 221, 225], elements=["Na", "Mg", "O", "Cl"], max_elements=3, max_atoms=8,
        max_atoms_per_element=4, lengths=(3.0, 6.0), components=3,
    )  # fmt: skip
    check_crystal_space(env, 0.02)


def test_crystal_space_with_bounded_volume() -> None:
    env = make_crystal(
        space_groups=[123, 129, 221, 225], elements=["Na", "Mg", "O", "Cl"], max_elements=3, max_atoms=8,
        max_atoms_per_element=4, lengths=(3.0, 6.0), components=3, volume_per_atom=(9.0, 22.0),
    )  # fmt: skip
    check_crystal_space(env, 0.05)
