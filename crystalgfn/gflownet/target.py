"""What a run is to sample: checks that its reward, prior, known objects and loss fit each other."""

from __future__ import annotations

from crystalgfn.errors import InputError
from crystalgfn.gflownet.data_set import DataSet
from crystalgfn.gflownet.envs.base import Environment
from crystalgfn.gflownet.losses import Loss
from crystalgfn.gflownet.prior import Prior
from crystalgfn.gflownet.replay import ReplayBuffer
from crystalgfn.gflownet.rewards import Reward


def check_target(
    env: Environment,
    loss: Loss,
    backward_policy: str,
    reward: Reward | None,
    prior: Prior | None,
    replay: ReplayBuffer | None,
    data_set: DataSet | None,
) -> None:
    """Check that the settings of a `GFlowNet` say what is to be sampled, and that the loss can learn it.

    Raises:
        InputError: if something is missing, is not used, or does not fit.
    """
    name = type(loss).__name__
    if loss.uses_known_alone:
        if data_set is None:
            raise InputError(f"data_set: is missing; {name} learns from the objects of a table, data_set.table")
        for setting, value in {"reward": reward, "prior": prior, "replay": replay}.items():
            if value is not None:
                raise InputError(f"{setting}: is not used by {name}, which learns from data_set alone; leave it out")
    elif prior is not None:
        others = [setting for setting, value in {"replay": replay, "data_set": data_set}.items() if value is not None]
        _check_prior(env, loss, backward_policy, prior, others)
    elif reward is None:
        raise InputError("reward: is missing; give a reward, a prior, or the loss MaximumLikelihood with a data_set")


def _check_prior(env: Environment, loss: Loss, backward_policy: str, prior: Prior, others: list[str]) -> None:
    """Check that a run can have a prior; ``others`` are settings that train on other objects than samples."""
    name = type(loss).__name__
    if loss.forward_looking:
        raise InputError(f"prior: is not possible with the loss {name}; use TrajectoryBalance, or leave it out")
    if env.is_tree:
        return
    # p_prior(x) is a sum over trajectories, so only whole trajectories can be balanced, and their P_B does not matter.
    reasons = [f"the loss {name}"] if loss.uses_states or loss.uses_edges else []
    reasons += [f"temperature {prior.temperature}"] if prior.temperature != 1 else []
    reasons += ["a learned backward_policy"] if backward_policy == "learned" else []
    if reasons + others:
        raise InputError(
            f"prior: is not possible with {', '.join([*reasons, *others])} in {type(env).__name__}, where several "
            "trajectories lead to an object; use TrajectoryBalance or LogPartitionVariance, temperature 1, a fixed "
            "backward_policy, no replay and no data_set"
        )
