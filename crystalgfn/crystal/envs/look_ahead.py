"""Exact look-ahead for compositions: which partial compositions can be completed.

A composition is read element by element in a fixed order. Only four properties of the part read so far matter: its
number of elements, its number of atoms, its node of the `WyckoffAutomaton`, and the set of total charges that its atoms
can have (each element may have several oxidation states). A partial composition can be completed if one of its charges
is in the set of charges that the remaining elements can cancel. These sets are computed from the last element
backwards. One intersection of two bitsets then shows whether an element, or a count, is legal. Equal sets are stored
once.

Bit i of a set stands for the total charge i - max_charge.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crystalgfn.crystal.crystallography import NOWHERE
from crystalgfn.crystal.envs import bitset


@dataclass(frozen=True)
class CompositionRules:
    """Rules that a composition must satisfy.

    Attributes:
        charges: for each element and each count 1 to max_count, the total charges that its atoms can have; empty if
            the count is not allowed.
        elements: least and largest number of different elements.
        max_count: largest number of atoms of one element.
        atoms: for each node, the least and largest total number of atoms.
        transitions: for each node, the next node for counts 0 to max_count, or `NOWHERE`.
        max_charge: largest size of a total charge that can be cancelled.
        required: positions of the elements that must be present.
        memory: automaton for everything else that must be remembered about the elements read; None if there is
            nothing. It has memories 0 (start), 1, ... For each memory and each element, it gives the next memory for
            counts 0 to max_count, or `NOWHERE`. An element that is skipped does not change the memory.
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
        """Number of memories; 1 if nothing has to be remembered."""
        return 1 if self.memory is None else len(self.memory)


class LookAhead(nn.Module):
    """Tables that show which partial compositions can be completed.

    In the shapes below, E is the number of elements to choose from, K the largest number of elements in a composition,
    A the number of levels of atoms, U the number of nodes, and C the largest count. A node of these tables is a class
    of equivalent Wyckoff nodes together with a memory. Numbers of atoms are distinguished only if it is necessary:
    level = min(atoms, A - 1).

    A table with one set for every count would be C times larger. Instead, ``after`` gives the number of the set of
    charges that can be completed after an element, and ``legal`` translates this number to the set for each count.

    Args:
        saturates: whether the last level stands for its number of atoms and all larger ones. If false, larger numbers
            are not allowed.

    Attributes:
        sets: (r, words) int64, the distinct sets of charges; row 0 is the empty set.
        nodes: (Wyckoff nodes * memories,) int64, the node at index Wyckoff node * memories + memory.
        element_sets: (K, A, U, E + 1) int32, rows of ``sets``: the charges at which an element can be chosen next. The
            first index is the number of elements so far; the last column is for stopping.
        after: (E, K, A + 1, U + 1) int16 or int32, number of the set of charges that can be completed after an element;
            the second index is the number of elements before it. Each element has its own numbers, and number 0 is the
            empty set. The last level and the last node are those after a step that is not allowed.
        first: (E,) int64, row of ``legal`` for number 0 of each element.
        legal: (number of all sets in ``after``, C) int32, rows of ``sets``: the charges at which an element can be
            chosen with count 1 to C, for each number in ``after``.
        steps: (U, C) int64, the node after count 1 to C, or U if the count is not allowed; with memories (E * U, C),
            because the next memory depends on the element.
        start: (words,) int64, the set that contains only charge 0.
        n_levels: A.
    """

    def __init__(
        self,
        sets: Tensor,
        nodes: Tensor,
        element_sets: Tensor,
        after: Tensor,
        first: Tensor,
        legal: Tensor,
        steps: Tensor,
        start: Tensor,
        saturates: bool,
    ) -> None:
        super().__init__()
        self.sets: Tensor
        self.nodes: Tensor
        self.element_sets: Tensor
        self.after: Tensor
        self.first: Tensor
        self.legal: Tensor
        self.steps: Tensor
        self.start: Tensor
        tables = {
            "sets": sets,
            "nodes": nodes,
            "element_sets": element_sets,
            "after": after,
            "first": first,
            "legal": legal,
            "steps": steps,
            "start": start,
            "_counts": torch.arange(1, legal.shape[1] + 1),
        }
        self._counts: Tensor
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)
        self.n_levels = element_sets.shape[1]
        self._highest = self.n_levels - 1 if saturates else self.n_levels
        self._has_memory = len(steps) > element_sets.shape[2]

    def count_sets(self, element: Tensor, k: Tensor, level: Tensor, node: Tensor) -> Tensor:
        """Charges at which an element can be chosen with each count.

        Args:
            element: (n,) int64, position of the element.
            k: (n,) int64, number of elements before it.
            level: (n,) int64, level of the atoms before it.
            node: (n,) int64, node before it.

        Returns:
            (n, C) int32, rows of ``sets``.
        """
        _, n_k, levels, nodes = self.after.shape
        to_node = self.steps[element * (nodes - 1) + node if self._has_memory else node]
        to_level = (level.unsqueeze(1) + self._counts).clamp_max(self._highest)
        cell = ((element * n_k + k).unsqueeze(1) * levels + to_level) * nodes + to_node
        number = self.after.view(-1)[cell]
        return self.legal[self.first[element].unsqueeze(1) + number, self._counts - 1]


