"""Numbers of atoms that fit the Wyckoff positions of a space group, for all elements of a composition together.

A position without a free coordinate can be occupied only once, by one element. Whether another element fits therefore
depends on the fixed positions that the earlier elements occupy, and there are often several possibilities.
`WyckoffAutomaton` keeps all of them: a node is a set of usages, and a usage says how many fixed positions of each
multiplicity are occupied. The count of the next element leads from one node to another. A composition fits the group
exactly if no step leads to `NOWHERE`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from itertools import product

from crystalgfn.crystal.crystallography.space_groups import SpaceGroupInfo, space_groups

Usage = tuple[int, ...]
"""How many fixed positions of each multiplicity are occupied."""

NOWHERE = -1
"""Target of a step if the count does not fit the group."""


def has_room(number: int, counts: Iterable[int]) -> bool:
    """Whether the Wyckoff positions of a space group can hold a composition. There is no bound on the counts.

    `WyckoffAutomaton` answers this for whole spaces of compositions with small counts.

    Args:
        number: number of the space group, 1 to 230.
        counts: number of atoms of each element in the conventional cell.
    """
    group = space_groups()[number - 1]
    counts = sorted(counts)
    size = 1 << max(counts, default=1).bit_length()
    on_free = _free_sums(group.free_multiplicities, size)
    # Positions with a free coordinate are unlimited: elements that fit on them take no position from the others.
    rest = tuple(count for count in counts if not on_free >> count & 1)
    return not rest or _has_room(number, rest)


@lru_cache(maxsize=1024)
def _free_sums(free: tuple[int, ...], size: int) -> int:
    """Bit n is 1 if n < ``size`` is a sum of the multiplicities, each used any number of times."""
    bits, mask = 1, (1 << size) - 1
    for multiplicity in free:
        shift = multiplicity
        while shift < size:
            bits |= bits << shift & mask
            shift *= 2
    return bits


@lru_cache(maxsize=100_000)
def _has_room(number: int, counts: tuple[int, ...]) -> bool:
    group = space_groups()[number - 1]
    fixed = Counter(group.fixed_multiplicities)
    on_free = _free_sums(group.free_multiplicities, 1 << max(counts).bit_length())
    usages = [
        (usage, sum(n * m for n, m in zip(usage, fixed, strict=True)))
        for usage in product(*(range(n + 1) for n in fixed.values()))
    ]
    taken = {(0,) * len(fixed)}
    for count in counts:
        ways = [usage for usage, atoms in usages if atoms <= count and on_free >> count - atoms & 1]
        sums = {tuple(map(sum, zip(before, way, strict=True))) for before in taken for way in ways}
        taken = {usage for usage in sums if all(n <= most for n, most in zip(usage, fixed.values(), strict=True))}
    return bool(taken)


class WyckoffAutomaton:
    """Nodes and transitions for several space groups; groups with the same multiplicities share their nodes.

    Args:
        groups: the space groups.
        max_count: largest number of atoms of one element.
        max_elements: largest number of elements in a composition.

    Attributes:
        roots: for each number of a space group, the node at which no position is occupied yet.
        transitions: for each node, the next node for counts 0 to ``max_count``; `NOWHERE` if the count does not fit.
            Count 0 leads to the same node.
    """

    def __init__(self, groups: Iterable[SpaceGroupInfo], max_count: int, max_elements: int) -> None:
        self.roots: dict[int, int] = {}
        self.transitions: list[list[int]] = []
        known: dict[tuple[tuple[tuple[int, int], ...], tuple[int, ...]], int] = {}
        for group in groups:
            fixed = Counter(m for m in group.fixed_multiplicities if m <= max_count)
            free = tuple(m for m in group.free_multiplicities if m <= max_count)
            key = (tuple(sorted(fixed.items())), free)
            if key not in known:
                known[key] = self._add(dict(key[0]), free, max_count, max_elements)
            self.roots[group.number] = known[key]

    def _add(self, fixed: dict[int, int], free: tuple[int, ...], max_count: int, max_elements: int) -> int:
        """Append the nodes for groups with these multiplicities and return their root."""
        ways = _usages_by_count(fixed, free, max_count)
        capacity = tuple(fixed.values())
        start = frozenset([(0,) * len(capacity)])
        nodes = {start: len(self.transitions)}
        queue = [(start, 0)]
        self.transitions.append([])
        for taken, depth in queue:  # the loop appends to the queue
            row = [nodes[taken]]
            for count in range(1, max_count + 1):
                after: frozenset[Usage] = frozenset()
                if depth < max_elements:
                    sums = (tuple(map(sum, zip(u, w, strict=True))) for u in taken for w in ways[count])
                    after = _least(s for s in sums if all(x <= c for x, c in zip(s, capacity, strict=True)))
                if after and after not in nodes:
                    nodes[after] = len(self.transitions)
                    self.transitions.append([])
                    queue.append((after, depth + 1))
                row.append(nodes[after] if after else NOWHERE)
            self.transitions[nodes[taken]] = row
        return nodes[start]


def _usages_by_count(fixed: dict[int, int], free: tuple[int, ...], max_count: int) -> list[frozenset[Usage]]:
    """Minimal usages of fixed positions with which one element can have 0, 1, ... ``max_count`` atoms."""
    by_free = {0}
    for count in range(1, max_count + 1):
        if any(count - m in by_free for m in free):
            by_free.add(count)
    usages: list[set[Usage]] = [set() for _ in range(max_count + 1)]
    for usage in product(*(range(min(n, max_count // m) + 1) for m, n in fixed.items())):
        on_fixed = sum(n * m for n, m in zip(usage, fixed, strict=True))
        for rest in by_free:
            if on_fixed + rest <= max_count:
                usages[on_fixed + rest].add(usage)
    return [_least(u) for u in usages]


def _least(usages: Iterable[Usage]) -> frozenset[Usage]:
    """The minimal usages: those for which no other usage occupies at most as many positions of every multiplicity.

    The other usages are not needed, because any continuation that is possible with more positions occupied is also
    possible with fewer.
    """
    unique = set(usages)
    return frozenset(
        u for u in unique if not any(v != u and all(x <= y for x, y in zip(v, u, strict=True)) for v in unique)
    )
