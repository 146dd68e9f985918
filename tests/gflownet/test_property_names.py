"""Names of properties: letters, digits and _, and no other column of the tables."""

import pandas as pd
import pytest
import torch
from bad_proxies import Named
from helpers import make_crystal
from small import checkpoint_of, small_config, write_config

from crystalgfn.callbacks.sample_writer import samples_frame
from crystalgfn.cli import main
from crystalgfn.crystal.crystals import OXIDATION_STATES
from crystalgfn.crystal.tables import CRYSTAL_COLUMNS
from crystalgfn.errors import InputError
from crystalgfn.gflownet.envs import Box, HyperGrid, Stack
from crystalgfn.gflownet.proxies import ProxySet
from crystalgfn.gflownet.proxies.names import RESERVED, check_property_name, is_property_name


@pytest.mark.parametrize("name", ["density", "a_1", "_x", "B2"])
def test_names(name):
    assert is_property_name(name)
    check_property_name("name", name, CRYSTAL_COLUMNS)


@pytest.mark.parametrize("name", ["", "band gap", "1a", "a-b", "a.b", "a,b", "=a", "größe", "a\n", None, 3])
def test_no_names(name):
    with pytest.raises(InputError, match=r"name: .* is not allowed; allowed: letters, digits and _"):
        check_property_name("name", name)


@pytest.mark.parametrize("name", [*CRYSTAL_COLUMNS, OXIDATION_STATES, *RESERVED, "density_uncertainty"])
def test_names_of_other_columns(name):
    with pytest.raises(InputError, match=f"name: '{name}' is not allowed; tables use a column of this name"):
        check_property_name("name", name, (*CRYSTAL_COLUMNS, OXIDATION_STATES))
    with pytest.raises(InputError, match=f"proxy Named: name: '{name}' is not allowed"):
        ProxySet(Named(name), (*CRYSTAL_COLUMNS, OXIDATION_STATES))


def test_columns_of_environments():
    assert make_crystal(space_groups=[225], elements=["Li", "F"]).columns() == [*CRYSTAL_COLUMNS, OXIDATION_STATES]
    assert HyperGrid(2, 4).columns() == ["x0", "x1"]
    assert Stack({"first": HyperGrid(2, 4), "second": Box(1)}).columns() == ["first_x0", "x1", "second_x0"]


@pytest.mark.parametrize("name", ["a", "formula", "band gap", "log_pf"])
def test_fit_refuses_a_name(name, tmp_path, capsys):
    config = small_config(tmp_path)
    config["model"]["proxy"] = {"class_path": "bad_proxies.Named", "init_args": {"name": name}}
    assert main(["fit", "--config", str(write_config(tmp_path, config))]) == 2
    assert f"proxy Named: name: {name!r} is not allowed" in capsys.readouterr().err
    assert not checkpoint_of(tmp_path).exists() and not (tmp_path / "small").exists()


def test_score_refuses_a_name(tmp_path, monkeypatch, capsys):
    from crystalgfn.registry import PROXIES

    class Length(Named):
        def __init__(self) -> None:
            super().__init__("oxidation_states")

    monkeypatch.setitem(PROXIES._classes, "Length", Length)
    lengths = {"a": 4.0, "b": 4.0, "c": 4.0, "alpha": 90, "beta": 90, "gamma": 90}
    pd.DataFrame({"formula": ["Li4 F4"], "space_group": 225, **lengths}).to_csv(tmp_path / "t.csv", index=False)
    out = tmp_path / "s.csv"
    assert main(["score", str(tmp_path / "t.csv"), "--proxy", "Length", "--out", str(out)]) == 2
    assert "--proxy Length: name: 'oxidation_states' is not allowed" in capsys.readouterr().err and not out.exists()


def test_a_table_never_overwrites_a_column():
    """Also for an environment that shows its columns only with objects."""
    env = HyperGrid(2, 4)
    zero = torch.zeros(1, dtype=torch.float64)
    outputs = {"states": env.initial_states(1), "properties": zero[:, None], "log_reward": zero, "log_pf": zero}
    with pytest.raises(InputError, match="proxy: name: 'x1' is not allowed"):
        samples_frame(env, ProxySet(Named("x1")), outputs)
