"""Maximum likelihood: the policy learns to sample objects like known ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from crystalgfn.errors import InputError
from crystalgfn.gflownet.envs.base import Environment
from crystalgfn.gflownet.losses.base import Loss
from crystalgfn.registry import LOSSES

if TYPE_CHECKING:
    from crystalgfn.gflownet.balance import Balance


@LOSSES.register
class MaximumLikelihood(Loss):
    """Maximum likelihood: log P_B(tau | x) - log P_F(tau) of trajectories that lead to the known objects of a data set.

    In a tree this is -log p(x). Elsewhere it is an upper bound of it on average, because p(x) is the mean of P_F / P_B
    over trajectories drawn with P_B. The policy trains on the data set alone: it samples nothing, and there is no
    reward.
    """

    uses_known_alone: ClassVar[bool] = True
    learns_log_z: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()

    def __call__(self, balance: Balance) -> Tensor:
        return balance.log_pb - balance.log_pf

    def check(self, env: Environment, backward_policy: str) -> None:
        super().check(env, backward_policy)
        if backward_policy == "learned":
            raise InputError(
                "backward_policy: 'learned' is not allowed; MaximumLikelihood has no gradient for it; use fixed"
            )
