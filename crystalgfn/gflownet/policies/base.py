"""The contract of a policy network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from torch import Generator, Tensor, nn


@dataclass(frozen=True)
class Shape:
    """Sizes and features of one decision, from which a network is made.

    Attributes:
        n_inputs: number of columns of the encoding.
        n_logits: number of outputs.
        inputs: (n_inputs, k) float32, features that say what each column of the encoding stands for, or None; see
            `Environment.input_features`.
        options: (n_logits, k) float32, features that say what each output stands for, or None; see
            `Environment.option_features`.
    """

    n_inputs: int
    n_logits: int
    inputs: Tensor | None = None
    options: Tensor | None = None


Axis = tuple[str, Literal["inputs", "options"]]
"""What a dimension of a weight runs over: the inputs or the options (logits) of a decision."""


class Policy(nn.Module, ABC):
    """A network from the encoding of a state to the logits of the decision that is due there.

    It is made from the `Shape` of every decision and does not depend on the environment in any other way.

    Attributes:
        noise: source of randomness for layers that are random in training, such as dropout; None where the policy must
            be the same whenever it is called, as in sampling and in all losses of sampled trajectories.
    """

    noise: Generator | None = None

    @abstractmethod
    def forward(self, head: str, inputs: Tensor) -> Tensor:
        """Logits of one decision.

        Args:
            head: name of the decision.
            inputs: (n, input_size of the head) float32 encodings.

        Returns:
            (n, n_logits of the head); each row depends only on its own row of the inputs.
        """

    def axes(self) -> dict[str, tuple[Axis | None, ...]]:
        """What the dimensions of the policy's weights run over, so that they can be moved to other decisions.

        The logits must be linear in every entry that runs over inputs, because a column for inputs is replaced by a sum
        of columns if one input is the sum of others. The names of entries that belong to one decision must contain its
        name between dots, as in ``heads.element.0.weight``.

        Returns:
            for each entry of the state_dict, one value for each dimension; None if its size is the same whatever the
            decisions are. Without any entries, which is the default, weights are taken over only if all sizes are
            equal.
        """
        return {}
