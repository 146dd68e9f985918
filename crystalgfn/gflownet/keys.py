"""Integer keys that are equal if and only if objects count as the same, and hashes of the keys."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def state_keys(states: Tensor) -> Tensor:
    """(n, state_size) int64 keys of terminal states of any environment: the mixed bits of their values.

    Correct if every object has only one terminal state.
    """
    # Adding zero turns -0.0 into 0.0, which has other bits. The low bits of most floats are zeros, with which
    # `hash_rows` has more collisions, so the bits are mixed.
    return mix((states.to(torch.float64) + 0.0).contiguous().view(torch.int64))


def hash_rows(keys: Tensor) -> Tensor:
    """(n,) int64 hash of each row of (n, k) int64 keys, the same on every machine.

    The hash is a sum of products with fixed random multipliers, modulo 2**64, whose bits are then mixed. Two different
    rows have the same hash with a probability of about 2**-64, or 2**(t - 64) if all their differences are multiples of
    2**t. Zeros at the end of a row do not change its hash.
    """
    return mix((keys * multipliers(keys.shape[1]).to(keys.device)).sum(1))


def key_array(keys: Tensor) -> NDArray[np.int64]:
    """`hash_rows` as a NumPy array."""
    return np.asarray(hash_rows(keys).cpu().numpy(), dtype=np.int64)


def mix(x: Tensor) -> Tensor:
    """Mix the bits of 64-bit integers; the mapping is a bijection.

    Source: the finaliser of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
    """
    x = (x ^ _shift(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ _shift(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's own shift keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


@cache
def multipliers(k: int) -> Tensor:
    """(k,) int64, odd numbers without a pattern."""
    # Multiples of the golden ratio times 2**64, wrapped to signed numbers: SplitMix64's own sequence.
    golden = 0x9E3779B97F4A7C15
    wrapped = [(golden * (i + 1) + 2**63) % 2**64 - 2**63 for i in range(k)]
    with torch.inference_mode(False):
        return mix(torch.tensor(wrapped, dtype=torch.int64)) | 1
