"""The proxies of a run: they are evaluated and checked together, and give one matrix with named columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crystalgfn.errors import InputError
from crystalgfn.gflownet.proxies.base import Prediction, Proxy
from crystalgfn.gflownet.proxies.names import UNCERTAINTY, check_property_name


@dataclass(frozen=True)
class Column:
    """A column of predictions.

    Attributes:
        name: name of the column in tables and of the tag in TensorBoard.
        unit: unit of the values, or an empty string.
        is_property: True for a property, False for the uncertainty of a property.
    """

    name: str
    unit: str
    is_property: bool


class ProxySet(nn.Module):
    """Several proxies for the same objects.

    Args:
        proxies: any number of proxies, each for a different property.
        taken: columns of the tables of objects, which cannot be names of properties.

    Raises:
        InputError: if two proxies predict a property of the same name, or if a name is not
            allowed or is that of another column.
    """

    def __init__(self, proxies: Proxy | Sequence[Proxy], taken: Iterable[str] = ()) -> None:
        super().__init__()
        several = [proxies] if isinstance(proxies, Proxy) else list(proxies)
        taken = list(taken)
        for proxy in several:
            check_property_name(f"proxy {type(proxy).__name__}: name", getattr(proxy, "name", None), taken)
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
                raise InputError(f"proxy: two of the proxies predict {name!r}; each must predict a different property")

    def __iter__(self) -> Any:
        return iter(self.members)

    @torch.no_grad()
    def predict(
        self, objects: Any, n: int, device: torch.device, describe: Callable[[int], str]
    ) -> tuple[dict[str, Prediction], Tensor]:
        """Evaluate all proxies and check their predictions.

        Args:
            objects: n objects, as the environment's ``decode`` returned them.
            n: number of objects.
            device: device on which the predictions must be.
            describe: returns a text for the object of a row, for messages.

        Returns:
            the predictions in float64, by name of the property, and (n,) bool, whether all predictions of a row are
            finite.

        Raises:
            InputError: if a proxy does not return a tensor (n,) of floating-point numbers on that device, or if a proxy
                with ``has_uncertainty`` returns no uncertainty or a negative one.
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

    def matrix(self, predictions: Mapping[str, Prediction], states: Tensor) -> Tensor:
        """(n, columns) float64, the predictions for n states, in the order of ``columns``."""
        found = []
        for proxy in self:
            prediction = predictions[proxy.name]
            found.append(prediction.value)
            if prediction.uncertainty is not None:
                found.append(prediction.uncertainty)
        return torch.stack(found, dim=1) if found else states.new_zeros(len(states), 0)

    def complaint(self, predictions: Mapping[str, Prediction], row: int, described: str) -> str:
        """Text for messages that names the first prediction of an object that is not finite.

        Args:
            predictions: from `predict`.
            row: row of the object.
            described: text for the object.

        Raises:
            ValueError: if all predictions for the object are finite.
        """
        for proxy in self:
            prediction = predictions[proxy.name]
            for what, values in ((proxy.name, prediction.value), ("its uncertainty", prediction.uncertainty)):
                if values is not None and not bool(torch.isfinite(values[row])):
                    return f"proxy {type(proxy).__name__}: {what} is {values[row].item()} for {described}"
        raise ValueError(f"all predictions for row {row} are finite")


def _checked(values: Any, what: str, n: int, device: torch.device) -> Tensor:
    """Predictions as float64, after the check that they are a tensor (n,) of floating-point numbers on the device."""
    if not isinstance(values, Tensor):
        raise InputError(f"{what}: returned {type(values).__name__}; it must be a tensor of shape ({n},)")
    if values.shape != (n,):
        raise InputError(f"{what}: returned shape {tuple(values.shape)} for {n} objects; it must be ({n},)")
    if not values.is_floating_point():
        raise InputError(f"{what}: returned {values.dtype}; it must be floating point")
    if values.device != device:
        raise InputError(f"{what}: returned a tensor on {values.device}; it must be on {device}, like the objects")
    return values.detach().to(torch.float64)
