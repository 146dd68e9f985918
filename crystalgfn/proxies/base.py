"""The contract of a proxy: a batch of objects in, one property out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

from torch import Tensor, nn


class Proxy(nn.Module, ABC):
    """Predicts one property of the objects an environment builds.

    A proxy is a module, so that its tables and weights follow the policy to its device. It is evaluated without
    gradients, in batches, and its parameters are never trained by the GFlowNet.

    Attributes:
        name: name of the property: column of the CSV and tag in TensorBoard.
        unit: its unit, or an empty string.
        direction: whether a user looks for low or high values; sorts top-k tables.
        valid_range: lowest and highest value the proxy can be trusted for.
    """

    name: ClassVar[str]
    unit: ClassVar[str] = ""
    direction: ClassVar[Literal["minimize", "maximize"]] = "minimize"
    valid_range: ClassVar[tuple[float, float]] = (float("-inf"), float("inf"))

    @abstractmethod
    def forward(self, objects: Any) -> Tensor:
        """Property of each object.

        Args:
            objects: what the environment's ``decode`` returns for n states: `Crystals` for the crystal
                environment.

        Returns:
            (n,) finite values in the proxy's unit, one for each object, independent of the other rows.
        """
