"""Fills the registries: the classes of this package, then those of installed plugins."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from crystalgfn.registry import ENVIRONMENTS, LOSSES, POLICIES, PROXIES, REWARDS, Registry, load_plugins


def load_everything() -> tuple[Registry[Any], ...]:
    """Import all classes that a config can name.

    Modules in the current folder can be named too; it comes last in the search path, so that it hides none.

    Returns:
        the registries: environments, proxies, rewards, policies, losses.
    """
    import crystalgfn.envs
    import crystalgfn.gflownet.losses
    import crystalgfn.gflownet.policies
    import crystalgfn.proxies
    import crystalgfn.gflownet.rewards  # noqa: F401 - importing registers

    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    load_plugins()
    return ENVIRONMENTS, PROXIES, REWARDS, POLICIES, LOSSES
