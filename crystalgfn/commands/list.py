"""``crystalgfn list``: show the registered classes, which can be named in a config or a command."""

from __future__ import annotations

from typing import Any

from crystalgfn.commands.options import Parser
from crystalgfn.registry import Registry


def main(args: list[str]) -> int:
    """Print every registered class with the first line of its docstring.

    Args:
        args: what follows ``list``: nothing, or ``--help``.

    Returns:
        exit status 0.
    """
    parser = Parser(
        prog="crystalgfn list",
        description="Show the registered environments, proxies, rewards, policies, losses and potentials.",
    )
    parser.parse_args(args)
    import crystalgfn.atoms.potentials  # noqa: F401 - registers the package's own potentials
    from crystalgfn.plugins import load_everything
    from crystalgfn.registry import POTENTIALS

    for registry in (*load_everything(), POTENTIALS):
        print(_section(registry))
    return 0


def _section(registry: Registry[Any]) -> str:
    width = max((len(name) for name in registry), default=0)
    return "\n".join([f"{registry.kind}:", *(f"  {name:<{width}}  {registry.summary(name)}" for name in registry), ""])
