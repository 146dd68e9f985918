"""Registries of classes that a config or a command can name: environments, proxies, rewards, potentials and others.

A decorator adds a class to a registry::

    @PROXIES.register
    class Density(Proxy):
        \"\"\"Mass density of the cell.\"\"\"

The class is registered under its own name, which a config uses as ``class_path``. A plugin is a module that an
installed package publishes under the entry-point group ``crystalgfn.plugins``; `load_plugins` imports these modules,
and the import registers their classes.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

T = TypeVar("T", bound=type)

PLUGIN_GROUP = "crystalgfn.plugins"


class Registry(Generic[T]):
    """Classes of one kind, by name, in the order of registration.

    Args:
        kind: the kind of class in the singular, such as ``proxy``; used in messages.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._classes: dict[str, T] = {}

    def register(self, cls: T) -> T:
        """Add a class under its own name; use it as a decorator.

        Args:
            cls: the class.

        Returns:
            the same class.

        Raises:
            ValueError: if a class of another module is already registered under this name.
        """
        known = self._classes.get(cls.__name__)
        if known is not None and known.__module__ != cls.__module__:
            raise ValueError(
                f"two {self.kind} classes are called {cls.__name__!r}: {known.__module__} and {cls.__module__}"
            )
        self._classes[cls.__name__] = cls
        return cls

    def get(self, name: str) -> T:
        """The class called ``name``.

        Raises:
            KeyError: if no class has this name; the message lists the registered names.
        """
        if name not in self._classes:
            raise KeyError(f"unknown {self.kind} {name!r}; registered: {', '.join(self._classes)}")
        return self._classes[name]

    def summary(self, name: str) -> str:
        """First line of the docstring of the class called ``name``; empty if it has none."""
        return (inspect.getdoc(self.get(name)) or "").partition("\n")[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def __contains__(self, name: object) -> bool:
        return name in self._classes


ENVIRONMENTS: Registry[Any] = Registry("environment")
PROXIES: Registry[Any] = Registry("proxy")
REWARDS: Registry[Any] = Registry("reward")
POLICIES: Registry[Any] = Registry("policy")
LOSSES: Registry[Any] = Registry("loss")
POTENTIALS: Registry[Any] = Registry("potential")


def load_plugins() -> list[str]:
    """Import every installed plugin.

    If a plugin cannot be imported, a warning names it, and the other plugins are still imported.

    Returns:
        the names of the plugins that were imported.
    """
    loaded = []
    for point in entry_points(group=PLUGIN_GROUP):
        try:
            point.load()
        except Exception as error:  # a plugin may raise anything
            warnings.warn(
                f"plugin {point.name!r} ({point.value}) could not be imported: {type(error).__name__}: {error}",
                stacklevel=2,
            )
        else:
            loaded.append(point.name)
    return loaded
