"""Import all classes that a config can name: those of this package, then those of installed plugins.

A config may also name classes of the user's own. A checkpoint may not, unless the user says so: it may come from a
stranger.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from crystalgfn.errors import InputError
from crystalgfn.registry import (
    ENVIRONMENTS,
    LOSSES,
    PLUGIN_GROUP,
    POLICIES,
    PROXIES,
    REWARDS,
    Registry,
    load_plugins,
)

ROOMS = (
    "crystalgfn.gflownet.envs",
    "crystalgfn.crystal.envs",
    "crystalgfn.gflownet.losses",
    "crystalgfn.gflownet.policies",
    "crystalgfn.gflownet.proxies",
    "crystalgfn.proxies",
    "crystalgfn.gflownet.rewards",
)
"""Modules that register the package's own classes when they are imported. They are listed by name, so that this module
does not depend on them and each of them can import this module."""


def load_everything() -> tuple[Registry[Any], ...]:
    """Import all classes that a config can name.

    A config can also name modules in the current folder. The folder is added at the end of the search path, so that its
    modules do not hide other modules.

    Returns:
        the registries: environments, proxies, rewards, policies, losses.
    """
    for room in ROOMS:
        import_module(room)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    load_plugins()
    return ENVIRONMENTS, PROXIES, REWARDS, POLICIES, LOSSES


# What a checkpoint may name

_REGISTERED = {
    "model.env": ENVIRONMENTS,
    "model.proxy": PROXIES,
    "model.reward": REWARDS,
    "model.policy": POLICIES,
    "model.loss": LOSSES,
}
"""Settings that name a registered class."""

_PACKAGES = {
    "model.prior": ("crystalgfn.gflownet.prior",),
    "model.replay": ("crystalgfn.gflownet.replay",),
    "model.data_set": ("crystalgfn.gflownet.data_set",),
    "trainer.accelerator": ("pytorch_lightning.accelerators",),
    "trainer.callbacks": ("crystalgfn.callbacks", "pytorch_lightning.callbacks"),
    "trainer.logger": ("pytorch_lightning.loggers",),
    "trainer.plugins": ("pytorch_lightning.plugins",),
    "trainer.profiler": ("pytorch_lightning.profilers",),
    "trainer.strategy": ("pytorch_lightning.strategies",),
}
"""Settings that name a class of these packages, or of an installed plugin."""

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_FILES = ("ckpt", "csv", "json", "parquet", "pq", "pt", "yaml", "yml")
"""Endings of file names, which look like class paths."""


def foreign_classes(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Class paths in settings that name no class of this package, of Lightning or of an installed plugin.

    Nothing is imported or called to find out, except for this package, Lightning and installed plugins. Values that are
    no class paths for certain, but would be imported where a class is expected, count too.

    Args:
        settings: model, data, trainer and others, as a checkpoint holds them.

    Returns:
        for each such class path the setting that names it, such as ``model.proxy``, and the path.
    """
    load_everything()
    found: dict[tuple[str, str], None] = {}
    for place, text in texts(settings):
        names = [name for name in place.split(".") if not name.isdigit()]  # without places in lists
        part, setting, is_class = names[0], ".".join(names[:2]), names[-1] == "class_path"
        is_own = len(names) == 2 + is_class  # the setting itself, not an argument of its class
        if is_class or (is_own and setting in _REGISTERED):
            is_foreign = not _is_known(text, setting if is_own else "")
        else:
            is_foreign = part != "data" and _would_import(text)  # texts of ``data`` are file names
        if is_foreign:
            found[setting, text] = None
    return list(found)


def texts(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """All texts in settings, each with its place, such as ``model.proxy.init_args.hull``; paths count as texts."""
    if isinstance(value, str | Path):
        yield place, str(value)
    elif isinstance(value, Mapping | list | tuple):
        entries = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, inner in entries:
            yield from texts(inner, f"{place}.{key}" if place else str(key))


def is_known(name: str) -> bool:
    """Whether a class that settings can name has this short name."""
    packages = {package for names in _PACKAGES.values() for package in names}
    return any(name in registry for registry in load_everything()) or any(
        isinstance(getattr(import_module(package), name, None), type) for package in packages
    )


def _is_known(path: str, place: str) -> bool:
    """Whether a class path names a class that this setting may have; an empty place stands for any registered class."""
    module, _, name = path.rpartition(".")
    if not module and name.isidentifier():  # the parser finds short names among classes that are imported already
        return True
    for registry in [_REGISTERED[place]] if place in _REGISTERED else [] if place else list(_REGISTERED.values()):
        if name in registry and getattr(sys.modules.get(module), name, None) is registry.get(name):
            return True
    if place in _REGISTERED:
        return False
    plugins = {point.module.partition(".")[0] for point in entry_points(group=PLUGIN_GROUP)}
    if module.partition(".")[0] in plugins:
        return isinstance(getattr(sys.modules.get(module), name, None), type)
    packages = [package for p, names in _PACKAGES.items() if p == place or not place for package in names]
    return any(
        (module == package or module.startswith(f"{package}."))
        and isinstance(getattr(import_module(package), name, None), type)
        for package in packages
    )


def _would_import(text: str) -> bool:
    """Whether a parser that expects a class would import a module for this text."""
    if not _DOTTED.fullmatch(text) or _is_known(text, ""):
        return False
    top, ending = text.partition(".")[0], text.rpartition(".")[2]
    if PathFinder.find_spec(top, [str(Path.cwd())]) is not None:
        return True
    return ending not in _FILES and find_spec(top) is not None


def check_policy(path: str) -> None:
    """Refuse a class path of the setting ``policy`` that is no policy, before anything is called.

    For all other settings the parser checks the base class itself. A policy is made later, by the model.

    Raises:
        InputError: if it cannot be imported or is no subclass of `crystalgfn.Policy`.
    """
    module, _, name = path.rpartition(".")
    try:
        found = POLICIES.get(name) if not module else getattr(import_module(module), name)
    except (ImportError, AttributeError, KeyError) as error:
        raise InputError(f"model.policy: {path!r} cannot be imported: {error}") from None
    base = import_module("crystalgfn.gflownet.policies").Policy
    if not (isinstance(found, type) and issubclass(found, base)):
        raise InputError(
            f"model.policy: {path!r} is not allowed; it must be a subclass of crystalgfn.Policy, such as "
            f"{', '.join(POLICIES)}"
        )
