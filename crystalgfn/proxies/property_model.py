"""A proxy for any property that a network was trained for with ``crystalgfn train-proxy``."""

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
    """A property of your own, predicted with weights that ``crystalgfn train-proxy`` wrote.

    The file of weights contains the name of the property, its unit and the range of the training labels. A generative
    model finds the inputs for which a network is wrong, therefore nothing is extrapolated. Every feature of the cell
    and of the composition (volume per atom, volume over the sum of atomic volumes, lengths, cosines, numbers of atoms,
    ...) is limited to the range that 99.9 % of the training rows span. The prediction is limited to the range of the
    training labels. Outside the range of the features, the uncertainty grows.

    Args:
        weights: file that ``crystalgfn train-proxy`` wrote.
        direction: ``minimize`` if you look for low values, ``maximize`` for high values; it sorts top-k tables.

    Raises:
        InputError: if the file or the direction cannot be used; the message says why.
    """

    has_uncertainty = True
    outside_slope: ClassVar[float] = 0.0
    """Rise of the property for each standard deviation by which a feature lies outside its training range."""

    def __init__(self, weights: Path | str, direction: Literal["minimize", "maximize"] = "minimize") -> None:
        super().__init__()
        one_of("direction", direction, ("minimize", "maximize"))
        # Subclasses name their property; in this class the file names it.
        self.network = PropertyNetwork.load(Path(weights), property_name=getattr(type(self), "name", None))
        self.name = self.network.property_name
        self.unit = self.network.unit
        self.direction = direction
        lowest, highest = self.network.label_range.tolist()
        # If all labels are equal, the range still needs a width.
        self.valid_range = (lowest, max(highest, lowest + 1e-6))
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: dropout must stay off when a trainer switches all modules to training mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, crystals: Crystals) -> Tensor:
        """The property of each crystal.

        Args:
            crystals: a batch of n crystals; counts and lengths [Å] refer to the conventional cell.

        Returns:
            (n,) float32 in the proxy's unit: the mean over the members of the ensemble. For a network with
            ``zero_share`` it is 0 if zero is more probable than another value. A rise outside the training range is
            included.
        """
        return self.predict(crystals).value

    @torch.no_grad()
    def predict(self, crystals: Crystals) -> Prediction:
        """The property and its expected absolute error, each (n,) float32 in the proxy's unit."""
        estimate = self.estimate(crystals)
        return Prediction(estimate.value + self.outside_slope * estimate.outside, estimate.uncertainty)

    @torch.no_grad()
    def estimate(self, crystals: Crystals) -> Estimate:
        """The network's estimate for n crystals, without a rise outside the training range."""
        estimate: Estimate = self.network(crystals)
        return estimate
