"""log p(x) of given objects under a sampler: exact in trees, otherwise estimated from backward trajectories.

Many trajectories can lead to an object, and p(x) is the sum of P_F over them. With trajectories drawn backward from x,

    p(x) = E [ P_F(τ) / P_B(τ | x) ],  τ ~ P_B(. | x)

The relative error of this importance-sampling estimate does not depend on how small p(x) is. It depends only on how
much P_F / P_B differs between the trajectories of x. For a perfect sampler, and with the P_B of its training, P_F / P_B
is the same for all trajectories of x.
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
"""Number of trajectories that are processed at once, to bound memory."""


class LogLikelihood(NamedTuple):
    """log p(x) of n objects.

    Attributes:
        log_p: (n,) float64; -inf for an object that cannot be sampled.
        standard_error: (n,) float64, of log_p; 0 if log_p is exact, NaN if it is estimated from one trajectory only.
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
    """Compute log p(x) of terminal states under the policy.

    An estimate is the logarithm of a mean. On average it is too low, by about half the squared standard error.

    Args:
        env: the environment.
        policy: the policy.
        states: (n, state_size) terminal states.
        generator: the only source of randomness; not used in a tree.
        trajectories: number of trajectories drawn backward from each object. In a tree, one trajectory is used, and
            the result is exact.
        backward: a learned backward policy, or the uniform one; None for the environment's own P_B. Every P_B gives
            the same p(x); the P_B with which the policy was trained gives the smallest error.
        batch: largest number of trajectories at once.

    Returns:
        log p(x) and its standard error.

    Raises:
        InputError: if ``trajectories`` is below 1.
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
    # Weights are relative to their mean: to first order, the deviation of log p is the deviation of p divided by p.
    relative = (log_weights - log_mean.unsqueeze(1)).exp()
    return LogLikelihood(log_mean, relative.std(1) / k**0.5 if k > 1 else torch.full_like(log_mean, float("nan")))
