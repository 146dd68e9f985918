"""Angles that form a cell, and the volumes of cells with edges of length 1.

With s = (alpha + beta + gamma) / 2, the volume of a cell with unit edges is
2 sqrt(sin s sin(s - alpha) sin(s - beta) sin(s - gamma)). The angles form a cell if s, s - alpha, s - beta and
s - gamma lie between 0 and 180 degrees. Here, they must stay at least half a *margin* away from these bounds. The legal
triples of angles then form a polytope, and linear inequalities give the interval of each angle, given the angles before
it.

The logarithm of the volume with unit edges is a concave function of the angles, because log sin is concave. The triples
of angles whose volume has at least a given value are therefore a convex set. Given the angles before it, each angle has
one interval from which the set can be reached. An upper bound on the volume leaves no convex set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ranges = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
"""Lowest and highest alpha, beta and gamma [degrees]."""

_HALVINGS = 40
"""Number of times that the interval with an end of alpha is halved: 180 degrees become 2e-10."""


def unit_volume(angles: Tensor) -> Tensor:
    """(n,) volume of cells with edges of length 1, from (n, 3) angles [degrees]."""
    half_sum = angles.sum(1) / 2
    four = torch.cat([half_sum.unsqueeze(1), half_sum.unsqueeze(1) - angles], 1)
    return 2 * torch.sin(torch.deg2rad(four)).prod(1).clamp_min(0).sqrt()


@dataclass(frozen=True)
class TriclinicShapes:
    """Shapes of the triclinic cells whose angles lie in given ranges.

    The least volume of a method is a bound on the volume with unit edges. Rows whose bound every shape satisfies get
    the intervals without a bound. Each other row needs a bound that some shape satisfies.

    Attributes:
        ranges: allowed ranges of alpha, beta and gamma [degrees].
        margin: twice the least distance of s, s - alpha, ... from 0 and 180 degrees.
        alphas: lowest and highest alpha [degrees].
        inner: an alpha [degrees] that is possible with every volume that is possible.
        volumes: least and largest volume with unit edges.
    """

    ranges: Ranges
    margin: float
    alphas: tuple[float, float]
    inner: float
    volumes: tuple[float, float]

    def contains(self, angles: Tensor) -> Tensor:
        """(n,) bool, whether (n, 3) angles [degrees] form a cell; the ranges are not checked."""
        half_sum = angles.sum(1) / 2
        four = torch.cat([half_sum.unsqueeze(1), half_sum.unsqueeze(1) - angles], 1)
        return ((four >= self.margin / 2) & (four <= 180 - self.margin / 2)).all(1)

    def alpha_interval(self, least: Tensor) -> tuple[Tensor, Tensor]:
        """Interval of alpha in which each alpha forms a cell with some beta and gamma.

        Args:
            least: (n,) least volume with unit edges.

        Returns:
            (n,) lower ends and (n,) upper ends [degrees].
        """
        low, high = (torch.full_like(least, end) for end in self.alphas)
        if all(beta_or_gamma[0] <= 90 <= beta_or_gamma[1] for beta_or_gamma in self.ranges[1:]):
            # Two right angles, which are possible with every alpha, give the largest volume: sin alpha.
            first = torch.rad2deg(torch.asin(least.clamp_max(1)))
            return torch.maximum(low, first), torch.minimum(high, 180 - first)
        bounded = (least > self.volumes[0]).nonzero().squeeze(1)
        if len(bounded):
            # Few numbers of atoms are different, and alpha depends on nothing else.
            different, which = least[bounded].unique(return_inverse=True)
            first, last = self._ends_of_alpha(different)
            low[bounded], high[bounded] = first[which], last[which]
        return low, high

    def _ends_of_alpha(self, least: Tensor) -> tuple[Tensor, Tensor]:
        """(m,) lowest and (m,) highest possible alpha [degrees] for (m,) least volumes, by halving intervals."""
        both = torch.cat([least, least])

        def possible(alpha: Tensor) -> Tensor:
            low, high = _plain_beta_interval(alpha, self.ranges, self.margin)
            bounded_low, bounded_high = self._bounded_beta_interval(alpha, both)
            return torch.maximum(low, bounded_low) < torch.minimum(high, bounded_high)

        outside = torch.cat([torch.full_like(least, end) for end in self.alphas])
        inside = torch.where(possible(outside), outside, self.inner)
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2
            good = possible(middle)
            inside, outside = torch.where(good, middle, inside), torch.where(good, outside, middle)
        first, last = inside.chunk(2)
        return first, last

    def beta_interval(self, alpha: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
        """Interval of beta, given alpha, in which each beta forms a cell with some gamma.

        Args:
            alpha: (n,) alpha of each cell [degrees].
            least: (n,) least volume with unit edges.

        Returns:
            (n,) lower ends and (n,) upper ends [degrees].
        """
        low, high = _plain_beta_interval(alpha, self.ranges, self.margin)
        bounded = (least > self.volumes[0]).nonzero().squeeze(1)
        if len(bounded):
            ends = self._bounded_beta_interval(alpha[bounded], least[bounded])
            low[bounded] = torch.maximum(low[bounded], ends[0])
            high[bounded] = torch.minimum(high[bounded], ends[1])
        return low, high

    def gamma_interval(self, alpha: Tensor, beta: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
        """Interval of gamma, given alpha and beta, in which each gamma forms a cell.

        Args:
            alpha: (n,) alpha of each cell [degrees].
            beta: (n,) beta of each cell [degrees].
            least: (n,) least volume with unit edges.

        Returns:
            (n,) lower ends and (n,) upper ends [degrees].
        """
        ends = self.ranges[2]
        low = ((alpha - beta).abs() + self.margin).clamp_min(ends[0])
        high = torch.minimum(alpha + beta - self.margin, 360 - self.margin - alpha - beta).clamp_max(ends[1])
        bounded = (least > self.volumes[0]).nonzero().squeeze(1)
        if len(bounded):
            first, last = _other_angle(torch.deg2rad(alpha[bounded]), torch.deg2rad(beta[bounded]), least[bounded])
            low[bounded] = torch.maximum(low[bounded], torch.rad2deg(first))
            high[bounded] = torch.minimum(high[bounded], torch.rad2deg(last))
        return low, high

    def _bounded_beta_interval(self, alpha: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
        """(n,) ends of beta [degrees] by the least volume and each bound on gamma; empty if no volume is large enough.

        Given alpha, the pairs (beta, gamma) with a sufficient volume form an oval. A bound on gamma is a straight line
        that may cut the oval. The volume has one maximum in gamma, so a beta is possible if it is possible for each of
        the bounds alone.
        """
        a, half = torch.deg2rad(alpha), math.radians(self.margin) / 2
        gamma_low, gamma_high = (math.radians(end) for end in self.ranges[2])
        first = torch.asin((least / a.sin()).clamp_max(1))
        # The leftmost and the rightmost point of the oval.
        beta = torch.stack([first, math.pi - first])
        gamma = torch.acos(a.cos() * beta.cos())
        within = [
            gamma >= gamma_low,
            gamma <= gamma_high,
            beta + gamma >= a + 2 * half,
            beta + gamma <= 2 * math.pi - 2 * half - a,
            gamma >= beta - a + 2 * half,
            gamma <= beta + a - 2 * half,
        ]
        # Where the line of each bound cuts the oval. On the four lines of the margin, the square of the volume is
        # 4 sin(margin / 2) sin(alpha +- margin / 2) sin x sin y, with a sum or a difference of x and y that is alpha.
        x = torch.acos((a.cos() + least**2 / (2 * math.sin(half) * (a + half).sin())).clamp_max(1)) / 2
        y = torch.acos((a.cos() - least**2 / (2 * math.sin(half) * (a - half).sin())).clamp_min(-1)) / 2
        crossings = [
            torch.stack(_other_angle(a, torch.full_like(a, gamma_low), least)),
            torch.stack(_other_angle(a, torch.full_like(a, gamma_high), least)),
            torch.stack([a / 2 + half - x, a / 2 + half + x]),
            torch.stack([math.pi - a / 2 - half - x, math.pi - a / 2 - half + x]),
            torch.stack([y + a / 2 - half, math.pi - y + a / 2 - half]),
            torch.stack([y - a / 2 + half, math.pi - y - a / 2 + half]),
        ]
        ends = torch.where(torch.stack(within), beta, torch.stack(crossings))
        return torch.rad2deg(ends[:, 0].amax(0)), torch.rad2deg(ends[:, 1].amin(0))


def lone_beta_interval(ends: tuple[float, float], least: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """Interval of beta if alpha and gamma are right angles, so that every beta forms a cell.

    Args:
        ends: allowed range of beta [degrees].
        least: (n,) least volume with unit edges.
        most: (n,) largest volume with unit edges. It has no effect if right angles are inside of the range, because it
            would leave two intervals.

    Returns:
        (n,) lower ends and (n,) upper ends [degrees].
    """
    first, last = (torch.rad2deg(torch.asin(volume.clamp_max(1))) for volume in (least, most))
    low, high = first.clamp_min(ends[0]), (180 - first).clamp_max(ends[1])
    if ends[0] >= 90:
        low = torch.maximum(low, 180 - last)
    elif ends[1] <= 90:
        high = torch.minimum(high, last)
    return low, high


def _other_angle(one: Tensor, two: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) ends of the third angle, given two angles, by the least volume with unit edges [rad]."""
    middle = one.cos() * two.cos()
    away = ((one.sin() * two.sin()) ** 2 - least**2).clamp_min(0).sqrt()
    return torch.acos((middle + away).clamp_max(1)), torch.acos((middle - away).clamp_min(-1))


