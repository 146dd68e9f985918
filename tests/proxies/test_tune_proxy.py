"""Fine-tuning a trained property network with new rows."""

from __future__ import annotations

import copy
import inspect
import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from crystalgfn.commands.tune_proxy import main
from crystalgfn.crystal.crystals import Crystals
from crystalgfn.errors import InputError
from crystalgfn.proxies.formation_energy import SHIPPED_WEIGHTS, FormationEnergy
from crystalgfn.proxies.network.error_model import ErrorConfig
from crystalgfn.proxies.network.fitting import OptimizerConfig
from crystalgfn.proxies.network.metrics import ReferenceLabels, ReportConfig
from crystalgfn.proxies.network.networks import NetworkSizes
from crystalgfn.proxies.network.property_network import PropertyNetwork
from crystalgfn.proxies.network.rehearsal import made_up_crystals
from crystalgfn.proxies.network.splits import DataConfig
from crystalgfn.proxies.network.training import train_proxy
from crystalgfn.proxies.network.tuning import TuningConfig, tune
from crystalgfn.proxies.network.tuning_run import OldTable, tune_proxy

CONFIG = Path(__file__).parents[2] / "configs" / "proxies" / "tuning.yaml"

CATIONS, ANIONS = ("Li", "Na", "K", "Rb", "Cs", "Mg", "Ca", "Sr", "Ba", "Zn"), ("F", "Cl", "Br", "I", "O", "S")
QUICK = TuningConfig(steps=150, batch_size=64, old_share=0.5, learning_rate=3e-3, error_steps=150)


def silent(_: str) -> None:
    """Shows no line."""


