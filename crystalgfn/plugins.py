"""Imports everything that a config can name: this package's classes, then those of installed plugins."""

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
"""Modules whose import registers the package's own classes. Named as text, as plugins name theirs: this module imports
no room, and every room may use it."""


def load_everything() -> tuple[Registry[Any], ...]:
    """Import all classes that a config can name.

    Modules in the current folder can be named too; it comes last in the search path, so that it hides none.

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
