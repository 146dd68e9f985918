"""Spaces whose exact distribution is known, each with a way to compute what a trained policy samples from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from exact import CrystalSpace, box_density, sampling_floor, terminating_distribution, total_variation
from torch import Tensor

from crystalgfn.crystal.envs import Crystal
from crystalgfn.gflownet.envs import Box, Environment
from crystalgfn.gflownet.module import GFlowNet
from crystalgfn.gflownet.proxies import BoxCorners, Prediction, Proxy
from crystalgfn.gflownet.rewards import Identity, Reward
from crystalgfn.gflownet.rollout import log_forward, sample_backward
from crystalgfn.random import generator


class Space(ABC):
    """An environment and a reward, with the exact distribution that follows.

    Attributes:
        env: the environment.
        proxy: predicts a property.
        reward: makes log R of it.
        exact: (m,) probability of each outcome.
        log_z: log of the sum, or the integral, of R.
    """

    env: Environment
    proxy: Proxy
    reward: Reward
    exact: Tensor
    log_z: float

    @abstractmethod
    def learned(self, model: GFlowNet) -> Tensor:
        """(m,) probability of each outcome under a policy, computed and not estimated."""

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments of `GFlowNet`."""
        return {"env": self.env, "proxy": self.proxy, "reward": self.reward}

    def log_reward(self, objects: Any) -> Tensor:
        return self.reward({self.proxy.name: Prediction(self.proxy(objects))})

    def distance(self, model: GFlowNet) -> tuple[float, float]:
        """Total variation to R / Z in units of the sampling floor of 10,000 samples, and the error of log Z."""
        floor = sampling_floor(self.exact)
        return total_variation(self.learned(model), self.exact) / floor, model.log_z.item() - self.log_z


class FiniteSpace(Space):
    """Terminal states that can be listed, with discrete decisions on the way."""

    def __init__(self, env: Environment, proxy: Proxy, reward: Reward) -> None:
        self.env, self.proxy, self.reward = env, proxy, reward
        log_reward = self.log_reward(env.decode(env.enumerate()))
        self.exact, self.log_z = log_reward.softmax(0), log_reward.logsumexp(0).item()

    def learned(self, model: GFlowNet) -> Tensor:
        return terminating_distribution(self.env, model.policy)


class BoxSpace(Space):
    """A box with a mode near each corner; outcomes are its cells, densities are integrated numerically.

    Args:
        env: the environment.
        proxy: the reward.
        points: of the grid along each axis.
        cells: along each axis; they share the points evenly.
    """

    def __init__(self, env: Box, proxy: BoxCorners, points: int = 64, cells: int = 8) -> None:
        self.env, self.proxy, self.reward = env, proxy, Identity()
        self.points, self.cells, self.dimensions = points, cells, env.dimensions
        axes = [(torch.arange(points, dtype=torch.float64) + 0.5) / points] * env.dimensions
        density = self.log_reward(torch.cartesian_prod(*axes).reshape(-1, env.dimensions)).exp()
        self.exact, self.log_z = self._in_cells(density / density.sum()), proxy.log_z(env.dimensions)

    def _in_cells(self, density: Tensor) -> Tensor:
        each = self.points // self.cells
        blocks = density.reshape([self.cells, each] * self.dimensions)
        return blocks.sum(tuple(range(1, 2 * self.dimensions, 2))).flatten()

    def learned(self, model: GFlowNet) -> Tensor:
        assert isinstance(self.env, Box)
        _, density = box_density(self.env, model.policy, self.points)
        return self._in_cells(density / len(density))


class CompositionSpace(Space):
    """Crystals; outcomes are (space group, composition), lattice parameters are integrated numerically."""

    def __init__(self, env: Crystal, proxy: Proxy, reward: Reward) -> None:
        self.env, self.proxy, self.reward = env, proxy, reward
        self.space = CrystalSpace.of(env, self.log_reward)
        log_weights = self.space.log_weights()
        self.exact, self.log_z = log_weights.softmax(0), log_weights.logsumexp(0).item()

    def learned(self, model: GFlowNet) -> Tensor:
        trajectories = sample_backward(self.env, self.space.states, generator("backward"))
        with torch.no_grad():
            return log_forward(self.env, model.policy, trajectories).exp()
