"""Rewards: log R from predicted properties, computed in log space and never below a floor.

In the formulas, y is the property. With ``caution`` k and the proxy's uncertainty u, y is first made worse by k u (the
lower confidence bound of the reward). The reason: a generative model finds objects for which its proxy is wrong, and
for these objects the proxy is usually uncertain.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from crystalgfn.checks import finite, listed, not_negative, one_of, positive, quoted, rising
from crystalgfn.errors import InputError
from crystalgfn.gflownet.proxies.base import Prediction, Proxy
from crystalgfn.registry import REWARDS


class Reward(nn.Module, ABC):
    """Turns the predictions of the proxies into log R, which is at least log(floor).

    Args:
        floor: smallest reward, above 0; it limits how strongly bad objects are avoided.

    Raises:
        InputError: if the floor is not positive.
    """

    def __init__(self, floor: float = 1e-8) -> None:
        super().__init__()
        positive("floor", floor)
        self.floor = floor

    @abstractmethod
    def check(self, proxies: Sequence[Proxy]) -> None:
        """Check that the proxies predict what the reward needs.

        Raises:
            InputError: if they do not.
        """

    @abstractmethod
    def parts(self, predictions: Mapping[str, Prediction]) -> dict[str, Tensor]:
        """Terms of log R by the name of their property, each (n,) float64; `total` adds them and applies the floor."""

    def forward(self, predictions: Mapping[str, Prediction]) -> Tensor:
        """(n,) float64 log R of n objects, from the predictions by name of the property."""
        return self.total(self.parts(predictions))

    def total(self, parts: Mapping[str, Tensor]) -> Tensor:
        """(n,) float64 log R: the sum of its `parts`, at least log(floor)."""
        total: Tensor = sum(parts.values())  # type: ignore[assignment]
        return total.clamp_min(math.log(self.floor))


class PropertyReward(Reward):
    """A reward of one property; subclasses define it in `unclipped`.

    Args:
        floor: smallest reward.
        caution: multiples of the proxy's uncertainty by which the property is made worse than predicted.

    Raises:
        InputError: if the floor is not positive or the caution is negative.
    """

    def __init__(self, floor: float = 1e-8, caution: float = 0.0) -> None:
        super().__init__(floor)
        not_negative("caution", caution)
        self.caution = caution

    @abstractmethod
    def unclipped(self, values: Tensor, doubt: Tensor) -> Tensor:
        """(n,) log R without the floor, -inf where R is 0.

        Args:
            values: (n,) float64, the property.
            doubt: (n,) float64, 0 or more, the amount by which the property is made worse.
        """

    def check(self, proxies: Sequence[Proxy]) -> None:
        if not proxies:
            raise InputError(f"proxy: is missing; the reward {type(self).__name__} needs a property")
        if len(proxies) != 1:
            names = ", ".join(proxy.name for proxy in proxies)
            raise InputError(
                f"reward {type(self).__name__}: is for one property, but the proxies predict {len(proxies)} ({names}); "
                "use the reward Product, which has a reward for each property"
            )
        self.check_one(proxies[0])

    def check_one(self, proxy: Proxy) -> None:
        """Check that the proxy has an uncertainty if the reward has a ``caution``.

        Raises:
            InputError: if it has none.
        """
        if self.caution and not proxy.has_uncertainty:
            raise InputError(
                f"caution: {self.caution} is not allowed; the proxy {type(proxy).__name__} has no uncertainty, use 0"
            )

    def of(self, prediction: Prediction) -> Tensor:
        """(n,) float64 log R of one property, at least log(floor)."""
        values = prediction.value.to(torch.float64)
        doubt = torch.zeros_like(values)
        if self.caution and prediction.uncertainty is not None:
            doubt = self.caution * prediction.uncertainty.to(torch.float64)
        return self.unclipped(values, doubt).clamp_min(math.log(self.floor))

    def parts(self, predictions: Mapping[str, Prediction]) -> dict[str, Tensor]:
        ((name, prediction),) = predictions.items()
        return {name: self.of(prediction)}


class NoReward(Reward):
    """R = 1 for every object: nothing is preferred. It stands for a reward that is left out."""

    def check(self, proxies: Sequence[Proxy]) -> None:
        """Any proxies are allowed; their properties are only recorded."""

    def parts(self, predictions: Mapping[str, Prediction]) -> dict[str, Tensor]:
        return {}


@REWARDS.register
class Boltzmann(PropertyReward):
    """R = exp(-beta y): low values are good.

    Args:
        beta: inverse temperature, in 1 / unit of y; negative if high values are wanted.
        floor: smallest reward.
        caution: multiples of the uncertainty added to y (subtracted for a negative beta).
        enough: value of y, after caution, beyond which better values do not increase the reward; None for no such
            value. Predictions that are too good to be true then have no advantage.

    Raises:
        InputError: if a value is not allowed.
    """

    def __init__(self, beta: float, floor: float = 1e-8, caution: float = 0.0, enough: float | None = None) -> None:
        super().__init__(floor, caution)
        finite("beta", beta)
        if enough is not None:
            finite("enough", enough)
        self.beta, self.enough = beta, enough

    def unclipped(self, values: Tensor, doubt: Tensor) -> Tensor:
        if self.beta >= 0:
            worse = values + doubt
            return -self.beta * (worse if self.enough is None else worse.clamp_min(self.enough))
        worse = values - doubt
        return -self.beta * (worse if self.enough is None else worse.clamp_max(self.enough))


@REWARDS.register
class Power(PropertyReward):
    """R = y ** exponent for y > 0, else 0: high values are good.

    Args:
        exponent: how strongly high values are preferred.
        floor: smallest reward.
        caution: multiples of the uncertainty subtracted from y (added for a negative exponent).

    Raises:
        InputError: if a value is not allowed.
    """

    def __init__(self, exponent: float = 1.0, floor: float = 1e-8, caution: float = 0.0) -> None:
        super().__init__(floor, caution)
        finite("exponent", exponent)
        self.exponent = exponent

    def unclipped(self, values: Tensor, doubt: Tensor) -> Tensor:
        worse = values - doubt if self.exponent >= 0 else torch.where(values > 0, values + doubt, values)
        is_positive = worse > 0
        log = torch.where(is_positive, worse, 1.0).log()
        return torch.where(is_positive, self.exponent * log, float("-inf"))


@REWARDS.register
class Identity(Power):
    """R = y for y > 0, else 0.

    Args:
        floor: smallest reward.
        caution: multiples of the uncertainty subtracted from y.
    """

    def __init__(self, floor: float = 1e-8, caution: float = 0.0) -> None:
        super().__init__(1.0, floor, caution)


@REWARDS.register
class Target(PropertyReward):
    """R = exp(-beta d²) or exp(-beta d) with the distance d = |y - target|: values near the target are good.

    Args:
        target: the wanted value, in the unit of y.
        beta: how fast the reward falls, in 1 / unit² for the squared distance or 1 / unit for the absolute distance.
        distance: ``squared`` for d² or ``absolute`` for d.
        floor: smallest reward.
        caution: multiples of the uncertainty added to d.

    Raises:
        InputError: if a value is not allowed.
    """

    def __init__(
        self,
        target: float,
        beta: float,
        distance: Literal["squared", "absolute"] = "squared",
        floor: float = 1e-8,
        caution: float = 0.0,
    ) -> None:
        super().__init__(floor, caution)
        finite("target", target)
        positive("beta", beta)
        one_of("distance", distance, ("squared", "absolute"))
        self.target, self.beta, self.distance = target, beta, distance

    def unclipped(self, values: Tensor, doubt: Tensor) -> Tensor:
        away = (values - self.target).abs() + doubt
        return -self.beta * (away.square() if self.distance == "squared" else away)


@REWARDS.register
class Within(PropertyReward):
    """R = s((y - low) / width) s((high - y) / width), s(t) = 1 / (1 + exp(-t)): values within soft bounds are good.

    Args:
        low: lower bound, in the unit of y; None for no lower bound.
        high: upper bound, in the unit of y; None for no upper bound.
        width: softness of the bounds, in the unit of y: the reward is 1/2 at a bound and 0.95 three widths inside.
        floor: smallest reward.
        caution: multiples of the uncertainty by which y is moved towards each bound, or further beyond it.

    Raises:
        InputError: if a value is not allowed, or if there is no bound.
    """

    def __init__(
        self, low: float | None, high: float | None, width: float, floor: float = 1e-8, caution: float = 0.0
    ) -> None:
        super().__init__(floor, caution)
        bounds = {name: value for name, value in (("low", low), ("high", high)) if value is not None}
        if not bounds:
            raise InputError("low, high: null and null are not allowed; at least one of them must be a number")
        for name, value in bounds.items():
            finite(name, value)
        if low is not None and high is not None:
            rising("low, high", (low, high))
        positive("width", width)
        self.low, self.high, self.width = low, high, width

    def unclipped(self, values: Tensor, doubt: Tensor) -> Tensor:
        log = torch.zeros_like(values)
        if self.low is not None:
            log = log + logsigmoid((values - doubt - self.low) / self.width)
        if self.high is not None:
            log = log + logsigmoid((self.high - values - doubt) / self.width)
        return log


@REWARDS.register
class Standardized(PropertyReward):
    """A reward of z = (y - mean) / deviation instead of y, so that its parameters have no unit.

    Give either the mean and the standard deviation, or a table and a column from which they are computed. Every
    checkpoint contains both numbers, so a model from a checkpoint does not need the table.

    Args:
        reward: the reward of z; its ``floor`` and ``caution`` are used.
        mean: mean of y; None to compute it from the table.
        deviation: standard deviation of y; None to compute it from the table.
        table: CSV or parquet file with one number in each row.
        column: column of the table with the numbers; missing values and values that are not numbers are left out.

    Raises:
        InputError: if mean and deviation are not given and cannot be computed from the table.
    """

    def __init__(
        self,
        reward: PropertyReward,
        mean: float | None = None,
        deviation: float | None = None,
        table: Path | None = None,
        column: str | None = None,
    ) -> None:
        super().__init__(reward.floor, reward.caution)
        self.reward = reward
        given = (mean is not None, deviation is not None, table is not None, column is not None)
        if given not in ((True, True, False, False), (False, False, True, True)):
            raise InputError("mean, deviation, table, column: set mean and deviation, or table and column")
        self.table = table
        if mean is not None and deviation is not None:
            finite("mean", mean)
            positive("deviation", deviation)
            scale = (mean, deviation)
        else:
            assert table is not None and column is not None
            # If the file is missing, the numbers must come from a checkpoint.
            scale = _column_scale(table, column) or (math.nan, math.nan)
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float64))

    def unclipped(self, values: Tensor, doubt: Tensor) -> Tensor:
        mean, deviation = self.scale
        if mean.isnan():
            raise InputError(f"table: there is no file {self.table}")
        return self.reward.unclipped((values - mean) / deviation, doubt / deviation)


@REWARDS.register
class Product(Reward):
    """R = product of R_i ** weight_i over the rewards of several properties.

    Args:
        rewards: the reward of each property, by the property's name; properties without a reward are only recorded.
        weights: exponent of each reward, by the property's name; 1 if none is given.
        floor: smallest product.

    Raises:
        InputError: if there is no reward, if a weight is not positive, or if a weight is for a property without a
            reward.
    """

    def __init__(
        self, rewards: dict[str, PropertyReward], weights: dict[str, float] | None = None, floor: float = 1e-8
    ) -> None:
        super().__init__(floor)
        if not rewards:
            raise InputError("rewards: {} is not allowed; it must name at least one property")
        given = weights or {}
        for name, weight in given.items():
            if name not in rewards:
                raise InputError(f"weights: {name!r} has no reward; properties with a reward: {', '.join(rewards)}")
            positive(f"weights.{name}", weight)
        self.rewards = nn.ModuleDict(rewards)
        self.weights = {name: float(given.get(name, 1.0)) for name in rewards}

    def check(self, proxies: Sequence[Proxy]) -> None:
        predicted = {proxy.name: proxy for proxy in proxies}
        for name, reward in self.rewards.items():
            if name not in predicted:
                raise InputError(f"rewards: no proxy predicts {name!r}; predicted: {', '.join(predicted)}")
            assert isinstance(reward, PropertyReward)
            reward.check_one(predicted[name])

    def parts(self, predictions: Mapping[str, Prediction]) -> dict[str, Tensor]:
        found = {}
        for name, reward in self.rewards.items():
            assert isinstance(reward, PropertyReward)
            found[name] = self.weights[name] * reward.of(predictions[name])
        return found


def _column_scale(table: Path, column: str) -> tuple[float, float] | None:
    """Mean and standard deviation of a column of a table; None if the file does not exist."""
    import numpy as np
    import pandas as pd

    from crystalgfn.files import read_frame

    if not Path(table).is_file():
        return None
    frame = read_frame(table)
    if column not in frame.columns:
        raise InputError(f"column: {table} has no column {quoted(column)}; it has: {listed(frame.columns)}")
    values = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype="float64")
    values = values[np.isfinite(values)]
    if len(values) < 2 or values.std() == 0:
        raise InputError(
            f"column: {column!r} of {table} is not allowed; it must contain at least two different numbers"
        )
    return float(values.mean()), float(values.std())
