"""Sets as words, against Python's sets."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crystalgfn.crystal.envs import bitset

_words = st.shared(st.integers(1, 4), key="words")
_sets = _words.flatmap(lambda words: st.lists(st.sets(st.integers(0, 52 * words - 1)), min_size=1, max_size=6))
_offsets = st.integers(-300, 300)
fast = settings(deadline=None, derandomize=True, max_examples=150)


def encode(sets: list[set[int]], words: int) -> Tensor:
    rows = torch.zeros(len(sets), words, dtype=torch.int64)
    for i, values in enumerate(sets):
        for value in values:
            rows[i] |= bitset.singleton(value, words)
    return rows


def decode(rows: Tensor) -> list[set[int]]:
    return [set(row.nonzero()[:, 0].tolist()) for row in bitset.members(rows)]


@fast
@given(words=_words, sets=_sets)
def test_members(words: int, sets: list[set[int]]) -> None:
    rows = encode(sets, words)
    assert decode(rows) == sets
    # States are float64: every word has to survive the way there and back.
    assert torch.equal(rows.to(torch.float64).long(), rows)


@fast
@given(words=_words, sets=_sets, offset=_offsets)
def test_shift(words: int, sets: list[set[int]], offset: int) -> None:
    expected = [{v + offset for v in values if 0 <= v + offset < 52 * words} for values in sets]
    assert decode(bitset.shift(encode(sets, words), offset)) == expected


@fast
@given(words=_words, sets=_sets, data=st.data(), k=st.integers(1, 5))
def test_union_of_shifted(words: int, sets: list[set[int]], data: st.DataObject, k: int) -> None:
    rows = st.lists(st.one_of(st.none(), _offsets), min_size=k, max_size=k)
    offsets = data.draw(st.lists(rows, min_size=len(sets), max_size=len(sets)))
    expected = [
        {v + offset for v in values for offset in own if offset is not None and 0 <= v + offset < 52 * words}
        for values, own in zip(sets, offsets, strict=True)
    ]
    starts, bits = bitset.shifts(torch.tensor([[offset or 0 for offset in own] for own in offsets]), words)
    counts = torch.tensor([[offset is not None for offset in own] for own in offsets])
    union = bitset.union_of_shifted(encode(sets, words), torch.where(counts, starts, 0), bits)
    assert decode(union) == expected


@fast
@given(words=_words, sets=_sets)
def test_intersects(words: int, sets: list[set[int]]) -> None:
    rows = encode(sets, words)
    meets = bitset.intersects(rows.unsqueeze(1), rows.unsqueeze(0))
    assert meets.tolist() == [[bool(one & two) for two in sets] for one in sets]


@fast
@given(words=_words, sets=_sets, data=st.data())
def test_meets_rows(words: int, sets: list[set[int]], data: st.DataObject) -> None:
    rows = data.draw(
        st.lists(
            st.lists(st.integers(0, len(sets) - 1), min_size=3, max_size=3), min_size=len(sets), max_size=len(sets)
        )
    )
    table = encode(sets, words)
    meets = bitset.meets_rows(table, torch.tensor(rows, dtype=torch.int32), table)
    assert meets.tolist() == [[bool(one & sets[row]) for row in own] for one, own in zip(sets, rows, strict=True)]


def test_n_words() -> None:
    assert [bitset.n_words(n) for n in (1, 52, 53, 104, 105)] == [1, 1, 2, 2, 3]
