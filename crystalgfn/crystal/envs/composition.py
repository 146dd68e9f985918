"""The second stage of a crystal: the elements in the conventional cell and their numbers of atoms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from crystalgfn.crystal.crystallography import (
    N_ELEMENTS,
    NOWHERE,
    WyckoffAutomaton,
    atomic_numbers,
    charge_assignments,
    space_groups,
)
from crystalgfn.crystal.descriptors import count_features, element_property_table
from crystalgfn.crystal.envs import bitset
from crystalgfn.crystal.envs.composition_limits import CompositionLimits
from crystalgfn.crystal.envs.look_ahead import CompositionRules, atom_levels, build_look_ahead
from crystalgfn.errors import InputError
from crystalgfn.gflownet.envs.base import CategoricalHead, first_faults
from crystalgfn.gflownet.envs.stage import Stage

MAX_LOOK_UPS = 600_000_000
"""Largest number of combinations of (element, elements so far, atoms, node, count) for which look-ahead tables are
computed. This takes half a minute."""


NO_ELEMENT = "no element yet"
"""Name of the input that says that no element was chosen."""


def last_name(symbol: str) -> str:
    """Name of the input that says that an element was chosen last, see `Environment.input_names`."""
    return f"{symbol} is the last element so far"


class Composition(Stage):
    """Chooses elements in a fixed order, each followed by its number of atoms (count), until it stops.

    Every composition has exactly one trajectory. Oxidation states are not chosen: the state contains the set of total
    charges that the atoms chosen so far can have. A composition therefore counts once, even if it has several neutral
    assignments of oxidation states.

    State: counts in the order of ``elements`` (E columns); position of the first element that may still be chosen; 1 if
    an element has been chosen but its count has not; 1 if the stage is finished; number of elements; number of atoms;
    node plus one (0: not started), which is the Wyckoff node combined with the memory (see `CompositionRules`); root
    node; words of the set of charges.

    Condition: number of the space group.

    Args:
        elements: symbols, in the order in which they are decided.
        atoms_by_group: least and largest number of atoms in the cell, for each space group that may be the condition.
        n_elements: least and largest number of different elements.
        count: least and largest number of atoms of one element in the cell.
        charge_neutral: whether the atoms must have oxidation states that sum to zero.
        mixed_valence: whether one element may have two oxidation states of the same sign.
        oxidation_states: oxidation states of each element, by symbol.
        limits: narrower limits on what may be chosen; None for none. The inputs of the policy and the number of options
            depend only on the arguments above, not on these limits.

    Raises:
        InputError: if the look-ahead tables would take too long to compute, or would need too many memories.
    """

    condition_size = 1
    heads_of_stage = ("element", "count")

    def __init__(
        self,
        elements: Sequence[str],
        atoms_by_group: Mapping[int, tuple[int, int]],
        n_elements: tuple[int, int],
        count: tuple[int, int],
        charge_neutral: bool,
        mixed_valence: bool,
        oxidation_states: Mapping[str, tuple[int, ...]],
        limits: CompositionLimits | None = None,
    ) -> None:
        super().__init__()
        self.elements = tuple(elements)
        if limits is None:
            limits = CompositionLimits([frozenset(range(count[0], count[1] + 1))] * len(elements), n_elements)
        # The largest number of elements in the policy's space, and the largest one that the limits allow.
        self._largest, self._limit = n_elements[1], limits.n_elements[1]
        self._assignments = [
            [
                charge_assignments(oxidation_states[symbol], n, mixed_valence) if charge_neutral else {0: {0: n}}
                for n in range(1, count[1] + 1)
            ]
            for symbol in elements
        ]
        max_count = min(limits.max_count, count[1])
        charges = [
            [sorted(ways) if n in allowed else [] for n, ways in enumerate(by_count[:max_count], start=1)]
            for by_count, allowed in zip(self._assignments, limits.counts, strict=True)
        ]
        nodes, roots, atoms = _wyckoff_nodes(atoms_by_group, max_count, self._limit)
        max_charge = _max_charge(charges, self._limit, max_count, max(high for _, high in atoms))
        memory = limits.memory()
        rules = CompositionRules(
            charges, limits.n_elements, max_count, atoms, nodes, max_charge, limits.required, memory
        )
        _check_size(rules)
        tables = build_look_ahead(rules)
        nodes = [row + [NOWHERE] * (count[1] - max_count) for row in nodes]

        size, words = len(elements), tables.sets.shape[1]
        self._n, self._n_counts, self._max_charge = size, count[1], max_charge
        self._tables = tables
        self._max_count, self._n_memories = max_count, rules.n_memories
        self._next, self._pending, self._done, self._k, self._atoms, self._node, self._root = range(size, size + 7)
        self._words = slice(size + 7, size + 7 + words)
        self.state_size = size + 7 + words
        self.heads = {
            "element": CategoricalHead(4 * size + 1, size + 1),
            "count": CategoricalHead(4 * size + 1, count[1]),
        }
        self.schedule = self.heads_of_stage * self._limit
        self.encoding_size = 3 * size + 1

        width = max((len(c) for by_count in charges for c in by_count), default=1)
        offsets = torch.zeros(size, count[1], max(width, 1), dtype=torch.int64)
        is_offset = torch.zeros_like(offsets, dtype=torch.bool)
        for e, by_count in enumerate(charges):
            for n, values in enumerate(by_count):
                offsets[e, n, : len(values)] = torch.tensor(values, dtype=torch.int64)
                is_offset[e, n, : len(values)] = True
        starts, bits = bitset.shifts(offsets, words)
        # One row for each element and count: the shifts of a set by the total charges that the atoms can add.
        moves = torch.cat([torch.where(is_offset, starts, 0), bits], 2).flatten(0, 1)
        group_roots = torch.full((len(space_groups()) + 1,), -1)
        for number, root in roots.items():
            group_roots[number] = root * rules.n_memories
        # Options of an element decision at each position: a required element must not be skipped.
        last_options = [min((r for r in limits.required if r >= e), default=size) for e in range(size + 1)]
        options = torch.arange(size + 1)
        is_option = (options >= options.unsqueeze(1)) & (options <= torch.tensor(last_options).unsqueeze(1))
        remembered = torch.tensor(memory or [[[0] * (max_count + 1)] * size])
        numbers = atomic_numbers()
        self._moves: Tensor
        self._places: Tensor
        self._transitions: Tensor
        self._group_roots: Tensor
        self._atomic_numbers: Tensor
        self._is_option: Tensor
        self._memory: Tensor
        for name, table in {
            "_moves": moves,
            "_places": torch.arange(size, dtype=torch.float64),
            "_transitions": torch.tensor(nodes),
            "_group_roots": group_roots,
            "_atomic_numbers": torch.tensor([numbers[symbol] for symbol in elements]),
            "_is_option": is_option,
            "_memory": F.pad(remembered, (0, count[1] - max_count), value=NOWHERE),
        }.items():
            self.register_buffer(name, table, persistent=False)

    def feasible_groups(self) -> list[int]:
        """Numbers of the space groups for which at least one composition exists."""
        numbers = torch.nonzero(self._group_roots >= 0).squeeze(1)
        states = self.start(numbers.unsqueeze(1).to(torch.float64))
        return [int(n) for n in numbers[self.support("element", states).any(1)].tolist()]

    def default_condition(self) -> Tensor:
        """The first space group for which a composition exists."""
        return torch.tensor([float(self.feasible_groups()[0])], dtype=torch.float64, device=self.device)

    def start(self, condition: Tensor) -> Tensor:
        states = torch.zeros(len(condition), self.state_size, dtype=torch.float64, device=condition.device)
        root = self._group_roots[condition[:, 0].long()].to(torch.float64)
        states[:, self._node] = root + 1
        states[:, self._root] = root
        states[:, self._words] = self._tables.start.to(torch.float64)
        return states

    def next_head(self, states: Tensor) -> Tensor:
        return torch.where(states[:, self._done] > 0, -1, states[:, self._pending].long())

    def due(self, head: str, states: Tensor) -> Tensor:
        pending, done = states[:, self._pending], states[:, self._done]
        return torch.nonzero(pending > 0 if head == "count" else pending + done == 0).squeeze(1)

    def is_terminal(self, states: Tensor) -> Tensor:
        return states[:, self._done] > 0

    def previous_head(self, states: Tensor) -> Tensor:
        pending, done, k = (states[:, i] for i in (self._pending, self._done, self._k))
        by_stopping = (done > 0) & (k < self._limit)
        return torch.where((pending > 0) | by_stopping, 0, torch.where(k > 0, 1, -1))

    def encode(self, head: str, states: Tensor) -> Tensor:
        # At position E, no element is left, and all of these columns are 0.
        position = states[:, self._next : self._next + 1] == self._places
        return torch.cat([*self._encoded(states), position.float()], 1)

    def encode_terminal(self, states: Tensor) -> Tensor:
        """(n, 3 E + 1) float32: presence, count and share of atoms of each element, and the number of atoms.

        Counts and the number of atoms are divided by their largest values.
        """
        return torch.cat(self._encoded(states), 1)

    def _encoded(self, states: Tensor) -> list[Tensor]:
        counts = states[:, : self._n].float()
        atoms = states[:, self._atoms : self._atoms + 1].float()
        return [
            (counts > 0).float(),
            counts / self._n_counts,
            counts / atoms.clamp_min(1),
            atoms / (self._n_counts * self._largest),
        ]

    def _element_features(self) -> Tensor:
        return element_property_table()[self._atomic_numbers.cpu() - 1]

    def terminal_features(self) -> Tensor:
        """(3 E + 1, k) float32 properties of the elements, with separate columns for presence, count and share."""
        return torch.block_diag(*[self._element_features()] * 3, torch.zeros(1, 0))

    def input_features(self, head: str) -> Tensor:
        return torch.block_diag(self.terminal_features(), self._element_features())

    def option_features(self, head: str) -> Tensor:
        if head == "count":
            return count_features(self._n_counts)
        # The last option is to stop; it has no properties of an element.
        return torch.block_diag(self._element_features(), torch.zeros(1, 0))

    def terminal_names(self) -> tuple[str, ...]:
        return (
            *(f"{symbol} is present" for symbol in self.elements),
            *(f"atoms of {symbol} / {self._n_counts}" for symbol in self.elements),
            *(f"share of {symbol}" for symbol in self.elements),
            f"atoms / {self._n_counts * self._largest}",
        )

    def input_names(self, head: str) -> tuple[str, ...]:
        # Which element comes next depends on the elements of the environment; which one was chosen last does not.
        return (*self.terminal_names(), NO_ELEMENT, *map(last_name, self.elements[:-1]))

    def option_names(self, head: str) -> tuple[str, ...]:
        if head == "element":
            return (*self.elements, "stop")
        return tuple(f"{n} atoms" for n in range(1, self._n_counts + 1))

    def _where(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Indices of each state in the look-ahead tables: number of elements so far, level of atoms, node."""
        columns = states[:, self._k : self._node + 1].long()
        level = columns[:, 1].clamp_max(self._tables.n_levels - 1)
        return columns[:, 0], level, self._tables.nodes[columns[:, 2] - 1]

    def support(self, head: str, states: Tensor) -> Tensor:
        charges = states[:, self._words].long()
        following = states[:, self._next].long()
        if head == "element":
            rows = self._tables.element_sets[self._where(states)]
            legal = bitset.meets_rows(self._tables.sets, rows, charges)
            return legal.logical_and_(self._is_option.index_select(0, following))
        rows = self._tables.count_sets(following - 1, *self._where(states))
        legal = bitset.meets_rows(self._tables.sets, rows, charges)
        return F.pad(legal, (0, self._n_counts - self._max_count)) if self._n_counts > self._max_count else legal

    def step(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        return self.advance(head, states.clone(), actions)

    def advance(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        action = actions[:, 0]
        if head == "element":
            stops = action == self._n
            states[:, self._done] = stops
            states[:, self._pending] = ~stops
            states[:, self._next] = torch.where(stops, states[:, self._next], action + 1)
            return states
        count = actions + 1
        element = states[:, self._next : self._next + 1].long() - 1
        states.scatter_(1, element, count)
        states[:, self._pending] = 0
        k = states[:, self._k].add_(1)
        states[:, self._done] = k == self._limit
        states[:, self._atoms] += count[:, 0]
        node, charges = self._read(
            element[:, 0], action.long(), states[:, self._node].long() - 1, states[:, self._words].long()
        )
        states[:, self._node] = node + 1
        states[:, self._words] = charges
        return states

    def _read(self, element: Tensor, count_index: Tensor, node: Tensor, charges: Tensor) -> tuple[Tensor, Tensor]:
        """Node and set of charges after one more element, with count ``count_index`` + 1."""
        moves = self._moves.index_select(0, element * self._n_counts + count_index)
        total = bitset.union_of_shifted(charges, *moves.chunk(2, dim=1))
        if self._n_memories == 1:
            return self._transitions[node, count_index + 1], total
        position = torch.div(node, self._n_memories, rounding_mode="floor")
        following = self._transitions[position, count_index + 1]
        remembered = self._memory[torch.remainder(node, self._n_memories), element, count_index + 1]
        nowhere = (following < 0) | (remembered < 0)
        return torch.where(nowhere, NOWHERE, following * self._n_memories + remembered), total

    def parent_actions(self, head: str, states: Tensor) -> Tensor:
        last = states[:, self._next].long() - 1
        if head == "element":
            return torch.where(states[:, self._done] > 0, self._n, last).unsqueeze(1).to(torch.float64)
        return states.gather(1, last.unsqueeze(1)) - 1

    def step_back(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        states = states.clone()
        last = states[:, self._next].long() - 1
        if head == "element":
            # The element before the pending one is the last element with a count.
            positions = torch.arange(1, self._n + 1, device=states.device)
            before = torch.where(states[:, : self._n] > 0, positions, 0).amax(1)
            stopped = states[:, self._done] > 0
            states[:, self._next] = torch.where(stopped, states[:, self._next], before.to(torch.float64))
            states[:, self._done] = 0
            states[:, self._pending] = 0
            return states
        states.scatter_(1, last.unsqueeze(1), 0.0)
        states[:, self._pending] = 1
        states[:, self._done] = 0
        states[:, self._k] -= 1
        states[:, self._atoms] -= actions[:, 0] + 1
        return self._read_again(states)

    def _read_again(self, states: Tensor) -> Tensor:
        """Compute node and charges from the counts, starting at the root, because a step cannot be undone in them."""
        counts = states[:, : self._n].long()
        elements = torch.argsort((counts == 0).to(torch.int8), dim=1, stable=True)[:, : self._largest]
        node = states[:, self._root].long()
        charges = self._tables.start.expand(len(states), -1)
        for i in range(min(self._largest, self._n)):
            count = counts.gather(1, elements[:, i : i + 1]).squeeze(1)
            next_node, next_charges = self._read(elements[:, i], (count - 1).clamp_min(0), node, charges)
            # A node that is NOWHERE does not change any more: used as an index, -1 would read the last node.
            node = torch.where((count > 0) & (node >= 0), next_node, node)
            charges = torch.where((count > 0).unsqueeze(1), next_charges, charges)
        states[:, self._node] = (node + 1).to(torch.float64)
        states[:, self._words] = charges.to(torch.float64)
        return states

    def decode(self, states: Tensor) -> Tensor:
        """(n, 94) int64, number of atoms of each element in the conventional cell."""
        counts = torch.zeros(len(states), N_ELEMENTS, dtype=torch.int64, device=states.device)
        counts[:, self._atomic_numbers - 1] = states[:, : self._n].long()
        return counts

    def n_atoms(self, states: Tensor) -> Tensor:
        """(n,) float64, number of atoms in the conventional cell."""
        return states[:, self._atoms]

    def states_under(self, condition: Tensor, objects: Tensor, tolerance: float = 0.0) -> tuple[Tensor, list[str]]:
        counts = objects.to(self.device)
        own = counts[:, self._atomic_numbers - 1]
        faults = [
            ("element", own.sum(1) < counts.sum(1)),
            ("number of atoms of an element", (own > self._n_counts).any(1)),
            ("number of elements", (own > 0).sum(1) > self._limit),
        ]
        can_be_read = ~torch.stack([of for _, of in faults]).any(0)
        states = self._terminal_states(condition, own * can_be_read.unsqueeze(1))
        is_neutral = bitset.intersects(states[:, self._words].long(), self._tables.start)
        faults += [("Wyckoff positions", states[:, self._node] == 0), ("charge", ~is_neutral)]
        # Remaining faults: lower bounds and totals.
        rows = (~torch.stack([of for _, of in faults]).any(0)).nonzero().squeeze(1)
        illegal = torch.zeros_like(is_neutral).index_copy(0, rows, ~self._is_legal(states[rows]))
        return states, first_faults(*faults, ("number of elements or atoms", illegal))

    def _is_legal(self, states: Tensor) -> Tensor:
        """(n,) bool, whether terminal states can be reached by legal decisions."""
        legal = torch.ones(len(states), dtype=torch.bool, device=states.device)
        current = states.clone()
        for head in reversed(self.schedule):
            rows = (self.previous_head(current) == self.head_position(head)).nonzero().squeeze(1)
            actions = self.parent_actions(head, current[rows])
            current[rows] = self.step_back(head, current[rows], actions)
            legal[rows] &= self.support(head, current[rows]).gather(1, actions.long()).squeeze(1)
        return legal

    def _terminal_states(self, condition: Tensor, own: Tensor) -> Tensor:
        """(n, state_size) terminal states of counts (n, E); the node column is 0 if they do not fit the space group."""
        states = self.start(condition)
        states[:, : self._n] = own
        positions = torch.arange(1, self._n + 1, device=states.device)
        states[:, self._next] = torch.where(own > 0, positions, 0).amax(1).to(torch.float64)
        states[:, self._done] = 1
        states[:, self._k] = (own > 0).sum(1).to(torch.float64)
        states[:, self._atoms] = own.sum(1)
        return self._read_again(states)

    def assignment(self, counts: Mapping[str, int]) -> list[tuple[str, int, int]] | None:
        """One neutral assignment of oxidation states.

        Args:
            counts: atoms of each element, by symbol.

        Returns:
            (symbol, oxidation state, number of atoms) for each species, or None if no assignment is neutral.
            Assignments with fewer elements of mixed valence are preferred, then those with small magnitudes.
        """
        best: dict[int, tuple[tuple[int, int], list[tuple[str, int, int]]]] = {0: ((0, 0), [])}
        for symbol, count in counts.items():
            ways = self._assignments[self.elements.index(symbol)][count - 1]
            after: dict[int, tuple[tuple[int, int], list[tuple[str, int, int]]]] = {}
            for charge, ((mixtures, magnitude), species) in best.items():
                for added, own in ways.items():
                    cost = (mixtures + len(own) - 1, magnitude + sum(abs(charge) * n for charge, n in own.items()))
                    known = after.get(charge + added)
                    if known is None or cost < known[0]:
                        after[charge + added] = (cost, species + [(symbol, s, n) for s, n in own.items()])
            best = after
        return best[0][1] if 0 in best else None


def _wyckoff_nodes(
    atoms_by_group: Mapping[int, tuple[int, int]], max_count: int, max_elements: int
) -> tuple[list[list[int]], dict[int, int], list[tuple[int, int]]]:
    """Nodes of all groups, the root of each group, and the bounds on the number of atoms of each node."""
    nodes: list[list[int]] = []
    roots: dict[int, int] = {}
    atoms: list[tuple[int, int]] = []
    for bounds in sorted(set(atoms_by_group.values())):
        groups = [space_groups()[n - 1] for n, b in atoms_by_group.items() if b == bounds]
        automaton = WyckoffAutomaton(groups, max_count, max_elements)
        offset = len(nodes)
        nodes += [[t + offset if t >= 0 else t for t in row] for row in automaton.transitions]
        roots |= {number: root + offset for number, root in automaton.roots.items()}
        atoms += [bounds] * len(automaton.transitions)
    return nodes, roots, atoms


def _check_size(rules: CompositionRules) -> None:
    """Raise an `InputError` if the look-ahead tables with a memory would take too long to compute."""
    if rules.memory is None:
        return
    n_nodes = len(rules.transitions) * rules.n_memories
    look_ups = len(rules.charges) * rules.elements[1] * atom_levels(rules) * n_nodes * rules.max_count
    if look_ups > MAX_LOOK_UPS:
        raise InputError(
            f"restrict: look-ahead tables for {look_ups:,} cases are needed, but at most {MAX_LOOK_UPS:,} are allowed: "
            f"there are {rules.n_memories} cases of forbidden pairs and ratios of elements, {atom_levels(rules)} of "
            f"numbers of atoms and {len(rules.transitions)} of occupied Wyckoff positions; forbid fewer pairs, or "
            "allow fewer elements, atoms or space groups"
        )


def _max_charge(charges: Sequence[Sequence[Sequence[int]]], max_elements: int, max_count: int, max_atoms: int) -> int:
    """Largest total charge that atoms of other elements, with charges of the opposite sign, can cancel."""
    per_atom = [value / n for by_count in charges for n, values in enumerate(by_count, start=1) for value in values]
    atoms = max(min((max_elements - 1) * max_count, max_atoms - 1), 0)
    highest = max((v for v in per_atom if v > 0), default=0.0)
    lowest = -min((v for v in per_atom if v < 0), default=0.0)
    return int(min(highest, lowest) * atoms + 0.5)
