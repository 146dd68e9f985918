"""The first stage of a crystal: crystal-lattice system, then point symmetry, then space group."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crystalgfn.crystal.crystallography import CRYSTAL_LATTICE_SYSTEMS, POINT_SYMMETRIES, space_groups
from crystalgfn.crystal.descriptors import space_group_features
from crystalgfn.gflownet.envs.base import CategoricalHead, first_faults
from crystalgfn.gflownet.envs.stage import Stage

SYSTEM_NAMES = tuple(f"crystal-lattice system {name}" for name in CRYSTAL_LATTICE_SYSTEMS)
"""Names of the crystal-lattice systems as inputs and options, see `Environment.input_names`."""

POINT_NAMES = tuple(f"point symmetry {name}" for name in POINT_SYMMETRIES)
"""Names of the point symmetries as inputs and options."""


class SpaceGroup(Stage):
    """Chooses a space group in three steps; each step limits the options of the next one.

    State: crystal-lattice system, point symmetry and position of the space group in ``numbers``, each plus one; 0 if
    not chosen yet.

    Args:
        numbers: numbers of the space groups that the policy knows, 1 to 230.
        allowed: the numbers among these that may be chosen; None for all.
    """

    is_enumerable = True
    heads_of_stage = ("crystal_lattice_system", "point_symmetry", "space_group")

    def __init__(self, numbers: Sequence[int], allowed: Sequence[int] | None = None) -> None:
        super().__init__()
        groups = [space_groups()[number - 1] for number in numbers]
        systems = torch.tensor([CRYSTAL_LATTICE_SYSTEMS.index(g.crystal_lattice_system) for g in groups])
        points = torch.tensor([POINT_SYMMETRIES.index(g.point_symmetry) for g in groups])
        n_systems, n_points, n_groups = len(CRYSTAL_LATTICE_SYSTEMS), len(POINT_SYMMETRIES), len(groups)
        is_member = torch.zeros(n_systems, n_points, n_groups, dtype=torch.bool)
        chosen = set(numbers if allowed is None else allowed)
        is_member[systems, points, torch.arange(n_groups)] = torch.tensor([number in chosen for number in numbers])
        self.heads = {
            "crystal_lattice_system": CategoricalHead(1, n_systems),
            "point_symmetry": CategoricalHead(n_systems, n_points),
            "space_group": CategoricalHead(n_systems + n_points, n_groups),
        }
        self.schedule = self.heads_of_stage
        self.state_size = 3
        self.encoding_size = n_groups + n_systems + n_points
        self.numbers: Tensor
        self._is_member: Tensor
        self._class_of_group: Tensor
        self.register_buffer("numbers", torch.tensor(list(numbers)), persistent=False)
        self._systems: Tensor
        self._points: Tensor
        self._system_values: Tensor
        self._point_values: Tensor
        self._encodings: Tensor
        every = torch.arange(n_groups)
        encodings = torch.zeros(n_groups, self.encoding_size)
        encodings[every, every] = 1.0
        encodings[every, n_groups + systems] = 1.0
        encodings[every, n_groups + n_systems + points] = 1.0
        for name, table in {
            "_is_member": is_member,
            # The systems, and the point symmetries in each system, that have a space group that may be chosen.
            "_systems": is_member.any(2).any(1),
            "_points": is_member.any(2),
            "_system_values": torch.arange(1, n_systems + 1, dtype=torch.float64),
            "_point_values": torch.arange(1, n_points + 1, dtype=torch.float64),
            "_encodings": encodings,
        }.items():
            self.register_buffer(name, table, persistent=False)
        self.register_buffer("_class_of_group", torch.stack([systems, points], 1), persistent=False)

    def start(self, condition: Tensor) -> Tensor:
        return torch.zeros(len(condition), 3, dtype=torch.float64, device=condition.device)

    def next_head(self, states: Tensor) -> Tensor:
        chosen = (states > 0).sum(1)
        return torch.where(chosen < 3, chosen, -1)

    def due(self, head: str, states: Tensor) -> Tensor:
        # The earlier choices have been made in earlier turns of the schedule.
        return torch.nonzero(states[:, self.heads_of_stage.index(head)] == 0).squeeze(1)

    def is_terminal(self, states: Tensor) -> Tensor:
        return states[:, 2] > 0

    def previous_head(self, states: Tensor) -> Tensor:
        return (states > 0).sum(1) - 1

    def encode(self, head: str, states: Tensor) -> Tensor:
        if head == "crystal_lattice_system":
            return torch.ones(len(states), 1, device=states.device)
        system = states[:, :1] == self._system_values
        if head == "point_symmetry":
            return system.float()
        return torch.cat([system, states[:, 1:2] == self._point_values], 1).float()

    def encode_terminal(self, states: Tensor) -> Tensor:
        """(n, encoding_size) float32, one-hot space group, crystal-lattice system and point symmetry."""
        return self._encodings.index_select(0, states[:, 2].long() - 1)

    def terminal_features(self) -> Tensor:
        """(encoding_size, k) float32 features of the space groups; the rows of systems and point symmetries are 0."""
        return torch.block_diag(
            self.option_features("space_group"), torch.zeros(self.encoding_size - len(self.numbers), 0)
        )

    def option_features(self, head: str) -> Tensor | None:
        return space_group_features()[self.numbers.cpu() - 1] if head == "space_group" else None

    def terminal_names(self) -> tuple[str, ...]:
        return (*self.option_names("space_group"), *SYSTEM_NAMES, *POINT_NAMES)

    def input_names(self, head: str) -> tuple[str, ...]:
        if head == "crystal_lattice_system":
            return ("1",)
        return SYSTEM_NAMES if head == "point_symmetry" else (*SYSTEM_NAMES, *POINT_NAMES)

    def option_names(self, head: str) -> tuple[str, ...]:
        if head == "space_group":
            return tuple(f"space group {number}" for number in self.numbers.tolist())
        return SYSTEM_NAMES if head == "crystal_lattice_system" else POINT_NAMES

    def support(self, head: str, states: Tensor) -> Tensor:
        if head == "crystal_lattice_system":
            return self._systems.expand(len(states), -1)
        if head == "point_symmetry":
            return self._points.index_select(0, states[:, 0].long() - 1)
        return self._is_member[states[:, 0].long() - 1, states[:, 1].long() - 1]

    def step(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        return self.advance(head, states.clone(), actions)

    def advance(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        states[:, self.heads_of_stage.index(head)] = actions[:, 0] + 1
        return states

    def parent_actions(self, head: str, states: Tensor) -> Tensor:
        column = self.heads_of_stage.index(head)
        return states[:, column : column + 1] - 1

    def step_back(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        states = states.clone()
        states[:, self.heads_of_stage.index(head)] = 0.0
        return states

    def decode(self, states: Tensor) -> Tensor:
        """(n,) int64 numbers of the space groups."""
        return self.numbers[states[:, 2].long() - 1]

    def states_of(self, objects: Tensor, tolerance: float = 0.0) -> tuple[Tensor, list[str]]:
        is_group = (objects.to(self.device).unsqueeze(1) == self.numbers) & self._is_member.any(1).any(0)
        index = is_group.int().argmax(1)
        states = torch.cat([self._class_of_group[index], index.unsqueeze(1)], 1).to(torch.float64) + 1
        return states, first_faults(("space group", ~is_group.any(1)))

    def enumerate(self) -> Tensor:
        return self.states_of(self.numbers[self._is_member.any(1).any(0)])[0]
