"""Classes chosen by name: environments, proxies and whatever else a config names.

A class enters a registry with a decorator::

    @PROXIES.register
    class Density(Proxy):
        \"\"\"Mass density of the cell.\"\"\"

Its name is the class name, the same short name that YAML uses in ``class_path``. Third parties publish modules
under the entry-point group ``crystalgfn.plugins``; `load_plugins` imports them, which registers their classes.
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
    """Named classes of one kind, in order of registration.

    Args:
        kind: what the classes are, in the singular; used in messages.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._classes: dict[str, T] = {}

    def register(self, cls: T) -> T:
        """Add a class under its own name; for use as a decorator.

        Raises:
            ValueError: if another class has the name already.
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
            KeyError: if there is none; the message lists what there is.
        """
        if name not in self._classes:
            raise KeyError(f"unknown {self.kind} {name!r}; registered: {', '.join(self._classes)}")
        return self._classes[name]

    def summary(self, name: str) -> str:
        """First line of the class's own docstring, or an empty string."""
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


def load_plugins() -> list[str]:
    """Import every installed plugin.

    A plugin that fails to import is a warning that names it: one broken plugin must not stop the others.

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
