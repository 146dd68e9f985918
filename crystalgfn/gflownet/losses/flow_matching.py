"""Flow matching: the flow into a state equals the flow out of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from crystalgfn.gflownet.losses.base import Loss
from crystalgfn.gflownet.losses.regression import Regression, penalty
from crystalgfn.registry import LOSSES

if TYPE_CHECKING:
    from crystalgfn.gflownet.balance import Balance


def flow_matching(
    log_inflow: Tensor, log_outflow: Tensor, rows: Tensor, n: int, regression: Regression = "squared"
) -> Tensor:
    """Penalty of log sum F(s -> s') - log sum F(s' -> s''), averaged over the states s' of each trajectory.

    Args:
        log_inflow: (m,) log of the flow into each visited state, from all of its parents.
        log_outflow: (m,) log of the flow out of each visited state; log R for a terminal state.
        rows: (m,) int64, the trajectory of each state.
        n: number of trajectories.
        regression: see `penalty`.

    Returns:
        (n,) the loss of each trajectory.

    Source: Bengio et al., "Flow network based generative models for non-iterative diverse candidate generation",
    NeurIPS 2021.
    """
    costs = penalty(log_inflow - log_outflow, regression)
    total = torch.zeros(n, dtype=costs.dtype, device=costs.device)
    return total.index_add(0, rows, costs) / rows.bincount(minlength=n).clamp_min(1)


@LOSSES.register
class FlowMatching(Loss):
    """Flow matching: the flow into every state equals the flow out of it; for discrete decisions only.

    The policy's logits are the logarithms of the flows along edges, up to a constant. The constant is set so that the
    flow out of the first state is Z. P_B is not used.

    Args:
        regression: ``squared``, ``huber`` or ``log_cosh``.
    """

    uses_edges: ClassVar[bool] = True

    def __init__(self, regression: Regression = "squared") -> None:
        super().__init__(regression)

    def __call__(self, balance: Balance) -> Tensor:
        edges = balance.edges
        return flow_matching(edges.log_inflow, edges.log_outflow, edges.rows, len(balance.log_reward), self.regression)
