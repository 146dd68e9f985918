"""The contract of a loss: which log-probabilities and flows it compares, and how."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from crystalgfn.checks import one_of
from crystalgfn.errors import InputError
from crystalgfn.gflownet.envs.base import CategoricalHead, Environment
from crystalgfn.gflownet.losses.regression import REGRESSIONS, Regression

if TYPE_CHECKING:
    from crystalgfn.gflownet.balance import Balance


class Loss(ABC):
    """Measures how far the policy is from sampling x with probability R(x) / Z.

    A loss gets its inputs from a `Balance`: sums over trajectories, values at each decision, or flows along edges.

    Attributes:
        uses_states: whether the loss needs log F of states, and therefore a network for log F.
        uses_edges: whether the policy's logits are used as log flows along edges; requires discrete decisions.
        forward_looking: whether intermediate states have rewards of their own.
        learns_log_z: whether log Z is a learned parameter; if not, it is estimated from each batch.
        uses_known_alone: whether the policy learns from the objects of a data set alone, without samples and rewards.

    Args:
        regression: ``squared``, ``huber`` or ``log_cosh``, see `penalty`.

    Raises:
        InputError: if there is no such regression.
    """

    uses_states: ClassVar[bool] = False
    uses_edges: ClassVar[bool] = False
    forward_looking: ClassVar[bool] = False
    learns_log_z: ClassVar[bool] = True
    uses_known_alone: ClassVar[bool] = False

    def __init__(self, regression: Regression = "squared") -> None:
        one_of("regression", regression, REGRESSIONS)
        self.regression = regression

    @abstractmethod
    def __call__(self, balance: Balance) -> Tensor:
        """(n,) the loss of each trajectory, with gradients; training minimises the mean loss."""

    def check(self, env: Environment, backward_policy: str) -> None:
        """Check that an environment offers what this loss and a backward policy need.

        Args:
            env: the environment.
            backward_policy: ``uniform``, ``fixed`` or ``learned``.

        Raises:
            InputError: if the environment does not offer it; the message names what to use instead.
        """
        name, of_env = type(self).__name__, type(env).__name__
        if self.uses_edges:
            continuous = [head for head, spec in env.heads.items() if not isinstance(spec, CategoricalHead)]
            if continuous:
                raise InputError(
                    f"loss: {name} sums over all actions, but {of_env} has continuous decisions "
                    f"({', '.join(continuous)}); use another loss, such as TrajectoryBalance"
                )
        if self.forward_looking and not env.has_partial_objects:
            raise InputError(
                f"loss: {name} needs rewards of unfinished objects, but unfinished objects of {of_env} have none; use "
                "DetailedBalance"
            )
        one_of("backward_policy", backward_policy, ("uniform", "fixed", "learned"))
        if backward_policy == "learned":
            if env.is_tree:
                raise InputError(
                    f"backward_policy: 'learned' is not allowed; {of_env} is a tree, where every state has one parent; "
                    "use fixed"
                )
            if self.uses_edges:
                raise InputError(
                    f"backward_policy: 'learned' is not allowed; {name} does not use a backward policy; use fixed"
                )
            if not env.can_learn_backward:
                raise InputError(
                    f"backward_policy: 'learned' is not allowed; {of_env} lacks encode_backward; use fixed"
                )
