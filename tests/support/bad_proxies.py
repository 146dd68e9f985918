"""Proxies that go wrong, named in the configs of tests."""

import torch

from crystalgfn.gflownet.proxies import Prediction, Proxy


class FirstLength(Proxy):
    """Length a [Å], with an uncertainty of a tenth of it."""

    name = "first_length"
    unit = "Å"
    has_uncertainty = True

    def forward(self, objects):
        return self.predict(objects).value

    def predict(self, objects):
        a = objects.lattice[:, 0]
        return Prediction(a, a / 10)


class Sometimes(Proxy):
    """Length b [Å], but something else for crystals with lithium; from the given evaluation on."""

    name = "second_length"

    def __init__(self, instead: float = float("nan"), start: int = 0, problem: str = "") -> None:
        super().__init__()
        self.instead, self.start, self.problem, self.calls = instead, start, problem, 0

    def forward(self, objects):
        self.calls += 1
        b = objects.lattice[:, 1]
        if self.calls <= self.start:
            return b
        if self.problem == "shape":
            return b[:, None]
        if self.problem == "dtype":
            return b.long()
        if self.problem == "type":
            return b.tolist()
        if self.problem == "raise":
            raise ValueError("the sun shines")
        return torch.where(objects.counts[:, 2] > 0, self.instead, b)


class Doubtful(FirstLength):
    """Says that it has an uncertainty, and has none, or one below 0."""

    name = "doubtful"

    def __init__(self, below_zero: bool = False) -> None:
        super().__init__()
        self.below_zero = below_zero

    def predict(self, objects):
        a = objects.lattice[:, 0]
        return Prediction(a, -a if self.below_zero else None)


class Elsewhere(FirstLength):
    """Returns its values on another device."""

    name = "elsewhere"

    def predict(self, objects):
        return Prediction(objects.lattice[:, 0].to("meta"), objects.lattice[:, 1])


class Named(FirstLength):
    """Has the name that it is given."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
