"""Training a property network on a user's own table."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
import torch

from crystalgfn.commands.train_proxy import main
from crystalgfn.crystal.tables import read_table
from crystalgfn.errors import InputError
from crystalgfn.proxies.formation_energy import FormationEnergy
from crystalgfn.proxies.network.error_model import ErrorConfig
from crystalgfn.proxies.network.fitting import OptimizerConfig
from crystalgfn.proxies.network.metrics import ReferenceLabels, ReportConfig
from crystalgfn.proxies.network.networks import NetworkSizes
from crystalgfn.proxies.network.property_network import PropertyNetwork
from crystalgfn.proxies.network.splits import DataConfig, split_by_formula
from crystalgfn.proxies.network.training import train_proxy
from crystalgfn.settings import read_config

CONFIGS = [
    Path(__file__).parents[2] / "configs" / "proxies" / f"{name}.yaml" for name in ("formation_energy", "band_gap")
]
QUICK = NetworkSizes(members=2, embedding=8, hidden=16, layers=1)
SHORT = OptimizerConfig(epochs=2, min_steps=1, batch_size=16)
ERROR = ErrorConfig(epochs=1, embedding=4, hidden=8)
QUICKLY = ["--optimizer.epochs", "1", "--optimizer.min_steps", "1", "--network.members", "1"]


def make_table(path: Path, n: int = 50, **columns: Sequence[object]) -> Path:
    """Invented rock salts: the label is a smooth function of the cell and the anion."""
    generator = torch.Generator().manual_seed(0)
    cations, anions = ["Li", "Na", "K", "Rb", "Cs", "Mg", "Ca", "Sr", "Ba", "Zn"], ["F", "Cl", "Br", "I", "O", "S"]
    rows = []
    for index in range(n):
        a = 4 + 3 * float(torch.rand((), generator=generator))
        cation, anion = cations[index % 10], anions[(index // 10) % 6]
        rows.append(
            {"formula": f"{cation}4 {anion}4", "space_group": 225, "a": a, "b": a, "c": a, "alpha": 90.0, "beta": 90.0,
             "gamma": 90.0, "e_form": 0.3 * a - len(anion) - 2.0}
        )  # fmt: skip
    frame = pd.DataFrame(rows).assign(**columns)
    frame.to_csv(path, index=False)
    return path


def quick(table: Path, out: Path, seed: int = 0, **data: object) -> tuple[dict[str, object], list[str]]:
    lines: list[str] = []
    config = DataConfig(table, label="e_form", **data)  # type: ignore[arg-type]
    metrics = train_proxy(config, out, seed=seed, network=QUICK, optimizer=SHORT, error=ERROR, log=lines.append)
    return metrics, lines


def test_small_table_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, out = make_table(tmp_path / "mine.csv"), tmp_path / "new" / "mine.pt"
    args = ["--data.path", str(table), "--data.label", "e_form", "--property_name", "formation_energy", "--unit", "eV"]
    args += ["--out", str(out), "--optimizer.epochs", "2", "--optimizer.min_steps", "1"]
    assert main([*args, "--network.members", "1", "--network.hidden", "16", "--seed", "3"]) == 0
    shown = capsys.readouterr().out
    assert "40 train, 5 val, 5 test" in shown and "by reduced formula with seed 3" in shown
    assert re.search(r"epoch 2/2  train loss [\d.]+  val MAE [\d.]+ eV", shown)
    assert sorted(p.name for p in out.parent.iterdir()) == ["mine.json", "mine.md", "mine.pt"]
    metrics = json.loads(out.with_suffix(".json").read_text())
    assert metrics["rows"] == {"train": 40, "val": 5, "test": 5}
    assert metrics["errors"]["test"]["all rows"]["n"] == 5
    card = out.with_suffix(".md").read_text()
    assert "--seed 3" in card and str(tmp_path) not in card
    energies = FormationEnergy(weights=out)(read_table(table).crystals)
    assert energies.shape == (50,) and bool(energies.isfinite().all())


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_shipped_config_runs(config: Path, tmp_path: Path) -> None:
    kinds, name = ["exact", "other"] * 25, config.stem
    columns = {f"{name}_kind": kinds, "source": ["a"] * 50, name: [0.0, 0.5, 1.0, 0.0, 0.0] * 10}
    table = make_table(tmp_path / "t.csv", **columns)
    args = ["--config", str(config), "--data.path", str(table), "--out", str(tmp_path / "w.pt")]
    assert main([*args, *QUICKLY]) == 0
    errors = json.loads((tmp_path / "w.json").read_text())["errors"]["test"]
    assert "reference rows" in errors and "reference, source = a" in errors
    assert ("n_not_zero" in errors["all rows"]) == (name == "band_gap")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_field_of_the_config_is_written_and_explained(path: Path) -> None:
    for file in (path, path.with_name("network.yaml")):
        lines = [line for line in file.read_text().splitlines() if line and not line.startswith(("#", "base:"))]
        assert all("#" in line or line.endswith(":") for line in lines)
    config = read_config(path)
    assert set(config["network"]) == set(NetworkSizes.__dataclass_fields__)
    assert set(config["optimizer"]) == set(OptimizerConfig.__dataclass_fields__)
    assert set(config["error"]) == set(ErrorConfig.__dataclass_fields__)
    assert set(config["reference"]) == set(ReferenceLabels.__dataclass_fields__)
    assert set(config["report"]) == set(ReportConfig.__dataclass_fields__)
    assert set(config["data"]) == set(DataConfig.__dataclass_fields__) - {"path"}


def test_a_small_table_is_passed_over_more_often(tmp_path: Path) -> None:
    lines: list[str] = []
    data = DataConfig(make_table(tmp_path / "t.csv"), label="e_form")
    optimizer = OptimizerConfig(epochs=2, min_steps=20)
    train_proxy(data, tmp_path / "w.pt", network=QUICK, optimizer=optimizer, error=ERROR, log=lines.append)
    # 40 training rows, 8 in a step.
    assert any("member 2/2  epoch 4/4" in line for line in lines)


@pytest.mark.long
def test_it_learns(tmp_path: Path) -> None:
    table = make_table(tmp_path / "t.csv", n=240)
    sizes, long = (
        NetworkSizes(members=1, embedding=16, hidden=32, layers=1),
        OptimizerConfig(epochs=60, batch_size=32, min_steps=1),
    )
    data = DataConfig(table, label="e_form")
    metrics = train_proxy(data, tmp_path / "w.pt", network=sizes, optimizer=long, error=ERROR, log=lambda _: None)
    labels = pd.read_csv(table)["e_form"]
    assert metrics["errors"]["val"]["all rows"]["mae"] < 0.4 * (labels - labels.mean()).abs().mean()


def test_same_seed_same_weights_and_no_global_draw(tmp_path: Path) -> None:
    table = make_table(tmp_path / "t.csv")
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    quick(table, tmp_path / "a.pt")
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == threads
    torch.manual_seed(5)
    quick(table, tmp_path / "b.pt")
    quick(table, tmp_path / "c.pt", seed=1)
    a, b, c = (PropertyNetwork.load(tmp_path / f"{x}.pt").state_dict() for x in "abc")
    assert all(torch.equal(a[k], b[k]) for k in a)
    weight = "members.0.out.weight"
    assert not torch.equal(a[weight], c[weight])
    assert not torch.equal(a[weight], a[weight.replace("0", "1")])


def test_members_do_not_depend_on_the_error_network(tmp_path: Path) -> None:
    data = DataConfig(make_table(tmp_path / "t.csv"), label="e_form")
    for name, error in (("a", ERROR), ("b", ErrorConfig(folds=3, epochs=2, hidden=16))):
        train_proxy(data, tmp_path / f"{name}.pt", network=QUICK, optimizer=SHORT, error=error, log=lambda _: None)
    a, b = (PropertyNetwork.load(tmp_path / f"{name}.pt").state_dict() for name in "ab")
    assert all(torch.equal(a[k], b[k]) for k in a if k.startswith("members."))
    assert not torch.equal(a["calibration"], b["calibration"])


def test_split_by_reduced_formula(tmp_path: Path) -> None:
    table = make_table(tmp_path / "t.csv", n=120)
    crystals = read_table(table).crystals
    names = split_by_formula(crystals, seed=0)
    by_formula: dict[str, set[str]] = {}
    for formula, name in zip(crystals.formulas(), names, strict=True):
        by_formula.setdefault(formula, set()).add(name)
    assert all(len(splits) == 1 for splits in by_formula.values())
    assert names.count("val") == names.count("test") == 12
    assert names == split_by_formula(crystals, seed=0) != split_by_formula(crystals, seed=1)


def test_given_split_is_used_and_odd_training_rows_are_counted(tmp_path: Path) -> None:
    splits = ["train"] * 40 + ["val"] * 5 + ["test"] * 5
    labels = [-1.0] * 48 + [None, None]
    lengths = [100.0] * 3 + [5.0] * 42 + [100.0] * 5
    table = make_table(tmp_path / "t.csv", split=splits, e_form=labels, a=lengths, b=lengths, c=lengths)
    metrics, lines = quick(table, tmp_path / "w.pt", bad_rows="skip")
    assert metrics["rows"] == {"train": 37, "val": 5, "test": 3}  # only training rows are filtered by volume
    assert metrics["dropped"] == {
        "e_form is missing or not a number": 2,
        "training rows with a volume per atom outside of 4 to 150 Å³": 3,
    }
    assert any("left out: 3 rows" in line for line in lines)
    with pytest.raises(InputError, match=r"row 49 .*e_form.*\(2 of 50 rows .*--data\.bad_rows skip leaves"):
        quick(table, tmp_path / "w.pt")


def test_energies_in_other_units_are_refused(tmp_path: Path) -> None:
    table = make_table(tmp_path / "t.csv")
    frame = pd.read_csv(table)
    frame.assign(e_form=96.485 * frame["e_form"]).to_csv(table, index=False)
    config, silent = DataConfig(table, label="e_form"), [].append
    with pytest.raises(InputError, match=r"row 1 .* is below -6 eV/atom, .* eV per atom, .*\(50 of 50 rows"):
        train_proxy(config, tmp_path / "w.pt", property_name="formation_energy", log=silent)
    frame.assign(formation_energy=96.485 * frame["e_form"]).to_csv(table, index=False)
    with pytest.raises(InputError, match=r"column formation_energy: .* is below -6 eV/atom"):
        train_proxy(DataConfig(table, label="formation_energy"), tmp_path / "w.pt", log=silent)


def test_refused_tables(tmp_path: Path) -> None:
    out = tmp_path / "w.pt"
    with pytest.raises(InputError, match=r"missing column.* gap; the table has"):
        train_proxy(DataConfig(make_table(tmp_path / "t.csv"), label="gap"), out)
    with pytest.raises(InputError, match=r"unknown split.*'holdout'; allowed: train, val, test"):
        quick(make_table(tmp_path / "t.csv", split=["holdout"] * 50), out)
    with pytest.raises(InputError, match=r"no usable row in the split 'val'"):
        quick(make_table(tmp_path / "t.csv", split=["train"] * 50), out)
    with pytest.raises(InputError, match=r"needs at least 4"):
        quick(make_table(tmp_path / "t.csv", formula=["Na4 Cl4"] * 50), out)
    with pytest.raises(InputError, match=r"at least 4 are needed"):
        quick(make_table(tmp_path / "t.csv", n=2), out)
    assert not out.exists()


def test_outputs_are_checked_before_the_table_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out, words in (
        (tmp_path / "w.bin", "must end in .pt"),
        (tmp_path / "file" / "w.pt", "cannot be written"),
        (tmp_path, "must end in .pt"),
    ):
        with pytest.raises(InputError, match=words):
            train_proxy(DataConfig(tmp_path / "no table.csv", "x"), out)
    (tmp_path / "w.md").mkdir()
    with pytest.raises(InputError, match=r"w.md: is a folder"):
        train_proxy(DataConfig(tmp_path / "no table.csv", "x"), tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("network.members", "0"),
        ("network.dropout", "1.5"),
        ("optimizer.epochs", "0"),
        ("seed", "-1"),
        ("threads", "0"),
        ("error.folds", "1"),
        ("optimizer.min_steps", "0"),
    ],
)
def test_settings_out_of_range(tmp_path: Path, option: str, value: str) -> None:
    table = make_table(tmp_path / "t.csv")
    with pytest.raises(InputError, match=rf"{option}: {value} is not allowed; it must lie between "):
        main(
            [
                "--data.path",
                str(table),
                "--data.label",
                "e_form",
                "--out",
                str(tmp_path / "w.pt"),
                f"--{option}={value}",
            ]
        )


@pytest.mark.parametrize("args", [[], ["--data.path", "x.csv"], ["--no.such", "1"], ["--optimizer.epochs", "many"]])
def test_options_that_cannot_be_parsed(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == 2 and capsys.readouterr().err


def test_report_columns_are_checked_before_training(tmp_path: Path) -> None:
    table = make_table(tmp_path / "t.csv")
    args = ["--data.path", str(table), "--data.label", "e_form", "--out", str(tmp_path / "w.pt")]
    with pytest.raises(InputError, match=r"no column\(s\) kind"):
        main([*args, "--reference.column", "kind"])
    with pytest.raises(InputError, match=r"unknown element.*Xx"):
        main([*args, "--report.elements", "[Na, Xx]"])
