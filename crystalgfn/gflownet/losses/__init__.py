"""Losses: pure functions of log-probabilities and flows, and the classes that are named in a config."""

from crystalgfn.gflownet.losses.base import Loss
from crystalgfn.gflownet.losses.flow_matching import FlowMatching, flow_matching
from crystalgfn.gflownet.losses.likelihood import MaximumLikelihood
from crystalgfn.gflownet.losses.regression import penalty
from crystalgfn.gflownet.losses.state_balance import (
    DetailedBalance,
    ForwardLookingDetailedBalance,
    SubTrajectoryBalance,
    detailed_balance,
    sub_trajectory_balance,
)
from crystalgfn.gflownet.losses.trajectory_balance import (
    LogPartitionVariance,
    TrajectoryBalance,
    log_partition_variance,
    trajectory_balance,
)

__all__ = [
    "DetailedBalance",
    "FlowMatching",
    "ForwardLookingDetailedBalance",
    "LogPartitionVariance",
    "Loss",
    "MaximumLikelihood",
    "SubTrajectoryBalance",
    "TrajectoryBalance",
    "detailed_balance",
    "flow_matching",
    "log_partition_variance",
    "penalty",
    "sub_trajectory_balance",
    "trajectory_balance",
]