def _plain_beta_interval(alpha: Tensor, ranges: Ranges, margin: float) -> tuple[Tensor, Tensor]:
    """(n,) ends of beta [degrees], given (n,) alpha, without a bound on the volume."""
    _, beta, gamma = ranges
    low = torch.stack(
        [torch.full_like(alpha, max(beta[0], margin)), gamma[0] + margin - alpha, alpha + margin - gamma[1]]
    )
    high = torch.stack(
        [torch.full_like(alpha, min(beta[1], 180 - margin)), 360 - margin - gamma[0] - alpha, gamma[1] + alpha - margin]
    )
    return low.amax(0), high.amin(0)


@cache
def triclinic_shapes(ranges: Ranges, margin: float) -> TriclinicShapes | None:
    """Shapes of triclinic cells; None if there are none.

    Args:
        ranges: allowed ranges of alpha, beta and gamma [degrees].
        margin: twice the least distance of s, s - alpha, ... from 0 and 180 degrees.
    """
    normals, bounds = _polytope(ranges, margin)
    corners = _corners(normals, bounds)
    if not len(corners):
        return None
    # The least value of a concave function is at a corner.
    least = float(unit_volume(torch.from_numpy(corners)).min())
    best = _most_upright(normals, bounds, corners.mean(0))
    largest = float(unit_volume(torch.from_numpy(best[None]))[0])
    # The most upright shape may be a corner. A little beside it, its alpha has an interval of beta.
    inner = float(best[0] + 1e-7 * (corners[:, 0].mean() - best[0]))
    return TriclinicShapes(
        ranges, margin, (float(corners[:, 0].min()), float(corners[:, 0].max())), inner, (least, largest)
    )


