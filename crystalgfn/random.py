"""Random streams: every draw comes from a generator with a known seed and a known owner."""

from __future__ import annotations

import hashlib

import torch


def generator(*stream: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one named stream.

    Args:
        stream: what the stream is for, such as ``(seed, "train", rank)``; different names give independent streams.
        device: where the tensors live that will be drawn.
    """
    digest = hashlib.sha256(repr(stream).encode()).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8], "big", signed=True))
