"""The band-gap proxy: metals, gaps and what lies between, accuracy, calibration."""

from __future__ import annotations

import json

import pytest
import torch
from held_out import held_out_errors
from real_crystals import CRYSTALS
from test_formation_energy import random_crystals
from torchmetrics.functional.classification import binary_auroc

from crystalgfn.crystal.crystals import Crystals
from crystalgfn.errors import InputError
from crystalgfn.proxies import BandGap, FormationEnergy
from crystalgfn.proxies.band_gap import SHIPPED_WEIGHTS
from crystalgfn.proxies.formation_energy import SHIPPED_WEIGHTS as ENERGY_WEIGHTS
from crystalgfn.proxies.network.networks import Constituents
from crystalgfn.registry import PROXIES
from crystalgfn.testing import ProxyContract

MAX_MAE = 0.22
"""Largest mean absolute error [eV] on exact test rows."""


class TestContract(ProxyContract):
    @pytest.fixture
    def proxy(self) -> BandGap:
        return BandGap()

    @pytest.fixture
    def objects(self) -> Crystals:
        return random_crystals(12)

    @pytest.fixture
    def tolerance(self) -> float:
        return 5e-5


@pytest.fixture(scope="module")
def proxy() -> BandGap:
    return BandGap()


def test_registered_with_unit(proxy: BandGap) -> None:
    assert PROXIES.get("BandGap") is BandGap
    assert (proxy.name, proxy.unit, proxy.direction) == ("band_gap", "eV", "maximize")
    assert BandGap(direction="minimize").direction == "minimize"
    with pytest.raises(InputError, match="direction: 'up' is not allowed; allowed: minimize, maximize"):
        BandGap(direction="up")  # type: ignore[arg-type]
    assert proxy.valid_range[0] == 0 and 10 < proxy.valid_range[1] < 20


@pytest.mark.parametrize(
    ("group", "cell", "a", "known", "tolerance"),
    [
        (229, {"Fe": 2}, 2.84, 0.0, 0.0),
        (225, {"Cu": 4}, 3.61, 0.0, 0.0),
        (221, {"Ni": 1, "Al": 1}, 2.89, 0.0, 0.0),
        (225, {"Na": 4, "Cl": 4}, 5.69, 5.0, 0.8),
        (225, {"Mg": 4, "O": 4}, 4.25, 4.4, 0.8),
        (225, {"Ca": 4, "F": 8}, 5.50, 7.2, 1.0),
        (225, {"Li": 4, "F": 4}, 4.08, 8.7, 1.2),
    ],
)
def test_textbook_crystals(
    proxy: BandGap, group: int, cell: dict[str, int], a: float, known: float, tolerance: float
) -> None:
    """PBE gaps of well-known crystals, rounded: metals are metals, salts have large gaps."""
    value = proxy(Crystals.from_arrays([group], [cell], [[a, a, a, 90, 90, 90]])).item()
    assert abs(value - known) <= tolerance


def test_no_value_between_metal_and_gap(proxy: BandGap) -> None:
    """The prediction is 0 or the gap of an insulator; where both may be, the uncertainty is as large as the doubt."""
    crystals = random_crystals(600, max_elements=3)
    network, estimate = proxy.network, proxy.estimate(crystals)
    outputs = network.outputs(crystals)
    gap, share = outputs.members.mean(0), estimate.not_zero
    assert torch.equal(estimate.value, torch.where(share > 0.5, gap, 0.0))
    assert 0 < int((share > 0.5).sum()) < 600
    # Disagreement by hand: what each member leaves out of the two cases, weighted by how probable it finds it.
    features = network.inputs(crystals)
    raw = torch.stack([member(features, Constituents.of(features)) for member in network.members])
    shares = raw[..., 1].sigmoid()
    apart = shares * (outputs.members - estimate.value).abs() + (1 - shares) * estimate.value.abs()
    torch.testing.assert_close(outputs.disagreement, apart.mean(0))
    unsure, sure = (share > 0.35) & (share < 0.65), (share < 0.02)
    assert unsure.any() and sure.any()
    # With even odds of 0 and a gap, half of the gap is the least that any prediction is wrong by.
    inside = estimate.uncertainty - 0.1 * network.target_scale[3] * estimate.outside
    assert (inside / gap)[unsure].median() > 0.5
    assert inside[unsure].median() > 10 * inside[sure].median()


def test_other_weights_are_refused() -> None:
    with pytest.raises(InputError, match=r"predicts 'formation_energy', not 'band_gap'"):
        BandGap(weights=ENERGY_WEIGHTS)
    with pytest.raises(InputError, match=r"predicts 'band_gap', not 'formation_energy'"):
        FormationEnergy(weights=SHIPPED_WEIGHTS)


def test_shipped_files() -> None:
    assert SHIPPED_WEIGHTS.stat().st_size <= 2_500_000
    errors = json.loads(SHIPPED_WEIGHTS.with_suffix(".json").read_text())["errors"]["test"]["reference rows"]
    card = SHIPPED_WEIGHTS.with_suffix(".md").read_text()
    assert errors["mae"] <= MAX_MAE
    assert all(f"{errors[key]:.4f}" in card for key in ("mae", "mae_not_zero", "auroc", "uncertainty"))


@pytest.mark.skipif(not CRYSTALS.is_file(), reason=f"no data at {CRYSTALS}")
def test_accuracy_on_exact_test_rows(proxy: BandGap) -> None:
    errors = held_out_errors(proxy, SHIPPED_WEIGHTS)
    assert errors.n == 2292
    assert errors.mae <= MAX_MAE and errors.with_rise == errors.mae
    assert errors.mae == pytest.approx(errors.card["mae"], abs=1e-4)
    frame = errors.frame
    insulators = frame[frame["band_gap"] > 0]
    assert insulators["error"].mean() == pytest.approx(errors.card["mae_not_zero"], abs=1e-3)
    area = binary_auroc(torch.tensor(frame["not_zero"].to_numpy()), torch.tensor((frame["band_gap"] > 0).to_numpy()))
    assert area.item() == pytest.approx(errors.card["auroc"], abs=1e-4) and area > 0.94
    assert errors.uncertainty == pytest.approx(errors.mae, rel=0.15)
    assert errors.spearman == pytest.approx(errors.card["uncertainty_spearman"], abs=2e-3) and errors.spearman > 0.4
    # Calibrated where it matters to a reward: among predictions near the gap of a solar cell, too.
    near = frame[(frame["value"] - 1.34).abs() < 0.3]
    assert near["uncertainty"].mean() == pytest.approx(near["error"].mean(), rel=0.35)