def salts(n: int, lowest: float, highest: float, seed: int) -> tuple[Crystals, Tensor]:
    """Invented rock salts with edges in a range [Å], and an energy that rises fast below 4 Å."""
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randint(len(CATIONS) * len(ANIONS), (n,), generator=generator).tolist()
    edges = (lowest + (highest - lowest) * torch.rand(n, generator=generator, dtype=torch.float64)).tolist()
    compositions = [{CATIONS[pair % 10]: 4, ANIONS[pair // 10]: 4} for pair in pairs]
    crystals = Crystals.from_arrays([225] * n, compositions, [[a, a, a, 90, 90, 90] for a in edges])
    energy = [0.3 * a - len(ANIONS[p // 10]) - 2 + 3 * max(0.0, 4 - a) for a, p in zip(edges, pairs, strict=True)]
    return crystals, torch.tensor(energy)


OLD, VAL = salts(300, 4.0, 7.0, 0), salts(80, 4.0, 7.0, 1)
NEW, UNSEEN = salts(200, 3.0, 4.0, 2), salts(100, 3.0, 4.0, 3)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network that was trained on cells of 4 to 7 Å."""
    folder = tmp_path_factory.mktemp("weights")
    OLD[0].to_frame().assign(energy=OLD[1].numpy()).to_csv(folder / "old.csv", index=False)
    train_proxy(
        DataConfig(folder / "old.csv", label="energy"),
        folder / "old.pt",
        network=NetworkSizes(members=2, embedding=16, hidden=32, layers=1),
        optimizer=OptimizerConfig(epochs=1, min_steps=400, batch_size=32, average=0.99),
        error=ErrorConfig(epochs=2, embedding=4, hidden=8),
        log=silent,
    )
    return folder / "old.pt"


@pytest.fixture(scope="module")
def trained(weights: Path) -> PropertyNetwork:
    return PropertyNetwork.load(weights)


@pytest.fixture(scope="module")
def tuned(trained: PropertyNetwork) -> PropertyNetwork:
    """The network tuned with the new rows, the old ones and the errors that it made."""
    return tune(trained, *NEW, errors=mistakes(trained, *NEW), old=OLD, held_out=VAL, config=QUICK, log=silent)


@torch.no_grad()
def mistakes(network: PropertyNetwork, crystals: Crystals, target: Tensor) -> Tensor:
    return (network(crystals).value - target).abs()


def mae(network: PropertyNetwork, rows: tuple[Crystals, Tensor]) -> float:
    return float(mistakes(network, *rows).mean())


@pytest.mark.long
def test_new_labels_beyond_the_old_range_are_learned_and_old_ones_kept(
    trained: PropertyNetwork, tuned: PropertyNetwork
) -> None:
    assert float(NEW[1].max()) > float(OLD[1].max()) + 0.5
    assert mae(trained, UNSEEN) > 1
    assert mae(tuned, UNSEEN) < 0.2 * mae(trained, UNSEEN)
    assert mae(tuned, VAL) < mae(trained, VAL) + 0.05
    with torch.no_grad():
        assert float(tuned(NEW[0]).value.max()) > float(OLD[1].max()) + 0.3
    assert tuned.label_range[1] == NEW[1].max() and tuned.label_range[0] <= OLD[1].min()
    assert tuned.target_scale[1] == NEW[1].max() and torch.equal(tuned.target_scale[2:], trained.target_scale[2:])


def test_ranges_of_features_grow_where_enough_rows_support_it(trained: PropertyNetwork, tuned: PropertyNetwork) -> None:
    with torch.no_grad():
        assert float(trained(NEW[0]).outside.mean()) > 1
        assert 0 < float(tuned(NEW[0]).outside.mean()) < 0.1
        assert float(tuned(salts(20, 2.0, 2.5, 0)[0]).outside.min()) > 1
    rows = salts(3, 3.0, 3.1, 0)
    config = TuningConfig(steps=1, batch_size=8)
    assert torch.equal(tune(trained, *rows, old=OLD, config=config, log=silent).row_scale, trained.row_scale)


@pytest.mark.long
def test_without_the_old_table_it_rehearses_made_up_crystals(trained: PropertyNetwork) -> None:
    config = replace(QUICK, old_share=0.75)
    rehearsed = tune(trained, *NEW, errors=mistakes(trained, *NEW), config=config, log=silent)
    forgetful = tune(trained, *NEW, config=replace(QUICK, old_share=0.0), log=silent)
    assert mae(rehearsed, UNSEEN) < 0.5 * mae(trained, UNSEEN)
    assert mae(rehearsed, VAL) < 0.5 * mae(forgetful, VAL)
    with torch.no_grad():
        assert float(rehearsed(VAL[0]).uncertainty.mean()) < 0.5 * mae(trained, NEW)


def test_made_up_crystals_are_like_those_that_were_trained_on(trained: PropertyNetwork) -> None:
    crystals = made_up_crystals(trained, 300, torch.Generator().manual_seed(0))
    elements = {symbol for formula in crystals.formulas() for symbol in re.findall("[A-Z][a-z]?", formula)}
    assert elements == {*CATIONS, *ANIONS} and set(crystals.space_group.tolist()) == {225}
    assert bool((crystals.lattice[:, :3] > 0).all()) and bool((crystals.lattice[:, 3:] == 90).all())
    deviation = trained.row_scale[3, trained.features.column("log_volume_over_atoms")]
    logarithm = (crystals.volume / (crystals.counts.double() @ trained.atomic_volumes)).log()
    assert float(logarithm.std()) == pytest.approx(float(deviation), rel=0.15)
    shipped = made_up_crystals(PropertyNetwork.load(SHIPPED_WEIGHTS), 2000, torch.Generator().manual_seed(0))
    assert len(shipped.space_group.unique()) > 150 and int((shipped.counts.sum(0) > 0).sum()) > 80
    assert bool((shipped.volume > 0).all())


def test_the_start_is_left_alone_and_the_seed_decides(trained: PropertyNetwork) -> None:
    before, state = torch.get_rng_state(), copy.deepcopy(trained.state_dict())
    config = TuningConfig(steps=5, batch_size=16, error_steps=5)
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed + len(results))
        used = torch.get_rng_state()
        errors = mistakes(trained, *NEW)
        results.append(tune(trained, *NEW, errors=errors, old=OLD, held_out=VAL, config=config, seed=seed, log=silent))
        assert torch.equal(torch.get_rng_state(), used)
    torch.set_rng_state(before)
    assert all(torch.equal(value, state[name]) for name, value in trained.state_dict().items())
    a, b, c = (result.state_dict() for result in results)
    assert all(torch.equal(a[name], b[name]) for name in a)
    name = "members.0.out.weight"
    assert not torch.equal(a[name], c[name])
    first, second = (a[f"members.{k}.out.weight"] - state[f"members.{k}.out.weight"] for k in (0, 1))
    assert not torch.allclose(first, second)
    assert not results[0].training and not any(p.requires_grad for p in results[0].parameters())


def test_the_file_gives_the_same_predictions(tuned: PropertyNetwork, tmp_path: Path) -> None:
    tuned.save(tmp_path / "tuned.pt")
    read = PropertyNetwork.load(tmp_path / "tuned.pt", "energy")
    for crystals in (NEW[0], OLD[0]):
        with torch.no_grad():
            assert torch.equal(read(crystals).value, tuned(crystals).value)
            assert torch.equal(read(crystals).uncertainty, tuned(crystals).uncertainty)


def test_uncertainty_learns_known_errors(trained: PropertyNetwork, tuned: PropertyNetwork) -> None:
    """Errors that were known of new crystals are expected of others of that kind, and not of old ones."""
    expected = mae(trained, NEW)
    with torch.no_grad():
        assert float(tuned(UNSEEN[0]).uncertainty.mean()) == pytest.approx(expected, rel=0.35)
        assert float(tuned(VAL[0]).uncertainty.mean()) < 0.3 * expected


def test_without_known_errors_the_calibration_stays(trained: PropertyNetwork) -> None:
    config = TuningConfig(steps=2, batch_size=16)
    for errors in (None, torch.full((200,), float("nan"))):
        result = tune(trained, *NEW, errors=errors, old=OLD, held_out=VAL, config=config, log=silent)
        assert torch.equal(result.calibration, trained.calibration)
        weights = zip(result.error.parameters(), trained.error.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in weights)


def test_scale_of_the_uncertainty_is_kept_until_it_is_calibrated_again(
    trained: PropertyNetwork, tmp_path: Path
) -> None:
    scaled = copy.deepcopy(trained)
    scaled.set_uncertainty_scale(3.0)
    scaled.set_uncertainty_scale(2.0)
    before, after = trained(VAL[0]), scaled(VAL[0])
    assert torch.equal(before.value, after.value)
    inside = before.outside == 0
    assert int(inside.sum()) > 60
    assert torch.allclose(after.uncertainty[inside], 2 * before.uncertainty[inside], rtol=1e-4)
    scaled.save(tmp_path / "scaled.pt")
    read = PropertyNetwork.load(tmp_path / "scaled.pt")
    assert read.uncertainty_scale == 2 and trained.uncertainty_scale == 1
    assert torch.equal(read(VAL[0]).uncertainty, after.uncertainty)
    config = TuningConfig(steps=2, batch_size=16)
    kept = tune(read, *NEW, old=OLD, held_out=VAL, config=config, log=silent)
    assert kept.uncertainty_scale == 2 and torch.equal(kept.calibration, read.calibration)
    settings = {"errors": torch.full((200,), 0.5), "old": OLD, "held_out": VAL, "config": config, "log": silent}
    again, never = tune(read, *NEW, **settings), tune(trained, *NEW, **settings)
    assert again.uncertainty_scale == 1
    assert torch.allclose(again.calibration, never.calibration, atol=0.02)


def test_few_errors_calibrate_alone(trained: PropertyNetwork) -> None:
    config = TuningConfig(steps=2, batch_size=16)
    errors = torch.full((200,), float("nan"))
    errors[:10] = 3.0
    result = tune(trained, *NEW, errors=errors, old=OLD, held_out=None, config=config, log=silent)
    assert not torch.equal(result.calibration, trained.calibration)
    weights = zip(result.error.parameters(), trained.error.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


def test_rows_without_weight_do_not_count(trained: PropertyNetwork) -> None:
    config = TuningConfig(steps=3, batch_size=16)
    crystals, target = NEW
    weight = (torch.arange(200) < 100).float()
    spoiled = torch.where(weight > 0, target, 100.0)
    result = tune(trained, crystals, spoiled, weight, old=OLD, config=config, log=silent)
    same = tune(trained, crystals[:100], target[:100], old=OLD, config=config, log=silent)
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in result.state_dict().items())


def test_refused_rows_and_settings(trained: PropertyNetwork) -> None:
    crystals, target = NEW
    bad = target.clone()
    bad[3] = float("nan")
    for words, call in (
        (r"target: shape \(199,\)", lambda: tune(trained, crystals, target[1:], log=silent)),
        ("target: .*finite label", lambda: tune(trained, crystals, bad, log=silent)),
        ("weight: .*negative", lambda: tune(trained, crystals, target, -torch.ones(200), log=silent)),
        ("no new crystal has a weight", lambda: tune(trained, crystals, target, torch.zeros(200), log=silent)),
        ("errors: .*negative", lambda: tune(trained, crystals, target, errors=-torch.ones(200), log=silent)),
        ("old: needs", lambda: tune(trained, crystals, target, old=(crystals[:0], target[:0]), log=silent)),
        ("held_out: needs", lambda: tune(trained, crystals, target, held_out=(crystals, target[1:]), log=silent)),
        (r"tuning.old_share: 1.5 .*between 0 and 0.99", lambda: TuningConfig(old_share=1.5).check()),
    ):
        with pytest.raises(InputError, match=words):
            call()


def table_of(path: Path, rows: tuple[Crystals, Tensor], **columns: object) -> Path:
    """A table of crystals with their energy."""
    rows[0].to_frame().assign(energy=rows[1].numpy(), **columns).to_csv(path, index=False)
    return path


SHORTLY = ["--tuning.steps", "20", "--tuning.batch_size", "16", "--tuning.error_steps", "5"]


def test_the_command_writes_weights_card_and_metrics(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = {"weight": [2.0] * 200, "error_before": [0.5, ""] * 100, "kind": ["sampled", "relaxed"] * 100}
    new, old = table_of(tmp_path / "new.csv", NEW, **columns), table_of(tmp_path / "old.csv", OLD)
    out = tmp_path / "made" / "tuned.pt"
    args = ["--weights", str(weights), "--new", str(new), "--out", str(out), *SHORTLY]
    assert main([*args, "--data.path", str(old), "--new_groups", "[kind]", "--seed", "3"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"mean error before 0\.5000 \(\d\d known\)", shown) and "new rows, held out: MAE" in shown
    assert sorted(p.name for p in out.parent.iterdir()) == ["tuned.json", "tuned.md", "tuned.pt"]
    metrics = json.loads(out.with_suffix(".json").read_text())
    rows = metrics["rows"]
    assert rows["new"] + rows["new, held out"] == 200 and rows["old train"] + rows["old val"] + rows["old test"] == 300
    for kind, group in (("new rows, held out", "reference, kind = relaxed"), ("old test rows", "all rows")):
        for when in ("before", "after"):
            assert metrics["errors"][kind][when][group]["mae"] > 0
    card = out.with_suffix(".md").read_text()
    assert "--seed 3" in card and str(tmp_path) not in card and "Old test rows, after" in card
    assert PropertyNetwork.load(out, "energy").about["tuned"]["rows"] == rows["new"]
    # And without the old table, from the tuned file.
    args = ["--weights", str(out), "--new", str(new), "--out", str(tmp_path / "b.pt"), *SHORTLY]
    assert main([*args, "--test_share", "0"]) == 0
    assert json.loads((tmp_path / "b.json").read_text())["errors"] == {}


def test_the_shipped_config_is_complete_and_explained() -> None:
    lines = [line for line in CONFIG.read_text().splitlines() if line and not line.startswith("#")]
    assert all("#" in line or line.endswith(":") for line in lines)
    config = yaml.safe_load(CONFIG.read_text())
    assert config["tuning"] == asdict(TuningConfig())
    assert set(config["data"]) == set(OldTable.__dataclass_fields__) - {"path"}
    assert set(config["reference"]) == set(ReferenceLabels.__dataclass_fields__)
    assert set(config["report"]) == set(ReportConfig.__dataclass_fields__)
    parameters = set(inspect.signature(tune_proxy).parameters) - {"new", "out", "command", "log"}
    assert set(config) == parameters


def test_the_shipped_config_runs(tmp_path: Path) -> None:
    split = ["train"] * 200 + ["val"] * 50 + ["test"] * 50
    columns = {"formation_energy": OLD[1].numpy(), "formation_energy_kind": ["exact", "other"] * 150, "source": "a"}
    old = table_of(tmp_path / "old.csv", OLD, split=split, **columns)
    new = table_of(tmp_path / "new.csv", NEW, formation_energy=NEW[1].numpy() + 5)
    args = ["--config", str(CONFIG), "--new", str(new), "--data.path", str(old)]
    assert main([*args, "--out", str(tmp_path / "w.pt"), *SHORTLY]) == 0
    metrics = json.loads((tmp_path / "w.json").read_text())
    assert metrics["rows"]["old val"] == 25 and "reference, source = a" in metrics["errors"]["old test rows"]["after"]
    assert float(FormationEnergy(tmp_path / "w.pt").network.label_range[1]) > 5


def test_the_command_refuses_bad_input(weights: Path, tmp_path: Path) -> None:
    good = table_of(tmp_path / "new.csv", NEW)
    heavy = table_of(tmp_path / "heavy.csv", NEW, weight=[-1.0] * 200)
    wrong = table_of(tmp_path / "wrong.csv", NEW, error_before=[-1.0] * 200)
    alone = table_of(tmp_path / "alone.csv", (NEW[0][:1], NEW[1][:1]))
    for options, words in (
        (["--new", str(tmp_path / "no.csv")], "no such file"),
        (["--new", str(good), "--label", "hardness"], "missing column(s) hardness"),
        (["--new", str(heavy)], "row 1 (counted from 1, without the header), column weight: value '-1.0'"),
        (["--new", str(wrong)], "column error_before: value '-1.0' is not allowed; allowed: 0 or more, or empty"),
        (["--new", str(alone)], "test_share: 0 holds out none"),
        (["--new", str(good), "--tuning.old_share", "1"], "tuning.old_share: 1.0 is not allowed"),
        (["--new", str(good), "--test_share", "1"], "test_share: 1.0 is not allowed"),
        (["--new", str(good), "--new_groups", "[kind]"], "has no column(s) kind"),
    ):
        with pytest.raises(InputError, match=re.escape(words)):
            main(["--weights", str(weights), "--out", str(tmp_path / "w.pt"), *options])
    assert not (tmp_path / "w.pt").exists()
