"""The formation-energy proxy: contract, behaviour far from its training data, weights, accuracy."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from held_out import held_out_errors
from hypothesis import given, settings
from hypothesis import strategies as st
from real_crystals import CRYSTALS

from crystalgfn.crystal.crystallography import N_ELEMENTS
from crystalgfn.crystal.crystals import Crystals
from crystalgfn.errors import InputError
from crystalgfn.proxies.formation_energy import SHIPPED_WEIGHTS, FormationEnergy
from crystalgfn.proxies.network.features import CrystalFeatures, ragged_ranges
from crystalgfn.registry import PROXIES
from crystalgfn.testing import ProxyContract

MAX_MAE = 0.060
"""Largest mean absolute error [eV/atom] on exact test rows. The goal is 0.05; the shipped weights have 0.0574."""

MIN_RANK_CORRELATION = 0.40
"""Least rank correlation of uncertainty and absolute error on exact test rows."""

SALT = ([225], [{"Na": 4, "Cl": 4}], [[5.69, 5.69, 5.69, 90, 90, 90]])


@pytest.fixture(scope="module")
def proxy() -> FormationEnergy:
    return FormationEnergy()


def random_crystals(n: int, seed: int = 0, max_elements: int = 5, absurd: bool = False) -> Crystals:
    """Crystals with random elements, counts, space groups and cells, up to the limits of what is legal."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*size: int) -> torch.Tensor:
        return torch.rand(*size, generator=generator, dtype=torch.float64)

    counts = torch.zeros(n, N_ELEMENTS, dtype=torch.int64)
    for _ in range(max_elements):
        element = (uniform(n) * N_ELEMENTS).long()
        counts[torch.arange(n), element] = 1 + (uniform(n) * (10_000 if absurd else 16)).long()
    lengths = 0.9 + 99.1 * uniform(n, 3) if absurd else 3 + 9 * uniform(n, 3)
    angles = 50 + 100 * uniform(n, 3) if absurd else 80 + 30 * uniform(n, 3)
    group = 1 + (uniform(n) * 230).long()
    return Crystals(group, counts, torch.cat([lengths, angles], dim=1))


class TestContract(ProxyContract):
    @pytest.fixture
    def proxy(self) -> FormationEnergy:
        return FormationEnergy()

    @pytest.fixture
    def objects(self) -> Crystals:
        return random_crystals(12)

    @pytest.fixture
    def tolerance(self) -> float:
        return 2e-5


def test_registered_with_unit(proxy: FormationEnergy) -> None:
    assert PROXIES.get("FormationEnergy") is FormationEnergy
    assert (proxy.name, proxy.unit, proxy.direction) == ("formation_energy", "eV/atom", "minimize")
    assert not any(p.requires_grad for p in proxy.parameters()) and not proxy.training


@pytest.mark.parametrize(
    ("arrays", "known"),
    [
        (SALT, -2.1),
        (([225], [{"Mg": 4, "O": 4}], [[4.25, 4.25, 4.25, 90, 90, 90]]), -3.0),
        (([229], [{"Fe": 2}], [[2.84, 2.84, 2.84, 90, 90, 90]]), 0.0),
        (([227], [{"Si": 8}], [[5.44, 5.44, 5.44, 90, 90, 90]]), 0.0),
        (([225], [{"Ca": 4, "F": 8}], [[5.5, 5.5, 5.5, 90, 90, 90]]), -4.2),
        (([225], [{"Li": 4, "F": 4}], [[4.08, 4.08, 4.08, 90, 90, 90]]), -3.2),
    ],
)
def test_textbook_crystals(proxy: FormationEnergy, arrays: tuple, known: float) -> None:  # type: ignore[type-arg]
    """Formation energies of well-known crystals, PBE with the Materials Project's corrections, rounded."""
    assert proxy(Crystals.from_arrays(*arrays)).item() == pytest.approx(known, abs=0.2)


def test_train_mode_changes_nothing(proxy: FormationEnergy) -> None:
    crystals = random_crystals(20)
    before = proxy(crystals)
    torch.nn.Sequential(proxy).train()
    assert torch.equal(proxy(crystals), before)


