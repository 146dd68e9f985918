"""Config files in layers, and class paths of older versions."""

import pytest
import yaml

from crystalgfn.errors import InputError
from crystalgfn.settings import current, current_class_path, merged, read_config, take_configs


def write(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder


def test_a_later_layer_changes_an_earlier_one():
    assert merged([{"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"c": 3}, "d": [2]}]) == {"a": {"b": 1, "c": 3}, "d": [2]}


def test_another_class_drops_the_arguments_of_the_class_before():
    adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": 1, "eps": 2}}
    assert merged([{"o": adam}, {"o": {"class_path": "AdamW"}}]) == {"o": {"class_path": "AdamW"}}
    assert merged([{"o": adam}, {"o": {"class_path": "Adam", "init_args": {"lr": 3}}}])["o"] == {
        "class_path": "Adam",
        "init_args": {"lr": 3, "eps": 2},
    }
    assert merged([{"o": adam}, {"o": {"init_args": {"lr": 3}}}])["o"]["init_args"] == {"lr": 3, "eps": 2}
    assert merged([{"o": {"a": 1}}, {"o": {"class_path": "Adam"}}]) == {"o": {"class_path": "Adam"}}


def test_a_class_in_a_list_replaces_the_list_and_a_plus_adds_to_it():
    assert merged([{"p": [{"a": 1}]}, {"p": {"class_path": "A"}}]) == {"p": {"class_path": "A"}}
    assert merged([{"c": [1]}, {"c+": [2]}, {"c+": [3]}]) == {"c": [1, 2, 3]}
    assert merged([{"x": {"c": [1]}}, {"x": {"c+": [2]}}]) == {"x": {"c": [1, 2]}}


def test_layers_leave_what_they_are_made_of_alone():
    first, second = {"a": {"b": [1]}}, {"a": {"c": 1}}
    merged([first, second])["a"]["b"].append(2)
    assert first == {"a": {"b": [1]}}


def test_a_config_names_its_base(tmp_path):
    write(tmp_path, low={"a": 1, "b": 1}, mid={"base": "low.yaml", "b": 2}, top={"base": ["mid.yaml"], "c": 3})
    assert read_config(tmp_path / "top.yaml") == {"a": 1, "b": 2, "c": 3}
    write(tmp_path, loop={"fit": {"base": "top.yaml", "c": 4}, "seed": 0})
    assert read_config(tmp_path / "loop.yaml") == {"fit": {"a": 1, "b": 2, "c": 4}, "seed": 0}


def test_a_base_may_be_a_shipped_config(tmp_path):
    write(tmp_path, own={"base": "eform.yaml", "model": {"seed": 7}})
    model = read_config(tmp_path / "own.yaml")["model"]
    assert model["seed"] == 7 and model["proxy"] == {"class_path": "FormationEnergy"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"base": "own.yaml"}, "own.yaml is a base of itself"),
        ({"base": 3}, "base: 3 is not allowed; it must be a file or a list of files"),
        ({"base": "absent.yaml"}, "there is no file absent.yaml"),
        ({"modle": {}}, "there is no setting 'modle'; allowed: base, model"),
    ],
)
def test_what_is_refused(content, message, tmp_path):
    write(tmp_path, own=content)
    with pytest.raises(InputError, match=message):
        read_config(tmp_path / "own.yaml", ["model"])


def test_several_configs_are_one(tmp_path):
    write(tmp_path, a={"model": {"reward": {"class_path": "A", "init_args": {"x": 1}}}}, b={"model": {"seed": 1}})
    write(tmp_path, c={"model": {"reward": {"class_path": "B"}}})
    files = [str(tmp_path / f"{name}.yaml") for name in "abc"]
    settings, others = take_configs(["--config", files[0], "--x", "1", f"--config={files[1]}", "--config", files[2]])
    assert settings == {"model": {"reward": {"class_path": "B"}, "seed": 1}}
    assert others == ["--x", "1"]
    with pytest.raises(InputError, match="--config needs a file"):
        take_configs(["--config"])


def test_class_paths_of_older_versions():
    assert current_class_path("crystalgfn.envs.crystal.Crystal") == "Crystal"
    assert current_class_path("crystalgfn.rewards.Boltzmann") == "Boltzmann"
    assert current_class_path("--model.env=crystalgfn.envs.Crystal") == "--model.env=Crystal"
    assert current_class_path("crystalgfn.callbacks.Checkpoints") == "crystalgfn.callbacks.Checkpoints"
    assert current_class_path("crystalgfn.crystal.envs.Crystal") == "crystalgfn.crystal.envs.Crystal"
    for other in ("my_module.Crystal", "Crystal", "--seed=1", "crystalgfn", "crystalgfn.yaml!"):
        assert current_class_path(other) == other
    old = {
        "model": {"proxy": [{"class_path": "crystalgfn.proxies.base.Density", "init_args": {"a": "crystalgfn.x.Y"}}]}
    }
    assert current(old)["model"]["proxy"] == [{"class_path": "Density", "init_args": {"a": "crystalgfn.x.Y"}}]
