"""Registries and plugins."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from crystalgfn import registry
from crystalgfn.registry import ENVIRONMENTS, LOSSES, POLICIES, POTENTIALS, PROXIES, REWARDS, Registry, load_plugins


class Apple:
    """A fruit.

    With more to say about it.
    """


class Plain:
    pass


def _fruits() -> Registry[Any]:
    fruits: Registry[Any] = Registry("fruit")
    assert fruits.register(Apple) is Apple
    fruits.register(Plain)
    return fruits


def test_names() -> None:
    fruits = _fruits()
    assert list(fruits) == ["Apple", "Plain"] and len(fruits) == 2
    assert "Apple" in fruits and "Pear" not in fruits
    assert fruits.get("Apple") is Apple


def test_unknown_name() -> None:
    with pytest.raises(KeyError, match=r"unknown fruit 'Pear'; registered: Apple, Plain"):
        _fruits().get("Pear")


def test_summary() -> None:
    assert _fruits().summary("Apple") == "A fruit."
    assert _fruits().summary("Plain") == ""


def test_two_classes_of_one_name() -> None:
    other = type("Apple", (), {"__module__": "orchard"})
    with pytest.raises(ValueError, match=r"two fruit classes are called 'Apple': .*test_registry and orchard"):
        _fruits().register(other)


def test_a_module_may_be_loaded_again() -> None:
    fruits = _fruits()
    again = type("Apple", (), {"__module__": Apple.__module__})
    fruits.register(again)
    assert fruits.get("Apple") is again and len(fruits) == 2


def test_built_in_classes() -> None:
    from crystalgfn.plugins import load_everything

    load_everything()
    importlib.import_module("crystalgfn.atoms.potentials")
    assert {"Crystal", "HyperGrid"} <= set(ENVIRONMENTS)
    assert {"Density", "HyperGridModes"} <= set(PROXIES)
    assert {"Boltzmann", "Power", "Identity"} <= set(REWARDS)
    assert {"MLP"} <= set(POLICIES)
    assert {"TrajectoryBalance", "DetailedBalance", "FlowMatching"} <= set(LOSSES)
    assert {"CHGNet", "SevenNet", "AseCalculator"} <= set(POTENTIALS)
    for names in (ENVIRONMENTS, PROXIES, REWARDS, POLICIES, LOSSES, POTENTIALS):
        for name in names:
            assert names.summary(name), f"{names.kind} {name} has no docstring"


def test_plugins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "good_plugin.py").write_text(
        "from crystalgfn.registry import PROXIES\n\n\n@PROXIES.register\nclass FromPlugin:\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(PROXIES, "_classes", dict(PROXIES._classes))
    points = [
        EntryPoint("broken", "no_such_module_anywhere", registry.PLUGIN_GROUP),
        EntryPoint("good", "good_plugin", registry.PLUGIN_GROUP),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == registry.PLUGIN_GROUP else [])
    with pytest.warns(UserWarning, match=r"plugin 'broken' \(no_such_module_anywhere\) could not be imported"):
        assert load_plugins() == ["good"]
    assert "FromPlugin" in PROXIES
    monkeypatch.delitem(sys.modules, "good_plugin")
