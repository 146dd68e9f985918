"""The third stage of a crystal: the lattice parameters of its conventional cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from crystalgfn.crystal.crystallography import CRYSTAL_LATTICE_SYSTEMS
from crystalgfn.crystal.crystals import ANGLES, LATTICE_PARAMETERS, LENGTHS
from crystalgfn.crystal.envs import cell_shape
from crystalgfn.crystal.envs.cell_space import FREE, CellSpace, edge_powers, fixed_angles
from crystalgfn.gflownet.envs.base import BetaMixtureHead, TruncatedBetaMixtureHead, first_faults
from crystalgfn.gflownet.envs.stage import Stage

ORDER = ANGLES + LENGTHS
"""Order of the decisions. Angles come first, because once they are known, a bound on the volume is a bound on the
product of the lengths."""


class _Space(NamedTuple):
    """Bounds on the cells of n states.

    Attributes:
        cells: ranges of the lattice parameters.
        by_system: (3, systems, 4) float64, `CellSpace.lengths_by_system`.
        log_volumes: (n, 2) float64, logarithms of the least and the largest volume [Å³] of the cell in each state.
    """

    cells: CellSpace
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
        volumes: for limits only, the strictest bounds on the volume [Å³] that conditions hold, for each crystal-lattice
            system: the highest lower bound and the lowest upper bound. The mixtures of the angles are cut only if one
            of these bounds excludes angles.
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
        volumes: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        super().__init__()
        self._ranges, self._angle_margin = dict(ranges), float(angle_margin)
        self._model_cells = CellSpace(ranges, angle_margin)
        self._cells = self._model_cells if limits is None else CellSpace(limits, angle_margin)
        self.encoding_size = 6
        self.state_size = 10
        are_cut = {n: self._cells.ranges[n] != self._ranges[n] for n in LATTICE_PARAMETERS}
        lengths_are_cut = any(are_cut[n] for n in LENGTHS) or volume_offsets != (0.0, 0.0)
        angles_are_cut = any(are_cut[n] for n in ANGLES)
        bounded = self._cells.bounded_angles(volumes or {}) if lengths_are_cut else frozenset()
        cut = dict.fromkeys(LENGTHS, lengths_are_cut) | {name: angles_are_cut or name in bounded for name in ANGLES}
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
            free = [ORDER.index(name) for name in ORDER if name in FREE[system]]
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
            "_powers": torch.tensor([edge_powers(s) for s in CRYSTAL_LATTICE_SYSTEMS], dtype=torch.float64),
            "_log_ends": torch.stack([low[:3], high[:3]], 1).log(),
            "_of_ranges": self._model_cells.lengths_by_system(),
            "_of_limits": self._cells.lengths_by_system(),
            "_volume_offsets": torch.tensor(volume_offsets, dtype=torch.float64),
            "_low": low,
            "_span": high - low,
        }.items():
            self.register_buffer(name, table, persistent=False)

    def default_condition(self) -> Tensor:
        """The first crystal-lattice system with a cell in the ranges, and any volume."""
        fitting = [i for i, s in enumerate(CRYSTAL_LATTICE_SYSTEMS) if self._cells.volumes(s) is not None]
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

    def _range_name(self, name: str) -> str:
        low, high = map(float, self._ranges[name])
        return f"{name} from {low} to {high} {'degrees' if name in ANGLES else 'Å'}"

    def terminal_names(self) -> tuple[str, ...]:
        return tuple(f"{'log ' if n in LENGTHS else ''}{self._range_name(n)}" for n in LATTICE_PARAMETERS)

    def input_names(self, head: str) -> tuple[str, ...]:
        others = ("lattice parameters drawn / 6", "log of the least volume / 10", "log of the largest volume / 10")
        return (*self.terminal_names(), *others)

    def option_names(self, head: str) -> tuple[str, ...]:
        # An interval also depends on the ranges of the other parameters, which the names of their heads contain.
        spec = self.heads[head]
        assert isinstance(spec, BetaMixtureHead)
        scale = "log " if spec.log_scale else ""
        space = f"{scale}{self._range_name(head)}, angle margin {self._angle_margin}"
        return tuple(
            f"{what} of Beta {k} of {spec.components}, {space}"
            for what in ("weight", "mean", "width")
            for k in range(1, spec.components + 1)
        )

    def support(self, head: str, states: Tensor) -> Tensor:
        """Interval of the parameter in which a cell with an allowed volume can still be completed.

        Returns:
            (n, 2) float64, lower and upper end; if limits apply to this parameter (n, 4): the ends of the allowed
            interval, then the ends of the interval without limits.
        """
        allowed = _Space(self._cells, self._of_limits, states[:, 8:])
        low, high = self._interval(head, states, allowed)
        if not isinstance(self.heads[head], TruncatedBetaMixtureHead):
            return torch.stack([low, high], 1)
        volumes = states[:, 8:] + self._volume_offsets
        wide = _Space(self._model_cells, self._of_ranges, volumes)
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
        system, cells = self._system(states), space.cells
        power = self._powers[:, 0].index_select(0, system)
        own_low, own_high, later_low, later_high = space.by_system[0].index_select(0, system).unbind(1)
        # Volumes with unit edges: what the longest edges need at least, and what the shortest edges allow at most.
        least = (space.log_volumes[:, 0] - power * own_high - later_high).exp()
        most = (space.log_volumes[:, 1] - power * own_low - later_low).exp()
        is_triclinic = system == CRYSTAL_LATTICE_SYSTEMS.index("triclinic")
        of_triclinic = torch.where(is_triclinic, least, 0.0)
        alone = cell_shape.lone_beta_interval(cells.ranges["beta"], least, most)
        if cells.shapes is None:
            return alone
        if head == "alpha":
            return cells.shapes.alpha_interval(of_triclinic)
        if head == "gamma":
            return cells.shapes.gamma_interval(states[:, 3], states[:, 4], of_triclinic)
        low, high = cells.shapes.beta_interval(states[:, 3], of_triclinic)
        # In monoclinic cells, beta is the only free angle.
        return torch.where(is_triclinic, low, alone[0]), torch.where(is_triclinic, high, alone[1])

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
        faults = list[tuple[str, Tensor]]()
        not_cells = [("lattice system", ~is_near)]
        low, high = torch.tensor([self._ranges[n] for n in LENGTHS], dtype=torch.float64, device=self.device).unbind(1)
        has_lengths = ((cells[:, :3] >= low) & (cells[:, :3] <= high)).all(1)
        states = self.start(condition)
        # After its first fault, the intervals of a cell have no meaning, so only the first fault is reported.
        for name in self.schedule:
            rows = self.due(name, states)
            values = cells[:, LATTICE_PARAMETERS.index(name)]
            is_outside = torch.zeros_like(is_near).index_copy(
                0, rows, ~self._is_legal(name, states[rows], values[rows])
            )
            is_in_range = (values >= self._ranges[name][0]) & (values <= self._ranges[name][1])
            if name in ANGLES:
                # Angles that form a cell may still be too flat for the volume.
                any_volume = states[rows]
                any_volume[:, 8:] = torch.tensor([-torch.inf, torch.inf], dtype=torch.float64, device=self.device)
                legal = self._is_legal(name, any_volume, values[rows])
                not_cells.append(("angles", torch.zeros_like(is_near).index_copy(0, rows, ~legal)))
                faults += [("lengths", is_outside & ~has_lengths), ("volume per atom", is_outside)]
            else:
                faults += [("lengths", is_outside & ~is_in_range), ("volume per atom", is_outside)]
            states[rows] = self.step(name, states[rows], values[rows].unsqueeze(1))
        return states, first_faults(*not_cells, *faults)

    def _is_legal(self, head: str, states: Tensor, values: Tensor) -> Tensor:
        """(n,) bool, whether values of a parameter are in the intervals of `support`."""
        logits = torch.zeros(len(states), self.heads[head].n_logits, dtype=torch.float64, device=states.device)
        return self.forward_distribution(head, states, logits).log_prob(values.unsqueeze(1)).isfinite()

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
