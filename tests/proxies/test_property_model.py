"""A property of one's own, from a CSV to a proxy, and an uncertainty that means something."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from test_formation_energy import random_crystals
from test_train_proxy import make_table

from crystalgfn.commands.score import main as score
from crystalgfn.commands.train_proxy import main as train
from crystalgfn.crystal.crystals import Crystals
from crystalgfn.crystal.tables import read_table
from crystalgfn.errors import InputError
from crystalgfn.proxies import FormationEnergy, PropertyModel
from crystalgfn.proxies.network.error_model import ErrorConfig
from crystalgfn.proxies.network.fitting import OptimizerConfig
from crystalgfn.proxies.network.networks import NetworkSizes
from crystalgfn.proxies.network.splits import DataConfig
from crystalgfn.proxies.network.training import train_proxy
from crystalgfn.registry import PROXIES
from crystalgfn.testing import ProxyContract

SMALL = NetworkSizes(members=2, embedding=8, hidden=24, layers=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 200 rows with a column ``hardness`` and weights, trained with no config."""
    folder = tmp_path_factory.mktemp("own")
    table = make_table(folder / "my.csv", n=200)
    frame = pd.read_csv(table).rename(columns={"e_form": "hardness"})
    frame.to_csv(table, index=False)
    args = ["--data.path", str(table), "--data.label", "hardness", "--property_name", "hardness", "--unit", "GPa"]
    fewer = ["--optimizer.min_steps", "80", "--optimizer.epochs", "5"]
    assert train([*args, "--out", str(folder / "hardness.pt"), *fewer]) == 0
    return folder


@pytest.fixture
def proxy(folder: Path) -> PropertyModel:
    return PropertyModel(weights=folder / "hardness.pt", direction="maximize")


class TestContract(ProxyContract):
    @pytest.fixture
    def objects(self) -> Crystals:
        return random_crystals(12)

    @pytest.fixture
    def tolerance(self) -> float:
        return 2e-5


def test_all_it_says_comes_from_the_file(proxy: PropertyModel, folder: Path) -> None:
    assert PROXIES.get("PropertyModel") is PropertyModel
    assert (proxy.name, proxy.unit, proxy.direction) == ("hardness", "GPa", "maximize")
    table = read_table(folder / "my.csv", label="hardness")
    assert table.labels is not None
    low, high = proxy.valid_range
    assert table.labels.min() - 1e-5 <= low < high <= table.labels.max() + 1e-5
    values = proxy(table.crystals)
    assert values.min() >= low and values.max() <= high
    assert (values - table.labels).abs().mean() < 0.5 * (table.labels - table.labels.mean()).abs().mean()


def test_score_with_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "scored.csv"
    weights = ["--weights", str(folder / "hardness.pt")]
    # The table has the label under the name of the property already.
    with pytest.raises(InputError, match=r"already has column\(s\) hardness; rename"):
        score([str(folder / "my.csv"), "--proxy", "PropertyModel", *weights, "--out", str(out)])
    bare = folder / "bare.csv"
    pd.read_csv(folder / "my.csv").drop(columns="hardness").to_csv(bare, index=False)
    assert score([str(bare), "--proxy", "PropertyModel", *weights, "--out", str(out)]) == 0
    assert "200 of 200 rows have hardness [GPa]" in capsys.readouterr().out
    scored = pd.read_csv(out)
    assert list(scored.columns[-3:]) == ["hardness", "hardness_uncertainty", "reason"]
    prediction = PropertyModel(weights=folder / "hardness.pt").predict(read_table(bare).crystals)
    assert prediction.uncertainty is not None
    assert scored["hardness"].tolist() == pytest.approx(prediction.value.tolist(), abs=1e-4)
    assert scored["hardness_uncertainty"].tolist() == pytest.approx(prediction.uncertainty.tolist(), abs=1e-4)
    with pytest.raises(InputError, match=r"--weights: PropertyModel needs a file of weights"):
        score([str(bare), "--proxy", "PropertyModel", "--out", str(out)])


