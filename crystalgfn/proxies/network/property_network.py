"""An ensemble of networks with everything it needs: scaling, training range, prototypes and error estimate.

A file of weights also contains sizes, feature version, property and unit. Everything in the file is a tensor or a
plain Python value, so that reading it runs no code.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crystalgfn.crystal.crystallography import N_ELEMENTS
from crystalgfn.crystal.crystals import Crystals
from crystalgfn.errors import InputError
from crystalgfn.files import read_plain, write_plain
from crystalgfn.gflownet.proxies.names import is_property_name
from crystalgfn.proxies.network.features import FEATURE_VERSION, CrystalFeatures, Features, fit_atomic_volumes
from crystalgfn.proxies.network.networks import Constituents, Member, NetworkSizes

FILE_FORMAT = "crystalgfn property network 2"

OUTSIDE_UNCERTAINTY = 0.1
"""Rise of the uncertainty, in standard deviations of the label, for each standard deviation by which a feature lies
outside the range of the training rows.

The value is an assumption: the training rows show only that the error is larger there."""

LOG_RANGE = (-8.0, 4.0)
"""Limits of the logarithm of an uncertainty [standard deviations of the label]; they keep it above 0 and finite."""

_OUTSIDE = 5e-4
"""Fraction of the training values at each end that is ignored when the range of a feature is determined."""

_PIECE = 256
"""Number of crystals that are evaluated at once on a CPU, so that the values between two layers fit its cache."""

_SCALE = "uncertainty_scale"
"""Entry of ``about`` with the factor that is included in the first number of the calibration."""

_LEAST_DISAGREEMENT = 1e-3
"""Smallest disagreement that is used [standard deviations of the label], so that its logarithm is finite."""


@dataclass(frozen=True)
class Outputs:
    """Outputs of the members of an ensemble for n crystals, and the prediction from them.

    Attributes:
        members: (members, n) value that each member predicts; with ``zero_share``, the value if it is not zero.
        not_zero: (n,) probability that the property is not exactly zero; 1 without ``zero_share``.
        value: (n,) the prediction: the mean of the members. With ``zero_share`` it is 0 unless another value is more
            probable; this is the median of the two cases, because their mean would be wrong in both.
        disagreement: (n,) expected absolute deviation of the members from the prediction.
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
        uncertainty: (n,) expected absolute error of the property.
        not_zero: (n,) probability that the property is not exactly zero.
        outside: (n,) the sum over the row features of their distance from the training range, each in standard
            deviations of the training rows; 0 inside the range.
    """

    value: Tensor
    uncertainty: Tensor
    not_zero: Tensor
    outside: Tensor


class PropertyNetwork(nn.Module):
    """Predicts one property of crystals with an ensemble, and the error of the prediction with a further network.

    Args:
        sizes: sizes of the members.
        error_sizes: sizes of the network that predicts the error; ``members`` and ``zero_share`` are not used.
        atomic_volumes: (94,) volume of an atom of each element [Å³].
        prototypes: (k,) int64, sorted hashes of the prototypes that have an embedding of their own.
        property_name: name of the property.
        unit: unit of the property.
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
        # The rows are the lowest and highest value, mean and standard deviation of the training values.
        self.register_buffer("row_scale", torch.ones(4, self.features.row_size))
        # Files of weights use the name "site" for a constituent.
        self.register_buffer("site_scale", torch.ones(4, self.features.constituent_size))
        self.register_buffer("target_scale", torch.ones(4))
        # Lowest and highest label, including zeros.
        self.register_buffer("label_range", torch.ones(2))
        # log(uncertainty) = c0 + c1 log(predicted error) + c2 log(disagreement), in standard deviations of the label.
        self.register_buffer("calibration", torch.tensor([0.0, 1.0, 0.0]))
        row, constituent, known = self.features.row_size, self.features.constituent_size, len(prototypes)
        outputs = 2 if sizes.zero_share else 1
        self.members = nn.ModuleList(Member(sizes, row, constituent, known, outputs) for _ in range(sizes.members))
        # The random state is restored after this, so that the training of the members does not depend on this network.
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
            target: (n,) property of the crystals.
            min_prototype_rows: number of training rows that a prototype needs to get an embedding of its own.
            property_name: name of the property.
            unit: unit of the property.
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
        """Features, limited to their training range and scaled; ``prototype`` is the index of a known one, or 0."""
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
        """The estimate for n crystals; values are within the range of the training labels."""
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
        """Outputs of the members for n crystals, and the prediction from them."""
        features = self.inputs(crystals)
        constituents = Constituents.of(features)
        return self.combine(torch.stack([member(features, constituents) for member in self.members]))

    def combine(self, raw: Tensor) -> Outputs:
        """Combine the raw outputs (members, n, outputs) of the members into one prediction."""
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
        """Features of the error network: those of the members, the mean of the members, and whether it may be zero."""
        _, _, mean, deviation = self.target_scale
        said = torch.stack([(outputs.members.mean(0) - mean) / deviation, 2 * outputs.not_zero - 1], dim=1)
        return replace(features, row=torch.cat([features.row, said], dim=1))

    def log_uncertainty(self, predicted: Tensor, disagreement: Tensor, calibration: Tensor) -> Tensor:
        """(n,) logarithm of the uncertainty [standard deviations of the label], inside the training range.

        Args:
            predicted: (n,) output of the error network: logarithm of the expected absolute error
                [standard deviations of the label].
            disagreement: (n,) disagreement of the members, in the unit of the property.
            calibration: (3,) shift, exponent of the predicted error, and exponent of the disagreement.
        """
        apart = (disagreement / self.target_scale[3]).clamp_min(_LEAST_DISAGREEMENT).log()
        shift, slope, other = calibration
        return (shift + slope * predicted.clamp(*LOG_RANGE) + other * apart).clamp(*LOG_RANGE)

    @property
    def uncertainty_scale(self) -> float:
        """Factor that the uncertainty inside the training range includes since its calibration; 1 for none."""
        return float(self.about.get(_SCALE, 1.0))

    def set_uncertainty_scale(self, scale: float) -> None:
        """Replace the positive factor of the uncertainty. A file of weights keeps the factor and the uncertainty."""
        self.calibration[0] += math.log(scale / self.uncertainty_scale)
        self.about[_SCALE] = scale

    def set_calibration(self, numbers: Tensor) -> None:
        """Replace the (3,) calibration, see `log_uncertainty`, with its scale."""
        self.calibration.copy_(numbers)
        self.about.pop(_SCALE, None)

    def unscale(self, output: Tensor) -> Tensor:
        """The property, from the output of a member (any shape), within the range of the training data."""
        lowest, highest, mean, deviation = self.target_scale
        return torch.minimum(torch.maximum(output * deviation + mean, lowest), highest)

    @torch.no_grad()
    def round_weights(self) -> None:
        """Round the weights of all networks to half precision, as in a file."""
        for network in (self.members, self.error):
            for parameter in network.parameters():
                parameter.copy_(parameter.half())

    def save(self, path: Path) -> None:
        """Write the network to a file; the weights of the networks are stored in half precision."""
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
        """Read a network, in evaluation mode and without gradients.

        Args:
            path: a file that `save` wrote.
            property_name: property that the network must predict; None for any property.

        Raises:
            InputError: if the file is missing, damaged, of another architecture or for another property.
        """
        content = read_plain(path, FILE_FORMAT, "no such file of weights", "weights", "train the network again")
        if content.get("feature_version") != FEATURE_VERSION:
            raise InputError(
                f"{path}: made for feature version {content.get('feature_version')!r}; allowed: version "
                f"{FEATURE_VERSION}. Train the network again"
            )
        if property_name is not None and content.get("property") != property_name:
            raise InputError(f"{path}: predicts {content.get('property')!r}, not {property_name!r}")
        try:
            network = cls._from_content(content)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            # The message of torch is a headline, then one line for each parameter.
            first, *others = str(error).splitlines()[1:] or [str(error)]
            more = f" (and {len(others)} more)" if others else ""
            raise InputError(f"{path}: weights and architecture do not fit: {first.strip()}{more}") from None
        if not all(bool(value.isfinite().all()) for value in network.state_dict().values()):
            raise InputError(f"{path}: some weights are not finite")
        return network.eval().requires_grad_(False)

    @classmethod
    def _from_content(cls, content: dict[str, Any]) -> PropertyNetwork:
        """Make a network from the content of its file.

        Raises:
            ValueError: if the content does not describe a network. Damaged content can raise other errors, too.
        """
        state = content["state"]
        volumes, prototypes = state["atomic_volumes"], state["prototypes"]
        if volumes.shape != (N_ELEMENTS,) or prototypes.ndim != 1 or prototypes.dtype != torch.int64:
            raise ValueError("atomic volumes or prototypes have a wrong shape or type")
        if not isinstance(content["unit"], str) or not is_property_name(content["property"]):
            raise ValueError(f"property {content['property']!r} or unit {content['unit']!r} is not allowed")
        sizes, error_sizes = _sizes(content["sizes"]), _sizes(content["error_sizes"])
        # The initial weights are overwritten: drawing them must not change the random numbers of the caller.
        with torch.random.fork_rng(devices=[]):
            network = cls(sizes, error_sizes, volumes, prototypes, content["property"], content["unit"])
        network.load_state_dict(
            {k: v.float() if v.is_floating_point() and v.dtype != torch.float64 else v for k, v in state.items()}
        )
        network.about = content["about"]
        return network


