"""Import all classes that a config can name: those of this package, then those of installed plugins."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from crystalgfn.registry import ENVIRONMENTS, LOSSES, POLICIES, PROXIES, REWARDS, Registry, load_plugins

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
