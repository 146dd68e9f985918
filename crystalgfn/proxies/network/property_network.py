"""An ensemble of networks with all it needs to predict a property: scaling, training range, prototypes, own error.

Its file is self-describing: sizes, feature version, property and unit stand beside the weights, and everything in it
is a tensor or a plain Python value, so that reading it runs no code.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crystalgfn.crystal.crystallography import N_ELEMENTS
from crystalgfn.crystal.crystals import Crystals
from crystalgfn.errors import InputError
from crystalgfn.files import read_plain, write_plain
from crystalgfn.proxies.network.features import FEATURE_VERSION, CrystalFeatures, Features, fit_atomic_volumes
from crystalgfn.proxies.network.networks import Constituents, Member, NetworkSizes

FILE_FORMAT = "crystalgfn property network 2"

OUTSIDE_UNCERTAINTY = 0.1
"""Rise of the uncertainty, in standard deviations of the label, for each standard deviation by which a feature leaves
the range of the training rows. An assumption: nothing is known of the error there, except that it is larger."""

LOG_RANGE = (-8.0, 4.0)
"""Limits of the logarithm of an uncertainty [deviations of the label]: no crystal is certain or doubted without end."""

_OUTSIDE = 5e-4
"""Fraction of the training values on each side of a feature that do not count for its range."""

_PIECE = 256
"""Crystals evaluated at once on a CPU: what lies between two layers then fits its cache."""

_LEAST_DISAGREEMENT = 1e-3
"""Smallest disagreement [standard deviations of the label], so that it has a logarithm."""


@dataclass(frozen=True)
class Outputs:
    """What the members of an ensemble say together of n crystals.

    Attributes:
        members: (members, n) the value each member predicts; for a property with many zeros, if it is not zero.
        not_zero: (n,) probability that the property is not exactly zero; 1 for a property without many zeros.
        value: (n,) the prediction: the mean of the members; for a property with many zeros 0 unless another value is
            the more probable: the median of the two cases, not a mixture that is true of neither.
        disagreement: (n,) expected absolute deviation of what the members say from the prediction.
    """

    members: Tensor
    not_zero: Tensor
    value: Tensor
    disagreement: Tensor


@dataclass(frozen=True)
class Estimate:
    """A property network's estimate for n crystals.

    Attributes:
        value: (n,) the property.
        uncertainty: (n,) its expected absolute error.
        not_zero: (n,) probability that the property is not exactly zero.
        outside: (n,) the sum over the row features of their distance from the training range, each in standard
            deviations of the training rows; 0 inside.
    """

    value: Tensor
    uncertainty: Tensor
    not_zero: Tensor
    outside: Tensor


class PropertyNetwork(nn.Module):
    """Predicts one property of crystals, by an ensemble, and how wrong the prediction may be, by a further network.

    Args:
        sizes: sizes of the members.
        error_sizes: sizes of the network that predicts the error; ``members`` and ``zero_share`` mean nothing there.
        atomic_volumes: (94,) volume of an atom of each element [Å³].
        prototypes: (k,) int64, sorted hashes of the prototypes that have an embedding of their own.
        property_name: what is predicted.
        unit: its unit.
    """

    def __init__(
        self,
        sizes: NetworkSizes,
        error_sizes: NetworkSizes,
        atomic_volumes: Tensor,
        prototypes: Tensor,
        property_name: str,
        unit: str,
    ) -> None:
        super().__init__()
        self.sizes = sizes
        self.error_sizes = error_sizes
        self.property_name = property_name
        self.unit = unit
        self.about: dict[str, Any] = {}
        self.features = CrystalFeatures(atomic_volumes)
        self.atomic_volumes: Tensor
        self.prototypes: Tensor
        self.row_scale: Tensor
        self.site_scale: Tensor
        self.target_scale: Tensor
        self.label_range: Tensor
        self.calibration: Tensor
        self.register_buffer("atomic_volumes", atomic_volumes.to(torch.float64))
        self.register_buffer("prototypes", prototypes)
        # Rows: lowest, highest, mean, standard deviation of the training values.
        self.register_buffer("row_scale", torch.ones(4, self.features.row_size))
        # Files of weights say "site" for a constituent.
        self.register_buffer("site_scale", torch.ones(4, self.features.constituent_size))
        self.register_buffer("target_scale", torch.ones(4))
        # Lowest and highest label, zeros included.
        self.register_buffer("label_range", torch.ones(2))
        # log(uncertainty) = c0 + c1 log(predicted error) + c2 log(disagreement), all in deviations of the label.
        self.register_buffer("calibration", torch.tensor([0.0, 1.0, 0.0]))
        row, constituent, known = self.features.row_size, self.features.constituent_size, len(prototypes)
        outputs = 2 if sizes.zero_share else 1
        self.members = nn.ModuleList(Member(sizes, row, constituent, known, outputs) for _ in range(sizes.members))
        # Its initial weights are drawn apart: members are the same with any error network.
        with torch.random.fork_rng(devices=[]):
            self.error = Member(error_sizes, row + 2, constituent, known)

    @classmethod
    def for_data(
        cls,
        sizes: NetworkSizes,
        error_sizes: NetworkSizes,
        crystals: Crystals,
        target: Tensor,
        min_prototype_rows: int,
        property_name: str,
        unit: str,
    ) -> PropertyNetwork:
        """An untrained network, scaled to training data.

        Args:
            sizes: sizes of the members.
            error_sizes: sizes of the network that predicts the error.
            crystals: n training crystals.
            target: (n,) their property.
            min_prototype_rows: training rows that a prototype needs for an embedding of its own.
            property_name: what is predicted.
            unit: its unit.
        """
        volumes = fit_atomic_volumes(crystals)
        features = CrystalFeatures(volumes)(crystals)
        prototypes, rows = features.prototype.unique(return_counts=True)
        network = cls(sizes, error_sizes, volumes, prototypes[rows >= min_prototype_rows], property_name, unit)
        network.row_scale.copy_(_scale(features.row))
        network.site_scale.copy_(_scale(features.constituent))
        network.label_range.copy_(torch.stack([target.min(), target.max()]))
        if sizes.zero_share and bool((target != 0).any()):
            target = target[target != 0]
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
            n_elements=raw.n_elements,
            element=raw.element,
            count=raw.count,
            constituent=_apply_scale(raw.constituent, self.site_scale),
        )

    def forward(self, crystals: Crystals) -> Estimate:
        """The estimate for n crystals, within the range of the labels in training."""
        if crystals.space_group.device.type != "cpu" or len(crystals) <= _PIECE:
            return self._estimate(crystals)
        pieces = [self._estimate(crystals[i : i + _PIECE]) for i in range(0, len(crystals), _PIECE)]
        return Estimate(*(torch.cat([getattr(piece, f.name) for piece in pieces]) for f in fields(Estimate)))

    def _estimate(self, crystals: Crystals) -> Estimate:
        raw = self.features(crystals)
        lowest, highest, _, deviation = self.row_scale
        outside = (((lowest - raw.row).clamp_min(0) + (raw.row - highest).clamp_min(0)) / deviation).sum(1)
        features = self._scaled(raw)
        constituents = Constituents.of(features)
        outputs = self.combine(torch.stack([member(features, constituents) for member in self.members]))
        predicted = self.error(self.error_inputs(features, outputs), constituents)[:, 0]
        inside = self.log_uncertainty(predicted, outputs.disagreement, self.calibration).exp()
        uncertainty = (inside + OUTSIDE_UNCERTAINTY * outside) * self.target_scale[3]
        return Estimate(outputs.value, uncertainty, outputs.not_zero, outside)

    def outputs(self, crystals: Crystals) -> Outputs:
        """What the members say of n crystals."""
        features = self.inputs(crystals)
        constituents = Constituents.of(features)
        return self.combine(torch.stack([member(features, constituents) for member in self.members]))

    def combine(self, raw: Tensor) -> Outputs:
        """One prediction from the raw outputs (members, n, outputs) of the members."""
        members = self.unscale(raw[..., 0])
        mean = members.mean(0)
        if not self.sizes.zero_share:
            return Outputs(members, torch.ones_like(mean), mean, (members - mean).abs().mean(0))
        share = raw[..., 1].sigmoid()
        not_zero = share.mean(0)
        value = torch.where(not_zero > 0.5, mean, 0.0)
        deviation = (1 - share) * value.abs() + share * (members - value).abs()
        return Outputs(members, not_zero, value, deviation.mean(0))

    def error_inputs(self, features: Features, outputs: Outputs) -> Features:
        """Features of the error network: those of the members, the value they mean and whether it is zero."""
        _, _, mean, deviation = self.target_scale
        said = torch.stack([(outputs.members.mean(0) - mean) / deviation, 2 * outputs.not_zero - 1], dim=1)
        return replace(features, row=torch.cat([features.row, said], dim=1))

    def log_uncertainty(self, predicted: Tensor, disagreement: Tensor, calibration: Tensor) -> Tensor:
        """(n,) logarithm of the uncertainty [deviations of the label], inside of the training range.

        Args:
            predicted: (n,) logarithm of the expected absolute error [deviations of the label], by the error network.
            disagreement: (n,) that of the members, in the unit of the property.
            calibration: (3,) shift, exponent of the predicted error and of the disagreement.
        """
        apart = (disagreement / self.target_scale[3]).clamp_min(_LEAST_DISAGREEMENT).log()
        shift, slope, other = calibration
        return (shift + slope * predicted.clamp(*LOG_RANGE) + other * apart).clamp(*LOG_RANGE)

    def unscale(self, output: Tensor) -> Tensor:
        """The property, from the output of a member (any shape), within the range of the training data."""
        lowest, highest, mean, deviation = self.target_scale
        return torch.minimum(torch.maximum(output * deviation + mean, lowest), highest)

    @torch.no_grad()
    def round_weights(self) -> None:
        """Give the weights of all networks the precision that they have in a file."""
        for network in (self.members, self.error):
            for parameter in network.parameters():
                parameter.copy_(parameter.half())

    def save(self, path: Path) -> None:
        """Write the network to a file, weights of the networks in half precision."""
        state = {k: v.half() if k.startswith(("members.", "error.")) else v for k, v in self.state_dict().items()}
        content = {
            "feature_version": FEATURE_VERSION,
            "property": self.property_name,
            "unit": self.unit,
            "sizes": asdict(self.sizes),
            "error_sizes": asdict(self.error_sizes),
            "about": self.about,
            "state": state,
        }
        write_plain(path, FILE_FORMAT, content)

    @classmethod
    def load(cls, path: Path, property_name: str | None = None) -> PropertyNetwork:
        """Read a network; it comes back in evaluation mode, without gradients.

        Args:
            path: a file that `save` wrote.
            property_name: the property it has to predict; None for any.

        Raises:
            InputError: if the file is missing, damaged, of another architecture or for another property.
        """
        content = read_plain(path, FILE_FORMAT, "no such file of weights", "weights", "train the network again")
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
            # Torch has one line for each parameter, after a headline.
            first, *others = str(error).splitlines()[1:] or [str(error)]
            more = f" (and {len(others)} more)" if others else ""
            raise InputError(f"{path}: weights and architecture do not fit: {first.strip()}{more}") from None
        if not all(bool(value.isfinite().all()) for value in network.state_dict().values()):
            raise InputError(f"{path}: some weights are not finite")
        return network.eval().requires_grad_(False)

    @classmethod
    def _from_content(cls, content: dict[str, Any]) -> PropertyNetwork:
        """A network from the content of its file, checked part by part."""
        state = content["state"]
        volumes, prototypes = state["atomic_volumes"], state["prototypes"]
        if volumes.shape != (N_ELEMENTS,) or prototypes.ndim != 1 or prototypes.dtype != torch.int64:
            raise ValueError("atomic volumes or prototypes have another shape or type")
        if not isinstance(content["unit"], str) or not is_property_name(content["property"]):
            raise ValueError(f"property {content['property']!r}, unit {content['unit']!r}")
        sizes, error_sizes = _sizes(content["sizes"]), _sizes(content["error_sizes"])
        # Initial weights are drawn and overwritten: nobody else's random numbers may change through it.
        with torch.random.fork_rng(devices=[]):
            network = cls(sizes, error_sizes, volumes, prototypes, content["property"], content["unit"])
        network.load_state_dict(
            {k: v.float() if v.is_floating_point() and v.dtype != torch.float64 else v for k, v in state.items()}
        )
        network.about = content["about"]
        return network


def is_property_name(name: object) -> bool:
    """Whether something can name a property: an identifier, as it becomes a column and a tag."""
    return isinstance(name, str) and name.isidentifier() and name.isascii()


def _sizes(values: dict[str, Any]) -> NetworkSizes:
    """Sizes from a file.

    Raises:
        ValueError: if they are others than this version knows, or out of bounds.
    """
    names = {field.name for field in fields(NetworkSizes)}
    if set(values) != names:
        raise ValueError(f"sizes are {sorted(values)}, needed: {sorted(names)}")
    if any(value < 0 or value > 4096 for value in values.values()):
        raise ValueError(f"sizes outside of 0 to 4096: {values}")
    return NetworkSizes(**values)


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
