"""Learning rates over the steps of a training."""

from __future__ import annotations

import torch


def cosine_fall(step: int, steps: int, final: float) -> float:
    """Share of the learning rate at a step: along half a cosine from 1 to ``final`` at ``steps``, then constant."""
    # In single precision, as it has been since the first checkpoints: the last digits decide whether runs repeat.
    done = torch.tensor(min(step / steps, 1.0) * torch.pi)
    return final + (1 - final) * (1 + torch.cos(done).item()) / 2
