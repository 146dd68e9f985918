"""Losses of whole trajectories: trajectory balance, and the variance of log Z."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from crystalgfn.gflownet.distributed import mean_over_processes, n_processes
from crystalgfn.gflownet.losses.base import Loss
from crystalgfn.gflownet.losses.regression import Regression, penalty
from crystalgfn.registry import LOSSES

if TYPE_CHECKING:
    from crystalgfn.gflownet.balance import Balance


def trajectory_balance(
    log_z: Tensor, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, regression: Regression = "squared"
) -> Tensor:
    """Penalty of log Z + log P_F(tau) - log R(x) - log P_B(tau | x).

    If it is zero for all trajectories, the sampler draws x with probability R(x) / Z.

    Args:
        log_z: () estimate of the logarithm of the partition function.
        log_pf: (n,) log P_F of each trajectory.
        log_pb: (n,) log P_B of each trajectory.
        log_reward: (n,) log R of the terminal state of each trajectory.
        regression: see `penalty`.

    Returns:
        (n,) the loss of each trajectory.

    Source: Malkin et al., "Trajectory balance: Improved credit assignment in GFlowNets", NeurIPS 2022.
    """
    return penalty(log_z + log_pf - log_reward - log_pb, regression)


def log_partition_variance(
    log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, regression: Regression = "squared"
) -> Tensor:
    """Penalty of the difference between each trajectory's estimate of log Z and the mean of the batch.

    The estimate is log R(x) + log P_B(tau | x) - log P_F(tau). If it is the same for all trajectories, the sampler
    draws x with probability R(x) / Z.

    Args:
        log_pf: (n,) log P_F of each trajectory.
        log_pb: (n,) log P_B of each trajectory.
        log_reward: (n,) log R of the terminal state of each trajectory.
        regression: see `penalty`.

    Returns:
        (n,) the loss of each trajectory; with ``squared``, the mean loss is the variance.

    Source: Richter et al., "VarGrad: A low-variance gradient estimator for variational inference", NeurIPS 2020; for
    GFlowNets Zhang et al., "Robust scheduling with GFlowNets", ICLR 2023.
    """
    log_z = log_reward + log_pb - log_pf
    return penalty(log_z - log_z.mean(), regression)


@LOSSES.register
class TrajectoryBalance(Loss):
    """Trajectory balance: log Z + log P_F(tau) = log R(x) + log P_B(tau | x) for whole trajectories.

    Args:
        regression: ``squared``, ``huber`` or ``log_cosh``.
    """

    def __init__(self, regression: Regression = "squared") -> None:
        super().__init__(regression)

    def __call__(self, balance: Balance) -> Tensor:
        return trajectory_balance(balance.log_z, balance.log_pf, balance.log_pb, balance.log_reward, self.regression)


@LOSSES.register
class LogPartitionVariance(Loss):
    """Variance of log Z over a batch (VarGrad): trajectory balance without a parameter for log Z.

    With several processes, the mean is taken over the trajectories of all processes.

    Args:
        regression: ``squared``, ``huber`` or ``log_cosh``.
    """

    learns_log_z: ClassVar[bool] = False

    def __init__(self, regression: Regression = "squared") -> None:
        super().__init__(regression)

    def __call__(self, balance: Balance) -> Tensor:
        if n_processes() == 1:
            return log_partition_variance(balance.log_pf, balance.log_pb, balance.log_reward, self.regression)
        log_z = balance.log_reward + balance.log_pb - balance.log_pf
        # The mean over processes carries no gradients; the last term adds its part of them, the mean slope.
        distance = log_z - mean_over_processes(log_z.unsqueeze(1))
        with torch.enable_grad():
            at = distance.detach().requires_grad_()
            slopes = torch.autograd.grad(penalty(at, self.regression).sum(), at)[0]
        slope = mean_over_processes(slopes.unsqueeze(1))
        return penalty(distance, self.regression) - slope * (log_z - log_z.detach())
