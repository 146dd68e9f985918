"""Angles that form a cell, and the volumes of cells with edges of length 1.

With s = (alpha + beta + gamma) / 2, the volume of a cell with unit edges is
2 sqrt(sin s sin(s - alpha) sin(s - beta) sin(s - gamma)). The angles form a cell if s, s - alpha, s - beta and
s - gamma lie between 0 and 180 degrees. Here, they must stay at least half a *margin* away from these bounds. The legal
triples of angles then form a polytope, and linear inequalities give the interval of each angle, given the angles before
it.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def unit_volume(angles: Tensor) -> Tensor:
    """(n,) volume of cells with edges of length 1, from (n, 3) angles [degrees]."""
    half_sum = angles.sum(1) / 2
    four = torch.cat([half_sum.unsqueeze(1), half_sum.unsqueeze(1) - angles], 1)
    return 2 * torch.sin(torch.deg2rad(four)).prod(1).clamp_min(0).sqrt()


def beta_interval(
    alpha: Tensor, beta: tuple[float, float], gamma: tuple[float, float], margin: float
) -> tuple[Tensor, Tensor]:
    """Interval of beta, given alpha, in which each beta forms a cell with some gamma.

    Args:
        alpha: (n,) alpha of each cell [degrees].
        beta: allowed range of beta [degrees].
        gamma: allowed range of gamma [degrees].
        margin: twice the least distance of s, s - alpha, ... from 0 and 180 degrees.

    Returns:
        (n,) lower ends and (n,) upper ends [degrees].
    """
    low = torch.stack(
        [torch.full_like(alpha, max(beta[0], margin)), gamma[0] + margin - alpha, alpha + margin - gamma[1]]
    )
    high = torch.stack(
        [torch.full_like(alpha, min(beta[1], 180 - margin)), 360 - margin - gamma[0] - alpha, gamma[1] + alpha - margin]
    )
    return low.amax(0), high.amin(0)


def gamma_interval(alpha: Tensor, beta: Tensor, gamma: tuple[float, float], margin: float) -> tuple[Tensor, Tensor]:
    """Interval of gamma, given alpha and beta, in which each gamma forms a cell.

    Args:
        alpha: (n,) alpha of each cell [degrees].
        beta: (n,) beta of each cell [degrees].
        gamma: allowed range of gamma [degrees].
        margin: twice the least distance of s, s - alpha, ... from 0 and 180 degrees.

    Returns:
        (n,) lower ends and (n,) upper ends [degrees].
    """
    low = ((alpha - beta).abs() + margin).clamp_min(gamma[0])
    high = torch.minimum(alpha + beta - margin, 360 - margin - alpha - beta).clamp_max(gamma[1])
    return low, high


def triclinic_corners(ranges: tuple[tuple[float, float], ...], margin: float) -> NDArray[np.float64]:
    """(m, 3) corners of the polytope of legal (alpha, beta, gamma) [degrees]; m = 0 if it is empty or flat.

    Args:
        ranges: allowed ranges of alpha, beta and gamma [degrees].
        margin: twice the least distance of s, s - alpha, ... from 0 and 180 degrees.
    """
    normals = [*np.eye(3), *-np.eye(3), (1, -1, -1), (-1, 1, -1), (-1, -1, 1), (1, 1, 1)]
    bounds = [high for _, high in ranges] + [-low for low, _ in ranges] + [-margin] * 3 + [360 - margin]
    a, b = np.array(normals, dtype=float), np.array(bounds)
    corners = []
    for rows in combinations(range(len(a)), 3):
        if abs(np.linalg.det(a[list(rows)])) > 1e-9:
            corner = np.linalg.solve(a[list(rows)], b[list(rows)])
            if (a @ corner <= b + 1e-9).all():
                corners.append(corner)
    unique: NDArray[np.float64] = np.unique(np.round(corners, 9), axis=0) if corners else np.empty((0, 3))
    flat = len(unique) < 4 or np.linalg.matrix_rank(unique - unique[0], tol=1e-6) < 3
    return np.empty((0, 3)) if flat else unique


def triclinic_unit_volumes(corners: NDArray[np.float64]) -> tuple[float, float]:
    """Least and largest volume of triclinic cells with edges of length 1.

    The logarithm of the volume is a concave function of the angles. Its least value is therefore at a corner, and a
    local search finds its largest value.

    Args:
        corners: (m, 3) corners of the polytope of legal angles [degrees], m at least 4.
    """
    from scipy.optimize import minimize

    def negative_log_volume(weights: NDArray[np.float64]) -> float:
        angles = np.abs(weights) @ corners / np.abs(weights).sum()
        return -float(unit_volume(torch.from_numpy(angles[None])).clamp_min(1e-300).log())

    least = float(unit_volume(torch.from_numpy(corners)).min())
    best = minimize(negative_log_volume, np.full(len(corners), 1 / len(corners)), method="L-BFGS-B")
    return least, float(np.exp(-best.fun))
