"""The contract of a policy network."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Policy(nn.Module, ABC):
    """A network from the encoding of a state to the logits of the decision that is due there.

    It is built with the sizes of every decision and knows nothing else about the environment.
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
