"""The contract of a policy network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn


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


class Policy(nn.Module, ABC):
    """A network from the encoding of a state to the logits of the decision that is due there.

    It is made from the `Shape` of every decision and does not depend on the environment in any other way.
    """

    @abstractmethod
    def forward(self, head: str, inputs: Tensor) -> Tensor:
        """Logits of one decision.

        Args:
            head: name of the decision.
            inputs: (n, input_size of the head) float32 encodings.

        Returns:
            (n, n_logits of the head); each row depends only on its own row of the inputs.
        """
