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
from exact import SAMPLES, CrystalSpace, sampling_floor, terminating_distribution, total_variation
from helpers import make_crystal
from torch import Tensor

from crystalgfn.crystal.crystals import Crystals
from crystalgfn.crystal.envs import Crystal
from crystalgfn.gflownet.balance import policy_shapes
from crystalgfn.gflownet.envs import Environment, HyperGrid
from crystalgfn.gflownet.losses import trajectory_balance
from crystalgfn.gflownet.policies import MLP, Policy
from crystalgfn.gflownet.proxies import HyperGridModes, Prediction
from crystalgfn.gflownet.rewards import Identity, Power
from crystalgfn.gflownet.rollout import log_forward, sample_backward, sample_forward
from crystalgfn.proxies.density import Density
from crystalgfn.random import generator

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def train(
    env: Environment, log_reward: Callable[[Tensor], Tensor], loss: Loss, steps: int, batch: int, lr: float
) -> tuple[Policy, float]:
    """The training loop in its simplest form; the policy and log Z."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = MLP(policy_shapes(env), (64, 64))
    log_z = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    optimizer = torch.optim.Adam([{"params": list(policy.parameters())}, {"params": [log_z], "lr": 0.1}], lr=lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    stream = generator("train")
    for step in range(steps):
        trajectories, _ = sample_forward(env, policy, batch, stream, epsilon=0.05)
        log_pf, target = log_forward(env, policy, trajectories), log_reward(trajectories.states)
        if step == 0:
            log_z.data.fill_((target + trajectories.log_pb - log_pf.detach()).mean())
        value = loss(log_z, log_pf, trajectories.log_pb, target).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        scheduler.step()
    return policy, log_z.item()


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


@pytest.mark.long
@pytest.mark.parametrize("name", BROKEN)
def test_broken_losses_are_found(name: str) -> None:
    assert hypergrid_result(BROKEN[name]).flaws()


# A crystal space that can be listed


DENSITY, POWER = Density(), Power(1.5)


def log_reward(crystals: Crystals) -> Tensor:
    """(n,) log R of a reward for dense crystals."""
    return POWER({"density": Prediction(DENSITY(crystals))})


def dense_crystals(env: Crystal, steps: int, batch: int) -> tuple[CrystalSpace, Policy, float]:
    """The exact space with this reward, and the policy and log Z that were trained on it."""
    space = CrystalSpace.of(env, log_reward)
    with torch.enable_grad():
        policy, log_z = train(
            env, lambda states: log_reward(env.decode(states)), trajectory_balance, steps=steps, batch=batch, lr=1e-2
        )
    return space, policy, log_z


@torch.no_grad()
def check_crystal_space(env: Crystal, tolerance: float) -> None:
    space, policy, log_z = dense_crystals(env, steps=400, batch=128)
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


@pytest.mark.long
def test_crystal_space() -> None:
    env = make_crystal(
        space_groups=[123, 129, 221, 225], elements=["Na", "Mg", "O", "Cl"], max_elements=3, max_atoms=8,
        max_atoms_per_element=4, lengths=(3.0, 6.0), components=3,
    )  # fmt: skip
    check_crystal_space(env, 0.02)


@pytest.mark.long
def test_crystal_space_with_bounded_volume() -> None:
    env = make_crystal(
        space_groups=[123, 129, 221, 225], elements=["Na", "Mg", "O", "Cl"], max_elements=3, max_atoms=8,
        max_atoms_per_element=4, lengths=(3.0, 6.0), components=3, volume_per_atom=(9.0, 22.0),
    )  # fmt: skip
    check_crystal_space(env, 0.05)


# Cells whose angles a bound on the volume limits


@pytest.mark.long
@torch.no_grad()
def test_triclinic_and_monoclinic_cells_with_bounded_volume() -> None:
    """Cells of six atoms or more need upright angles; the trained sampler has all of them, with their shares."""
    env = make_crystal(
        space_groups=[1, 14, 123], elements=["Na", "Mg", "O", "Cl"], max_elements=3, max_atoms=9,
        max_atoms_per_element=4, lengths=(3.0, 5.0), components=3, volume_per_atom=(8.0, 20.0),
    )  # fmt: skip
    space, policy, log_z = dense_crystals(env, steps=800, batch=256)
    log_weights = space.integrated_log_weights(exponent=-1.5)
    exact = log_weights.softmax(0)
    learned = log_forward(env, policy, sample_backward(env, space.states, generator("backward"))).exp()
    atoms = env.composition.n_atoms(env.part("composition", space.states))
    is_triclinic = env.decode(space.states).space_group == 1
    floor = sampling_floor(exact)
    assert exact[is_triclinic & (atoms >= 6)].sum() > 0.02, "the case says nothing"
    assert abs(learned.sum().item() - 1) < 1e-4
    assert total_variation(learned, exact) < 1.5 * floor
    # log Z is too small by the divergence of the learned densities, mixtures of three Betas, from the exact ones.
    assert -0.1 < log_z - log_weights.logsumexp(0).item() < 0.02
