"""Sums and means over the processes of a run; a run with one process sends nothing."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def n_processes() -> int:
    """Number of processes that train or sample together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of the tensors of all processes, without gradients; every process must call it, with the same shape."""
    values = values.detach()
    if n_processes() > 1:
        values = values.clone()
        distributed.all_reduce(values)
    return values


def mean_over_processes(values: Tensor) -> Tensor:
    """(k,) means of (n, k) values over the rows of all processes, without gradients; n may differ between processes."""
    values = values.detach().to(torch.float64)
    if n_processes() == 1:
        return values.mean(0)
    count = torch.full((1,), len(values), dtype=torch.float64, device=values.device)
    total = sum_over_processes(torch.cat([values.sum(0), count]))
    return total[:-1] / total[-1]
