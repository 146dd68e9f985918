"""Wrong input to every command: a message that names field, value and what is allowed; no traceback, no file."""

import os
import pickle
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from pymatgen.core import Lattice, Structure
from small import THREE_CRYSTALS, checkpoint_of, small_config, write_config

from crystalgfn import __version__
from crystalgfn.cli import COMMANDS, main

ROWS = {**THREE_CRYSTALS, "formation_energy": [-2.1, 0.0, -3.0]}


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def discover_model() -> dict:
    """A small model that `crystalgfn discover` can use."""
    env = {"space_groups": [225], "elements": ["Li", "O", "F"], "max_elements": 2}
    return {
        "env": {"class_path": "Crystal", "init_args": env},
        "proxy": {"class_path": "EnergyAboveHull"},
        "reward": {"class_path": "Boltzmann", "init_args": {"beta": 4.0}},
        "policy": {"class_path": "MLP", "init_args": {"hidden": [8]}},
        "batch_size": 8,
    }


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, Path]:
    """Good files and bad ones, by the names that the cases below use."""
    folder = tmp_path_factory.mktemp("input")
    config = small_config(folder)
    path = write_config(folder, config)
    assert main(["fit", "--config", str(path)]) == 0
    checkpoint = checkpoint_of(folder)
    shutil.move(folder / "small", folder / "run")
    checkpoint = folder / "run" / "version_0" / "checkpoints" / "last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    settings = yaml.safe_load(content["crystalgfn"]["config"])

    def checkpoint_with(name: str, **changes) -> None:
        torch.save({**content, **changes}, folder / name)

    def settings_with(name: str, **changes) -> None:
        text = yaml.safe_dump({**settings, "model": {**settings["model"], **changes}})
        checkpoint_with(name, crystalgfn={"version": "0.0.9", "config": text})

    def table(name: str, **changes) -> None:
        frame = pd.DataFrame({**ROWS, **changes})
        frame.to_csv(folder / name, index=False)

    def text(name: str, value: str) -> None:
        (folder / name).write_text(value)

    def config_with(name: str, **changes) -> None:
        text(name, yaml.safe_dump({**config, "model": {**config["model"], **changes}}))

    state = content["state_dict"]
    weight = next(name for name in state if name.startswith("policy."))
    # What a run of another environment has.
    checkpoint_with("shapes.ckpt", state_dict={**state, weight: torch.zeros(3, 3)})
    checkpoint_with("missing.ckpt", state_dict={name: state[name] for name in list(state)[5:]})
    checkpoint_with("nan.ckpt", state_dict={**state, weight: state[weight] * float("nan")})
    checkpoint_with("no_settings.ckpt", crystalgfn={"version": "0.0.9"})
    checkpoint_with("bad_yaml.ckpt", crystalgfn={"version": "0.0.9", "config": "model: [1, 2"})
    checkpoint_with(
        "python_yaml.ckpt",
        crystalgfn={"version": "9", "config": f"!!python/object/apply:os.mkdir ['{folder}/run_by_yaml']"},
    )
    settings_with("old_option.ckpt", gone=3)
    settings_with("gone_class.ckpt", proxy={"class_path": "crystalgfn.proxies.chgnet.CHGNetEnergy"})
    settings_with("old_class.ckpt", loss={"class_path": "OldLoss"})
    (folder / "half.ckpt").write_bytes(checkpoint.read_bytes()[:9000])
    text("text.ckpt", "no checkpoint")
    for name in ("hostile.ckpt", "hostile.pt"):
        torch.save({"state_dict": {}, "x": Payload(folder / "run_by_torch")}, folder / name)
    (folder / "pickle.ckpt").write_bytes(pickle.dumps(Payload(folder / "run_by_pickle")))
    (folder / "pickle.pt").write_bytes(pickle.dumps(Payload(folder / "run_by_pickle")))
    (folder / "pickle.parquet").write_bytes(pickle.dumps(Payload(folder / "run_by_pickle")))
    torch.save({"format": "something else"}, folder / "other.pt")

    text("broken.yaml", "model: [1, 2\n")
    text("list.yaml", "- 1\n- 2\n")
    text("empty.yaml", "")
    (folder / "binary.yaml").write_bytes(bytes(range(256)))
    text("python.yaml", f"model: !!python/object/apply:os.mkdir ['{folder}/run_by_yaml']\n")
    text("wrong_name.yaml", "modle: {}\n")
    bad = {"Sometimes": {"problem": "shape"}, "Elsewhere": {}, "Doubtful": {"below_zero": True}}
    for name, arguments in bad.items():
        config_with(f"{name}.yaml", proxy={"class_path": f"bad_proxies.{name}", "init_args": arguments})
    for value in ("nan", "inf"):
        arguments = {"instead": float(value)}
        config_with(f"{value}.yaml", proxy={"class_path": "bad_proxies.Sometimes", "init_args": arguments})
    arguments = {"weights": str(folder / "hostile.pt")}
    config_with("weights.yaml", proxy={"class_path": "FormationEnergy", "init_args": arguments})
    config_with("unknown_setting.yaml", bacth_size=3)
    config_with("gone_class.yaml", proxy={"class_path": "crystalgfn.proxies.chgnet.CHGNetEnergy"})
    text("exponents.yaml", "lengths: [2e1, 30]\n")
    config_with("absent_class.yaml", proxy={"class_path": "no_such_package.Proxy"})

    table("good.csv")
    table("group.csv", space_group=[225, 231, 152])
    table("words.csv", a=["5.69", "long", "4.92"])
    table("formula.csv", formula=["Na4 Cl4", "Xx2", "Si3 O6"])
    table("one_element.csv", formula=["Na4", "Na2", "Na3"])
    table("no_label.csv", formation_energy=[None, None, None])
    table("twice.csv", density=[1.0, 2.0, 3.0])
    pd.DataFrame(ROWS).drop(columns=["gamma"]).to_csv(folder / "column.csv", index=False)
    text("header.csv", ",".join(ROWS) + "\n")
    text("empty.csv", "")
    text("ragged.csv", "a,b\n1,2\n1,2,3,4\n")
    (folder / "binary.csv").write_bytes(bytes(range(256)) * 4)
    (folder / "half.parquet").write_bytes(b"PAR1 no more")
    text("table.xlsx", "x")
    (folder / "folder.csv").mkdir()
    (folder / "empty").mkdir()
    text("file", "a file, where a folder is expected")
    text("bad.json", "{")
    text("bad.xyz", "no number of atoms\n")
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    text("salt.cif", salt.to(fmt="cif"))
    # No table of known crystals; what a case sets comes later, and counts.
    text("discover.yaml", yaml.safe_dump({"fit": {"model": discover_model()}, "start": {"random": 2}, "out": "run"}))
    other = {**discover_model(), "env": {"class_path": "HyperGrid", "init_args": {"dim": 2, "length": 4}}}
    text("discover_grid.yaml", yaml.safe_dump({"fit": {"model": other}, "start": {"random": 2}, "out": "run"}))
    other = {**discover_model(), "proxy": {"class_path": "Density"}}
    text("discover_density.yaml", yaml.safe_dump({"fit": {"model": other}, "out": "run"}))
    other = {**discover_model(), "loss": {"class_path": "NoLoss"}}
    text("discover_loss.yaml", yaml.safe_dump({"fit": {"model": other}, "out": "run"}))
    text("discover_nothing.yaml", yaml.safe_dump({"fit": {"trainer": {}}, "out": "run"}))
    text("discover_word.yaml", yaml.safe_dump({"fit": {"model": discover_model()}, "out": "run", "round": 3}))
    return {"d": folder, "ckpt": checkpoint, "config": path, "version": __version__}