def _sizes(values: dict[str, Any]) -> NetworkSizes:
    """Sizes from a file.

    Raises:
        ValueError: if their names are not those of this version, or a size is out of bounds.
    """
    names = {field.name for field in fields(NetworkSizes)}
    if set(values) != names:
        raise ValueError(f"sizes are {sorted(values)}; needed: {sorted(names)}")
    if any(value < 0 or value > 4096 for value in values.values()):
        raise ValueError(f"some sizes are outside of 0 to 4096: {values}")
    return NetworkSizes(**values)


def _scale(values: Tensor) -> Tensor:
    """(4, f) range, mean and standard deviation of features (n, f), the last two after limiting them to the range."""
    ordered = values.sort(dim=0).values
    outside = int(_OUTSIDE * len(values))
    lowest, highest = ordered[outside], ordered[len(values) - 1 - outside]
    inside = torch.minimum(torch.maximum(values, lowest), highest)
    deviation = inside.std(0, correction=0)
    # A feature that is constant in training carries no information: it becomes 0.
    return torch.stack([lowest, highest, inside.mean(0), torch.where(deviation > 1e-6, deviation, 1.0)])


def _apply_scale(values: Tensor, scale: Tensor) -> Tensor:
    """Features (n, f), limited to their range and scaled to mean 0 and deviation 1 over the training data."""
    lowest, highest, mean, deviation = scale
    return (torch.minimum(torch.maximum(values, lowest), highest) - mean) / deviation
