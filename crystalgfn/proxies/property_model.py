"""A proxy for any property that ``crystalgfn train-proxy`` has learned."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from crystalgfn.checks import one_of
from crystalgfn.crystal.crystals import Crystals
from crystalgfn.gflownet.proxies.base import Prediction, Proxy
from crystalgfn.proxies.network.property_network import Estimate, PropertyNetwork
from crystalgfn.registry import PROXIES

SHIPPED = Path(__file__).parent / "network" / "weights"
"""Folder of the weights that come with the package."""


@PROXIES.register
class PropertyModel(Proxy):
    """A property of your own, from weights that ``crystalgfn train-proxy`` wrote.

    The file says what is predicted: name, unit and the range of the labels in training. A generative model finds the
    inputs where a network errs, so nothing is extrapolated: every feature of the cell and of the composition (volume
    per atom, volume over the sum of atomic volumes, lengths, cosines, numbers of atoms, ...) is saturated at the range
    that 99.9 % of the training rows span, and the prediction at the lowest and highest label in training. Outside of
    that range the uncertainty grows.

    Args:
        weights: file that ``crystalgfn train-proxy`` wrote.
        direction: whether low or high values are looked for.

    Raises:
        InputError: if the file cannot be used; the message says why.
    """

    has_uncertainty = True
    outside_slope: ClassVar[float] = 0.0
    """Rise of the property for each standard deviation outside of the training range."""

    def __init__(self, weights: Path | str, direction: Literal["minimize", "maximize"] = "minimize") -> None:
        super().__init__()
        one_of("direction", direction, ("minimize", "maximize"))
        # Subclasses say which property they are; here the file does.
        self.network = PropertyNetwork.load(Path(weights), property_name=getattr(type(self), "name", None))
        self.name = self.network.property_name
        self.unit = self.network.unit
        self.direction = direction
        lowest, highest = self.network.label_range.tolist()
        # Labels that are all the same are a range, too.
        self.valid_range = (lowest, max(highest, lowest + 1e-6))
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: a trainer that switches all its modules must not switch dropout on here."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, crystals: Crystals) -> Tensor:
        """The property of each crystal.

        Args:
            crystals: a batch of n crystals; counts and lengths [Å] refer to the conventional cell.

        Returns:
            (n,) float32 in the proxy's unit: the mean over the members of the ensemble, or 0 where a network that
            tells zeros apart finds zero the more probable.
        """
        return self.predict(crystals).value

    @torch.no_grad()
    def predict(self, crystals: Crystals) -> Prediction:
        """The property and its expected absolute error, each (n,) float32 in the proxy's unit."""
        estimate = self.estimate(crystals)
        return Prediction(estimate.value + self.outside_slope * estimate.outside, estimate.uncertainty)

    @torch.no_grad()
    def estimate(self, crystals: Crystals) -> Estimate:
        """All that the network says of n crystals, without a rise outside of the training range."""
        estimate: Estimate = self.network(crystals)
        return estimate
