"""What a restriction may say, and restricted sampling from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from helpers import is_neutral, make_crystal
from hypothesis import given, settings
from hypothesis import strategies as st
from small import checkpoint_of, small_config, write_config

from crystalgfn.cli import main
from crystalgfn.commands.lightning import with_restriction
from crystalgfn.crystal.formulas import parse_formula
from crystalgfn.crystal.restriction import Restriction
from crystalgfn.errors import InputError
from crystalgfn.gflownet.data import Samples
from crystalgfn.gflownet.envs import HyperGrid
from crystalgfn.gflownet.module import GFlowNet
from crystalgfn.gflownet.policies import MLP
from crystalgfn.gflownet.proxies import HyperGridModes
from crystalgfn.gflownet.rewards import Boltzmann, Identity
from crystalgfn.proxies.density import Density
from crystalgfn.runs import load
from crystalgfn.runs.model import read_restriction

SHIPPED = sorted((Path(__file__).parents[2] / "configs" / "restrictions").glob("*.yaml"))


# The parser

BAD = [
    ({"element": ["Fe"]}, r"restrict\.element: there is no such field; allowed: elements, forbidden_elements"),
    ({3: ["Fe"]}, r"restrict\.3: there is no such field"),
    (["Fe"], r"restrict: \['Fe'\] is not allowed; it must be fields with values"),
    ({"elements": ["Fe", "Xx"]}, r"restrict\.elements: Xx is not the symbol of an element"),
    ({"elements": [False]}, r"restrict\.elements: False is not the symbol .*quote symbols"),
    ({"elements": ["Fe", "Fe"]}, r"restrict\.elements: Fe is named twice"),
    ({"elements": []}, r"restrict\.elements: \[\] is not allowed; it must be a list of elements"),
    ({"elements": {"Fe": 1}}, r"restrict\.elements: \{'Fe': 1\} is not allowed; it must be a list"),
    ({"forbidden_pairs": [["Fe"]]}, r"restrict\.forbidden_pairs: \['Fe'\] is not allowed; a pair is two"),
    ({"forbidden_pairs": [["Fe", "Fe"]]}, r"restrict\.forbidden_pairs: .* the elements of a pair must differ"),
    ({"chemical_system": "Li-"}, r"restrict\.chemical_system: '' is not the symbol"),
    ({"formula": "Fe2 3O"}, r"restrict\.formula: Fe2 3O is not a formula: cannot read '3O'"),
    ({"formula": "Fe0"}, r"restrict\.formula: Fe0 has a count of Fe outside of 1 to 10000"),
    ({"formula": "Fe2Fe"}, r"restrict\.formula: Fe2Fe names Fe twice; allowed: elements and counts, such as"),
    ({"formula": ""}, r"restrict\.formula: '' is an empty formula"),
    ({"formula": 7}, r"restrict\.formula: 7 is not allowed; it must be a formula"),
    ({"reduced_formula": "Fe4O6"}, r"restrict\.reduced_formula: Fe4O6 is not reduced; write Fe2 O3"),
    ({"max_atoms": 0}, r"restrict\.max_atoms: 0 is not allowed; it must be a whole number from 1 to 10000"),
    ({"max_atoms": 2.5}, r"restrict\.max_atoms: 2.5 is not allowed"),
    ({"max_atoms": True}, r"restrict\.max_atoms: True is not allowed"),
    ({"min_atoms": 5, "max_atoms": 4}, r"restrict\.min_atoms: 5 is larger than max_atoms, which is 4"),
    (
        {"charge_neutral": False},
        r"restrict\.charge_neutral: False is not allowed; it must be true; leave the field out",
    ),
    ({"charge_neutral": 1}, r"restrict\.charge_neutral: 1 is not allowed; it must be true$"),
    ({"mixed_valence": "yes"}, r"restrict\.mixed_valence: yes is not allowed; it must be true or false"),
    ({"oxidation_states": "mine"}, r"restrict\.oxidation_states: mine is not allowed; allowed: pymatgen_common, "),
    ({"oxidation_states": [2]}, r"restrict\.oxidation_states: \[2\] is not allowed; allowed: pymatgen_common, "),
    ({"space_groups": [231]}, r"restrict\.space_groups: 231 is not allowed; allowed: a number from 1 to 230"),
    ({"space_groups": ["9-3"]}, r"restrict\.space_groups: 9-3 is not allowed"),
    ({"space_groups": [True]}, r"restrict\.space_groups: True is not allowed"),
    (
        {"crystal_systems": ["round"]},
        r"restrict\.crystal_systems: round is not allowed; allowed: triclinic, monoclinic",
    ),
    ({"lattice_systems": ["trigonal"]}, r"restrict\.lattice_systems: trigonal is not allowed; .* rhombohedral"),
    ({"point_groups": ["mmmm"]}, r"restrict\.point_groups: mmmm is not allowed; allowed: 1, -1, 2"),
    ({"lengths": [3.0]}, r"restrict\.lengths: \[3.0\] is not allowed; it must be low and high"),
    ({"lengths": [5, 3]}, r"restrict\.lengths: \[5, 3\] is not allowed"),
    ({"lengths": [3, float("nan")]}, r"restrict\.lengths: \[3, nan\] is not allowed"),
    ({"angles": [60, 180]}, r"restrict\.angles: \[60, 180\] is not allowed; .* < 180 degrees"),
    ({"a": "wide"}, r"restrict\.a: wide is not allowed"),
    ({"volume_per_atom": [0, 3]}, r"restrict\.volume_per_atom: \[0, 3\] is not allowed"),
]


@pytest.mark.parametrize(("values", "message"), BAD, ids=[str(values) for values, _ in BAD])
def test_bad_values(values: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Restriction.parse(values)


def test_lone_values_and_numbers_that_are_names() -> None:
    parsed = Restriction.parse({"crystal_systems": "cubic", "point_groups": [222, -1, "m-3m"], "space_groups": 225})
    assert (parsed.crystal_systems, parsed.point_groups) == (("cubic",), ("222", "-1", "m-3m"))
    assert parsed.space_groups == (225,)
    assert Restriction.parse(parsed.given()) == parsed
    assert Restriction.parse(None) == Restriction()


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["Fe", "O", "Li-O", "Fe2O3", "cubic", "225", "1-3", 222, "-1", "m-3m", "Fe" + "9" * 5000])
    | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
NAMES = st.sampled_from(list(Restriction.__dataclass_fields__))


def complaint(function: Callable[[Any], Any], value: Any) -> str:
    """What is said about a value; empty if it is taken. Any other error than InputError goes through."""
    try:
        function(value)
    except InputError as error:
        return str(error)
    return ""


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(values=JUNK | st.dictionaries(NAMES | JUNK.filter(lambda v: v.__hash__ is not None), JUNK, max_size=3))
def test_nothing_but_input_errors(values: Any) -> None:
    text = complaint(Restriction.parse, values)
    assert len(text) < 2000
    if text:
        assert text.startswith("restrict")
    else:
        parsed = Restriction.parse(values)
        assert Restriction.parse(parsed.given()) == parsed


@pytest.mark.parametrize("name", Restriction.__dataclass_fields__)
def test_numbers_too_long_to_print(name: str) -> None:
    for value in (10**5000, [10**5000, 10**5001], float("inf")):
        assert complaint(Restriction.parse, {name: value}).startswith(f"restrict.{name}: ")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(text=st.text(max_size=40) | st.binary(max_size=40), option=st.sampled_from(["", ".elements", ".lengths", ".x"]))
def test_files_and_flags_raise_nothing_else(text: str | bytes, option: str, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "r.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    said = complaint(read_restriction, path)
    assert not said or str(path) in said
    if isinstance(text, str):
        said = complaint(with_restriction, [f"--data.restrict{option}", text])
        assert not said or "restrict" in said


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        read_restriction(tmp_path / "absent.yaml")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files(path: Path) -> None:
    assert Restriction.parse(read_restriction(path)).given()


def test_the_papers_cases_are_shipped() -> None:
    assert {path.stem for path in SHIPPED} >= {"fe_o", "li_mn_o", "cubic", "narrow_cell"}


def test_flags_change_a_file(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("elements: [Fe, O]\nmax_atoms: 20\n")
    given = with_restriction(
        ["--x", "1", "--data.restrict", str(path), "--data.restrict.max_atoms=7", "--data.restrict.a", "[3, 5]"]
    )
    assert given[:3] == ["--x", "1", "--data.restrict"]
    assert yaml.safe_load(given[3]) == {"elements": ["Fe", "O"], "max_atoms": 7, "a": [3.0, 5.0]}
    assert with_restriction(["--data.restrict", str(path), "--data.restrict", "null"]) == ["--data.restrict", "null"]


EVERY_KEY = {
    "elements": "[Fe, O]", "forbidden_elements": "[Pb]", "required_elements": "O", "forbidden_pairs": "[[Li, H], Na-K]",
    "chemical_system": "Li-Mn-O", "formula": "Li4 Mn2 O6", "reduced_formula": "Li2MnO3",
    "min_elements": "2", "max_elements": "3", "min_atoms": "4", "max_atoms": "20", "min_atoms_per_element": "2",
    "max_atoms_per_element": "8", "charge_neutral": "true", "mixed_valence": "false",
    "oxidation_states": "pymatgen_all", "space_groups": "[225, 195-206]", "crystal_systems": "cubic",
    "lattice_systems": "[rhombohedral]", "point_groups": "[m-3m, -1]", "lengths": "[3, 9.5]", "angles": "[80, 130]",
    "a": "[3, 4]", "b": "[3, 5]", "c": "[3, 6]", "alpha": "[80, 95]", "beta": "[80, 96]", "gamma": "[80, 121]",
    "volume_per_atom": "[8, 30]",
}  # fmt: skip


def test_every_key_says_the_same_as_flag_and_in_a_file(tmp_path: Path) -> None:
    assert set(EVERY_KEY) == set(Restriction.__dataclass_fields__)
    path = tmp_path / "r.yaml"
    for key, text in EVERY_KEY.items():
        path.write_text(f"{key}: {text}\n")
        of_file = with_restriction(["--data.restrict", str(path)])
        assert with_restriction([f"--data.restrict.{key}", text]) == of_file
        assert with_restriction([f"--data.restrict.{key}={text}"]) == of_file
        values = yaml.safe_load(of_file[1])
        assert Restriction.parse(values).given() == Restriction.parse(yaml.safe_load(path.read_text())).given()
        assert list(values) == [key]


# The command line


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a finished small run."""
    directory = tmp_path_factory.mktemp("run")
    assert main(["fit", "--config", str(write_config(directory, small_config(directory)))]) == 0
    return directory


