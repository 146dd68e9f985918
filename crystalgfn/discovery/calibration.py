"""Is the proxy's predicted uncertainty right on the samples of the model? And the factor that corrects it.

A model prefers crystals whose prediction is too low and whose predicted uncertainty is small. So the errors on its
samples are larger than the uncertainty of a proxy that is right on the crystals that it was calibrated on. The samples
that are drawn at random in a round, with predictions made before the proxy was trained on them, show by how much.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PRIOR_CRYSTALS = 5.0
"""Weight, in crystals, of the assumption that the uncertainty is right as it is."""


def found_over_expected(errors: Floats, uncertainty: Floats) -> tuple[float, float]:
    """Mean absolute error over mean predicted uncertainty: 1 if the uncertainty is right, more if it is too small.

    This is the likeliest factor of the uncertainty by the loss with which the error network is trained, the Poisson
    deviance. By the likelihood of a Laplace distribution it would be the mean of error over uncertainty, to which a few
    crystals with a very small uncertainty contribute most.

    Args:
        errors: (n,) absolute errors; NaN if an error is not known.
        uncertainty: (n,) predicted uncertainties, which are expected absolute errors, in the same unit.

    Returns:
        the ratio, NaN without a crystal with both numbers; and its standard error, NaN for fewer than two crystals.
    """
    both = np.isfinite(errors) & np.isfinite(uncertainty)
    n, found, expected = int(both.sum()), errors[both], uncertainty[both]
    if n == 0 or not expected.sum() > 0:
        return math.nan, math.nan
    ratio = float(found.sum() / expected.sum())
    # The standard error of a ratio of two means, to first order.
    spread = float(np.std(found - ratio * expected, ddof=1)) if n > 1 else math.nan
    return ratio, spread / (math.sqrt(n) * float(expected.mean()))


def uncertainty_scale(errors: Floats, uncertainty: Floats) -> float:
    """Factor for the uncertainty of the next proxy, from the samples that were drawn at random in all rounds so far.

    One round of 30 random samples leaves an error of a fifth in the factor, and what one round misses by chance would
    be multiplied into the next factor. So each factor is found anew from all rounds.

    Args:
        errors: (n,) absolute errors of the predictions; NaN if an error is not known.
        uncertainty: (n,) predicted uncertainties without any factor.

    Returns:
        `found_over_expected`, which `PRIOR_CRYSTALS` move towards 1; 1 without crystals.
    """
    ratio, _ = found_over_expected(errors, uncertainty)
    n = int((np.isfinite(errors) & np.isfinite(uncertainty)).sum())
    return 1.0 if math.isnan(ratio) else (n * ratio + PRIOR_CRYSTALS) / (n + PRIOR_CRYSTALS)