def test_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"predicts 'hardness', not 'formation_energy'"):
        FormationEnergy(weights=folder / "hardness.pt")
    with pytest.raises(InputError, match=r"direction: 'up' is not allowed; allowed: minimize, maximize"):
        PropertyModel(weights=folder / "hardness.pt", direction="up")  # type: ignore[arg-type]
    content = torch.load(folder / "hardness.pt", weights_only=True)
    for change in ({"property": "not a name"}, {"property": None}, {"unit": None}):
        torch.save({**content, **change}, tmp_path / "odd.pt")
        with pytest.raises(InputError, match=r"odd.pt: weights and architecture do not fit: property"):
            PropertyModel(weights=tmp_path / "odd.pt")
    (tmp_path / "cut.pt").write_bytes((folder / "hardness.pt").read_bytes()[:5000])
    sizes = content["sizes"] | {"hidden": content["sizes"]["hidden"] + 8}
    torch.save({**content, "sizes": sizes}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other.pt: weights and architecture do not fit: size mismatch") as caught:
        PropertyModel(weights=tmp_path / "other.pt")
    assert "\n" not in str(caught.value)
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(InputError, match=r"module.pt: cannot be read as weights: it is damaged, or holds objects"):
        PropertyModel(weights=tmp_path / "module.pt")
    with pytest.raises(InputError, match=r"cut.pt: cannot be read as weights"):
        PropertyModel(weights=tmp_path / "cut.pt")


@pytest.mark.parametrize(
    "name", ["bulk modulus", "2d", "", "a-b", "härte", "formula", "a", "log_reward", "x_uncertainty"]
)
def test_names_that_cannot_be_columns(name: str, tmp_path: Path) -> None:
    data = DataConfig(tmp_path / "none.csv", label="hardness")
    with pytest.raises(InputError, match=r"property_name: '.*' is not allowed; "):
        train_proxy(data, tmp_path / "w.pt", property_name=name)


def test_the_label_names_the_property(tmp_path: Path) -> None:
    table = make_table(tmp_path / "t.csv")
    sizes, error = NetworkSizes(members=1, embedding=4, hidden=8, layers=1), ErrorConfig(embedding=4, hidden=8)
    short = OptimizerConfig(epochs=1, min_steps=1)
    train_proxy(DataConfig(table, label="e_form"), tmp_path / "w.pt", network=sizes, optimizer=short, error=error)
    proxy = PropertyModel(weights=tmp_path / "w.pt")
    assert (proxy.name, proxy.unit) == ("e_form", "")


def test_uncertainty_knows_where_labels_are_unpredictable(tmp_path: Path) -> None:
    """Iodides get labels with noise that nothing can predict, the others none: doubt must be about the iodides."""
    table = make_table(tmp_path / "t.csv", n=480)
    frame = pd.read_csv(table)
    noise = torch.randn(len(frame), generator=torch.Generator().manual_seed(1), dtype=torch.float64).numpy()
    noisy = frame["formula"].str.contains("I4")
    frame["e_form"] += noise * noisy
    frame.to_csv(table, index=False)
    metrics = train_proxy(
        DataConfig(table, label="e_form"),
        tmp_path / "w.pt",
        network=SMALL,
        optimizer=OptimizerConfig(epochs=12, min_steps=1, batch_size=32),
        error=ErrorConfig(embedding=8, hidden=16, epochs=20),
        log=lambda _: None,
    )
    prediction = PropertyModel(weights=tmp_path / "w.pt").predict(read_table(table).crystals)
    assert prediction.uncertainty is not None
    doubt = pd.Series(prediction.uncertainty.tolist())
    assert doubt[noisy].median() > 2 * doubt[~noisy].median()
    # The mean of |noise| is 0.8; calibrated means that the uncertainty is about that.
    assert 0.5 < doubt[noisy].mean() < 1.2
    test = metrics["errors"]["test"]["all rows"]
    assert test["uncertainty_spearman"] > 0.3


def test_zeros_told_apart(tmp_path: Path) -> None:
    """A property that is zero for all fluorides and chlorides, and else large and smooth."""
    table = make_table(tmp_path / "t.csv", n=400)
    frame = pd.read_csv(table)
    zero = frame["formula"].str.contains("F4|Cl4")
    frame["gap"] = (frame["a"] - 2).mask(zero, 0.0)
    frame.to_csv(table, index=False)
    data, out = DataConfig(table, label="gap"), tmp_path / "w.pt"
    sizes = NetworkSizes(members=2, embedding=8, hidden=24, layers=1, zero_share=True)
    optimizer = OptimizerConfig(epochs=15, min_steps=1, batch_size=32)
    error = ErrorConfig(embedding=8, hidden=16)
    metrics = train_proxy(data, out, network=sizes, optimizer=optimizer, error=error, log=lambda _: None)
    errors = metrics["errors"]["test"]["all rows"]
    assert errors["auroc"] > 0.95 and 0 < errors["n_not_zero"] < errors["n"]
    values = PropertyModel(weights=out)(read_table(table).crystals)
    assert ((values == 0) == torch.tensor(zero.tolist())).float().mean() > 0.95
    card = out.with_suffix(".md").read_text()
    assert "Zero or not:" in card and f"{errors['auroc']:.4f}" in card
    frame["gap"] += 1
    frame.to_csv(table, index=False)
    with pytest.raises(InputError, match=r"network.zero_share: true is not allowed; .* has no exact zero"):
        train_proxy(data, tmp_path / "v.pt", network=sizes)
    frame.assign(gap=0.0).to_csv(table, index=False)
    with pytest.raises(InputError, match=r"nothing but zeros"):
        train_proxy(data, tmp_path / "v.pt", network=sizes)
