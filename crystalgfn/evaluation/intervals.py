"""Counts with their shares and confidence intervals."""

from __future__ import annotations

from typing import Any

CONFIDENCE = 0.95
"""Confidence level of intervals."""


def wilson(count: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % confidence interval of a share; 0 to 1 if the total is 0."""
    from scipy.stats import binomtest

    if total == 0:
        return 0.0, 1.0
    interval = binomtest(count, total).proportion_ci(CONFIDENCE, "wilson")
    return float(interval.low), float(interval.high)


def tally(count: int, total: int) -> dict[str, Any]:
    """A count, the total, and the share; the share is None if the total is 0."""
    return {"count": int(count), "of": int(total), "share": int(count) / int(total) if total else None}


def tally_with_interval(count: int, total: int) -> dict[str, Any]:
    """As `tally`, with the ends ``low`` and ``high`` of `wilson`."""
    low, high = wilson(int(count), int(total))
    return tally(count, total) | {"low": low, "high": high}
