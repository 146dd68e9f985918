"""The contract of a proxy: a batch of objects in, one property out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

BATCH = 2048
"""Number of objects that are predicted at once, to bound memory."""


@dataclass(frozen=True)
class Prediction:
    """Predictions of a proxy for n objects.

    Attributes:
        value: (n,) the property, in the proxy's unit.
        uncertainty: (n,) expected absolute error of the values, in the same unit; None if the proxy has no estimate.
    """

    value: Tensor
    uncertainty: Tensor | None = None


class Proxy(nn.Module, ABC):
    """Predicts one property of the objects that an environment builds.

    A proxy is a module, so its tables and weights move to the same device as the policy. It is evaluated in batches
    and without gradients. Training a GFlowNet never changes the proxy's parameters.

    A subclass sets the attributes below and implements `forward`. A proxy that can estimate its own error also sets
    ``has_uncertainty`` and implements `predict`.

    Attributes:
        name: name of the property: column of the CSV file and tag in TensorBoard.
        unit: unit of the property, or an empty string.
        direction: whether low or high values are wanted; top-k tables are sorted by it.
        valid_range: lowest and highest value for which the proxy can be trusted.
        has_uncertainty: whether `predict` returns an uncertainty.
        knows_modes: whether `modes` and `n_modes` are implemented, because it is known where the best values are.
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
            objects: n objects, as the environment's ``decode`` returns them: `Crystals` for the crystal environment.

        Returns:
            (n,) finite values in the proxy's unit; the value of an object does not depend on the other objects.
        """

    def refused(self, objects: Any) -> list[str]:
        """Reasons why the proxy cannot predict objects.

        `forward` raises `InputError` if a batch contains a refused object. When a table is scored, refused objects are
        left out.

        Args:
            objects: n objects, as for `forward`.

        Returns:
            for each object the reason, or an empty string if the proxy can predict the object.
        """
        return [""] * len(objects)

    def predict(self, objects: Any) -> Prediction:
        """Property of each object and, if the proxy estimates it, the uncertainty.

        Args:
            objects: n objects, as for `forward`.

        Returns:
            the values of `forward`, and their uncertainties or None.
        """
        return Prediction(self(objects))

    def n_modes(self, objects: Any) -> int:
        """Number of modes among all objects of the same kind as the given ones, if ``knows_modes``.

        Args:
            objects: objects as for `forward`; the batch may be empty.

        Raises:
            TypeError: if the proxy has no known modes.
        """
        raise TypeError(f"{type(self).__name__} has no known modes")

    def modes(self, objects: Any) -> Tensor:
        """(n,) int64, the mode to which each object belongs, counted from 0, or -1 for none; if ``knows_modes``.

        Raises:
            TypeError: if the proxy has no known modes.
        """
        raise TypeError(f"{type(self).__name__} has no known modes")


@torch.no_grad()
def predict_in_batches(proxy: Proxy, objects: Any) -> Prediction:
    """Predict in batches, which needs less memory than one call of `Proxy.predict`.

    Args:
        proxy: the proxy.
        objects: one or more objects, as for `Proxy.forward`.

    Returns:
        the predictions for all objects.
    """
    parts = [proxy.predict(objects[start : start + BATCH]) for start in range(0, len(objects), BATCH)]
    uncertainties = [part.uncertainty for part in parts if part.uncertainty is not None]
    return Prediction(torch.cat([part.value for part in parts]), torch.cat(uncertainties) if uncertainties else None)
