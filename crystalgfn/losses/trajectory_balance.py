"""Trajectory balance."""

from __future__ import annotations

from torch import Tensor


def trajectory_balance(log_z: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor) -> Tensor:
    """Mean square of log Z + log P_F(tau) - log R(x) - log P_B(tau | x).

    It is zero for all trajectories exactly if the sampler draws x with probability R(x) / Z.

    Args:
        log_z: () estimate of the logarithm of the partition function.
        log_pf: (n,) log P_F of each trajectory.
        log_pb: (n,) log P_B of each trajectory.
        log_reward: (n,) log R of the objects at their ends.

    Returns:
        () the loss.

    Source: Malkin et al., "Trajectory balance: Improved credit assignment in GFlowNets", NeurIPS 2022.
    """
    return (log_z + log_pf - log_reward - log_pb).square().mean()