def atom_levels(rules: CompositionRules) -> int:
    """How many levels of the number of atoms must be distinguished."""
    least, _ = rules.elements
    if any(high < most_atoms(rules) for _, high in rules.atoms):
        return max(high for _, high in rules.atoms) + 1
    if any(low > least for low, _ in rules.atoms):
        return max(low for low, _ in rules.atoms) + 1
    return 1


def most_atoms(rules: CompositionRules) -> int:
    """Upper bound on the number of atoms of any choice of elements and counts."""
    counts = [max((n for n, c in enumerate(by_count, start=1) if c), default=0) for by_count in rules.charges]
    return sum(sorted(counts, reverse=True)[: rules.elements[1]])


def build_look_ahead(rules: CompositionRules) -> LookAhead:
    """Compute the tables, from the last element backwards.

    Sets are computed only once for each combination of numbers that occurs, because most cells (elements so far, level,
    node) have the same combination as other cells.
    """
    words = bitset.n_words(2 * rules.max_charge + 1)
    start = bitset.singleton(rules.max_charge, words)
    n_elements, (least, largest) = len(rules.charges), rules.elements
    n_memories = rules.n_memories
    class_of, transitions, atoms = _merge(rules)
    n_levels, n_nodes = atom_levels(rules), len(transitions) * n_memories
    saturates = all(high >= most_atoms(rules) for _, high in rules.atoms)

    # Stopping is legal if the charge is zero and the numbers of elements and atoms are within their bounds.
    bounds = atoms.repeat_interleave(n_memories, 0)
    level = torch.arange(n_levels).unsqueeze(1)
    enough = (level >= bounds[:, 0]) | (torch.tensor(saturates) & (level == n_levels - 1))
    may_stop = enough & (torch.tensor(saturates) | (level <= bounds[:, 1]))
    # What can be completed with the elements from here on, as rows of `own`. Steps that are not allowed lead to the
    # last level or the last node, at which nothing can be completed.
    numbers = torch.zeros(largest + 1, n_levels + 1, n_nodes + 1, dtype=torch.int32)
    numbers[least:, :-1, :-1] = may_stop.int()
    own = torch.stack([torch.zeros_like(start), start])

    pool = _Pool(words)
    steps = _steps(transitions, rules)
    counts = torch.arange(1, rules.max_count + 1).unsqueeze(1)
    to_level = (level.squeeze(1) + counts).clamp_max(n_levels - 1 if saturates else n_levels)
    shape = (largest, n_levels, n_nodes)
    element_rows = torch.zeros(n_elements + 1, *shape, dtype=torch.int32)
    element_rows[-1] = pool.add(own)[numbers[:largest, :-1, :-1].long()]
    after = torch.zeros(n_elements, largest, n_levels + 1, n_nodes + 1, dtype=torch.int32)
    legal_rows: list[Tensor] = []
    for element in reversed(range(n_elements)):
        after[element] = numbers[1:]
        allowed = [count for count, charges in enumerate(rules.charges[element]) if charges]
        # For each (elements so far, level, node): the number without this element, and those after each count.
        combinations = torch.zeros(len(allowed) + 1, *shape, dtype=torch.int32)
        if element not in rules.required:  # a required element cannot be skipped
            combinations[0] = numbers[:-1, :-1, :-1]
        to_node = steps[element * n_nodes : (element + 1) * n_nodes] if len(steps) > n_nodes else steps
        for option, count in zip(combinations[1:], allowed, strict=True):
            option[...] = numbers[1:, to_level[count]].index_select(2, to_node[:, count])
        distinct, which = _distinct(combinations.flatten(1).t())
        legal = _legal_sets(own, distinct[:, 1:], allowed, rules.charges[element], rules.max_count)
        legal_rows.append(pool.add(legal))
        any_count = torch.zeros(len(distinct), words, dtype=torch.int64)
        for option, count in zip(distinct[:, 1:].unbind(1), allowed, strict=True):
            any_count |= legal[option.long(), count]
        element_rows[element] = pool.add(any_count)[which].view(shape)
        either = any_count | own[distinct[:, 0].long()]
        own, new = _distinct(torch.cat([torch.zeros(1, words, dtype=torch.int64), start.unsqueeze(0), either]))
        numbers[:-1, :-1, :-1] = new[2:].int()[which].view(shape)
        numbers[-1] = (numbers[-1] > 0).int() * (0 if element in rules.required else int(new[1]))
    sets, row_of = pool.sets()
    sizes = torch.tensor([len(rows) for rows in legal_rows[::-1]])
    return LookAhead(
        sets,
        (class_of.unsqueeze(1) * n_memories + torch.arange(n_memories)).flatten(),
        row_of[element_rows.long().movedim(0, -1)],
        after if int(sizes.max()) > torch.iinfo(torch.int16).max else after.short(),
        sizes.cumsum(0) - sizes,
        row_of[torch.cat(legal_rows[::-1]).long()],
        steps,
        start,
        saturates,
    )


