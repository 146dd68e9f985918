"""Losses: pure functions of log-probabilities and flows, and the classes that a config names."""

from crystalgfn.losses.base import Loss
from crystalgfn.losses.flow_matching import FlowMatching, flow_matching
from crystalgfn.losses.regression import penalty
from crystalgfn.losses.state_balance import (
    DetailedBalance,
    ForwardLookingDetailedBalance,
    SubTrajectoryBalance,
    detailed_balance,
    sub_trajectory_balance,
)
from crystalgfn.losses.trajectory_balance import (
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
    "SubTrajectoryBalance",
    "TrajectoryBalance",
    "detailed_balance",
    "flow_matching",
    "log_partition_variance",
    "penalty",
    "sub_trajectory_balance",
    "trajectory_balance",
]
