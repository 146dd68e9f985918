"""The factor of the uncertainty: its ratio, and that it makes the uncertainty right on samples that are selected."""

from __future__ import annotations

import math

import numpy as np
import pytest

from crystalgfn.discovery.calibration import PRIOR_CRYSTALS, found_over_expected, uncertainty_scale

NAN = math.nan


def test_ratio_and_its_standard_error():
    errors, uncertainty = np.array([0.3, 0.1, NAN, 0.5, 0.2]), np.array([0.1, 0.2, 0.3, 0.3, NAN])
    ratio, standard_error = found_over_expected(errors, uncertainty)
    assert ratio == pytest.approx(0.9 / 0.6)
    left = np.array([0.3 - 0.15, 0.1 - 0.3, 0.5 - 0.45])
    assert standard_error == pytest.approx(math.sqrt((left**2).sum() / 2 / 3) / 0.2)
    one = found_over_expected(np.array([0.4]), np.array([0.2]))
    assert one[0] == 2 and math.isnan(one[1])
    for nothing in (np.array([]), np.array([NAN])):
        assert np.isnan(found_over_expected(nothing, nothing)).all()
    assert np.isnan(found_over_expected(np.ones(3), np.zeros(3))).all()


def test_standard_error_is_that_of_repeated_draws():
    random = np.random.default_rng([0])
    uncertainty = random.lognormal(-2, 0.6, (2000, 40))
    found = [found_over_expected(random.exponential(1.7 * row), row) for row in uncertainty]
    ratios, standard_errors = np.array(found).T
    assert ratios.mean() == pytest.approx(1.7, rel=0.02)
    assert standard_errors.mean() == pytest.approx(ratios.std(), rel=0.1)


def test_few_crystals_change_the_scale_little():
    def scale(n: int) -> float:
        return uncertainty_scale(np.full(n, 0.6), np.full(n, 0.2))

    assert scale(0) == 1
    assert 1 < scale(1) < 1.5 and scale(1) < scale(10) < scale(1000) == pytest.approx(3, rel=0.01)
    assert scale(10) == pytest.approx((10 * 3 + PRIOR_CRYSTALS) / (10 + PRIOR_CRYSTALS))
    assert uncertainty_scale(np.array([0.2, NAN]), np.array([0.2, 9.0])) == 1


def final_calibration(seed: int, is_corrected: bool) -> tuple[float, float, float]:
    """The last of four rounds in which a model prefers low predictions, and low uncertainties.

    Each round has a proxy with errors of its own. On all crystals its uncertainty is right.

    Returns:
        ratio of found to expected errors of 200 samples, its standard error, and the relative error of the scale,
        which comes from 60 samples of each of three rounds.
    """
    random = np.random.default_rng([seed])
    energy = random.gamma(2.0, 0.25, 20000)
    scale, relative, result = 1.0, 0.0, (NAN, NAN)
    past = [np.zeros(0), np.zeros(0)]  # errors, and uncertainties without the factor
    for draws in (60, 60, 60, 200):
        size = random.lognormal(-2, 0.6, len(energy))
        predicted, uncertainty = energy + random.laplace(0, size), scale * size
        weight = np.exp(-8 * np.maximum(predicted + 0.5 * uncertainty, 0))
        drawn = random.choice(len(energy), draws, replace=False, p=weight / weight.sum())
        everywhere, _ = found_over_expected(np.abs(predicted - energy), size)
        assert everywhere == pytest.approx(1, abs=0.05)
        errors, expected = np.abs(predicted - energy)[drawn], uncertainty[drawn]
        result = found_over_expected(errors, expected)
        if draws == 60 and is_corrected:
            past = [np.append(past[0], errors), np.append(past[1], expected / scale)]
            scale, found = uncertainty_scale(*past), found_over_expected(*past)
            relative = found[1] / found[0]
    return *result, relative


def test_uncertainty_is_right_on_samples_that_prefer_low_predictions():
    seeds = range(20)
    ratio, standard_error, _ = np.array([final_calibration(seed, False) for seed in seeds]).T
    assert (ratio - 1.96 * standard_error > 1.2).all() and ratio.mean() > 1.5
    ratio, standard_error, relative = np.array([final_calibration(seed, True) for seed in seeds]).T
    assert ratio.mean() == pytest.approx(1, abs=0.1)
    # The interval is that of both numbers: the ratio that is found, and the scale from fewer crystals.
    covered = np.abs(ratio - 1) < 1.96 * np.hypot(standard_error, ratio * relative)
    assert covered.mean() >= 0.85
