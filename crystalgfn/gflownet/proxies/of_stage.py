"""A proxy for one part of the objects that a stack builds."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from crystalgfn.checks import refuse
from crystalgfn.gflownet.proxies.base import Prediction, Proxy
from crystalgfn.registry import PROXIES


@PROXIES.register
class OfStage(Proxy):
    """Applies another proxy to the objects of one stage of a `Stack`.

    Args:
        stage: name of the stage.
        proxy: predicts the property.
    """

    def __init__(self, stage: str, proxy: Proxy) -> None:
        super().__init__()
        self.stage, self.proxy = stage, proxy
        self.name, self.unit, self.direction = proxy.name, proxy.unit, proxy.direction
        self.valid_range = proxy.valid_range
        self.has_uncertainty = proxy.has_uncertainty  # type: ignore[misc]
        self.knows_modes = proxy.knows_modes  # type: ignore[misc]

    def _part(self, objects: Any) -> Any:
        try:
            return objects[self.stage]
        except (KeyError, IndexError, TypeError):
            stages = getattr(objects, "of_stage", {})
            allowed = ", ".join(stages) or "none, because the environment is not a Stack"
            raise refuse("stage", repr(self.stage), f"allowed: {allowed}") from None

    def forward(self, objects: Any) -> Tensor:
        """(n,) the property of each object's part."""
        value: Tensor = self.proxy(self._part(objects))
        return value

    def predict(self, objects: Any) -> Prediction:
        return self.proxy.predict(self._part(objects))

    def n_modes(self, objects: Any) -> int:
        return self.proxy.n_modes(self._part(objects))

    def modes(self, objects: Any) -> Tensor:
        return self.proxy.modes(self._part(objects))

    def refused(self, objects: Any) -> list[str]:
        return self.proxy.refused(self._part(objects))