def _merge(rules: CompositionRules) -> tuple[Tensor, Tensor, Tensor]:
    """Merge the Wyckoff nodes that have the same bounds on atoms and allow the same sequences of counts.

    Returns:
        (nodes,) int64, the class of each node; (classes, max_count + 1) int64, transitions of the classes; (classes, 2)
        int64, least and largest number of atoms of the classes.

    Source: Moore, "Gedanken-experiments on sequential machines", 1956.
    """
    # The last entry is the class of NOWHERE, whose index is -1.
    classes: list[object] = [*rules.atoms, (-1, -1)]
    n_classes = 0
    while True:
        numbers: dict[object, int] = {}
        refined = [
            numbers.setdefault((classes[node], *(classes[target] for target in row)), len(numbers))
            for node, row in enumerate(rules.transitions)
        ]
        if len(numbers) == n_classes:
            break
        classes, n_classes = [*refined, -1], len(numbers)
    first = {number: node for node, number in reversed(list(enumerate(refined)))}
    chosen = [first[number] for number in range(n_classes)]
    transitions = [[classes[target] for target in rules.transitions[node]] for node in chosen]
    return torch.tensor(refined), torch.tensor(transitions), torch.tensor([rules.atoms[node] for node in chosen])


def _steps(transitions: Tensor, rules: CompositionRules) -> Tensor:
    """The node after each count: the table `LookAhead.steps`."""
    n_memories = rules.n_memories
    n_nodes = len(transitions) * n_memories
    step = transitions[:, 1 : rules.max_count + 1]
    if rules.memory is None:
        return torch.where(step == NOWHERE, n_nodes, step)
    remembered = torch.tensor(rules.memory)[:, :, 1 : rules.max_count + 1].transpose(0, 1).unsqueeze(1)
    step = step.unsqueeze(1)
    nowhere = (step == NOWHERE) | (remembered == NOWHERE)
    return torch.where(nowhere, n_nodes, step * n_memories + remembered).flatten(0, 2)


