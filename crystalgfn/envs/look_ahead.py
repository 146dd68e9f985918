"""Exact look-ahead for compositions: what can still be completed, for every partial composition.

A composition is read element by element in a fixed order. What matters of the part read so far is: how many elements
it has, how many atoms, the node of the `WyckoffAutomaton`, and the set of total charges that its atoms can have
(each element may have several oxidation states). A partial composition can be completed if one of its charges lies
in the set that the remaining elements can cancel; these sets are computed from the last element backwards. Whether
an element, or a count, is legal is then one intersection of two bitsets. Equal sets are stored once.

Bit i of a set stands for the total charge i - max_charge.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

import torch
from torch import Tensor

from crystalgfn.crystallography import NOWHERE
from crystalgfn.envs import bitset


@dataclass(frozen=True)
class CompositionRules:
    """What a composition has to satisfy, in numbers.

    Attributes:
        charges: for each element and each count 1 to max_count, the total charges its atoms can have; empty where
            the count is not allowed.
        elements: least and largest number of different elements.
        max_count: largest number of atoms of one element.
        atoms: for each node, the least and largest number of atoms in all.
        transitions: for each node, the next node for counts 0 to max_count, or `NOWHERE`.
        max_charge: total charges beyond it cannot be cancelled.
        required: positions of elements that cannot be passed over.
        memory: what else has to be remembered of the elements read, as an automaton with states 0 (start), 1, ...:
            for each state and each element the next state for counts 0 to max_count, or `NOWHERE`. Elements that are
            not read leave the state as it is. One state remembers nothing.
    """

    charges: Sequence[Sequence[Sequence[int]]]
    elements: tuple[int, int]
    max_count: int
    atoms: Sequence[tuple[int, int]]
    transitions: Sequence[Sequence[int]]
    max_charge: int
    required: Set[int] = frozenset()
    memory: Sequence[Sequence[Sequence[int]]] | None = None

    @property
    def n_memories(self) -> int:
        """Number of states of the memory."""
        return 1 if self.memory is None else len(self.memory)


@dataclass(frozen=True)
class LookAhead:
    """Tables of what can be completed; E elements, K elements at most, A levels of atoms, U nodes, C counts.

    A node here is a Wyckoff node and a state of the memory: U = nodes * states, node * states + state.

    Attributes:
        sets: (r, words) int64, the distinct sets of charges.
        element_sets: (K, A, U, E + 1) int32, rows of ``sets``: charges with which an element can come next; the last
            column is for stopping. The first index is the number of elements so far.
        count_sets: (E, K, A, U, C) int32, rows of ``sets``: charges with which an element can come with count 1 to C.
        n_levels: A. The number of atoms is kept only as far as it matters: level = min(atoms, A - 1).
        start: (words,) int64, the set of charge 0 alone.
    """

    sets: Tensor
    element_sets: Tensor
    count_sets: Tensor
    n_levels: int
    start: Tensor


def atom_levels(rules: CompositionRules) -> int:
    """How many levels of the number of atoms have to be told apart."""
    least, _ = rules.elements
    if any(high < most_atoms(rules) for _, high in rules.atoms):
        return max(high for _, high in rules.atoms) + 1
    if any(low > least for low, _ in rules.atoms):
        return max(low for low, _ in rules.atoms) + 1
    return 1


def most_atoms(rules: CompositionRules) -> int:
    """A bound on the number of atoms that any choice of elements and counts can come to."""
    counts = [max((n for n, c in enumerate(by_count, start=1) if c), default=0) for by_count in rules.charges]
    return sum(sorted(counts, reverse=True)[: rules.elements[1]])


def build_look_ahead(rules: CompositionRules) -> LookAhead:
    """Compute the tables, from the last element backwards."""
    words = bitset.n_words(2 * rules.max_charge + 1)
    start = bitset.singleton(rules.max_charge, words)
    n_elements, (least, largest) = len(rules.charges), rules.elements
    n_memories = rules.n_memories
    n_levels, n_nodes = atom_levels(rules), len(rules.transitions) * n_memories
    saturates = all(high >= most_atoms(rules) for _, high in rules.atoms)

    # Stopping: the charge must be zero, the numbers of elements and atoms within their bounds. The dummy last row of
    # the levels and nodes is where steps that are not allowed lead: nothing can be completed there.
    bounds = torch.tensor(rules.atoms).repeat_interleave(n_memories, 0)
    level = torch.arange(n_levels).unsqueeze(1)
    enough = (level >= bounds[:, 0]) | (torch.tensor(saturates) & (level == n_levels - 1))
    may_stop = enough & (torch.tensor(saturates) | (level <= bounds[:, 1]))
    stop = torch.zeros(largest + 1, n_levels + 1, n_nodes + 1, words, dtype=torch.int64)
    stop[least:, :-1, :-1] = torch.where(may_stop.unsqueeze(-1), start, 0)

    transitions = torch.tensor(rules.transitions)
    memory = None if rules.memory is None else torch.tensor(rules.memory)
    pool = _Pool(words)
    shape = (largest, n_levels, n_nodes)
    element_sets = torch.zeros(*shape, n_elements + 1, dtype=torch.int32)
    count_sets = torch.zeros(n_elements, *shape, rules.max_count, dtype=torch.int32)
    element_sets[..., -1] = pool.add(stop[:largest, :-1, :-1])
    completable = stop
    for element in reversed(range(n_elements)):
        any_count = torch.zeros(*shape, words, dtype=torch.int64)
        for count, charges in enumerate(rules.charges[element], start=1):
            if not charges:
                continue
            to_level = torch.arange(n_levels) + count
            to_level = to_level.clamp_max(n_levels - 1) if saturates else to_level.clamp_max(n_levels)
            step = transitions[:, count]
            remembered = torch.zeros(1, dtype=torch.int64) if memory is None else memory[:, element, count]
            following = step.unsqueeze(1) * n_memories + remembered
            nowhere = (step == NOWHERE).unsqueeze(1) | (remembered == NOWHERE)
            to_node = torch.where(nowhere, n_nodes, following).flatten()
            after = completable[1:][:, to_level][:, :, to_node]
            legal = torch.zeros_like(after)
            for charge in charges:
                legal |= bitset.shift(after, -charge)
            count_sets[element, ..., count - 1] = pool.add(legal)
            any_count |= legal
        element_sets[..., element] = pool.add(any_count)
        # A required element cannot be passed over.
        completable = torch.zeros_like(completable) if element in rules.required else completable.clone()
        completable[:-1, :-1, :-1] |= any_count
    return LookAhead(pool.sets(), element_sets, count_sets, n_levels, start)


class _Pool:
    """Distinct sets, each with a row number; row 0 is the empty set."""

    def __init__(self, words: int) -> None:
        # Odd random multipliers make a hash of each set; `add` checks that it told all sets apart.
        generator = torch.Generator().manual_seed(0)
        self._multipliers = torch.randint(-(2**62), 2**62, (words,), generator=generator) * 2 + 1
        self._rows: dict[int, int] = {0: 0}
        self._sets = [torch.zeros(1, words, dtype=torch.int64)]

    def add(self, sets: Tensor) -> Tensor:
        """(...) int32 row numbers of sets (..., words)."""
        flat = sets.reshape(-1, sets.shape[-1])
        hashes, inverse = torch.unique((flat * self._multipliers).sum(1), return_inverse=True)
        first = torch.full((len(hashes),), len(flat)).scatter_reduce_(
            0, inverse, torch.arange(len(flat)), "amin", include_self=True
        )
        distinct = flat[first]
        if not torch.equal(distinct[inverse], flat):
            raise RuntimeError("two sets of charges share a hash")
        rows = []
        for value, row in zip(hashes.tolist(), distinct, strict=True):
            if value not in self._rows:
                self._rows[value] = len(self._sets)
                self._sets.append(row.unsqueeze(0))
            rows.append(self._rows[value])
            if not torch.equal(self._sets[rows[-1]][0], row):
                raise RuntimeError("two sets of charges share a hash")
        return torch.tensor(rows, dtype=torch.int32)[inverse].reshape(sets.shape[:-1])

    def sets(self) -> Tensor:
        """(r, words) all sets, in the order of their row numbers."""
        return torch.cat(self._sets)
