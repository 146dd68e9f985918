"""The plan of the house: which room may import which, no circles, and a light front door."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FLOORS = (
    ("files", "checks", "cache", "errors", "random", "registry", "plugins", "settings", "crystalgfn"),
    ("gflownet",),
    ("crystal",),
    ("proxies",),
    ("atoms",),
    ("evaluation",),
    ("judging",),
    ("callbacks",),
    ("runs",),
    ("discovery",),
    ("commands",),
    ("cli",),
    ("__main__",),
)
"""Rooms from the ground up; each may import rooms of lower floors. Small tools share the ground floor."""

TESTING = "testing"
"""Contract suites: they may use what they test, and nothing uses them."""


def modules() -> dict[str, Path]:
    """All modules of the package by name."""
    found = {}
    for path in [*ROOT.glob("crystalgfn/**/*.py"), *ROOT.glob("callbacks/*.py")]:
        parts = [*path.relative_to(ROOT).with_suffix("").parts]
        parts = ["crystalgfn", *parts] if parts[0] == "callbacks" else parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(tree: ast.AST) -> Iterator[str]:
    """Names of everything that code imports when it runs, inside of functions too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from imported(node)


def arrows() -> dict[str, set[str]]:
    """For each module the modules of this package that it imports."""
    found = {}
    for name, path in MODULES.items():
        targets = set()
        for target in imported(ast.parse(path.read_text())):
            if target.partition(".")[0] == "crystalgfn":
                targets.add(target if target in MODULES else target.rpartition(".")[0])
        found[name] = targets - {name}
    return found


ARROWS = arrows()


def room(module: str) -> str:
    """The room of a module."""
    return module.split(".")[1] if "." in module else module


def test_every_room_has_a_floor():
    assert {room(name) for name in MODULES} == {name for floor in FLOORS for name in floor} | {TESTING}


def test_arrows_point_down():
    floor_of = {name: number for number, floor in enumerate(FLOORS) for name in floor}
    wrong = [
        f"{name} imports {target}"
        for name, targets in ARROWS.items()
        for target in targets
        if room(name) != room(target) and TESTING not in (room(name), room(target))
        if floor_of[room(target)] > floor_of[room(name)] or (floor_of[room(target)] == floor_of[room(name)] != 0)
    ]
    assert not wrong


def test_nothing_uses_the_contract_suites_and_only_they_use_pytest():
    assert not [f"{name} imports {t}" for name, ts in ARROWS.items() for t in ts if room(t) == TESTING != room(name)]
    for name, path in MODULES.items():
        uses = any(target.partition(".")[0] == "pytest" for target in imported(ast.parse(path.read_text())))
        assert not uses or room(name) == TESTING, name


def test_no_module_is_in_a_circle():
    """Not even through imports that wait in functions. A package stands for what its __init__ imports."""
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        if name in way:
            pytest.fail(" -> ".join([*way[way.index(name) :], name]))
        if name in done:
            return
        for target in sorted(ARROWS[name]):
            # The front door names its rooms as text; its types are imported for type checkers alone.
            if target != "crystalgfn":
                visit(target, (*way, name))
        done.add(name)

    for name in MODULES:
        visit(name, ())


def test_the_top_level_is_short():
    assert len(list((ROOT / "crystalgfn").glob("*.py"))) <= 12


def test_the_front_door_is_light():
    """Names are there, and importing the package imports none of the heavy libraries."""
    code = (
        "import sys, crystalgfn\n"
        "assert not {'torch', 'numpy', 'pandas', 'pymatgen', 'pytorch_lightning'} & set(sys.modules)\n"
        "missing = [name for name in crystalgfn.__all__ if getattr(crystalgfn, name, None) is None]\n"
        "assert not missing and 'chgnet' not in sys.modules and 'pytest' not in sys.modules, missing\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
