"""Look-ahead tables, against trying everything."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from helpers import make_crystal
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalgfn.crystal.crystallography import NOWHERE
from crystalgfn.crystal.envs import bitset
from crystalgfn.crystal.envs.look_ahead import CompositionRules, LookAhead, atom_levels, build_look_ahead


@st.composite
def rules(draw: st.DrawFn) -> CompositionRules:
    n_elements, max_count = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    largest = draw(st.integers(1, n_elements))
    charges = [
        [sorted(draw(st.sets(st.integers(-4, 4), max_size=3))) for _ in range(max_count)] for _ in range(n_elements)
    ]
    n_nodes = draw(st.integers(1, 3))
    target = st.sampled_from([NOWHERE, *range(n_nodes)])
    transitions = [[node, *(draw(target) for _ in range(max_count))] for node in range(n_nodes)]
    atoms = [sorted(draw(st.tuples(st.integers(1, 6), st.integers(1, 10)))) for _ in range(n_nodes)]
    return CompositionRules(
        charges=charges,
        elements=(draw(st.integers(1, largest)), largest),
        max_count=max_count,
        atoms=[(low, high) for low, high in atoms],
        transitions=transitions,
        max_charge=4 * n_elements,
    )


def check(rules: CompositionRules, tables: LookAhead) -> None:
    """Compare every entry that a walk can come to with a search."""
    n_elements, (least, largest) = len(rules.charges), rules.elements

    def may_stop(k: int, atoms: int, node: int, charge: int) -> bool:
        low, high = rules.atoms[node]
        return k >= least and charge == 0 and low <= atoms <= high

    @cache
    def can_end(element: int, k: int, atoms: int, node: int, charge: int) -> bool:
        """Whether elements from ``element`` on can complete this."""
        return may_stop(k, atoms, node, charge) or any(
            can_take(e, n, k, atoms, node, charge)
            for e in range(element, n_elements)
            for n in range(1, rules.max_count + 1)
        )

    @cache
    def can_take(element: int, count: int, k: int, atoms: int, node: int, charge: int) -> bool:
        after = rules.transitions[node][count]
        return (
            k < largest
            and after != NOWHERE
            and any(
                can_end(element + 1, k + 1, atoms + count, after, charge + added)
                for added in rules.charges[element][count - 1]
            )
        )

    def holds(row: torch.Tensor, charge: int) -> bool:
        position = charge + rules.max_charge
        return bool(bitset.members(tables.sets[row.long()].unsqueeze(0))[0, position])

    todo = {(0, 0, 0, node, 0) for node in range(len(rules.transitions))}
    seen = set(todo)
    while todo:
        element, k, atoms, node, charge = todo.pop()
        if k == largest:
            continue
        level, place = min(atoms, tables.n_levels - 1), int(tables.nodes[node])
        assert holds(tables.element_sets[k, level, place, -1], charge) == may_stop(k, atoms, node, charge)
        where = (torch.tensor([i]) for i in (k, level, place))
        of_counts = tables.count_sets(torch.arange(n_elements), *(i.expand(n_elements) for i in where))
        for e in range(element, n_elements):
            legal = [can_take(e, n, k, atoms, node, charge) for n in range(1, rules.max_count + 1)]
            assert holds(tables.element_sets[k, level, place, e], charge) == any(legal)
            for n, is_legal in enumerate(legal, start=1):
                assert holds(of_counts[e, n - 1], charge) == is_legal
                if is_legal:
                    target = rules.transitions[node][n]
                    after = {(e + 1, k + 1, atoms + n, target, charge + c) for c in rules.charges[e][n - 1]}
                    todo |= after - seen
                    seen |= after


@settings(max_examples=150, deadline=None, derandomize=True)
@given(rules=rules())
def test_tables(rules: CompositionRules) -> None:
    check(rules, build_look_ahead(rules))


@pytest.mark.parametrize(
    ("atoms", "elements", "levels"), [((1, 12), (1, 3), 1), ((5, 12), (1, 3), 6), ((1, 11), (1, 3), 12)]
)
def test_atoms_count_as_far_as_they_matter(atoms: tuple[int, int], elements: tuple[int, int], levels: int) -> None:
    rules = CompositionRules([[[0]] * 4] * 3, elements, 4, [atoms], [[0] * 5], 0)
    assert atom_levels(rules) == levels


def test_equal_sets_are_stored_once() -> None:
    rules = CompositionRules([[[1], [2]], [[-1], [-2]]], (1, 2), 2, [(1, 4)], [[0, 0, 0]], 4)
    sets = build_look_ahead(rules).sets
    assert len(sets.unique(dim=0)) == len(sets)
    assert (sets[0] == 0).all()


def test_nodes_that_no_count_tells_apart_are_one() -> None:
    # 1 and 2 allow the same; 3 allows it too, but with other bounds on the number of atoms.
    transitions = [[0, 1, 2], [1, 1, NOWHERE], [2, 2, NOWHERE], [3, 3, NOWHERE]]
    rules = CompositionRules([[[1], [2]], [[-1], [-2]]], (1, 2), 2, [(1, 4)] * 3 + [(1, 3)], transitions, 4)
    assert build_look_ahead(rules).nodes.tolist() == [0, 1, 1, 2]
    check(rules, build_look_ahead(rules))


def test_tables_of_all_groups_and_elements_are_small() -> None:
    env = make_crystal(max_atoms=40)
    tables = env.composition.get_submodule("_tables")
    assert isinstance(tables, LookAhead) and tables.n_levels == 41
    assert sum(table.nbytes for table in tables.buffers()) < 60e6
