"""Proxies with known modes, for environments that are used to check a sampler."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from crystalgfn.checks import at_least, between, not_negative, positive
from crystalgfn.errors import InputError
from crystalgfn.gflownet.proxies.base import Proxy
from crystalgfn.registry import PROXIES


@PROXIES.register
class HyperGridModes(Proxy):
    """Reward of the hypergrid, with a mode near each corner.

    R = r0 + r1 prod(u > 1/4) + r2 prod(3/10 < u < 2/5), where u is the distance of a coordinate from the middle of its
    axis, from 0 to 1/2 of the length of the axis. Products are over the coordinates.

    Args:
        height: number of values of each coordinate.
        r0: reward everywhere.
        r1: additional reward if all coordinates are in the outer quarters of their axes.
        r2: additional reward if all coordinates are in a thin band within the outer quarters.

    Raises:
        InputError: if the height is below 2.

    Source: Bengio et al., "Flow Network based Generative Models for Non-Iterative Diverse Candidate Generation",
    NeurIPS 2021.
    """

    name = "mode_reward"
    direction = "maximize"
    knows_modes = True
    valid_range = (0.0, float("inf"))

    def __init__(self, height: int, r0: float = 0.1, r1: float = 0.5, r2: float = 2.0) -> None:
        super().__init__()
        at_least("height", height, 2)
        self.height, self.r0, self.r1, self.r2 = height, r0, r1, r2

    def forward(self, objects: Tensor) -> Tensor:
        """(n,) float64 reward of cells (n, dimensions)."""
        outer = (self._distance(objects) > 0.25).all(1).to(torch.float64)
        return self.r0 + self.r1 * outer + self.r2 * self._in_band(objects).to(torch.float64)

    def n_modes(self, objects: Tensor) -> int:
        """One mode for each corner, for cells (n, dimensions); no mode if no value of an axis lies in the thin band."""
        axis = torch.arange(self.height, device=objects.device).unsqueeze(1)
        return 2 ** objects.shape[1] if self._in_band(axis).any() else 0

    def modes(self, objects: Tensor) -> Tensor:
        """(n,) int64, the corner to whose part of the thin band a cell belongs; -1 outside of the band."""
        is_high = (objects > (self.height - 1) / 2).long()
        corner = (is_high * 2 ** torch.arange(objects.shape[1], device=objects.device)).sum(1)
        return torch.where(self._in_band(objects), corner, -1)

    def _distance(self, objects: Tensor) -> Tensor:
        return (objects.to(torch.float64) / (self.height - 1) - 0.5).abs()

    def _in_band(self, objects: Tensor) -> Tensor:
        distance = self._distance(objects)
        # Without the margin, rounding could count a cell on the edge of the band on one side of the axis only.
        return ((distance > 0.3 + 1e-9) & (distance < 0.4 - 1e-9)).all(1)


@PROXIES.register
class BoxCorners(Proxy):
    """Reward of points in the unit box, with a mode near each corner: 2^d modes in d dimensions.

    R = r0 + product of g(x_i) over the coordinates x_i, with g(x) = h(x) + h(1 - x) and
    h(x) = exp(-(x - mode)² / (2 width²)).

    Args:
        mode: distance of the modes from the faces of the box, below 1/2.
        width: standard deviation of the peaks along each axis.
        r0: reward everywhere.

    Raises:
        InputError: if a value is not allowed.

    Source: the reward "Corners" of Lahlou et al., "A theory of continuous generative flow networks", ICML 2023.
    """

    name = "corner_reward"
    direction = "maximize"
    knows_modes = True
    valid_range = (0.0, float("inf"))

    def __init__(self, mode: float = 0.2, width: float = 0.08, r0: float = 0.01) -> None:
        super().__init__()
        between("mode", mode, 0, 0.5, without=0.5)
        positive("width", width)
        not_negative("r0", r0)
        self.mode, self.width, self.r0 = mode, width, r0

    def forward(self, objects: Tensor) -> Tensor:
        """(n,) float64 reward of points (n, dimensions)."""
        x = objects.to(torch.float64)
        peaks = sum(torch.exp(-(((y - self.mode) / self.width) ** 2) / 2) for y in (x, 1 - x))
        assert isinstance(peaks, Tensor)
        return self.r0 + peaks.prod(1)

    def n_modes(self, objects: Tensor) -> int:
        """One mode for each corner, for points (n, dimensions)."""
        return 2 ** objects.shape[1]

    def modes(self, objects: Tensor) -> Tensor:
        """(n,) int64, the corner whose mode is within two widths of the point along each axis; -1 for none."""
        is_high = objects > 0.5
        near = (torch.where(is_high, 1 - objects, objects) - self.mode).abs() <= 2 * self.width
        corner = (is_high.long() * 2 ** torch.arange(objects.shape[1], device=objects.device)).sum(1)
        return torch.where(near.all(1), corner, -1)

    def log_z(self, dimensions: int) -> float:
        """Logarithm of the integral of R over the unit box with this number of dimensions."""
        scale = self.width * math.sqrt(2)
        ends = math.erf((1 - self.mode) / scale) + math.erf(self.mode / scale)
        return math.log(self.r0 + (2 * self.width * math.sqrt(math.pi / 2) * ends) ** dimensions)


@PROXIES.register
class SetOverlap(Proxy):
    """Overlap of a set with given sets, the modes: the largest fraction of a mode's items that the set contains.

    A set that contains all items of a mode has the value 1.

    Args:
        modes: items of each mode, numbered from 0.

    Raises:
        InputError: if there is no mode, if a mode has no items, or if an item is negative.
    """

    name = "overlap"
    direction = "maximize"
    knows_modes = True
    valid_range = (0.0, 1.0)

    def __init__(self, modes: list[list[int]]) -> None:
        super().__init__()
        if not modes or not all(modes):
            raise InputError(
                f"modes: {modes} is not allowed; it must be one or more sets of items, each with at least one item"
            )
        if min(map(min, modes)) < 0:
            raise InputError(f"modes: {modes} is not allowed; items are numbered from 0")
        table = torch.zeros(len(modes), max(map(max, modes)) + 1, dtype=torch.float64)
        for row, items in enumerate(modes):
            table[row, items] = 1.0
        self._modes: Tensor
        self.register_buffer("_modes", table / table.sum(1, keepdim=True), persistent=False)

    def forward(self, objects: Tensor) -> Tensor:
        """(n,) float64 overlap of sets (n, items) bool."""
        return self._shares(objects).amax(1)

    def _shares(self, objects: Tensor) -> Tensor:
        items = self._modes.shape[1]
        if objects.shape[1] < items:
            raise InputError(f"modes: item {items - 1} is not allowed; sets have the items 0 to {objects.shape[1] - 1}")
        return objects[:, :items].to(torch.float64) @ self._modes.T

    def n_modes(self, objects: Tensor) -> int:
        """Number of sets that were given."""
        return len(self._modes)

    def modes(self, objects: Tensor) -> Tensor:
        """(n,) int64, the first mode whose items are all in the set; -1 for none."""
        share, mode = self._shares(objects).max(1)
        return torch.where(share > 1 - 1e-9, mode, -1)


@PROXIES.register
class HammingDistance(Proxy):
    """Number of letters in which a word differs from the nearest one of given words, the modes.

    Open places of an unfinished word count as different from every letter.

    Args:
        modes: words of the environment's length.
        letters: the environment's alphabet.

    Raises:
        InputError: if there is no mode, if the modes differ in length, or if a letter is not in the alphabet.

    Source: Malkin et al., "Trajectory balance: Improved credit assignment in GFlowNets", NeurIPS 2022.
    """

    name = "hamming_distance"
    direction = "minimize"
    knows_modes = True
    valid_range = (0.0, float("inf"))

    def __init__(self, modes: list[str], letters: str) -> None:
        super().__init__()
        if not modes or len(set(map(len, modes))) > 1:
            raise InputError(f"modes: {modes} is not allowed; it must be one or more words of equal length")
        unknown = sorted(set("".join(modes)) - set(letters))
        if unknown:
            raise InputError(f"modes: {''.join(unknown)!r} is not allowed; allowed letters: {letters}")
        self._modes: Tensor
        table = torch.tensor([_places(word, letters) for word in modes])
        self.register_buffer("_modes", table, persistent=False)

    def forward(self, objects: Tensor) -> Tensor:
        """(n,) float64 distance of words (n, length) int64."""
        return self._distances(objects).amin(1).to(torch.float64)

    def _distances(self, objects: Tensor) -> Tensor:
        if objects.shape[1] != self._modes.shape[1]:
            raise InputError(f"modes: they have {self._modes.shape[1]} letters, but the words have {objects.shape[1]}")
        return (objects.unsqueeze(1) != self._modes).sum(2)

    def n_modes(self, objects: Tensor) -> int:
        """Number of words that were given."""
        return len(self._modes)

    def modes(self, objects: Tensor) -> Tensor:
        """(n,) int64, the mode that is equal to the word; -1 for none."""
        distance, mode = self._distances(objects).min(1)
        return torch.where(distance == 0, mode, -1)


def _places(word: str, letters: str) -> Sequence[int]:
    return [letters.index(letter) for letter in word]
