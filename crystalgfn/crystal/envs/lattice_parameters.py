"""The third stage of a crystal: the lattice parameters of its conventional cell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crystalgfn.crystal.crystallography import CRYSTAL_LATTICE_SYSTEMS
from crystalgfn.crystal.crystals import ANGLES, LATTICE_PARAMETERS, LENGTHS
from crystalgfn.crystal.envs import cell_shape
from crystalgfn.gflownet.envs.base import BetaMixtureHead, TruncatedBetaMixtureHead, first_faults
from crystalgfn.gflownet.envs.stage import Stage

ORDER = ANGLES + LENGTHS
"""Order of the decisions. Angles come first, because once they are known, a bound on the volume is a bound on the
product of the lengths."""

_FREE = {
    "triclinic": ("alpha", "beta", "gamma", "a", "b", "c"),
    "monoclinic": ("beta", "a", "b", "c"),
    "orthorhombic": ("a", "b", "c"),
    "tetragonal": ("a", "c"),
    "trigonal-rhombohedral": ("a", "c"),
    "trigonal-hexagonal": ("a", "c"),
    "hexagonal": ("a", "c"),
    "cubic": ("a",),
}
"""Free parameters of the conventional standard cell, with unique axis b and hexagonal axes for trigonal cells."""

MARGIN = 0.02
"""Least overlap, in log volume, of the allowed volumes with the volumes that are possible for each cell shape."""

LEAST_MARGIN = 1e-6
"""The same for restrictions, which should keep every number of atoms that the allowed volumes permit."""


def fixed_angles(system: str) -> dict[str, float]:
    """Angles [degrees] that the crystal-lattice system prescribes."""
    hexagonal_axes = system.startswith("trigonal") or system == "hexagonal"
    return {name: 120.0 if name == "gamma" and hexagonal_axes else 90.0 for name in ANGLES if name not in _FREE[system]}


def _edge_powers(system: str) -> tuple[float, float, float]:
    """Powers of the free lengths a, b, c in the volume, such as a^3 in cubic cells and a^2 c in tetragonal cells."""
    free = _FREE[system]
    tied = [name for name in LENGTHS if name not in free]
    return (1.0 + len(tied), 1.0 if "b" in free else 0.0, 1.0 if "c" in free else 0.0)


def _lengths_by_system(ranges: Mapping[str, tuple[float, float]]) -> Tensor:
    """(3, systems, 4) the table `_Space.by_system` for given ranges of the lengths."""
    ends = torch.tensor([ranges[name] for name in LENGTHS], dtype=torch.float64).log()
    rows = []
    for axis in range(3):
        for system in CRYSTAL_LATTICE_SYSTEMS:
            powers = torch.tensor(_edge_powers(system), dtype=torch.float64)
            own = [axis] if axis else [0, *(i for i in (1, 2) if powers[i] == 0)]
            later = (powers[axis + 1 :].unsqueeze(1) * ends[axis + 1 :]).sum(0)
            rows.append(torch.stack([ends[own, 0].amax(), ends[own, 1].amin(), *later]))
    return torch.stack(rows).view(3, len(CRYSTAL_LATTICE_SYSTEMS), 4)


class _Space(NamedTuple):
    """Bounds on the cells of n states.

    Attributes:
        ranges: lowest and highest value of each parameter [Å, degrees].
        alphas: lowest and highest alpha of a triclinic cell [degrees].
        by_system: (3, systems, 4) float64 for each of a, b, c and each crystal-lattice system: logarithms of the lowest
            and highest value of the length (and of the lengths that are equal to it), then the least and largest
            contribution of the later lengths to the logarithm of the volume.
        log_volumes: (n, 2) float64, logarithms of the least and the largest volume [Å³] of the cell in each state.
    """

    ranges: Mapping[str, tuple[float, float]]
    alphas: tuple[float, float]
    by_system: Tensor
    log_volumes: Tensor


class LatticeParameters(Stage):
    """Draws the free lattice parameters one after another, angles first; the lattice system fixes the others.

    Every cell has a positive volume that lies in the range given by the condition.

    State: a, b, c [Å], alpha, beta, gamma [degrees], 0 if not known yet; number of parameters drawn; crystal-lattice
    system plus one (0: not started); logarithms of the least and the largest volume [Å³] of the cell.

    Condition: crystal-lattice system, logarithms of the least and the largest volume [Å³].

    Args:
        ranges: lowest and highest value of each of a, b, c [Å], alpha, beta, gamma [degrees].
        angle_margin: least distance of the angles from those of a flat cell [degrees], see `cell_shape`.
        components: number of Beta distributions in each mixture.
        log_lengths: whether the mixtures for lengths are on a logarithmic scale.
        limits: allowed ranges, within ``ranges``; None for ``ranges`` themselves. The inputs of the policy and the
            intervals of its mixtures depend only on ``ranges``.
        volume_offsets: numbers to add to the logarithms of the volumes in the condition to get the volumes without a
            restriction, which are inputs of the policy; they may be infinite.
    """

    condition_size = 3

    def __init__(
        self,
        ranges: Mapping[str, tuple[float, float]],
        angle_margin: float,
        components: int,
        log_lengths: bool,
        limits: Mapping[str, tuple[float, float]] | None = None,
        volume_offsets: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        super().__init__()
        self._ranges = dict(ranges)
        self._limits = dict(ranges if limits is None else limits)
        self._margin = angle_margin
        self._corners = cell_shape.triclinic_corners(tuple(self._limits[name] for name in ANGLES), angle_margin)
        self._alphas = _ends_of_alpha(self._corners)
        self._model_alphas = _ends_of_alpha(
            cell_shape.triclinic_corners(tuple(ranges[name] for name in ANGLES), angle_margin)
        )
        self.encoding_size = 6
        self.state_size = 10
        cut = {
            name: any(self._limits[n] != self._ranges[n] for n in names)
            or (names is LENGTHS and volume_offsets != (0.0, 0.0))
            for names in (ANGLES, LENGTHS)
            for name in names
        }
        self.heads = {
            name: (TruncatedBetaMixtureHead if cut[name] else BetaMixtureHead)(
                9, components, ranges[name], log_lengths and name in LENGTHS
            )
            for name in ORDER
        }
        self.schedule = ORDER
        n_systems = len(CRYSTAL_LATTICE_SYSTEMS)
        following = torch.full((n_systems, 7), -1)
        preceding = torch.full((n_systems, 7), -1)
        angles = torch.zeros(n_systems, 3, dtype=torch.float64)
        for i, system in enumerate(CRYSTAL_LATTICE_SYSTEMS):
            free = [ORDER.index(name) for name in ORDER if name in _FREE[system]]
            following[i, : len(free)] = torch.tensor(free)
            preceding[i, 1 : len(free) + 1] = torch.tensor(free)
            for name, angle in fixed_angles(system).items():
                angles[i, ANGLES.index(name)] = angle
        self._following: Tensor
        self._preceding: Tensor
        self._fixed_angles: Tensor
        self._powers: Tensor
        self._log_ends: Tensor
        self._of_ranges: Tensor
        self._of_limits: Tensor
        self._volume_offsets: Tensor
        self._low: Tensor
        self._span: Tensor
        low, high = torch.tensor([ranges[name] for name in LATTICE_PARAMETERS], dtype=torch.float64).unbind(1)
        for name, table in {
            "_following": following,
            "_preceding": preceding,
            "_fixed_angles": angles,
            "_powers": torch.tensor([_edge_powers(s) for s in CRYSTAL_LATTICE_SYSTEMS], dtype=torch.float64),
            "_log_ends": torch.stack([low[:3], high[:3]], 1).log(),
            "_of_ranges": _lengths_by_system(self._ranges),
            "_of_limits": _lengths_by_system(self._limits),
            "_volume_offsets": torch.tensor(volume_offsets, dtype=torch.float64),
            "_low": low,
            "_span": high - low,
        }.items():
            self.register_buffer(name, table, persistent=False)

    def volume_range(self, system: str) -> tuple[tuple[float, float], tuple[float, float]] | None:
        """Volumes [Å³] of the cells of one crystal-lattice system; None if no such cell is in the ranges.

        Args:
            system: crystal-lattice system.

        Returns:
            two pairs, for the smallest and for the largest lengths. Each pair gives the volume of the shape with the
            least volume and of the shape with the largest volume. Lengths that must be equal lie in the ranges of all
            their axes.
        """
        if any(not self._limits[n][0] <= angle <= self._limits[n][1] for n, angle in fixed_angles(system).items()):
            return None
        if system == "triclinic":
            if not len(self._corners):
                return None
            flattest, most_upright = cell_shape.triclinic_unit_volumes(self._corners)
        else:
            low, high = self._limits["beta"] if system == "monoclinic" else (90.0, 90.0)
            ends = torch.tensor([low, high, min(max(90.0, low), high)], dtype=torch.float64)
            base = torch.full((3, 3), 90.0, dtype=torch.float64)
            base[:, 1] = ends
            base[:, 2] = fixed_angles(system)["gamma"]
            volumes = cell_shape.unit_volume(base)
            flattest, most_upright = float(volumes.min()), float(volumes.max())
        least, largest = 1.0, 1.0
        for name, power in zip(LENGTHS, _edge_powers(system), strict=True):
            low, high = self._tied_range(name, system)
            if low >= high:
                return None
            least, largest = least * low**power, largest * high**power
        return (least * flattest, least * most_upright), (largest * flattest, largest * most_upright)

    def _tied_range(self, name: str, system: str) -> tuple[float, float]:
        """Range of a free length and of the lengths that are equal to it; for any other length, its own range."""
        names = [name] if name != "a" else ["a", *(n for n in LENGTHS if n not in _FREE[system])]
        return max(self._limits[n][0] for n in names), min(self._limits[n][1] for n in names)

    def default_condition(self) -> Tensor:
        """The first crystal-lattice system with a cell in the ranges, and any volume."""
        fitting = [i for i, s in enumerate(CRYSTAL_LATTICE_SYSTEMS) if self.volume_range(s) is not None]
        return torch.tensor([float(fitting[0]), float("-inf"), float("inf")], dtype=torch.float64, device=self.device)

    def start(self, condition: Tensor) -> Tensor:
        states = torch.zeros(len(condition), self.state_size, dtype=torch.float64, device=condition.device)
        states[:, 3:6] = self._fixed_angles[condition[:, 0].long()]
        states[:, 7] = condition[:, 0] + 1
        states[:, 8:] = condition[:, 1:]
        return states

    def prescribed(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters that the crystal-lattice systems prescribe.

        Args:
            condition: (n, condition_size) as for `start`.

        Returns:
            (n, 3) bool, whether a, b and c must be equal to a (false for a itself), and (n, 3) float64, the fixed
            angles [degrees], 0 for free angles.
        """
        system = condition[:, 0].long()
        tied = self._powers[system] == 0
        return tied, self._fixed_angles[system]

    def _system(self, states: Tensor) -> Tensor:
        return (states[:, 7].long() - 1).clamp_min(0)

    def next_head(self, states: Tensor) -> Tensor:
        return self._following[self._system(states), states[:, 6].long()]

    def previous_head(self, states: Tensor) -> Tensor:
        return self._preceding[self._system(states), states[:, 6].long()]

    def encode(self, head: str, states: Tensor) -> Tensor:
        """(n, 9) float32: `encode_terminal`, number of parameters drawn / 6, range of volumes [log Å³ / 10]."""
        # A range without bounds has infinite ends. Volumes beyond e^15 Å³ need not be distinguished.
        volumes = (states[:, 8:] + self._volume_offsets).clamp(-15.0, 15.0) / 10
        return torch.cat([self.encode_terminal(states), states[:, 6:7] / 6, volumes.float()], 1).float()

    def encode_terminal(self, states: Tensor) -> Tensor:
        """(n, 6) float32, parameters relative to their ranges, with lengths on a log scale; 0 if not known yet."""
        log_low, log_high = self._log_ends.unbind(1)
        lengths, angles = states[:, :3], states[:, 3:6]
        by_log = (lengths.clamp_min(1e-12).log() - log_low) / (log_high - log_low)
        position = torch.cat([by_log, (angles - self._low[3:]) / self._span[3:]], 1)
        return torch.where(states[:, :6] > 0, position, 0.0).float()

    def support(self, head: str, states: Tensor) -> Tensor:
        """Interval of the parameter in which a cell with an allowed volume can still be completed.

        Returns:
            (n, 2) float64, lower and upper end; if limits apply to this parameter (n, 4): the ends of the allowed
            interval, then the ends of the interval without limits.
        """
        allowed = _Space(self._limits, self._alphas, self._of_limits, states[:, 8:])
        low, high = self._interval(head, states, allowed)
        if not isinstance(self.heads[head], TruncatedBetaMixtureHead):
            return torch.stack([low, high], 1)
        volumes = states[:, 8:] + self._volume_offsets
        wide = _Space(self._ranges, self._model_alphas, self._of_ranges, volumes)
        wide_low, wide_high = self._interval(head, states, wide)
        return torch.stack([low, high, torch.minimum(wide_low, low), torch.maximum(wide_high, high)], 1)

    def _interval(self, head: str, states: Tensor, space: _Space) -> tuple[Tensor, Tensor]:
        if head in ANGLES:
            low, high = self._angle_interval(head, states, space)
        else:
            low, high = self._length_interval(head, states, space)
        # At the edge of the polytope, an interval can shrink to a point; a minimal width keeps its density finite.
        return low, torch.maximum(high, low * (1 + 1e-9))

    def _angle_interval(self, head: str, states: Tensor, space: _Space) -> tuple[Tensor, Tensor]:
        # In monoclinic cells, beta is the only free angle: with two right angles, every beta forms a cell.
        alone = self._system(states) != CRYSTAL_LATTICE_SYSTEMS.index("triclinic")
        ends = space.ranges[head]
        if head == "alpha":
            ends = space.alphas
            low, high = torch.full_like(states[:, 3], ends[0]), torch.full_like(states[:, 3], ends[1])
        elif head == "beta":
            low, high = cell_shape.beta_interval(states[:, 3], ends, space.ranges["gamma"], self._margin)
        else:
            low, high = cell_shape.gamma_interval(states[:, 3], states[:, 4], ends, self._margin)
        return torch.where(alone, ends[0], low), torch.where(alone, ends[1], high)

    def _length_interval(self, head: str, states: Tensor, space: _Space) -> tuple[Tensor, Tensor]:
        axis = LENGTHS.index(head)
        system = self._system(states)
        powers = self._powers.index_select(0, system)
        log_unit = cell_shape.unit_volume(states[:, 3:6]).log()
        # `done` is the contribution of the earlier lengths and of the angles to log V. `later_low` and `later_high` are
        # bounds on the contribution of the later lengths.
        done = (powers[:, :axis] * states[:, :axis].clamp_min(1e-12).log()).sum(1) + log_unit
        own_low, own_high, later_low, later_high = space.by_system[axis].index_select(0, system).unbind(1)
        power = powers[:, axis]
        low = (space.log_volumes[:, 0] - done - later_high) / power
        high = (space.log_volumes[:, 1] - done - later_low) / power
        return torch.maximum(low, own_low).exp(), torch.minimum(high, own_high).exp()

    def step(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        return self.advance(head, states.clone(), actions)

    def advance(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        states[:, LATTICE_PARAMETERS.index(head)] = actions[:, 0]
        if head == "a":
            tied = (self._powers == 0).index_select(0, self._system(states))[:, 1:]
            states[:, 1:3] = torch.where(tied, actions, states[:, 1:3])
        states[:, 6] += 1
        return states

    def parent_actions(self, head: str, states: Tensor) -> Tensor:
        column = LATTICE_PARAMETERS.index(head)
        return states[:, column : column + 1].clone()

    def step_back(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        states = states.clone()
        states[:, LATTICE_PARAMETERS.index(head)] = 0.0
        if head == "a":
            states[:, 1:3] = 0.0
        states[:, 6] -= 1
        return states

    def decode(self, states: Tensor) -> Tensor:
        """(n, 6) float64 a, b, c [Å], alpha, beta, gamma [degrees]."""
        return states[:, :6].clone()

    def states_under(self, condition: Tensor, objects: Tensor, tolerance: float = 0.0) -> tuple[Tensor, list[str]]:
        given = objects.to(self.device)
        cells = self._to_system(condition, given)
        is_near = ((given - cells).abs() <= tolerance * cells).all(1)
        faults = [("lattice system", ~is_near)]
        states = self.start(condition)
        # After its first fault, the intervals of a cell have no meaning, so only the first fault is reported.
        for name in self.schedule:
            rows = self.due(name, states)
            values = cells[:, LATTICE_PARAMETERS.index(name)]
            logits = torch.zeros(len(rows), self.heads[name].n_logits, dtype=torch.float64, device=states.device)
            actions = values[rows].unsqueeze(1)
            inside = self.forward_distribution(name, states[rows], logits).log_prob(actions).isfinite()
            is_outside = torch.zeros_like(is_near).index_copy(0, rows, ~inside)
            is_in_range = (values >= self._ranges[name][0]) & (values <= self._ranges[name][1])
            if name in ANGLES:
                faults.append(("angles", is_outside))
            else:
                faults += [("lengths", is_outside & ~is_in_range), ("volume per atom", is_outside)]
            states[rows] = self.step(name, states[rows], actions)
        return states, first_faults(*faults)

    def _to_system(self, condition: Tensor, cells: Tensor) -> Tensor:
        """(n, 6) cells in which lengths that must be equal are set to their mean, and fixed angles to their values."""
        tied, fixed = self.prescribed(condition)
        lengths, angles = cells[:, :3], cells[:, 3:]
        # The differences from a are averaged, so that lengths that are already equal do not change in the last bit.
        away = torch.where(tied, lengths - lengths[:, :1], 0.0).sum(1) / (1 + tied.sum(1))
        joined = tied.clone()
        joined[:, 0] = tied.any(1)
        exact = torch.where(joined, (lengths[:, 0] + away).unsqueeze(1), lengths)
        return torch.cat([exact, torch.where(fixed > 0, fixed, angles)], 1)

    def atom_bounds(
        self,
        system: str,
        volume_per_atom: tuple[float, float] | None,
        margin: float = MARGIN,
        any_shape: bool = True,
    ) -> tuple[int, float] | None:
        """Least and largest number of atoms for which cells can have an allowed volume, whatever their shape.

        Numbers of atoms for which only some shapes are possible are left out. The angles can then be drawn without
        regard to the volume.

        Args:
            system: crystal-lattice system.
            volume_per_atom: least and largest volume per atom [Å³], or None for no bound.
            margin: least overlap, in log volume, of the allowed volumes with the possible volumes of a shape.
            any_shape: whether every shape must be possible; if false, one possible shape is enough.

        Returns:
            the bounds, or None if no cell of this system is in the ranges.
        """
        volumes = self.volume_range(system)
        if volumes is None:
            return None
        if volume_per_atom is None:
            return 1, float("inf")
        (flat_least, upright_least), (flat_largest, upright_largest) = volumes
        least, largest = (upright_least, flat_largest) if any_shape else (flat_least, upright_largest)
        low = least * math.exp(margin) / volume_per_atom[1]
        high = largest / math.exp(margin) / volume_per_atom[0]
        return max(1, int(-(-low // 1))), float(int(high))


def _ends_of_alpha(corners: NDArray[np.float64]) -> tuple[float, float]:
    """Lowest and highest alpha [degrees] of the polytope of triclinic angles; (90, 90) if it is empty."""
    return (float(corners[:, 0].min()), float(corners[:, 0].max())) if len(corners) else (90.0, 90.0)
