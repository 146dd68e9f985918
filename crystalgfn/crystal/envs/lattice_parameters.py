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
from crystalgfn.crystal.crystals import LATTICE_PARAMETERS
from crystalgfn.crystal.envs import cell_shape
from crystalgfn.gflownet.envs.base import BetaMixtureHead, TruncatedBetaMixtureHead, first_faults
from crystalgfn.gflownet.envs.stage import Stage

ANGLES = ("alpha", "beta", "gamma")
LENGTHS = ("a", "b", "c")
ORDER = ANGLES + LENGTHS
"""Angles first: once the shape of the cell is known, a bound on its volume is one on the product of the lengths."""

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
"""Free parameters of the conventional standard cell: unique axis b, trigonal cells on hexagonal axes."""

MARGIN = 0.02
"""A volume range reaches at least this far (in log) into the range that a cell's shape allows."""

LEAST_MARGIN = 1e-6
"""The same where every number of atoms is wanted that the volume range allows."""


def fixed_angles(system: str) -> dict[str, float]:
    """Angles [degrees] that the crystal-lattice system prescribes."""
    hexagonal_axes = system.startswith("trigonal") or system == "hexagonal"
    return {name: 120.0 if name == "gamma" and hexagonal_axes else 90.0 for name in ANGLES if name not in _FREE[system]}


def _edge_powers(system: str) -> tuple[float, float, float]:
    """Powers with which the free lengths a, b, c enter the volume: a^3 in cubic cells, a^2 c in tetragonal ones."""
    free = _FREE[system]
    tied = [name for name in LENGTHS if name not in free]
    return (1.0 + len(tied), 1.0 if "b" in free else 0.0, 1.0 if "c" in free else 0.0)


def _lengths_by_system(ranges: Mapping[str, tuple[float, float]]) -> Tensor:
    """(3, systems, 4) what `_Space` says of each length by crystal-lattice system."""
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
    """What cells there are.

    Attributes:
        ranges: lowest and highest value of each parameter.
        alphas: lowest and highest alpha of a triclinic cell.
        by_system: (3, systems, 4) for a, b, c and each crystal-lattice system logarithms: lowest and highest value of
            the length and those tied to it, and the least and the most that the lengths after it add to that of the
            volume.
        log_volumes: (n, 2) logarithms of the least and the largest volume of each row's cell.
    """

    ranges: Mapping[str, tuple[float, float]]
    alphas: tuple[float, float]
    by_system: Tensor
    log_volumes: Tensor


