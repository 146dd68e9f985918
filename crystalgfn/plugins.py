"""Fills the registries: the classes of this package, then those of installed plugins."""

from __future__ import annotations

from typing import Any

from crystalgfn.registry import ENVIRONMENTS, POLICIES, PROXIES, REWARDS, Registry, load_plugins


def load_everything() -> tuple[Registry[Any], ...]:
    """Import all classes that a config can name.

    Returns:
        the registries: environments, proxies, rewards, policies.
    """
    import crystalgfn.envs
    import crystalgfn.policies
    import crystalgfn.proxies
    import crystalgfn.rewards  # noqa: F401 - importing registers

    load_plugins()
    return ENVIRONMENTS, PROXIES, REWARDS, POLICIES
