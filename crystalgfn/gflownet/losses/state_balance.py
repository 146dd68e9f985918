"""Losses with a flow F(s) of every state: detailed balance, and balance of all parts of a trajectory.

A trajectory is written as its L states with a choice, s_0 to s_(L-1), and its terminal state s_L. Between consecutive
states there are one choice and the forced decisions that follow it; log P_B is summed over these decisions. log F(s_0)
is log Z and log F(s_L) is log R(x).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from crystalgfn.checks import positive
from crystalgfn.gflownet.losses.base import Loss
from crystalgfn.gflownet.losses.regression import Regression, penalty
from crystalgfn.registry import LOSSES

if TYPE_CHECKING:
    from crystalgfn.gflownet.balance import Balance


def detailed_balance(
    log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, length: Tensor, regression: Regression = "squared"
) -> Tensor:
    """Penalty of log F(s) + log P_F(s' | s) - log F(s') - log P_B(s | s'), averaged over each trajectory's steps.

    Args:
        log_flow: (n, T + 1) log F of each state, log R at position ``length``; values after it are not used.
        log_pf: (n, T) log P_F of each step.
        log_pb: (n, T) log P_B of each step.
        length: (n,) int64, number of steps of each trajectory.
        regression: see `penalty`.

    Returns:
        (n,) the loss of each trajectory; 0 for a trajectory without steps.

    Source: Bengio et al., "GFlowNet Foundations", JMLR 2023.
    """
    residual = log_flow[:, :-1] + log_pf - log_flow[:, 1:] - log_pb
    is_step = torch.arange(log_pf.shape[1], device=length.device) < length.unsqueeze(1)
    costs = torch.where(is_step, penalty(residual, regression), 0.0)
    return costs.sum(1) / length.clamp_min(1)


def sub_trajectory_balance(
    log_flow: Tensor,
    log_pf: Tensor,
    log_pb: Tensor,
    length: Tensor,
    lamda: float,
    regression: Regression = "squared",
) -> Tensor:
    """Penalties of all parts s_i ... s_j of each trajectory, averaged with weights lambda^(j - i).

    The residual of a part is log F(s_i) + sum log P_F - log F(s_j) - sum log P_B, with sums over the steps of the part.
    For lambda towards 0 this becomes detailed balance, for lambda towards infinity trajectory balance.

    Args:
        log_flow: (n, T + 1) log F of each state, log R at position ``length``; values after it are not used.
        log_pf: (n, T) log P_F of each step.
        log_pb: (n, T) log P_B of each step.
        length: (n,) int64, number of steps of each trajectory.
        lamda: lambda, above 0.
        regression: see `penalty`.

    Returns:
        (n,) the loss of each trajectory; 0 for a trajectory without steps.

    Source: Madan et al., "Learning GFlowNets from partial episodes for improved convergence and stability", ICML 2023.
    """
    steps = torch.arange(log_flow.shape[1], device=length.device)
    sums = torch.nn.functional.pad((log_pf - log_pb).cumsum(1), (1, 0))
    # The residual of a part is the difference between one number at its start and one at its end.
    potential = log_flow - sums
    residual = potential.unsqueeze(2) - potential.unsqueeze(1)
    span = steps.unsqueeze(0) - steps.unsqueeze(1)
    # Weights are relative to the largest one and computed in logarithms, so that long trajectories do not overflow.
    log_weight = span * torch.full((), lamda, dtype=torch.float64, device=length.device).log()
    is_part = (span > 0) & (steps <= length.unsqueeze(1)).unsqueeze(1)
    largest = torch.where(is_part, log_weight, float("-inf")).amax((1, 2), keepdim=True).clamp_min(-1e300)
    weight = torch.where(is_part, (log_weight - largest).exp(), 0.0)
    costs = torch.where(is_part, penalty(residual, regression), 0.0)
    return (weight * costs).sum((1, 2)) / weight.sum((1, 2)).clamp_min(1e-300)


@LOSSES.register
class DetailedBalance(Loss):
    """Detailed balance: log F(s) + log P_F(s' | s) = log F(s') + log P_B(s | s') for every step.

    Args:
        regression: ``squared``, ``huber`` or ``log_cosh``.
    """

    uses_states: ClassVar[bool] = True

    def __init__(self, regression: Regression = "squared") -> None:
        super().__init__(regression)

    def __call__(self, balance: Balance) -> Tensor:
        steps = balance.steps
        return detailed_balance(steps.log_flow, steps.log_pf, steps.log_pb, steps.length, self.regression)


@LOSSES.register
class SubTrajectoryBalance(Loss):
    """SubTB(lambda): balance of all parts of a trajectory; it lies between detailed and trajectory balance.

    Args:
        lamda: lambda, above 0; a part of k steps has the weight lambda^k.
        regression: ``squared``, ``huber`` or ``log_cosh``.

    Raises:
        InputError: if lambda is not positive.
    """

    uses_states: ClassVar[bool] = True

    def __init__(self, lamda: float = 0.9, regression: Regression = "squared") -> None:
        super().__init__(regression)
        positive("lamda", lamda)
        self.lamda = lamda

    def __call__(self, balance: Balance) -> Tensor:
        steps = balance.steps
        return sub_trajectory_balance(
            steps.log_flow, steps.log_pf, steps.log_pb, steps.length, self.lamda, self.regression
        )


@LOSSES.register
class ForwardLookingDetailedBalance(DetailedBalance):
    """Detailed balance with F(s) = R(s) F~(s), where intermediate states have rewards R(s) of their own.

    The network learns only F~(s): how much better the objects that follow s are than R(s). The environment must have
    unfinished objects that the proxies can evaluate, such as HyperGrid; the proxies then evaluate every intermediate
    state.

    Args:
        regression: ``squared``, ``huber`` or ``log_cosh``.

    Source: Pan et al., "Better training of GFlowNets with local credit and incomplete trajectories", ICML 2023, with
    energy -log R.
    """

    forward_looking: ClassVar[bool] = True

    def __init__(self, regression: Regression = "squared") -> None:
        super().__init__(regression)
