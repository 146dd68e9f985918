"""An ensemble of networks with all it needs to predict a property: scaling, training range, known prototypes.

Its file is self-describing: sizes, feature version, property and unit stand beside the weights, and everything in it
is a tensor or a plain Python value, so that reading it runs no code.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crystalgfn.crystallography import N_ELEMENTS
from crystalgfn.crystals import Crystals
from crystalgfn.errors import InputError
from crystalgfn.proxies.features import FEATURE_VERSION, CrystalFeatures, Features, fit_atomic_volumes
from crystalgfn.proxies.networks import Member, NetworkSizes, Sites
from crystalgfn.tables import atomic_path

FILE_FORMAT = "crystalgfn property network 1"

_OUTSIDE = 5e-4
"""Fraction of the training values on each side of a feature that do not count for its range."""


class PropertyNetwork(nn.Module):
    """Predicts one property of crystals, by the mean of an ensemble.

    Args:
        sizes: sizes of the members.
        atomic_volumes: (94,) volume of an atom of each element [Å³].
        prototypes: (k,) int64, sorted hashes of the prototypes that have an embedding of their own.
        property_name: what is predicted.
        unit: its unit.
    """

    def __init__(
        self, sizes: NetworkSizes, atomic_volumes: Tensor, prototypes: Tensor, property_name: str, unit: str
    ) -> None:
        super().__init__()
        self.sizes = sizes
        self.property_name = property_name
        self.unit = unit
        self.about: dict[str, Any] = {}
        self.features = CrystalFeatures(atomic_volumes)
        self.atomic_volumes: Tensor
        self.prototypes: Tensor
        self.row_scale: Tensor
        self.site_scale: Tensor
        self.target_scale: Tensor
        self.register_buffer("atomic_volumes", atomic_volumes.to(torch.float64))
        self.register_buffer("prototypes", prototypes)
        # Rows: lowest, highest, mean, standard deviation of the training values.
        self.register_buffer("row_scale", torch.ones(4, self.features.row_size))
        self.register_buffer("site_scale", torch.ones(4, self.features.site_size))
        self.register_buffer("target_scale", torch.ones(4))
        row, site = self.features.row_size, self.features.site_size
        self.members = nn.ModuleList(Member(sizes, row, site, len(prototypes)) for _ in range(sizes.members))

    @classmethod
    def for_data(
        cls,
        sizes: NetworkSizes,
        crystals: Crystals,
        target: Tensor,
        min_prototype_rows: int,
        property_name: str,
        unit: str,
    ) -> PropertyNetwork:
        """An untrained network, scaled to training data.

        Args:
            sizes: sizes of the network.
            crystals: n training crystals.
            target: (n,) their property.
            min_prototype_rows: training rows that a prototype needs for an embedding of its own.
            property_name: what is predicted.
            unit: its unit.
        """
        volumes = fit_atomic_volumes(crystals)
        features = CrystalFeatures(volumes)(crystals)
        prototypes, rows = features.prototype.unique(return_counts=True)
        network = cls(sizes, volumes, prototypes[rows >= min_prototype_rows], property_name, unit)
        network.row_scale.copy_(_scale(features.row))
        network.site_scale.copy_(_scale(features.site))
        deviation = target.std(correction=0).clamp_min(1e-3)
        network.target_scale.copy_(torch.stack([target.min(), target.max(), target.mean(), deviation]))
        return network

    def inputs(self, crystals: Crystals) -> Features:
        """Features saturated at their training range and scaled; ``prototype`` holds the index of a known prototype."""
        return self._scaled(self.features(crystals))

    def _scaled(self, raw: Features) -> Features:
        if len(self.prototypes):
            place = torch.searchsorted(self.prototypes, raw.prototype).clamp_max(len(self.prototypes) - 1)
            known = torch.where(self.prototypes[place] == raw.prototype, place + 1, 0)
        else:
            known = torch.zeros_like(raw.prototype)
        return Features(
            row=_apply_scale(raw.row, self.row_scale),
            fractions=raw.fractions,
            space_group=raw.space_group,
            prototype=known,
            n_sites=raw.n_sites,
            element=raw.element,
            count=raw.count,
            site=_apply_scale(raw.site, self.site_scale),
        )

    def forward(self, crystals: Crystals) -> Tensor:
        """(members, n) prediction of each member, within the range of the training data."""
        return self._predict(self.inputs(crystals))

    def with_distance(self, crystals: Crystals) -> tuple[Tensor, Tensor]:
        """Predictions, and how far the crystals lie outside of what was seen in training.

        Returns:
            (members, n) prediction of each member as from `forward`, and (n,) the sum over the row features of their
            distance from the training range, each in standard deviations of the training rows; 0 inside.
        """
        raw = self.features(crystals)
        lowest, highest, _, deviation = self.row_scale
        outside = ((lowest - raw.row).clamp_min(0) + (raw.row - highest).clamp_min(0)) / deviation
        return self._predict(self._scaled(raw)), outside.sum(1)

    def _predict(self, features: Features) -> Tensor:
        """(members, n) prediction of each member from saturated and scaled features."""
        sites = Sites.of(features)
        return self.unscale(torch.stack([member(features, sites) for member in self.members]))

    def unscale(self, output: Tensor) -> Tensor:
        """The property, from the output of a member (any shape), within the range of the training data."""
        lowest, highest, mean, deviation = self.target_scale
        return torch.minimum(torch.maximum(output * deviation + mean, lowest), highest)

    def save(self, path: Path) -> None:
        """Write the network to a file, weights of the members in half precision."""
        state = {k: v.half() if k.startswith("members.") else v for k, v in self.state_dict().items()}
        content = {
            "format": FILE_FORMAT,
            "feature_version": FEATURE_VERSION,
            "property": self.property_name,
            "unit": self.unit,
            "sizes": asdict(self.sizes),
            "about": self.about,
            "state": state,
        }
        with atomic_path(path) as temporary:
            torch.save(content, temporary)

    @classmethod
    def load(cls, path: Path, property_name: str | None = None) -> PropertyNetwork:
        """Read a network; it comes back in evaluation mode, without gradients.

        Args:
            path: a file that `save` wrote.
            property_name: the property it has to predict; None for any.

        Raises:
            InputError: if the file is missing, damaged, of another architecture or for another property.
        """
        if not path.is_file():
            raise InputError(f"{path}: no such file of weights")
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # zip, pickle and torch raise many kinds for damaged files
            reason = str(error).partition("\n")[0]
            raise InputError(f"{path}: cannot be read as weights: {type(error).__name__}: {reason}") from None
        if not isinstance(content, dict) or content.get("format") != FILE_FORMAT:
            found = content.get("format") if isinstance(content, dict) else type(content).__name__
            raise InputError(f"{path}: holds {found!r}, not a {FILE_FORMAT!r}")
        if content.get("feature_version") != FEATURE_VERSION:
            raise InputError(
                f"{path}: made for feature version {content.get('feature_version')!r}; this is version "
                f"{FEATURE_VERSION}: train the network again"
            )
        if property_name is not None and content.get("property") != property_name:
            raise InputError(f"{path}: predicts {content.get('property')!r}, not {property_name!r}")
        try:
            network = cls._from_content(content)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise InputError(f"{path}: weights and architecture do not fit: {error}") from None
        if not all(bool(value.isfinite().all()) for value in network.state_dict().values()):
            raise InputError(f"{path}: some weights are not finite")
        return network.eval().requires_grad_(False)

    @classmethod
    def _from_content(cls, content: dict[str, Any]) -> PropertyNetwork:
        """A network from the content of its file, checked part by part."""
        names = {field.name for field in fields(NetworkSizes)}
        sizes = content["sizes"]
        if set(sizes) != names:
            raise ValueError(f"sizes are {sorted(sizes)}, needed: {sorted(names)}")
        if any(value < 0 or value > 4096 for value in sizes.values()):
            raise ValueError(f"sizes outside of 0 to 4096: {sizes}")
        state = content["state"]
        volumes, prototypes = state["atomic_volumes"], state["prototypes"]
        if volumes.shape != (N_ELEMENTS,) or prototypes.ndim != 1 or prototypes.dtype != torch.int64:
            raise ValueError("atomic volumes or prototypes have another shape or type")
        # Initial weights are drawn and overwritten: nobody else's random numbers may change through it.
        with torch.random.fork_rng(devices=[]):
            network = cls(NetworkSizes(**sizes), volumes, prototypes, content["property"], content["unit"])
        network.load_state_dict(
            {k: v.float() if v.is_floating_point() and v.dtype != torch.float64 else v for k, v in state.items()}
        )
        network.about = content["about"]
        return network


def _scale(values: Tensor) -> Tensor:
    """(4, f) range, mean and standard deviation of features (n, f); the mean and deviation are of saturated values."""
    ordered = values.sort(dim=0).values
    outside = int(_OUTSIDE * len(values))
    lowest, highest = ordered[outside], ordered[len(values) - 1 - outside]
    inside = torch.minimum(torch.maximum(values, lowest), highest)
    deviation = inside.std(0, correction=0)
    # A feature that is constant in training tells nothing: it becomes 0.
    return torch.stack([lowest, highest, inside.mean(0), torch.where(deviation > 1e-6, deviation, 1.0)])


def _apply_scale(values: Tensor, scale: Tensor) -> Tensor:
    """Features (n, f) saturated at their range, with mean 0 and deviation 1 over the training data."""
    lowest, highest, mean, deviation = scale
    return (torch.minimum(torch.maximum(values, lowest), highest) - mean) / deviation
