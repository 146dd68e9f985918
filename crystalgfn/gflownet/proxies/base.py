"""The contract of a proxy: a batch of objects in, one property out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

BATCH = 2048
"""Objects that are predicted at once where memory has to be bounded."""


@dataclass(frozen=True)
class Prediction:
    """What a proxy says of n objects.

    Attributes:
        value: (n,) the property, in the proxy's unit.
        uncertainty: (n,) expected absolute error of the values, in the same unit; None if the proxy has no estimate.
    """

    value: Tensor
    uncertainty: Tensor | None = None


class Proxy(nn.Module, ABC):
    """Predicts one property of the objects an environment builds.

    A proxy is a module, so that its tables and weights follow the policy to its device. It is evaluated without
    gradients, in batches, and its parameters are never trained by the GFlowNet.

    A subclass says what it predicts in the attributes below, and implements `forward`; one that can tell how wrong it
    may be sets ``has_uncertainty`` and implements `predict` as well.

    Attributes:
        name: name of the property: column of the CSV and tag in TensorBoard.
        unit: its unit, or an empty string.
        direction: whether a user looks for low or high values; sorts top-k tables.
        valid_range: lowest and highest value the proxy can be trusted for.
        has_uncertainty: whether `predict` returns an uncertainty.
        knows_modes: whether `modes` and `n_modes` can be asked: where the best values are is known beforehand.
    """

    name: str
    unit: str = ""
    direction: Literal["minimize", "maximize"] = "minimize"
    valid_range: tuple[float, float] = (float("-inf"), float("inf"))
    has_uncertainty: ClassVar[bool] = False
    knows_modes: ClassVar[bool] = False

    @abstractmethod
    def forward(self, objects: Any) -> Tensor:
        """Property of each object.

        Args:
            objects: what the environment's ``decode`` returns for n states: `Crystals` for the crystal
                environment.

        Returns:
            (n,) finite values in the proxy's unit, one for each object, independent of the other rows.
        """

    def refused(self, objects: Any) -> list[str]:
        """Why the proxy has no value for an object: for each of n objects the reason, or an empty string.

        `forward` raises `InputError` for a batch that holds a refused object; a table is scored without them.
        """
        return [""] * len(objects)

    def predict(self, objects: Any) -> Prediction:
        """Property of each object and, if the proxy has an estimate, its uncertainty.

        The values are those of `forward`.
        """
        return Prediction(self(objects))

    def n_modes(self, objects: Any) -> int:
        """Number of modes among objects like the given ones, which may be none; only where ``knows_modes``.

        Raises:
            TypeError: if the proxy knows no modes.
        """
        raise TypeError(f"{type(self).__name__} knows no modes")

    def modes(self, objects: Any) -> Tensor:
        """(n,) int64 the mode in which each object lies, from 0, or -1; only where ``knows_modes``.

        Raises:
            TypeError: if the proxy knows no modes.
        """
        raise TypeError(f"{type(self).__name__} knows no modes")


@torch.no_grad()
def predict_in_batches(proxy: Proxy, objects: Any) -> Prediction:
    """What a proxy says of any number of objects, one or more, as `Proxy.predict` with less memory."""
    parts = [proxy.predict(objects[start : start + BATCH]) for start in range(0, len(objects), BATCH)]
    uncertainties = [part.uncertainty for part in parts if part.uncertainty is not None]
    return Prediction(torch.cat([part.value for part in parts]), torch.cat(uncertainties) if uncertainties else None)
