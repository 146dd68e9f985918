"""A trained policy as a prior: the reward is its probability of an object times a function f of the properties.

With R(x) = p_prior(x) f(x), the balance of a trajectory τ that leads to x is

    log Z + log P_F(τ) - log P_prior(τ) - log f(x) = 0

Source: relative trajectory balance, Venkatraman et al., "Amortizing intractable inference in diffusion models for
vision, language, and control", NeurIPS 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from crystalgfn.checks import between, positive
from crystalgfn.errors import InputError
from crystalgfn.gflownet.checkpoint_files import find_checkpoint, networks_for
from crystalgfn.gflownet.envs.base import Environment
from crystalgfn.gflownet.likelihood import log_likelihood
from crystalgfn.gflownet.policies.base import Policy
from crystalgfn.gflownet.rollout import BackwardPolicy, Step, Trajectories, log_decisions, log_forward


class Prior(nn.Module):
    """A trained policy whose probability of an object is a factor of the reward: R(x) = p_prior(x)^(1/T) f(x).

    p_prior is the probability in the environment of the run: at each decision, the policy's probabilities of the legal
    options are renormalised. In an environment with narrower limits than that of the prior, p_prior is therefore the
    prior restricted to it. The weights are fixed. Every checkpoint of a run contains them.

    Args:
        checkpoint: a checkpoint file, the folder of a run, or the name of a model that comes with the package, such as
            ``universal``. Its policy must be of the same kind as that of the run, and all inputs and options of the
            run's decisions must be among its own.
        temperature: T; above 1 the prior counts less, and with infinity not at all.
        uniform: probability that a decision of the prior is uniformly random instead of the policy's. Above 0 every
            legal object keeps a positive probability, whatever the policy has learned.

    Raises:
        InputError: if a setting is not allowed.
    """

    def __init__(self, checkpoint: str | Path, temperature: float = 1.0, uniform: float = 0.001) -> None:
        super().__init__()
        positive("prior.temperature", temperature)
        between("prior.uniform", uniform, 0, 1, without=1)
        self.checkpoint, self.temperature, self.uniform = checkpoint, temperature, uniform
        self.network: Policy | None = None
        self.is_read: Tensor
        self.register_buffer("is_read", torch.zeros((), dtype=torch.bool))

    def prepare(self, env: Environment, network: Policy) -> None:
        """Read the weights, if the file exists; otherwise they must come from a checkpoint of the run.

        Args:
            env: the environment of the run.
            network: a policy for this environment, whose weights are replaced.

        Raises:
            InputError: if the file cannot be read, or its policy does not fit.
        """
        self.network = network.requires_grad_(False)
        path = find_checkpoint(self.checkpoint, "model.prior.checkpoint")
        if path.is_file():
            network.load_state_dict(networks_for(env, network, path, "model.prior.checkpoint"))
            self.is_read.fill_(True)

    def check(self) -> None:
        """Check that the weights are known.

        Raises:
            InputError: if they are not, because the file is missing and there is no checkpoint of the run.
        """
        if not self.is_read:
            raise InputError(f"model.prior.checkpoint: there is no file {self.checkpoint}")

    @property
    def policy(self) -> Policy:
        """The network; raises an `InputError` if its weights are unknown."""
        self.check()
        assert self.network is not None
        return self.network

    @torch.no_grad()
    def log_trajectories(self, env: Environment, trajectories: Trajectories) -> Tensor:
        """(n,) float64 log P_prior of n trajectories."""
        return log_forward(env, self.policy, trajectories, self.uniform)

    @torch.no_grad()
    def log_decisions(self, env: Environment, head: str, steps: Sequence[Step]) -> Tensor:
        """(m,) float64 log P_prior of the choices of one head."""
        return log_decisions(env, self.policy, head, steps, self.uniform)[1]

    def log_p(
        self, env: Environment, states: Tensor, generator: Generator, backward: BackwardPolicy | None = None
    ) -> Tensor:
        """(n,) float64 log p_prior of n terminal states: exact in a tree, otherwise estimated as `log_likelihood`."""
        return log_likelihood(env, self.policy, states, generator, backward=backward, uniform=self.uniform).log_p
