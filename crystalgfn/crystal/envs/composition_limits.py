"""Limits on compositions, and the automaton that checks them element by element."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

from crystalgfn.crystal.crystallography import NOWHERE
from crystalgfn.errors import InputError

MAX_MEMORIES = 1000
"""Largest number of memories of the automaton."""

Memory = tuple[int, frozenset[int]]
"""Number of units of the reduced formula (0: not known yet), and the elements that may no longer be chosen."""


@dataclass(frozen=True)
class CompositionLimits:
    """Limits on compositions. Elements are given by their position in the order in which they are decided.

    Attributes:
        counts: allowed counts of each element; empty for an element that is not allowed.
        n_elements: least and largest number of different elements.
        required: elements that must be present.
        forbidden_pairs: pairs of elements, the earlier one first, that must not occur together.
        ratio: count of each element in the reduced formula that is required; empty if none is required.
    """

    counts: Sequence[Set[int]]
    n_elements: tuple[int, int]
    required: frozenset[int] = frozenset()
    forbidden_pairs: frozenset[tuple[int, int]] = frozenset()
    ratio: Mapping[int, int] = field(default_factory=dict)

    @property
    def max_count(self) -> int:
        """Largest allowed count of any element, at least 1."""
        return max((max(counts) for counts in self.counts if counts), default=1)

    def memory(self) -> list[list[list[int]]] | None:
        """The automaton of `CompositionRules.memory`; None if nothing has to be remembered.

        Only forbidden partners that come later in the order are remembered, because only they can still be chosen.

        Raises:
            InputError: if the automaton needs more than `MAX_MEMORIES` memories.
        """
        start: Memory = (0, frozenset())
        numbers = {start: 0}
        depths = {start: 0}
        steps: dict[tuple[Memory, int, int], Memory] = {}
        for element, counts in enumerate(self.counts):
            for memory in list(numbers):
                for count in counts if depths[memory] < self.n_elements[1] else ():
                    after = self._read(memory, element, count)
                    if len(numbers) > MAX_MEMORIES:
                        raise InputError(
                            f"restrict.forbidden_pairs: these {len(self.forbidden_pairs)} pairs need look-ahead tables "
                            f"for more than {MAX_MEMORIES} cases; forbid fewer pairs, or allow fewer elements"
                        )
                    if after is not None:
                        depth = depths[memory] + 1
                        numbers.setdefault(after, len(numbers))
                        depths[after] = min(depths.get(after, depth), depth)
                        steps[memory, element, count] = after
        if not self.forbidden_pairs and not self.ratio:
            return None
        table = [[[NOWHERE] * (self.max_count + 1) for _ in self.counts] for _ in numbers]
        for memory, number in numbers.items():
            for element in range(len(self.counts)):
                table[number][element][0] = number
                for count in self.counts[element]:
                    target = steps.get((memory, element, count))
                    if target is not None:
                        table[number][element][count] = numbers[target]
        return table

    def _read(self, memory: Memory, element: int, count: int) -> Memory | None:
        """The memory after one more element with its count; None if they are not allowed."""
        multiple, excluded = memory
        if element in excluded:
            return None
        if self.ratio:
            own, rest = divmod(count, self.ratio.get(element, 1))
            if rest or multiple not in (0, own):
                return None
            multiple = own
        partners = {later for first, later in self.forbidden_pairs if first == element}
        return multiple, frozenset(e for e in excluded | partners if e > element and self.counts[e])