def test_rows_do_not_interact(proxy: FormationEnergy) -> None:
    crystals = Crystals.cat([random_crystals(60), random_crystals(20, seed=1, max_elements=9)])
    together = proxy(crystals)
    one_by_one = torch.cat([proxy(crystals[i : i + 1]) for i in range(len(crystals))])
    torch.testing.assert_close(together, one_by_one, atol=2e-5, rtol=0)
    order = torch.randperm(len(crystals), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(proxy(crystals[order]), together[order], atol=2e-5, rtol=0)


def test_order_of_the_elements_is_no_matter(proxy: FormationEnergy) -> None:
    written = [{"Na": 4, "Cl": 4}, {"Cl": 4, "Na": 4}]
    a, b = proxy(Crystals.from_arrays([225, 225], written, SALT[2] * 2))
    assert a == b


def test_deterministic_and_no_global_draw(proxy: FormationEnergy) -> None:
    state = torch.get_rng_state()
    again = FormationEnergy()
    crystals = random_crystals(50)
    assert torch.equal(proxy(crystals), again(crystals)) and torch.equal(proxy(crystals), proxy(crystals))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("seed", range(5))
def test_absurd_crystals_stay_in_the_range_of_the_training_data(proxy: FormationEnergy, seed: int) -> None:
    crystals = random_crystals(400, seed=seed, max_elements=1 + 3 * seed, absurd=True)
    inside, energies = proxy.estimate(crystals).value, proxy(crystals)
    lowest, highest = proxy.valid_range
    assert -4.6 < lowest <= inside.min() and inside.max() <= highest < 5.2
    assert bool(energies.isfinite().all()) and bool((energies >= inside).all())
    assert energies.dtype == torch.float32 and energies.shape == (400,)


@settings(max_examples=60, deadline=None)
@given(
    group=st.integers(1, 230),
    counts=st.dictionaries(st.integers(1, 94), st.integers(1, 10**6), min_size=1, max_size=94),
    lengths=st.lists(st.floats(0.9, 100), min_size=3, max_size=3),
    angles=st.lists(st.floats(50, 150), min_size=3, max_size=3),
)
def test_any_legal_crystal_is_finite(
    proxy: FormationEnergy, group: int, counts: dict[int, int], lengths: list[float], angles: list[float]
) -> None:
    row = torch.zeros(1, N_ELEMENTS, dtype=torch.int64)
    for z, count in counts.items():
        row[0, z - 1] = count
    crystal = Crystals(torch.tensor([group]), row, torch.tensor([lengths + angles], dtype=torch.float64))
    energy = proxy(crystal).item()
    assert -4.6 < energy < float("inf")


@pytest.mark.parametrize("z", range(1, 95))
def test_single_atoms_of_every_element_are_finite(proxy: FormationEnergy, z: int) -> None:
    counts = torch.zeros(3, N_ELEMENTS, dtype=torch.int64)
    counts[:, z - 1] = 1
    lattice = torch.tensor([[x, x, x, 90, 90, 90] for x in (0.9, 4.0, 100.0)], dtype=torch.float64)
    assert bool(proxy(Crystals(torch.tensor([1, 221, 230]), counts, lattice)).isfinite().all())


def salt_in_cells(*lengths: float) -> Crystals:
    """Rock salt with other lengths of its cubic cell [Å]."""
    edges = torch.tensor(lengths, dtype=torch.float64)[:, None].expand(-1, 3)
    counts = Crystals.from_arrays(*SALT).counts.expand(len(lengths), -1)
    return Crystals(torch.full((len(lengths),), 225), counts, torch.cat([edges, torch.full_like(edges, 90.0)], dim=1))


def test_networks_are_saturated_beyond_the_training_range(proxy: FormationEnergy) -> None:
    tiny, small, large, huge = proxy.estimate(salt_in_cells(0.9, 1.0, 90.0, 100.0)).value
    torch.testing.assert_close(tiny, small)
    torch.testing.assert_close(large, huge)


def test_energy_rises_beyond_the_training_range(proxy: FormationEnergy) -> None:
    huge, large, real, small, tiny = proxy(salt_in_cells(100.0, 50.0, 5.64, 1.8, 0.9))
    assert real + 1 < large < huge
    assert real + 1 < small < tiny
    assert proxy.estimate(Crystals.from_arrays(*SALT)).outside.item() == 0


def test_empty_batch(proxy: FormationEnergy) -> None:
    assert proxy(random_crystals(4)[:0]).shape == (0,)


def test_uncertainty(proxy: FormationEnergy) -> None:
    doubt = proxy.predict(random_crystals(100)).uncertainty
    assert doubt is not None and doubt.shape == (100,) and bool((doubt > 0).all())
    salt = proxy.predict(Crystals.from_arrays(*SALT)).uncertainty
    assert salt is not None and doubt.median() > 2 * salt.item()  # random crystals are stranger


def test_uncertainty_grows_outside_of_the_training_range(proxy: FormationEnergy) -> None:
    doubt = proxy.predict(salt_in_cells(100.0, 50.0, 5.64)).uncertainty
    assert doubt is not None and doubt[0] > doubt[1] + 0.5 > doubt[2] + 1


def test_features_follow_the_module(proxy: FormationEnergy) -> None:
    features = CrystalFeatures(torch.full((N_ELEMENTS,), 15.0))
    assert not features.state_dict() and not list(features.parameters())
    made = features(random_crystals(7))
    assert made.row.shape == (7, features.row_size) and made.constituent.shape[1] == features.constituent_size
    ratio = (random_crystals(7).volume / random_crystals(7).n_atoms / 15).log().float()
    torch.testing.assert_close(made.row[:, features.column("log_volume_over_atoms")], ratio)
    assert made.row[:, features.column("elements")].tolist() == made.n_elements.tolist()
    chosen = made[torch.tensor([5, 2])]
    alone = features(random_crystals(7)[torch.tensor([5, 2])])
    assert torch.equal(chosen.element, alone.element) and torch.equal(chosen.prototype, alone.prototype)


def test_ragged_ranges() -> None:
    ranges = ragged_ranges(torch.tensor([5, 0, 9]), torch.tensor([2, 0, 3]))
    assert ranges.tolist() == [5, 6, 9, 10, 11]


def _content() -> dict:  # type: ignore[type-arg]
    return torch.load(SHIPPED_WEIGHTS, weights_only=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "other"}, "holds 'other', not a"),
        ({"feature_version": 99}, "feature version 99"),
        ({"property": "band_gap"}, "predicts 'band_gap', not 'formation_energy'"),
        ({"sizes": {"members": 1}}, "weights and architecture do not fit"),
        ({"error_sizes": {"members": 1}}, "weights and architecture do not fit"),
        ({"unit": 3}, "weights and architecture do not fit"),
        ({"state": {}}, "weights and architecture do not fit"),
    ],
)
def test_weights_of_another_kind(tmp_path: Path, change: dict, words: str) -> None:  # type: ignore[type-arg]
    path = tmp_path / "other.pt"
    torch.save({**_content(), **change}, path)
    with pytest.raises(InputError, match=words) as caught:
        FormationEnergy(weights=path)
    assert "other.pt" in str(caught.value)