def _polytope(ranges: Ranges, margin: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(10, 3) normals and (10,) bounds [degrees]: legal angles have normals @ angles <= bounds."""
    normals = [*np.eye(3), *-np.eye(3), (1, -1, -1), (-1, 1, -1), (-1, -1, 1), (1, 1, 1)]
    bounds = [high for _, high in ranges] + [-low for low, _ in ranges] + [-margin] * 3 + [360 - margin]
    return np.array(normals, dtype=float), np.array(bounds)


def _corners(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(m, 3) corners of a polytope; m = 0 if it is empty or flat."""
    corners = []
    for rows in combinations(range(len(a)), 3):
        if abs(np.linalg.det(a[list(rows)])) > 1e-9:
            corner = np.linalg.solve(a[list(rows)], b[list(rows)])
            if (a @ corner <= b + 1e-9).all():
                corners.append(corner)
    unique: NDArray[np.float64] = np.unique(np.round(corners, 9), axis=0) if corners else np.empty((0, 3))
    flat = len(unique) < 4 or np.linalg.matrix_rank(unique - unique[0], tol=1e-6) < 3
    return np.empty((0, 3)) if flat else unique


def _most_upright(
    normals: NDArray[np.float64], bounds: NDArray[np.float64], start: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(3,) the angles [degrees] in a polytope that have the largest volume with unit edges."""
    from scipy.optimize import minimize

    right = np.full(3, 90.0)
    if (normals @ right <= bounds).all():
        return right
    # s, s - alpha, s - beta and s - gamma
    four = np.vstack([np.full(3, 0.5), 0.5 - np.eye(3)])

    def negative_log_volume(angles: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        parts = np.clip(np.radians(four @ angles), 1e-9, np.pi - 1e-9)
        return -0.5 * float(np.log(np.sin(parts)).sum()), -0.5 * np.radians(four.T @ (1 / np.tan(parts)))

    found = minimize(
        negative_log_volume, start, jac=True, method="SLSQP", options={"ftol": 1e-15, "maxiter": 500},
        constraints={"type": "ineq", "fun": lambda x: bounds - normals @ x, "jac": lambda x: -normals},
    )  # fmt: skip
    best: NDArray[np.float64] = found.x
    return best