FIT = "fit --config {config} "
PREDICT = "predict --ckpt_path {ckpt} "
SCORE = "score {d}/good.csv --proxy Density --out scored.csv "
TRAIN = "train-proxy --out weights.pt --unit eV "
HULL = "build-hull {d}/good.csv --out hull.pt "
BUILD = "build {d}/good.csv --out structures "
JUDGE = "judge {d}/good.csv --out judged "
JUDGE_CIF = "judge {d}/salt.cif --out judged --potential chgnet "
EVALUATE = "evaluate {d}/good.csv "
DISCOVER = "discover --config {d}/discover.yaml "
TUNE = "tune-proxy --out tuned.pt "
PAGE = "discovery-page --out page --reference {d}/good.csv "

CASES = {
    # The command line itself
    "": ("", "usage: crystalgfn COMMAND"),
    "unknown command": ("explode", "unknown command 'explode'; allowed: fit, validate"),
    "misspelt command": ("fitt", "unknown command 'fitt'; did you mean fit? allowed: fit, validate"),
    # fit: configs
    "no settings": ("fit", "give --config or --ckpt_path, such as --config eform.yaml; nothing defines the model"),
    "no settings but steps": ("fit --trainer.max_steps 3", "give --config or --ckpt_path"),
    "missing config": (
        "fit --config absent.yaml",
        "config: there is no file absent.yaml, and no shipped config has this name; shipped: bandgap.yaml",
    ),
    "config is a folder": ("fit --config {d}/empty", "config: there is no file {d}/empty"),
    "config is no YAML": ("fit --config {d}/broken.yaml", "{d}/broken.yaml is not a valid YAML file"),
    "config is binary": ("fit --config {d}/binary.yaml", "{d}/binary.yaml is not a valid YAML file"),
    "config is a list": ("fit --config {d}/list.yaml", "must contain named settings, not a list"),
    "config is empty": ("fit --config {d}/empty.yaml", "{d}/empty.yaml is empty"),
    "config runs code": ("fit --config {d}/python.yaml", "{d}/python.yaml is not a valid YAML file"),
    "config with an unknown part": (
        "fit --config {d}/wrong_name.yaml",
        "config: {d}/wrong_name.yaml: there is no setting 'modle'; allowed: base, model, data, trainer",
    ),
    "class of an older version": (
        FIT + "--model.proxy crystalgfn.proxies.chgnet.CHGNetEnergy",
        "crystalgfn.proxies.chgnet.CHGNetEnergy: crystalgfn {version} has no such class; CHANGELOG.md says what was",
    ),
    "class of an older version in a config": ("fit --config {d}/gone_class.yaml", "CHGNetEnergy: crystalgfn {version}"),
    "policy of an older version": (
        FIT + "--model.policy crystalgfn.policies.Gone",
        "crystalgfn.policies.Gone: crystalgfn {version} has no such class",
    ),
    "class of no package": ("fit --config {d}/absent_class.yaml", "no_such_package"),
    # fit: flags
    "unknown flag": (FIT + "--model.bacth_size 8", "bacth_size", "did you mean --model.batch_size?"),
    "flag without underscore": (FIT + "--model.batchsize 3", "did you mean --model.batch_size?"),
    "unknown setting": (
        "fit --config {d}/unknown_setting.yaml",
        "'model.bacth_size'",
        "; did you mean model.batch_size?",
    ),
    "unknown argument": (
        FIT + "--model.env.init_args.elemets [Li]",
        "'elemets' is not ",
        "; did you mean elements?",
    ),
    "restriction in training": (FIT + "--data.restrict.elements [Li,F]", "restrict: is not allowed in training"),
    "flag without value": (FIT + "--model.batch_size", "expected one argument"),
    "word for a number": (FIT + "--model.batch_size many", "batch_size", "many", "int"),
    "negative number": (FIT + "--model.batch_size -4", "batch_size: -4 is not allowed; it must be at least 1"),
    "nan": (FIT + "--model.lr nan", "model.lr", "Got value: nan"),
    "infinite": (FIT + "--model.lr inf", "model.lr", "Got value: inf"),
    "no threads": (FIT + "--threads 0", "threads: 0 is not allowed; it must be at least 1"),
    "accelerator": (FIT + "--trainer.accelerator abacus", "abacus"),
    "steps": (FIT + "--trainer.max_steps -5", "max_steps", "-5"),
    "callback": (
        FIT + "--trainer.callbacks+ crystalgfn.callbacks.LogTopK --trainer.callbacks.k 0",
        "k: 0 is not allowed; it must be at least 1",
    ),
    "unknown callback": (FIT + "--trainer.callbacks+ crystalgfn.callbacks.LogTop", "LogTop"),
    "logs below a file": (FIT + "--trainer.logger.init_args.save_dir {d}/file", "{d}/file"),
    # fit: impossible constraints
    "no neutral crystal": (FIT + "--model.env.init_args.elements [Li,Na]", "no crystal satisfies the constraints"),
    "no such group": (FIT + "--model.env.init_args.space_groups [231]", "space_groups: 231 is not allowed"),
    "more than most": (FIT + "--model.env.init_args.min_elements 3", "min_elements: 3 is larger than max_elements"),
    "cell without room": (
        FIT + "--model.env.init_args.lengths [1.0,1.5] --model.env.init_args.volume_per_atom [50,60]",
        "no crystal satisfies the constraints",
    ),
    "lengths fall": (FIT + "--model.env.init_args.lengths [9,3]", "lengths: [9.0, 3.0]"),
    "angles of no cell": (FIT + "--model.env.init_args.angles [50,190]", "angles: [50.0, 190.0]"),
    # fit: proxies
    "proxy of the wrong shape": (
        "fit --config {d}/Sometimes.yaml --trainer.logger false",
        "proxy Sometimes: returned shape (8, 1) for 8 objects; it must be (8,)",
    ),
    "proxy on another device": (
        "fit --config {d}/Elsewhere.yaml --trainer.logger false",
        "proxy Elsewhere: returned a tensor on meta; it must be on cpu",
    ),
    "proxy gives nan": (
        "fit --config {d}/nan.yaml --trainer.logger false",
        "proxy Sometimes: second_length is nan for",
        "model.on_bad_value: skip",
    ),
    "proxy gives inf": (
        "fit --config {d}/inf.yaml --trainer.logger false",
        "proxy Sometimes: second_length is inf for",
        "model.on_bad_value: skip",
    ),
    "uncertainty below zero": (
        "fit --config {d}/Doubtful.yaml --trainer.logger false",
        "the uncertainty of doubtful is -",
    ),
    "weights that run code": (
        "fit --config {d}/weights.yaml",
        "{d}/hostile.pt: cannot be read as weights: it is damaged, or holds objects, which could run code",
    ),
    # checkpoints, of other versions and damaged
    "missing checkpoint": ("predict --ckpt_path absent.ckpt", "ckpt_path: there is no file absent.ckpt"),
    "no checkpoint in the folder": ("predict --ckpt_path {d}/empty", "no complete checkpoint in the folder {d}/empty"),
    "last without a run": ("predict --ckpt_path last", "'last' is for 'fit --config CONFIG'"),
    "checkpoint is text": (
        "predict --ckpt_path {d}/text.ckpt",
        "{d}/text.ckpt is damaged, is not a checkpoint, or contains",
    ),
    "checkpoint is cut off": ("test --ckpt_path {d}/half.ckpt", "{d}/half.ckpt cannot be read; it may be damaged"),
    "checkpoint is a pickle": (
        "predict --ckpt_path {d}/pickle.ckpt",
        "objects that are not loaded for safety",
    ),
    "checkpoint runs code": ("fit --ckpt_path {d}/hostile.ckpt", "objects that are not loaded for safety"),
    "settings run code": (
        "predict --ckpt_path {d}/python_yaml.ckpt",
        "is not a checkpoint that 'crystalgfn fit' has written",
    ),
    "checkpoint without settings": (
        "predict --ckpt_path {d}/no_settings.ckpt",
        "is not a checkpoint that 'crystalgfn fit' has written",
    ),
    "checkpoint with bad settings": (
        "predict --ckpt_path {d}/bad_yaml.ckpt",
        "is not a checkpoint that 'crystalgfn fit' has written",
    ),
    "checkpoint with an old option": ("predict --ckpt_path {d}/old_option.ckpt", "gone", "written by version 0.0.9"),
    "checkpoint with an old class": (
        "predict --ckpt_path {d}/old_class.ckpt",
        "no class is called 'OldLoss'",
        "written by version 0.0.9",
    ),
    "checkpoint of other sizes": (
        "predict --ckpt_path {d}/shapes.ckpt",
        "the weights in {d}/shapes.ckpt do not fit the model",
        "size mismatch",
    ),
    "checkpoint with too little": (
        "validate --ckpt_path {d}/missing.ckpt",
        "the weights in {d}/missing.ckpt do not fit the model",
        "Missing key",
    ),
    "checkpoint with nan": (
        "predict --ckpt_path {d}/nan.ckpt",
        "are not finite, because training failed; use an older checkpoint",
    ),
    "checkpoint with a class of an older version": (
        "predict --ckpt_path {d}/gone_class.ckpt",
        "ckpt_path: model.proxy: crystalgfn.proxies.chgnet.CHGNetEnergy: crystalgfn {version} has no such class",
        "settings come from {d}/gone_class.ckpt, written by version 0.0.9",
    ),
    # predict, validate, test
    "predict without a checkpoint": ("predict", "give --ckpt_path, such as --ckpt_path logs/eform"),
    "predict with an unknown flag": (PREDICT + "--data.nun_samples 3", "did you mean --data.num_samples?"),
    "no samples": (PREDICT + "--data.num_samples 0", "num_samples: 0 is not allowed; it must be at least 1"),
    "output is a folder": (PREDICT + "--data.out {d}/empty", "{d}/empty"),
    "output below a file": (PREDICT + "--data.out {d}/file/a.csv", "{d}/file/a.csv: cannot be written"),
    "output of unknown kind": (
        PREDICT + "--data.out a.docx",
        "data.out: a.docx: the name of a table must end in .csv, .parquet, .pq, not in '.docx'",
    ),
    "unknown restriction": (
        PREDICT + "--data.restrict.element Fe",
        "restrict.element: there is no such field; allowed: elements",
    ),
    "restriction of nothing": (PREDICT + "--data.restrict.elements [Fe]", "restrict", "Fe"),
    "restriction by exponents": (
        PREDICT + "--data.restrict.lengths [1e1,2e1]",
        "restrict.lengths: ['1e1', '2e1'] is not allowed",
        "YAML reads 1e1 as text, write 10.0",
    ),
    "restriction by an exponent in a file": (
        PREDICT + "--data.restrict {d}/exponents.yaml",
        "YAML reads 2e1 as text, write 20.0",
    ),
    "restriction in no file": (PREDICT + "--data.restrict absent.yaml", "restrict: there is no file absent.yaml"),
    "restriction runs code": (PREDICT + "--data.restrict {d}/python.yaml", "{d}/python.yaml is not a valid YAML file"),
    "fine-tuning of nothing": (
        PREDICT + "--data.finetune_steps 5",
        "finetune_steps: 5 is not allowed without a restriction",
    ),
    "test without a model": ("test", "give --ckpt_path"),
    "validate without a model": ("validate --data.num_samples 3", "give --ckpt_path"),
    "validate with bad flag": ("validate --ckpt_path {ckpt} --data.num_val_samples none", "num_val_samples", "none"),
    # list
    "list of something": ("list everything", "unrecognized arguments: everything"),
    # score
    "score of nothing": ("score", "the following arguments are required: table, --proxy, --out"),
    "missing table": ("score absent.csv --proxy Density --out s.csv", "absent.csv: no such file"),
    "table is a folder": ("score {d}/folder.csv --proxy Density --out s.csv", "{d}/folder.csv: is not a file"),
    "table is empty": ("score {d}/empty.csv --proxy Density --out s.csv", "{d}/empty.csv: the file is empty"),
    "table without rows": ("score {d}/header.csv --proxy Density --out s.csv", "{d}/header.csv: the table has no rows"),
    "table without a column": (
        "score {d}/column.csv --proxy Density --out s.csv",
        "missing column(s) gamma; the table has: formula",
    ),
    "ragged table": ("score {d}/ragged.csv --proxy Density --out s.csv", "{d}/ragged.csv: cannot be read as CSV"),
    "binary table": ("score {d}/binary.csv --proxy Density --out s.csv", "{d}/binary.csv"),
    "table is cut off": (
        "score {d}/half.parquet --proxy Density --out s.csv",
        "{d}/half.parquet: cannot be read as parquet",
    ),
    "table is a pickle": (
        "score {d}/pickle.parquet --proxy Density --out s.csv",
        "{d}/pickle.parquet: cannot be read as parquet",
    ),
    "table of another kind": (
        "score {d}/table.xlsx --proxy Density --out s.csv",
        "the name of a table must end in .csv, .parquet, .pq, not in '.xlsx'",
    ),
    "unknown proxy": (
        "score {d}/good.csv --proxy Desnity --out s.csv",
        "--proxy: unknown proxy 'Desnity'; registered: ",
    ),
    "weights for a proxy without": (SCORE + "--weights {d}/other.pt", "--weights: Density takes no weights"),
    "missing weights": (
        "score {d}/good.csv --proxy FormationEnergy --out s.csv --weights absent.pt",
        "absent.pt: no such file of weights",
    ),
    "hostile weights": (
        "score {d}/good.csv --proxy FormationEnergy --out s.csv --weights {d}/hostile.pt",
        "{d}/hostile.pt: cannot be read as",
    ),
    "weights are a pickle": (
        "score {d}/good.csv --proxy FormationEnergy --out s.csv --weights {d}/pickle.pt",
        "{d}/pickle.pt: cannot be read as",
    ),
    "other weights": (
        "score {d}/good.csv --proxy FormationEnergy --out s.csv --weights {d}/other.pt",
        "{d}/other.pt: holds 'something else', not a",
    ),
    "column is taken": (
        "score {d}/twice.csv --proxy Density --out s.csv",
        "already has column(s) density; rename them first",
    ),
    "scores below a file": (
        "score {d}/good.csv --proxy Density --out {d}/file/s.csv",
        "{d}/file/s.csv: cannot be written",
    ),
    # train-proxy
    "no table to train on": (TRAIN + "--data.label formation_energy", "data.path"),
    "label is no column": (TRAIN + "--data.path {d}/good.csv --data.label gap", "missing column(s) gap"),
    "labels are missing": (
        TRAIN + "--data.path {d}/no_label.csv --data.label formation_energy",
        "formation_energy",
        "a finite number",
    ),
    "row to train on": (
        TRAIN + "--data.path {d}/group.csv --data.label formation_energy",
        "row 2",
        "column space_group: value '231'",
        "allowed: a whole number from 1 to 230",
    ),
    "name of another column": (
        TRAIN + "--data.path {d}/good.csv --data.label formation_energy --property_name oxidation_states",
        "property_name: 'oxidation_states' is not allowed; tables use a column of this name for something else",
    ),
    "unknown option of train-proxy": (TRAIN + "--datta.path {d}/good.csv", "did you mean --data.path?"),
    "config of train-proxy": (
        "train-proxy --config {d}/broken.yaml",
        "config: {d}/broken.yaml is not a valid YAML file",
    ),
    # build-hull
    "hull of no table": ("build-hull absent.csv --out hull.pt", "absent.csv: no such file"),
    "hull without label": ("build-hull {d}/good.csv --out hull.pt --label energy", "missing column(s) energy"),
    "hull of unknown elements": (HULL + "--elements Xx", "elements: unknown element(s) Xx; allowed: symbols"),
    "hull of unknown elements in a list": (HULL + "--elements [Na,Xx]", "elements: unknown element(s) Xx; allowed"),
    "hull of unknown elements with commas": (HULL + "--elements Na,Xx", "elements: unknown element(s) Xx; allowed"),
    "hull of an empty list": (HULL + "--elements []", "argument --elements: [] is not allowed"),
    "hull with an unknown option": (HULL + "--elemnts Na", "did you mean --elements?"),
    "hull of no elements": (HULL + "--max_elements 0", "max_elements", "0"),
    # evaluate
    "evaluate no table": ("evaluate absent.csv", "absent.csv: no such file"),
    "report below a file": (EVALUATE + "--out {d}/file/report", "{d}/file/report"),
    "samples without a name": (
        EVALUATE + "--samples {d}/good.csv",
        "--samples: '{d}/good.csv' is not allowed; it must be NAME=TABLE",
    ),
    "name is taken": (EVALUATE + "--samples samples={d}/good.csv", "the name 'samples' is taken; choose another one"),
    "unknown property": (EVALUATE + "--properties gap", "gap"),
    "unknown properties in a list": (EVALUATE + "--properties [formation_energy,gap]", "'gap'"),
    "unknown oxidation states": (
        EVALUATE + "--oxidation-states mine",
        "mine",
        "allowed: pymatgen_common, pymatgen_icsd",
    ),
    "weights without proxy": (EVALUATE + "--weights {d}/other.pt", "--weights: needs --proxy"),
    "structures of nothing": (EVALUATE + "--structures absent", "absent"),
    # build
    "build no table": ("build absent.csv --out structures", "absent.csv: no such file"),
    "no tries": (BUILD + "--tries 0", "--tries: 0 is not allowed; it must be at least 1"),
    "no jobs": (BUILD + "--jobs 0", "jobs", "0"),
    "unknown backend": (BUILD + "--backend slurm", "slurm", "loky"),
    "unknown column": (
        BUILD + "--proxy-column gap",
        "--proxy-column: {d}/good.csv has no column 'gap'; it has: formula",
    ),
    "structures below a file": ("build {d}/good.csv --out {d}/file/out", "{d}/file/out"),
    "unknown relaxation": (BUILD + "--relax hard", "unrecognized arguments: hard"),
    "references are no JSON": (BUILD + "--element-references {d}/bad.json", "bad.json"),
    # judge
    "judge nothing": ("judge absent --out judged", "absent: no such file or folder"),
    "judge a table without structures": ("judge {d}/good.csv --out judged", "missing column(s) cif"),
    "judge no extxyz": (JUDGE.replace("good.csv", "bad.xyz"), "{d}/bad.xyz: cannot be read as extxyz"),
    "judge by nobody": (JUDGE.replace("good.csv", "salt.cif") + "--potential none", "'none' is not allowed", "CHGNet"),
    "judge no crystal": (JUDGE + "--n 0", "--n: 0 is not allowed; it must be at least 1"),
    "judge a source of no database": (JUDGE + "--source final", "--source: only for a database"),
    "judge an unknown database": ("judge absent.db --out judged", "absent.db: no such database"),
    "judge against nothing": (JUDGE_CIF + "--reference absent", "--reference: absent: no such file or folder"),
    "judge on no hull": (JUDGE_CIF + "--hull absent.pt", "absent.pt: no such file with a hull"),
    "judge without references": (
        JUDGE_CIF + "--potential AseCalculator:ase.calculators.lj.LennardJones",
        "--element-references: no references come with AseCalculator",
    ),
    # label
    "no such labels": ("label --db absent.db", "absent.db: no such database"),
    "labels in a text": ("label {d}/good.csv --db {d}/bad.json", "{d}/bad.json: file is not a database"),
    "labels below a file": ("label {d}/good.csv --db {d}/file/labels.db", "{d}/file/labels.db: cannot be written"),
    "labels of no table": ("label absent.csv --db labels.db", "absent.csv: no such file"),
    "labels of no config": ("label --db labels.db --random 3", "--random: needs --config"),
    "labels of an unknown server": ("label {d}/good.csv --db mysql://host/labels", "is not allowed; allowed: a file"),
    "random without number": ("label --db labels.db --random some", "invalid int value: 'some'"),
    # discover
    "discover nothing": ("discover", "fit"),
    "discover with an unknown option": ("discover --roundz 3", "did you mean --rounds?"),
    "discover by a missing config": ("discover --config absent.yaml", "config: there is no file absent.yaml"),
    "discover with an unknown setting": ("discover --config {d}/discover_word.yaml", "round"),
    "discover without a model": (
        "discover --config {d}/discover_nothing.yaml",
        "fit: needs the settings of 'crystalgfn fit': model",
    ),
    "discover with another proxy": (
        "discover --config {d}/discover_density.yaml",
        "fit.model.proxy: needs Energy",
    ),
    "discover in a grid": ("discover --config {d}/discover_grid.yaml", "fit"),
    "discover with an unknown loss": ("discover --config {d}/discover_loss.yaml", "fit: ", "NoLoss"),
    "word for rounds": (DISCOVER + "--rounds many", "rounds", "many"),
    "negative rounds": (DISCOVER + "--rounds -1", "rounds: -1 is not allowed; it must be at least 0"),
    "no steps": (DISCOVER + "--steps 0", "steps: 0 is not allowed; it must be at least 1"),
    "unknown share": (DISCOVER + "--screen.random_share 1.5", "screen.random_share: 1.5 is not allowed"),
    "no pool": (DISCOVER + "--screen.pool 0", "screen.pool: 0 is not allowed"),
    "unknown part": (DISCOVER + "--screen.share 0.5", "share"),
    "no cap": (DISCOVER + "--label.cap 0", "label.cap: 0.0 is not allowed; it must be a positive number"),
    "no jobs to discover with": (DISCOVER + "--label.jobs 0", "label.jobs: 0 is not allowed; it must be at least 1"),
    "no time to label": (
        DISCOVER + "--label.timeout 0",
        "label.timeout: 0.0 is not allowed; it must be a positive number",
    ),
    "backend to label": (
        DISCOVER + "--label.backend slurm",
        "label.backend: 'slurm' is not allowed; allowed: loky, dask",
    ),
    "no hours": (DISCOVER + "--budget.hours 0", "budget.hours: 0.0 is not allowed"),
    "no tuning steps": (DISCOVER + "--tuning.steps 0", "tuning.steps: 0 is not allowed"),
    "real without a table": (DISCOVER + "--start.real 3", "start.real: needs a table of known crystals; set known"),
    "skip without a table": (DISCOVER + "--screen.skip_known true", "screen.skip_known: needs a table"),
    "known is not there": (DISCOVER + "--known absent.csv", "known: there is no file absent.csv"),
    "known without energies": (DISCOVER + "--known {d}/column.csv", "missing column(s) gamma"),
    "out is a file": (DISCOVER + "--out {d}/file", "out: {d}/file is a file; give a folder"),
    "out holds something else": (DISCOVER + "--out {d}/run", "{d}/run is not empty and holds no discovery run"),
    "labels of discover in a text": (DISCOVER + "--database {d}/bad.json", "{d}/bad.json: file is not a database"),
    # tune-proxy
    "tune with nothing": ("tune-proxy", "new"),
    "tune with no table": (TUNE + "--new absent.csv", "absent.csv: no such file"),
    "tune without labels": (TUNE + "--new {d}/column.csv", "missing column(s) gamma"),
    "tune other weights": (TUNE + "--new {d}/good.csv --weights {d}/other.pt", "{d}/other.pt: holds 'something else'"),
    # discovery-page
    "page of nothing": ("discovery-page", "the following arguments are required: --db"),
    "page of no database": (PAGE + "--db absent.db", "absent.db: no such database"),
    "page of a text": (PAGE + "--db {d}/bad.json", "{d}/bad.json: file is not a database"),
    "page of none": (PAGE + "--db absent.db --top 0", "--top: 0 is not allowed; it must be at least 1"),
    # the others
    "no references": ("references absent.csv absent.csv --out r.json", "absent.csv"),
    "unknown data set": ("import-matbench matbench_mp_energy --out t.csv --file {d}/bad.json", "matbench_mp_energy"),
    "data set of no file": ("import-matbench matbench_mp_gap --out t.csv --file absent.json.gz", "absent.json.gz"),
    "likelihood of no table": ("likelihood --ckpt_path {ckpt} absent.csv --out l.csv", "absent.csv"),
    "likelihood of no model": ("likelihood --ckpt_path absent.ckpt {d}/good.csv --out l.csv", "absent.ckpt"),
}
"""The command, with places in braces, and what the message says."""


def test_all_commands_have_cases():
    assert {line.split()[0] for line, *_ in CASES.values() if line} >= set(COMMANDS)


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name, places, tmp_path, monkeypatch, capfd):
    line, *words = (text.format(**places) for text in CASES[name])
    monkeypatch.chdir(tmp_path)
    before = sorted(places["d"].rglob("*"))
    status = main(line.split())
    out, text = capfd.readouterr()
    if os.environ.get("SHOW"):
        print(f"\n## {name}: crystalgfn {line}\n{status} {text}")
    assert status not in (0, None)
    for word in words:
        assert word in (text or out)
    assert "Traceback" not in text
    # Nothing is left behind but the settings of a run that began, and nothing in a file was run.
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "config.yaml"]
    assert sorted(places["d"].rglob("*")) == before
    if name == "restriction in training":
        assert not list(tmp_path.iterdir())
