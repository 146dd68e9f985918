"""The contract of a policy network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """What a network has to know of one decision.

    Attributes:
        n_inputs: columns of the encoding.
        n_logits: outputs.
        inputs: (n_inputs, k) float32, what each column of the encoding stands for, or None; see
            `Environment.input_features`.
        options: (n_logits, k) float32, what each output stands for, or None.
    """

    n_inputs: int
    n_logits: int
    inputs: Tensor | None = None
    options: Tensor | None = None


class Policy(nn.Module, ABC):
    """A network from the encoding of a state to the logits of the decision that is due there.

    It is built with the `Shape` of every decision and knows nothing else about the environment.
    """

    @abstractmethod
    def forward(self, head: str, inputs: Tensor) -> Tensor:
        """Logits of one decision.

        Args:
            head: name of the decision.
            inputs: (n, input_size of the head) float32 encodings.

        Returns:
            (n, n_logits of the head), each row a function of its own input only.
        """
