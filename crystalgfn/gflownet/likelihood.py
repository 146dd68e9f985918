"""How likely a sampler is to draw given objects: log p(x), exact in trees, else estimated from backward trajectories.

An object can be reached by many trajectories, and p(x) is the sum of P_F over them. Drawn backward from x they give

    p(x) = E [ P_F(τ) / P_B(τ | x) ],  τ ~ P_B(. | x)

an importance-sampling estimate whose relative error does not depend on how small p(x) is, only on how much P_F / P_B
differs between the trajectories of x; for a perfect sampler with the P_B it was trained with it does not differ at all.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from crystalgfn.checks import at_least
from crystalgfn.gflownet.envs.base import Environment
from crystalgfn.gflownet.policies.base import Policy
from crystalgfn.gflownet.rollout import BackwardPolicy, log_forward, sample_backward

BATCH = 4096
"""Trajectories worked on at once, to bound memory."""


class LogLikelihood(NamedTuple):
    """log p(x) of n objects.

    Attributes:
        log_p: (n,) float64; -inf for an object that cannot be drawn.
        standard_error: (n,) float64 of log_p; 0 where it is exact, NaN where it cannot be told from one trajectory.
    """

    log_p: Tensor
    standard_error: Tensor


@torch.no_grad()
def log_likelihood(
    env: Environment,
    policy: Policy,
    states: Tensor,
    generator: Generator,
    trajectories: int = 100,
    backward: BackwardPolicy | None = None,
    batch: int = BATCH,
) -> LogLikelihood:
    """Find log p(x) of terminal states under the policy.

    The logarithm of a mean is low on average, by about half the squared standard error.

    Args:
        env: the environment.
        policy: the policy.
        states: (n, state_size) terminal states.
        generator: the only source of randomness; not touched in a tree.
        trajectories: drawn backward from each object. In a tree there is one, and the result is exact.
        backward: the learned backward policy; None for the environment's own. Any P_B gives the same p(x); the one
            that the policy was trained with gives the smallest error.
        batch: largest number of trajectories at once.
    """
    at_least("trajectories", trajectories, 1)
    if not len(states):
        nothing = torch.zeros(0, dtype=torch.float64, device=states.device)
        return LogLikelihood(nothing, nothing)
    each = 1 if env.is_tree else trajectories
    parts = []
    for rows in states.split(max(1, batch // each)):
        repeated = rows.repeat_interleave(each, 0)
        log_weights = []
        for part in repeated.split(batch):
            sampled = sample_backward(env, part, generator, backward)
            log_weights.append(log_forward(env, policy, sampled) - sampled.log_pb)
        parts.append(_summary(torch.cat(log_weights).view(len(rows), each), env.is_tree))
    log_p, errors = zip(*parts, strict=True)
    return LogLikelihood(torch.cat(log_p), torch.cat(errors))


def _summary(log_weights: Tensor, is_exact: bool) -> LogLikelihood:
    """Estimate of each row of (n, k) log P_F - log P_B."""
    k = log_weights.shape[1]
    if is_exact:
        return LogLikelihood(log_weights[:, 0], torch.zeros_like(log_weights[:, 0]))
    log_mean = log_weights.logsumexp(1) - torch.tensor(k, dtype=torch.float64).log()
    # Weights relative to their mean: the deviation of log p is that of p over p, to first order.
    relative = (log_weights - log_mean.unsqueeze(1)).exp()
    return LogLikelihood(log_mean, relative.std(1) / k**0.5 if k > 1 else torch.full_like(log_mean, float("nan")))
