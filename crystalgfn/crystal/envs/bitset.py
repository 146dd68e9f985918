"""Sets of small integers as rows of 52-bit words.

52 bits, because float64 states carry the words: integers below 2^53 are exact there.
"""

from __future__ import annotations

import torch
from torch import Tensor

WORD_BITS = 52
_FULL_WORD = (1 << WORD_BITS) - 1


def n_words(n_values: int) -> int:
    """Words needed for the integers 0 to ``n_values`` - 1."""
    return -(-n_values // WORD_BITS)


def singleton(value: int, words: int) -> Tensor:
    """(words,) int64, the set of one integer."""
    row = torch.zeros(words, dtype=torch.int64)
    row[value // WORD_BITS] = 1 << (value % WORD_BITS)
    return row


def shift(sets: Tensor, offset: int) -> Tensor:
    """The sets (..., words) with ``offset`` added to each member; members that leave the words are dropped."""
    words = sets.shape[-1]
    jump, bits = divmod(offset, WORD_BITS)
    moved = torch.zeros_like(sets)
    if abs(jump) > words:
        return moved
    low, high = max(jump, 0), min(words + jump, words)
    if low < high:
        moved[..., low:high] = (sets[..., low - jump : high - jump] << bits) & _FULL_WORD
    low, high = max(jump + 1, 0), min(words + jump + 1, words)
    if bits and low < high:
        moved[..., low:high] |= sets[..., low - jump - 1 : high - jump - 1] >> (WORD_BITS - bits)
    return moved


def shifts(offsets: Tensor, words: int) -> tuple[Tensor, Tensor]:
    """How `union_of_shifted` finds sets with offsets added; made once for a table of offsets.

    Args:
        offsets: (...) int64.
        words: words of the sets.

    Returns:
        (...) int64 each: the word at which to start reading a set that has ``words`` + 2 words of zeros on each side,
        0 for a set of nothing but zeros, and the bits by which to move it. The first one of zeros stands for no offset
        at all.
    """
    jump = torch.div(offsets, WORD_BITS, rounding_mode="floor").clamp(-words - 1, words + 1)
    return words + 1 - jump, torch.remainder(offsets, WORD_BITS)


def union_of_shifted(sets: Tensor, starts: Tensor, bits: Tensor) -> Tensor:
    """(n, words) the union of each set (n, words) with several offsets added to its members; others are dropped.

    Args:
        sets: (n, words) int64.
        starts: (n, k) from `shifts`; 0 for one that does not count.
        bits: (n, k) likewise.
    """
    n, words = sets.shape
    k = starts.shape[1]
    padded = torch.nn.functional.pad(sets, (words + 2, words + 2))
    source = starts.unsqueeze(2) + torch.arange(words + 1, device=sets.device)
    read = padded.gather(1, source.flatten(1)).view(n, k, words + 1)
    bits = bits.unsqueeze(2)
    moved = ((read[..., 1:] << bits) & _FULL_WORD) | (read[..., :-1] >> (WORD_BITS - bits))
    while k > 1:
        half = (k + 1) // 2
        # Where k is odd the middle one is in both halves.
        moved, k = moved[:, :half] | moved[:, k - half :], half
    return moved.squeeze(1)


def meets_rows(table: Tensor, rows: Tensor, sets: Tensor) -> Tensor:
    """(n, m) bool, whether sets have a member in common with sets of a table.

    Args:
        table: (r, words) int64.
        rows: (n, m) int32 or int64, rows of the table.
        sets: (n, words) int64.
    """
    chosen = table.index_select(0, rows.flatten()).view(*rows.shape, table.shape[1])
    # Words have 52 bits, so none is negative.
    return chosen.bitwise_and_(sets.unsqueeze(1)).amax(-1) != 0


def intersects(sets: Tensor, others: Tensor) -> Tensor:
    """(...) bool, whether two sets (..., words) have a member in common; shapes broadcast."""
    return ((sets & others) != 0).any(-1)


def members(sets: Tensor) -> Tensor:
    """(n, words * 52) bool, membership of each integer in the sets (n, words)."""
    bits = torch.arange(WORD_BITS, device=sets.device)
    return ((sets.unsqueeze(-1) >> bits) & 1).bool().flatten(1)
