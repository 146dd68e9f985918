"""The proxies of a run: evaluated and checked together, their predictions as one matrix with named columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crystalgfn.errors import InputError
from crystalgfn.gflownet.proxies.base import Prediction, Proxy

UNCERTAINTY = "_uncertainty"
"""What the name of a property gets for the column of its uncertainty."""


@dataclass(frozen=True)
class Column:
    """A column of predictions.

    Attributes:
        name: name in tables and of tags.
        unit: its unit, or an empty string.
        is_property: whether it is a property itself; otherwise it is the uncertainty of one.
    """

    name: str
    unit: str
    is_property: bool


class ProxySet(nn.Module):
    """Several proxies of the same objects.

    Args:
        proxies: one or more, each for another property.

    Raises:
        InputError: if there is none, two predict properties of one name, or a name is taken by another column.
    """

    def __init__(self, proxies: Proxy | Sequence[Proxy]) -> None:
        super().__init__()
        several = [proxies] if isinstance(proxies, Proxy) else list(proxies)
        if not several:
            raise InputError("proxy: [] is not allowed; name at least one proxy")
        self.members = nn.ModuleList(several)
        columns: list[Column] = []
        for proxy in several:
            columns.append(Column(proxy.name, proxy.unit, True))
            if proxy.has_uncertainty:
                columns.append(Column(proxy.name + UNCERTAINTY, proxy.unit, False))
        self.columns = tuple(columns)
        names = [column.name for column in columns]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"proxy: two of the proxies predict {name!r}; each needs another property")
            if name in ("log_reward", "log_pf"):
                raise InputError(f"proxy: {name!r} is not allowed as the name of a property; it is a column of its own")

    def __iter__(self) -> Any:
        return iter(self.members)

    @torch.no_grad()
    def predict(
        self, objects: Any, n: int, device: torch.device, describe: Callable[[int], str]
    ) -> tuple[dict[str, Prediction], Tensor]:
        """What each proxy says, checked.

        Args:
            objects: what the environment's ``decode`` returned for n states.
            n: number of objects.
            device: where the predictions have to be.
            describe: words for the object in a row, for messages.

        Returns:
            the predictions by name of the property, in float64, and (n,) bool, whether all of a row are finite.

        Raises:
            InputError: if a proxy returns something else than a tensor (n,) of floating-point numbers on that device,
                or none or a negative uncertainty though it said it has one.
        """
        predictions: dict[str, Prediction] = {}
        good = torch.ones(n, dtype=torch.bool, device=device)
        for proxy in self:
            kind = type(proxy).__name__
            prediction = proxy.predict(objects)
            value = _checked(prediction.value, f"proxy {kind}", n, device)
            good &= torch.isfinite(value)
            uncertainty = None
            if proxy.has_uncertainty:
                uncertainty = _checked(prediction.uncertainty, f"uncertainty of proxy {kind}", n, device)
                if (uncertainty < 0).any():
                    row = int((uncertainty < 0).nonzero()[0])
                    raise InputError(
                        f"proxy {kind}: the uncertainty of {proxy.name} is {uncertainty[row].item()} for "
                        f"{describe(row)}; it must be 0 or more"
                    )
                good &= torch.isfinite(uncertainty)
            predictions[proxy.name] = Prediction(value, uncertainty)
        return predictions, good

    def matrix(self, predictions: Mapping[str, Prediction]) -> Tensor:
        """(n, columns) float64, the predictions in the order of ``columns``."""
        found = []
        for proxy in self:
            prediction = predictions[proxy.name]
            found.append(prediction.value)
            if prediction.uncertainty is not None:
                found.append(prediction.uncertainty)
        return torch.stack(found, dim=1)

    def complaint(self, predictions: Mapping[str, Prediction], row: int, described: str) -> str:
        """What is not finite about an object."""
        for proxy in self:
            prediction = predictions[proxy.name]
            for what, values in ((proxy.name, prediction.value), ("its uncertainty", prediction.uncertainty)):
                if values is not None and not bool(torch.isfinite(values[row])):
                    return f"proxy {type(proxy).__name__}: {what} is {values[row].item()} for {described}"
        raise ValueError(f"all predictions for row {row} are finite")


def _checked(values: Any, what: str, n: int, device: torch.device) -> Tensor:
    """Predictions as float64, if they are a tensor (n,) of floating-point numbers."""
    if not isinstance(values, Tensor):
        raise InputError(f"{what}: returned {type(values).__name__}; it must be a tensor of shape ({n},)")
    if values.shape != (n,):
        raise InputError(f"{what}: returned shape {tuple(values.shape)} for {n} objects; it must be ({n},)")
    if not values.is_floating_point():
        raise InputError(f"{what}: returned {values.dtype}; it must be floating point")
    if values.device != device:
        raise InputError(f"{what}: returned a tensor on {values.device}; it must be on {device}, as the objects are")
    return values.detach().to(torch.float64)