def test_weights_of_another_size_or_not_finite(tmp_path: Path) -> None:
    content = _content()
    path = tmp_path / "other.pt"
    for sizes, change in (("sizes", {"hidden": 7}), ("sizes", {"zero_share": True}), ("error_sizes", {"hidden": 7})):
        torch.save({**content, sizes: {**content[sizes], **change}}, path)
        with pytest.raises(InputError, match=r"do not fit"):
            FormationEnergy(weights=path)
    name = next(k for k in content["state"] if k.endswith("out.weight"))
    content["state"][name] = torch.full_like(content["state"][name], float("nan"))
    torch.save(content, path)
    with pytest.raises(InputError, match=r"not finite"):
        FormationEnergy(weights=path)


class _Marker:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("unpickled"),))


def test_damaged_and_hostile_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"none.pt: no such file"):
        FormationEnergy(weights="none.pt")
    contents = {"text.pt": b"hello", "empty.pt": b"", "cut.pt": SHIPPED_WEIGHTS.read_bytes()[:50_000]}
    contents["hostile.pt"] = pickle.dumps(_Marker(), protocol=2)
    for name, content in contents.items():
        Path(name).write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}: cannot be read as weights"):
            FormationEnergy(weights=name)
    assert not Path("unpickled").exists()


def test_shipped_files() -> None:
    assert SHIPPED_WEIGHTS.stat().st_size <= 2_500_000
    metrics = json.loads(SHIPPED_WEIGHTS.with_suffix(".json").read_text())
    card = SHIPPED_WEIGHTS.with_suffix(".md").read_text()
    mae = metrics["errors"]["test"]["reference rows"]["mae"]
    assert f"{mae:.4f}" in card and mae <= MAX_MAE


@pytest.mark.skipif(not CRYSTALS.is_file(), reason=f"no data at {CRYSTALS}")
def test_accuracy_on_exact_test_rows(proxy: FormationEnergy) -> None:
    errors = held_out_errors(proxy, SHIPPED_WEIGHTS)
    assert errors.n == 3120
    assert errors.with_rise <= MAX_MAE
    # The model card is about the network, without the rise outside of the training range.
    assert errors.mae == pytest.approx(errors.card["mae"], abs=1e-4)
    assert errors.uncertainty == pytest.approx(errors.card["uncertainty"], abs=1e-4)
    assert errors.uncertainty == pytest.approx(errors.mae, rel=0.1)
    assert errors.spearman == pytest.approx(errors.card["uncertainty_spearman"], abs=2e-3)
    assert errors.spearman >= MIN_RANK_CORRELATION