def _legal_sets(
    after: Tensor, options: Tensor, allowed: Sequence[int], charges: Sequence[Sequence[int]], max_count: int
) -> Tensor:
    """Charges at which an element can be chosen with each count.

    Args:
        after: (r, words) int64, the sets of charges that can be completed after the element.
        options: (q, allowed counts) int32, the rows of ``after`` that occur with each count; the result is computed
            only for these rows.
        allowed: the allowed counts minus one.
        charges: the total charges of the element's atoms for each count.
        max_count: C.

    Returns:
        (r, C, words) int64, the sets.
    """
    legal = torch.zeros(len(after), max_count, after.shape[1], dtype=torch.int64)
    for option, count in zip(options.unbind(1), allowed, strict=True):
        occurs = torch.zeros(len(after), dtype=torch.bool)
        occurs[option.long()] = True
        rows = occurs.nonzero().squeeze(1)
        sets = after[rows]
        for charge in charges[count]:
            legal[rows, count] |= bitset.shift(sets, -charge)
    return legal


class _Pool:
    """Collects sets of charges and merges equal ones in the end; row 0 is the empty set."""

    def __init__(self, words: int) -> None:
        self._parts = [torch.zeros(1, words, dtype=torch.int64)]
        self._size = 1

    def add(self, sets: Tensor) -> Tensor:
        """(...) int32 provisional row numbers of sets (..., words)."""
        distinct, rows = _distinct(sets.flatten(0, -2))
        self._parts.append(distinct)
        self._size += len(distinct)
        return (rows + (self._size - len(distinct))).int().view(sets.shape[:-1])

    def sets(self) -> tuple[Tensor, Tensor]:
        """(r, words) int64, the distinct sets, and (numbers,) int32, the row of each provisional number."""
        distinct, rows = _distinct(torch.cat(self._parts))
        return distinct, rows.int()


def _distinct(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct rows of (n, m) integers in order of first appearance, and (n,) int64, which one each row is."""
    # Rows are compared by a hash with odd random multipliers, because sorting the rows themselves takes far longer.
    # Whether two different rows have the same hash is checked at the end.
    generator = torch.Generator().manual_seed(0)
    multipliers = torch.randint(-(2**62), 2**62, (rows.shape[1],), generator=generator) * 2 + 1
    hashes = torch.zeros(len(rows), dtype=torch.int64)
    columns = rows.unbind(1)
    for column, multiplier in zip(columns, multipliers.tolist(), strict=True):
        # The bits of words are mixed first: words that differ only in their high bits would often have equal sums.
        hashes.add_(_scatter(column) if column.dtype == torch.int64 else column, alpha=multiplier)
    _, inverse = torch.unique(hashes, return_inverse=True)
    n = int(inverse.max()) + 1
    first = torch.full((n,), len(rows)).scatter_reduce_(0, inverse, torch.arange(len(rows)), "amin")
    order = torch.argsort(first)
    which = torch.empty_like(order).index_copy_(0, order, torch.arange(n))[inverse]
    distinct = rows[first[order]]
    if not all(torch.equal(own[which], column) for own, column in zip(distinct.unbind(1), columns, strict=True)):
        raise RuntimeError("two sets of charges share a hash")
    return distinct, which


def _scatter(x: Tensor) -> Tensor:
    """A bijection of the 64-bit integers in which each bit of the result depends on all bits of the input.

    Source: the finaliser of MurmurHash3 (Appleby, 2011).
    """
    for multiplier in (-0xAE502812AA7333, -0x3B314601E57A13AD):
        # The mask is needed because torch's shift keeps the sign.
        x = (x ^ ((x >> 33) & 0x7FFFFFFF)) * multiplier
    return x ^ ((x >> 33) & 0x7FFFFFFF)
