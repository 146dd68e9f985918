"""Integer keys that are equal exactly for objects that count as the same, and their hashes."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from crystalgfn.crystal.crystals import Crystals

LENGTH_RESOLUTION = 1e-3
"""Cells whose a, b, c agree after rounding to this many Å, and whose angles agree, are the same."""

ANGLE_RESOLUTION = 1e-2
"""Resolution of alpha, beta, gamma in degrees."""


def composition_keys(crystals: Crystals) -> Tensor:
    """(n, 1) int64: a hash of the space group and the number of atoms of each element in the conventional cell."""
    multipliers = _multipliers(1 + crystals.counts.shape[1]).to(crystals.counts.device)
    # The same as hashing rows of both, without putting them together first. (CUDA has no products of integer matrices.)
    return _mix(crystals.space_group * multipliers[0] + (crystals.counts * multipliers[1:]).sum(1)).unsqueeze(1)


def crystal_keys(crystals: Crystals) -> Tensor:
    """(n, 7) int64: `composition_keys` and the rounded lattice parameters."""
    resolution = torch.tensor([LENGTH_RESOLUTION] * 3 + [ANGLE_RESOLUTION] * 3, dtype=torch.float64)
    cells = (crystals.lattice / resolution.to(crystals.lattice.device)).round().long()
    return torch.cat([composition_keys(crystals), cells], 1)


def state_keys(states: Tensor) -> Tensor:
    """(n, state_size) int64 keys of terminal states of any environment: their values' bits, scattered.

    Right wherever an object has one terminal state.
    """
    # Adding zero turns -0.0, which has other bits, into 0.0. The low bits of most floats are zeros: `hash_rows` must
    # not see them as they are.
    return _mix((states.to(torch.float64) + 0.0).contiguous().view(torch.int64))


def object_keys(objects: Any, states: Tensor) -> Tensor:
    """(n, k) int64 keys of decoded objects: `crystal_keys` for crystals, else `state_keys` of their states."""
    return crystal_keys(objects) if isinstance(objects, Crystals) else state_keys(states)


def hash_rows(keys: Tensor) -> Tensor:
    """(n,) int64 hash of each row of (n, k) int64 keys, the same on every machine.

    It is a sum of products with fixed random multipliers, modulo 2**64. Two rows share a hash with a probability of
    about 2**-64, or 2**(t - 64) where all their differences are multiples of 2**t.
    """
    return _mix((keys * _multipliers(keys.shape[1]).to(keys.device)).sum(1))


def _mix(x: Tensor) -> Tensor:
    """A bijection of the 64-bit integers that scatters them.

    Source: the finaliser of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
    """
    x = (x ^ _shift(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ _shift(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's own keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


@cache
def _multipliers(k: int) -> Tensor:
    """(k,) int64, odd and without pattern."""
    # Multiples of the golden ratio times 2**64, wrapped to signed numbers: SplitMix64's own sequence.
    golden = 0x9E3779B97F4A7C15
    wrapped = [(golden * (i + 1) + 2**63) % 2**64 - 2**63 for i in range(k)]
    with torch.inference_mode(False):
        return _mix(torch.tensor(wrapped, dtype=torch.int64)) | 1
