"""Random generators: every random number comes from a generator with a known seed and a known purpose."""

from __future__ import annotations

import hashlib

import torch


def generator(*stream: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Make the random generator of one named stream.

    Args:
        stream: name of the stream, such as ``seed, "train", rank``; different names give independent streams.
        device: device of the tensors that will be drawn.

    Returns:
        a new generator; the same name always gives the same random numbers.
    """
    digest = hashlib.sha256(repr(stream).encode()).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8], "big", signed=True))
