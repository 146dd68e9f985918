"""log p(x) of given objects under a sampler: exact in trees, otherwise estimated from backward trajectories.

Many trajectories can lead to an object, and p(x) is the sum of P_F over them. With trajectories drawn backward from x,

    p(x) = E [ P_F(τ) / P_B(τ | x) ],  τ ~ P_B(. | x)

The relative error of this importance-sampling estimate does not depend on how small p(x) is. It depends only on how
much P_F / P_B differs between the trajectories of x. For a perfect sampler, and with the P_B of its training, P_F / P_B
is the same for all trajectories of x.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from crystalgfn.checks import at_least
from crystalgfn.gflownet.distributed import sum_over_processes
from crystalgfn.gflownet.envs.base import Environment
from crystalgfn.gflownet.policies.base import Policy
from crystalgfn.gflownet.rollout import BackwardPolicy, by_head, log_decisions, log_forward, sample_backward

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
    uniform: float = 0.0,
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
        uniform: probability that a decision is uniformly random instead of the policy's.

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
            log_weights.append(log_forward(env, policy, sampled, uniform) - sampled.log_pb)
        parts.append(_summary(torch.cat(log_weights).view(len(rows), each), env.is_tree))
    log_p, errors = zip(*parts, strict=True)
    return LogLikelihood(torch.cat(log_p), torch.cat(errors))


class Surprisal(NamedTuple):
    """Mean of -log p(x) over objects, in bits, and its parts; for values, log p is the log-density.

    Attributes:
        objects: number of objects.
        decisions: mean number of decisions with a choice for each object.
        bits: mean of -log2 p(x) = log2 P_B - log2 P_F of one trajectory of each object; exact in a tree, otherwise an
            upper bound on average.
        bits_of: the part of each stage of the environment, by its name.
    """

    objects: int
    decisions: float
    bits: float
    bits_of: dict[str, float]

    def values(self) -> dict[str, float]:
        """The numbers by name: ``bits``, ``bits_per_decision`` and ``bits_of_<stage>``."""
        of_stages = {f"bits_of_{stage}": bits for stage, bits in self.bits_of.items()}
        return {"bits": self.bits, "bits_per_decision": self.bits / max(self.decisions, 1e-300), **of_stages}


@torch.no_grad()
def surprisal(
    env: Environment,
    policies: Mapping[str, Policy | None],
    states: Tensor,
    generator: Generator,
    backward: BackwardPolicy | None = None,
) -> dict[str, Surprisal]:
    """Compute how surprising known objects are to policies, from the same trajectories.

    With several processes, each gives its own objects, and the result is that of all.

    Args:
        env: the environment.
        policies: the policies by any names; None for the policy that is uniform at each decision.
        states: (n, state_size) terminal states; at least one on some process.
        generator: the only source of randomness; not used in a tree.
        backward: a learned backward policy, or the uniform one; None for the environment's own P_B.
    """
    stages = list(dict.fromkeys(env.stage_of(head) for head in env.heads))
    counts = torch.zeros(2, dtype=torch.float64, device=states.device)
    nats = torch.zeros(len(policies), len(stages), dtype=torch.float64, device=states.device)
    for part in states.split(BATCH):
        sampled = sample_backward(env, part, generator, backward)
        counts[0] += len(part)
        for head, steps in by_head(sampled.steps).items():
            counts[1] += sum(len(step.rows) for step in steps)
            for row, policy in zip(nats, policies.values(), strict=True):
                row[stages.index(env.stage_of(head))] -= log_decisions(env, policy, head, steps)[1].sum()
        for arrival in sampled.arrivals:
            nats[:, stages.index(env.stage_of(arrival.head))] += arrival.log_pb.sum()
    n, decisions = sum_over_processes(counts).tolist()
    found = {}
    for name, values in zip(policies, sum_over_processes(nats).tolist(), strict=True):
        bits = {stage: value / n / math.log(2) for stage, value in zip(stages, values, strict=True)}
        found[name] = Surprisal(int(n), decisions / n, sum(bits.values()), bits)
    return found


def _summary(log_weights: Tensor, is_exact: bool) -> LogLikelihood:
    """Estimate of each row of (n, k) log P_F - log P_B."""
    k = log_weights.shape[1]
    if is_exact:
        return LogLikelihood(log_weights[:, 0], torch.zeros_like(log_weights[:, 0]))
    log_mean = log_weights.logsumexp(1) - torch.tensor(k, dtype=torch.float64).log()
    # Weights are relative to their mean: to first order, the deviation of log p is the deviation of p divided by p.
    relative = (log_weights - log_mean.unsqueeze(1)).exp()
    return LogLikelihood(log_mean, relative.std(1) / k**0.5 if k > 1 else torch.full_like(log_mean, float("nan")))
