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
from torch import Tensor, nn

from crystalgfn.crystal.crystallography import NOWHERE
from crystalgfn.crystal.envs import bitset


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
        memory: what else has to be remembered of the elements read, as an automaton with memories 0 (start), 1,
            ...: for each memory and each element the next memory for counts 0 to max_count, or `NOWHERE`. Elements that
            are not read leave the memory as it is. One memory remembers nothing.
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
        """Number of memories."""
        return 1 if self.memory is None else len(self.memory)


class LookAhead(nn.Module):
    """Tables of what can be completed; E elements, K elements at most, A levels of atoms, U nodes, C counts.

    A node here is a class of Wyckoff nodes between which no count can tell, and a memory. The number of
    atoms is kept only as far as it matters: level = min(atoms, A - 1).

    A table of the sets for each count would have C times the entries. Instead ``after`` says by number what can be
    completed once an element has been read, and ``legal`` what that means for the element and a count.

    Attributes:
        sets: (r, words) int64, the distinct sets of charges; row 0 is the empty set.
        nodes: (nodes * memories,) int64, the node here of each Wyckoff node * memories + memory.
        element_sets: (K, A, U, E + 1) int32, rows of ``sets``: charges with which an element can come next; the last
            column is for stopping. The first index is the number of elements so far.
        after: (E, K, A + 1, U + 1) int16 or int32: number of the set that can be completed after element E, which is
            the K-th; each element has numbers of its own, 0 for nothing. The last level and node are those of steps
            that are not allowed.
        first: (E,) int64, row of ``legal`` of each element's number 0.
        legal: (sum of the elements' numbers, C) int32, rows of ``sets``: charges with which an element can come with
            count 1 to C, if what can be completed after it has this number.
        steps: (U or E * U, C) int64, the node after count 1 to C, U where it is not allowed; with memories of each
            element.
        start: (words,) int64, the set of charge 0 alone.
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
        """Charges with which an element can come with each count.

        Args:
            element: (n,) int64, the element.
            k: (n,) int64, elements before it.
            level: (n,) int64, level of the atoms before it.
            node: (n,) int64, the node before it.

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
    """Compute the tables, from the last element backwards.

    Sets are only made once for each combination of numbers that occurs: most of the many (elements so far, level,
    node) have what others have.
    """
    words = bitset.n_words(2 * rules.max_charge + 1)
    start = bitset.singleton(rules.max_charge, words)
    n_elements, (least, largest) = len(rules.charges), rules.elements
    n_memories = rules.n_memories
    class_of, transitions, atoms = _merge(rules)
    n_levels, n_nodes = atom_levels(rules), len(transitions) * n_memories
    saturates = all(high >= most_atoms(rules) for _, high in rules.atoms)

    # Stopping: the charge must be zero, the numbers of elements and atoms within their bounds.
    bounds = atoms.repeat_interleave(n_memories, 0)
    level = torch.arange(n_levels).unsqueeze(1)
    enough = (level >= bounds[:, 0]) | (torch.tensor(saturates) & (level == n_levels - 1))
    may_stop = enough & (torch.tensor(saturates) | (level <= bounds[:, 1]))
    # What can be completed with the elements from here on, as rows of `own`. The last row of the levels and nodes is
    # where steps that are not allowed lead: nothing can be completed there.
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
        if element not in rules.required:  # else it cannot be passed over
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
    """Put together the Wyckoff nodes that have the same bounds on atoms and allow the same counts ever after.

    Returns:
        (nodes,) int64 the class of each node, and the transitions (classes, max_count + 1) and bounds (classes, 2) of
        the classes.

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
    """The nodes after each count, as `LookAhead.steps`."""
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
    """Charges with which an element can come.

    Args:
        after: (r, words) the sets that can be completed after it.
        options: (q, allowed counts) which of them there are after each count; only for these the result is worked out.
        allowed: the counts that are allowed, less one.
        charges: total charges of the element's atoms for each count.
        max_count: C.

    Returns:
        (r, C, words) sets.
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
    """Sets of charges, equal ones of which are put together in the end; row 0 is the empty set."""

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
        """(r, words) the distinct sets, and the int32 row of each provisional number."""
        distinct, rows = _distinct(torch.cat(self._parts))
        return distinct, rows.int()


def _distinct(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct rows of (n, m) integers in order of first appearance, and (n,) int64 which one each row is."""
    # Odd random multipliers make a hash of each row, which is checked: sorting the rows themselves takes far longer.
    generator = torch.Generator().manual_seed(0)
    multipliers = torch.randint(-(2**62), 2**62, (rows.shape[1],), generator=generator) * 2 + 1
    hashes = torch.zeros(len(rows), dtype=torch.int64)
    columns = rows.unbind(1)
    for column, multiplier in zip(columns, multipliers.tolist(), strict=True):
        # Of words of bits those that differ in high bits only would often share a sum; small numbers do not.
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
    """A bijection of the 64-bit integers whose bits all depend on each other.

    Source: the finaliser of MurmurHash3 (Appleby, 2011).
    """
    for multiplier in (-0xAE502812AA7333, -0x3B314601E57A13AD):
        # Torch's own shift keeps the sign.
        x = (x ^ ((x >> 33) & 0x7FFFFFFF)) * multiplier
    return x ^ ((x >> 33) & 0x7FFFFFFF)
