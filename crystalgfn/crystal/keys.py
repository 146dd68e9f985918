"""Integer keys that are equal exactly if two crystals count as the same."""

from __future__ import annotations

import torch
from torch import Tensor

from crystalgfn.crystal.crystals import Crystals
from crystalgfn.gflownet.keys import mix, multipliers

LENGTH_RESOLUTION = 1e-3
"""Resolution of a, b, c [Å]: cells count as the same if all parameters agree after rounding to their resolution."""

ANGLE_RESOLUTION = 1e-2
"""Resolution of alpha, beta, gamma [degrees]."""


def composition_keys(crystals: Crystals) -> Tensor:
    """(n, 1) int64: a hash of the space group and the number of atoms of each element in the conventional cell."""
    factors = multipliers(1 + crystals.counts.shape[1]).to(crystals.counts.device)
    # This equals the hash of rows of (space group, counts), without joining them first. The sum of products is used
    # because CUDA has no products of integer matrices.
    return mix(crystals.space_group * factors[0] + (crystals.counts * factors[1:]).sum(1)).unsqueeze(1)


def crystal_keys(crystals: Crystals) -> Tensor:
    """(n, 7) int64: `composition_keys` and the rounded lattice parameters."""
    resolution = torch.tensor([LENGTH_RESOLUTION] * 3 + [ANGLE_RESOLUTION] * 3, dtype=torch.float64)
    cells = (crystals.lattice / resolution.to(crystals.lattice.device)).round().long()
    return torch.cat([composition_keys(crystals), cells], 1)
