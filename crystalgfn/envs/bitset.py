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


def shift_rows(sets: Tensor, offsets: Tensor) -> Tensor:
    """The sets (n, words) with each row's own offset (n,) added to its members."""
    words = sets.shape[1]
    jump = torch.div(offsets, WORD_BITS, rounding_mode="floor").clamp(-words - 1, words + 1)
    bits = torch.remainder(offsets, WORD_BITS).unsqueeze(1)
    # Zero words around the set stand for what lies outside: position p of the row is at p + words + 2.
    pad = words + 2
    padded = torch.nn.functional.pad(sets, (pad, pad))
    source = torch.arange(words, device=sets.device) + pad - jump.unsqueeze(1)
    return ((padded.gather(1, source) << bits) & _FULL_WORD) | (padded.gather(1, source - 1) >> (WORD_BITS - bits))


def intersects(sets: Tensor, others: Tensor) -> Tensor:
    """(...) bool, whether two sets (..., words) have a member in common; shapes broadcast."""
    return ((sets & others) != 0).any(-1)


def members(sets: Tensor) -> Tensor:
    """(n, words * 52) bool, membership of each integer in the sets (n, words)."""
    bits = torch.arange(WORD_BITS, device=sets.device)
    return ((sets.unsqueeze(-1) >> bits) & 1).bool().flatten(1)
