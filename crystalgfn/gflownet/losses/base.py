"""The contract of a loss: which log-probabilities and flows it compares, and how."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from crystalgfn.errors import InputError
from crystalgfn.gflownet.losses.regression import REGRESSIONS, Regression

if TYPE_CHECKING:
    from crystalgfn.gflownet.balance import Balance


class Loss(ABC):
    """Measures how far the policy is from sampling x with probability R(x) / Z.

    It takes what it needs from a `Balance`: sums over trajectories, values at each decision, or flows along edges.

    Attributes:
        uses_states: whether it needs log F of states, and with it a network for them.
        uses_edges: whether the policy's logits are read as flows along edges; needs discrete decisions.
        forward_looking: whether states on the way have rewards of their own.
        learns_log_z: whether log Z is a parameter; if not, it is estimated from each batch.

    Args:
        regression: ``squared``, ``huber`` or ``log_cosh``, see `penalty`.

    Raises:
        InputError: if there is no such regression.
    """

    uses_states: ClassVar[bool] = False
    uses_edges: ClassVar[bool] = False
    forward_looking: ClassVar[bool] = False
    learns_log_z: ClassVar[bool] = True

    def __init__(self, regression: Regression = "squared") -> None:
        if regression not in REGRESSIONS:
            raise InputError(f"regression: {regression!r} is not allowed; allowed: {', '.join(REGRESSIONS)}")
        self.regression = regression

    @abstractmethod
    def __call__(self, balance: Balance) -> Tensor:
        """(n,) the loss of each trajectory, with gradients; training minimises their mean."""
