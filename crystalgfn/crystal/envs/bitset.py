"""Sets of small integers as rows of 52-bit words.

Words have 52 bits because states store them as float64, in which integers below 2^53 are exact.
"""

from __future__ import annotations

import torch
from torch import Tensor

WORD_BITS = 52
"""Number of bits in a word."""

_FULL_WORD = (1 << WORD_BITS) - 1


def n_words(n_values: int) -> int:
    """Number of words needed for the integers 0 to ``n_values`` - 1."""
    return -(-n_values // WORD_BITS)


def singleton(value: int, words: int) -> Tensor:
    """(words,) int64, the set that contains one integer."""
    row = torch.zeros(words, dtype=torch.int64)
    row[value // WORD_BITS] = 1 << (value % WORD_BITS)
    return row


def shift(sets: Tensor, offset: int) -> Tensor:
    """The sets (..., words) with ``offset`` added to each member; members that do not fit the words are dropped."""
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
    """Prepare offsets for `union_of_shifted`; do this once for a table of offsets.

    Args:
        offsets: (...) int64, the numbers to add to the members of sets.
        words: number of words of the sets.

    Returns:
        (...) int64, the first word to read from a set that is padded with ``words`` + 2 zero words on each side, and
        (...) int64, the number of bits by which to shift. To leave an entry out, set its first word to 0: only zeros
        are read then.
    """
    jump = torch.div(offsets, WORD_BITS, rounding_mode="floor").clamp(-words - 1, words + 1)
    return words + 1 - jump, torch.remainder(offsets, WORD_BITS)


def union_of_shifted(sets: Tensor, starts: Tensor, bits: Tensor) -> Tensor:
    """For each set, the union of k copies, each with another offset added to its members.

    Args:
        sets: (n, words) int64.
        starts: (n, k) int64, first words from `shifts`; 0 for an entry that is left out.
        bits: (n, k) int64, numbers of bits from `shifts`.

    Returns:
        (n, words) int64; members that do not fit into the words are dropped.
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
        # If k is odd, the middle one is in both halves; this does not change the union.
        moved, k = moved[:, :half] | moved[:, k - half :], half
    return moved.squeeze(1)


def meets_rows(table: Tensor, rows: Tensor, sets: Tensor) -> Tensor:
    """(n, m) bool, whether each set has a member in common with m sets of a table.

    Args:
        table: (r, words) int64.
        rows: (n, m) int32 or int64, the rows of the table to compare with each set.
        sets: (n, words) int64.
    """
    chosen = table.index_select(0, rows.flatten()).view(*rows.shape, table.shape[1])
    # Words have 52 bits and are not negative, so the largest one is 0 only if all of them are 0.
    return chosen.bitwise_and_(sets.unsqueeze(1)).amax(-1) != 0


def intersects(sets: Tensor, others: Tensor) -> Tensor:
    """(...) bool, whether two sets (..., words) have a member in common; shapes broadcast."""
    return ((sets & others) != 0).any(-1)


def members(sets: Tensor) -> Tensor:
    """(n, words * 52) bool, membership of each integer in the sets (n, words)."""
    bits = torch.arange(WORD_BITS, device=sets.device)
    return ((sets.unsqueeze(-1) >> bits) & 1).bool().flatten(1)