def predict(run: Path, out: Path, *options: str) -> pd.DataFrame:
    common = ["--data.num_samples", "60", "--data.out", str(out)]
    assert main(["predict", "--ckpt_path", str(checkpoint_of(run)), *common, *options]) == 0
    return pd.read_csv(out)


def test_predict_under_a_restriction(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("chemical_system: Li-O\nlengths: [4, 9]\n")
    table = predict(run, tmp_path / "a.csv", "--data.restrict", str(path), "--data.restrict.crystal_systems", "[cubic]")
    assert len(table) == 60
    assert (table.space_group >= 195).all()
    assert table.formula.str.fullmatch(r"Li\d+ O\d+").all()
    assert table.a.between(4, 9).all()


def test_an_empty_restriction_changes_nothing(run: Path, tmp_path: Path) -> None:
    plain = predict(run, tmp_path / "a.csv")
    same = predict(run, tmp_path / "b.csv", "--data.restrict", "{}")
    wide = predict(run, tmp_path / "c.csv", "--data.restrict.elements", "[Li, O, F]")
    pd.testing.assert_frame_equal(plain, same)
    pd.testing.assert_frame_equal(plain, wide)


def test_a_config_may_name_a_restriction(run: Path, tmp_path: Path) -> None:
    config = tmp_path / "predict.yaml"
    config.write_text("data:\n  restrict:\n    elements: [Li, O]\n")
    table = predict(run, tmp_path / "a.csv", "--config", str(config))
    assert not table.formula.str.contains("F").any()


@pytest.fixture(scope="module")
def charged_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a finished small run without charge neutrality; its callbacks keep states."""
    directory = tmp_path_factory.mktemp("charged")
    config = small_config(directory, elements=["Fe", "O", "F"], charge_neutral=False)
    (directory / "known.csv").write_text(
        "formula,space_group,a,b,c,alpha,beta,gamma\nFe4 O4,225,4.3,4.3,4.3,90,90,90\nFe3 O4,2,4.5,4.6,5,85,88,92\n"
    )
    known = {"table": str(directory / "known.csv"), "trajectories": 1}
    config["trainer"]["callbacks"] += [
        {"class_path": "crystalgfn.callbacks.LogTopK", "init_args": {"k": 3}},
        {"class_path": "crystalgfn.callbacks.LogLikelihood", "init_args": known},
    ]
    assert main(["fit", "--config", str(write_config(directory, config))]) == 0
    return directory


def test_neutral_crystals_of_a_model_without_charges(charged_run: Path, tmp_path: Path) -> None:
    """States of the neutral environment are longer than those of the model."""
    neutral = ["--data.restrict.charge_neutral", "true"]
    env = load(checkpoint_of(charged_run)).module.env
    assert env.restricted({"charge_neutral": True}).state_size > env.state_size
    assert not predict(charged_run, tmp_path / "a.csv").oxidation_states.notna().any()
    for options in ([], ["--data.finetune_steps", "2"]):
        table = predict(charged_run, tmp_path / "b.csv", *neutral, *options)
        assert table.oxidation_states.str.contains("-").all()
        assert all(is_neutral(parse_formula(formula)) for formula in table.formula)
    for command in ("validate", "test"):
        assert main([command, "--ckpt_path", str(checkpoint_of(charged_run)), *neutral]) == 0
    restrict, out = tmp_path / "r.yaml", tmp_path / "l.csv"
    for text, reasons in (("charge_neutral: true", ["charge"]), ("charge_neutral: true\nmixed_valence: true", [])):
        restrict.write_text(text)
        table = ["likelihood", str(charged_run / "known.csv"), "--ckpt_path", str(checkpoint_of(charged_run))]
        assert main([*table, "--restrict", str(restrict), "--out", str(out)]) == 0
        found = json.loads(out.with_suffix(".json").read_text())
        assert (found["n"], list(found["left_out"])) == (2 - len(reasons), reasons)


@pytest.mark.parametrize("command", ["validate", "test"])
def test_measures_under_a_restriction(command: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data.num_samples", "50", "--data.restrict.elements", "[Li, O]", "--data.finetune_steps", "1"]
    assert main([command, "--ckpt_path", str(checkpoint_of(run)), *options]) == 0
    assert "density_mean" in capsys.readouterr().out


def test_finetuning_is_of_this_command_only(run: Path, tmp_path: Path) -> None:
    restrict = ["--data.restrict.space_groups", "[221]"]
    before = checkpoint_of(run).read_bytes()
    plain = predict(run, tmp_path / "a.csv", *restrict)
    tuned = predict(run, tmp_path / "b.csv", *restrict, "--data.finetune_steps", "5", "--data.finetune_lr", "0.01")
    again = predict(run, tmp_path / "c.csv", *restrict, "--data.finetune_steps", "5", "--data.finetune_lr", "0.01")
    pd.testing.assert_frame_equal(tuned, again)
    assert not plain.equals(tuned)
    assert (tuned.space_group == 221).all()
    assert checkpoint_of(run).read_bytes() == before
    pd.testing.assert_frame_equal(plain, predict(run, tmp_path / "d.csv", *restrict))


def test_the_model_gets_its_environment_back() -> None:
    from pytorch_lightning import Trainer

    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    grid = GFlowNet(HyperGrid(), HyperGridModes(8), Identity(), policy=MLP)
    with pytest.raises(InputError, match="HyperGrid has no restrictions"):
        trainer.predict(grid, datamodule=Samples(restrict=Restriction(max_atoms=3)))
    env = make_crystal(space_groups=[2, 225], elements=["Li", "O"], max_elements=2)
    module = GFlowNet(env, Density(), Boltzmann(-0.5), policy=MLP)
    samples = trainer.predict(module, datamodule=Samples(num_samples=20, restrict=Restriction(space_groups=[225])))
    assert samples is not None
    assert (env.decode(samples[0]["states"]).space_group == 225).all()  # type: ignore[call-overload, index]
    assert module.env is env


REFUSED = {
    "unknown key": (["--data.restrict.elemens", "[Li]"], "restrict.elemens: there is no such field"),
    "wrong type": (["--data.restrict.max_atoms", "many"], "restrict.max_atoms: many is not allowed"),
    "element of no model": (["--data.restrict.elements", "[Ti]"], "restrict.elements: Ti is not among the model's"),
    "missing file": (["--data.restrict", "absent.yaml"], "restrict: there is no file absent.yaml"),
    "no value": (["--data.restrict"], "restrict: --data.restrict needs a value"),
    "nothing left": (["--data.restrict.elements", "[Li]"], "restrict.elements ['Li'] leaves none of the model's"),
    "no YAML": (["--data.restrict.elements", "[Li"], "data.restrict.elements: [Li is not valid YAML"),
    "fine-tuning alone": (["--data.finetune_steps", "5"], "finetune_steps: 5 is not allowed without a restriction"),
    "steps": (["--data.restrict", "{}", "--data.finetune_steps", "-1"], "finetune_steps: -1 is not allowed"),
    "rate": (["--data.restrict", "{}", "--data.finetune_lr", "0"], "finetune_lr: 0.0 is not allowed"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(
    options: list[str],
    message: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "--ckpt_path", str(checkpoint_of(run)), *options]) not in (0, None)
    text = capfd.readouterr().err
    assert message in text
    assert "Traceback" not in text
    assert not list(tmp_path.iterdir())


def test_no_restriction_in_training(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = str(write_config(tmp_path, small_config(tmp_path)))
    assert main(["fit", "--config", config, "--data.restrict.elements", "[Li, O]"]) == 2
    assert "restrict: is not allowed in training" in capfd.readouterr().err