class LatticeParameters(Stage):
    """Draws the free lattice parameters in turn, angles first; the others follow from the lattice system.

    Every cell has a positive volume, and one inside the range that the condition names.

    State: a, b, c [Å], alpha, beta, gamma [degrees], 0 where open; number of parameters drawn; crystal-lattice
    system plus one (0: not started); logarithms of the least and the largest volume [Å³] of the cell.

    Condition: crystal-lattice system, logarithms of the least and the largest volume [Å³].

    Args:
        ranges: lowest and highest value of each of a, b, c [Å], alpha, beta, gamma [degrees].
        angle_margin: how far from a flat cell the angles stay [degrees], see `cell_shape`.
        components: number of Betas in each mixture.
        log_lengths: whether the mixtures for lengths live on a logarithmic scale.
        limits: ranges that are allowed, within ``ranges``, which alone decide what the policy sees and where its
            mixtures live; None for the same.
        volume_offsets: what has to be added to the logarithms of the volumes in the condition for those that the
            policy knows; they may be infinite.
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
        """Volumes [Å³] of the cells of one crystal-lattice system; None if the ranges hold no such cell.

        Returns:
            the least volume, for the flattest and for the most upright shape, and the largest volume, likewise. Tied
            lengths have to lie in the ranges of all their axes.
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
        """Range of a free length and of the lengths tied to it; for a tied length anything that is not empty."""
        names = [name] if name != "a" else ["a", *(n for n in LENGTHS if n not in _FREE[system])]
        return max(self._limits[n][0] for n in names), min(self._limits[n][1] for n in names)

    def default_condition(self) -> Tensor:
        """A system that fits the ranges, with any volume."""
        fitting = [i for i, s in enumerate(CRYSTAL_LATTICE_SYSTEMS) if self.volume_range(s) is not None]
        return torch.tensor([float(fitting[0]), float("-inf"), float("inf")], dtype=torch.float64, device=self.device)

    def start(self, condition: Tensor) -> Tensor:
        states = torch.zeros(len(condition), self.state_size, dtype=torch.float64, device=condition.device)
        states[:, 3:6] = self._fixed_angles[condition[:, 0].long()]
        states[:, 7] = condition[:, 0] + 1
        states[:, 8:] = condition[:, 1:]
        return states

    def prescribed(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """What the crystal-lattice systems prescribe.

        Args:
            condition: (n, condition_size) as for `start`.

        Returns:
            (n, 3) bool, whether a, b, c is tied to a, which itself is not; (n, 3) the fixed angles [degrees], 0 for
            those that are free.
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
        """Parameters drawn so far, the share of them, and the range of volumes [log Å³ / 10]."""
        # An open range of volumes has infinite ends; beyond e^15 Å³ there is nothing to tell apart.
        volumes = (states[:, 8:] + self._volume_offsets).clamp(-15.0, 15.0) / 10
        return torch.cat([self.encode_terminal(states), states[:, 6:7] / 6, volumes.float()], 1).float()

    def encode_terminal(self, states: Tensor) -> Tensor:
        """(n, 6) float32 parameters as positions in their ranges, lengths by logarithm; 0 where open."""
        log_low, log_high = self._log_ends.unbind(1)
        lengths, angles = states[:, :3], states[:, 3:6]
        by_log = (lengths.clamp_min(1e-12).log() - log_low) / (log_high - log_low)
        position = torch.cat([by_log, (angles - self._low[3:]) / self._span[3:]], 1)
        return torch.where(states[:, :6] > 0, position, 0.0).float()

    def support(self, head: str, states: Tensor) -> Tensor:
        """Interval of the parameter that keeps the cell closed and its volume in range.

        Returns:
            (n, 2) its ends; with limits (n, 4), the ends of what is allowed, then those without the limits.
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
        # At the very edge of the polytope an interval can close up; a sliver keeps its density finite.
        return low, torch.maximum(high, low * (1 + 1e-9))

    def _angle_interval(self, head: str, states: Tensor, space: _Space) -> tuple[Tensor, Tensor]:
        # Monoclinic cells draw beta alone: with two right angles every beta closes the cell.
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
        # What the lengths drawn before contribute to log V, and what those after this one can contribute.
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
        # A cell that has gone wrong once has no meaningful intervals after that: the first fault counts.
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
        """(n, 6) cells with tied lengths at their mean and fixed angles as prescribed."""
        tied, fixed = self.prescribed(condition)
        lengths, angles = cells[:, :3], cells[:, 3:]
        # As a difference from a, so that equal lengths stay as they are to the last bit.
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
        """Least and largest number of atoms with which a cell of any legal shape can have a legal volume.

        Args:
            system: crystal-lattice system.
            volume_per_atom: least and largest volume per atom [Å³], or None for no bound.
            margin: how far (in log) the volumes that are legal reach into those that a shape allows.
            any_shape: False for the numbers of atoms for which at least one shape will do.

        Returns:
            the bounds, or None if the ranges hold no cell of this system. Numbers of atoms for which only some
            shapes would do are left out, so that the angles need not look ahead to the volume.
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
    """Lowest and highest alpha of the polytope of triclinic angles; where it is empty, of nothing."""
    return (float(corners[:, 0].min()), float(corners[:, 0].max())) if len(corners) else (90.0, 90.0)
