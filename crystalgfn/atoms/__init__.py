"""Place atoms in sampled crystals, and relax and evaluate them with a potential. Needs ``crystalgfn[structures]``."""

from __future__ import annotations

from importlib.util import find_spec

from crystalgfn.errors import InputError

EXTRA = ("chgnet", "ase", "joblib")
"""Packages of the optional extra ``structures``."""


def require_extra(packages: tuple[str, ...] = EXTRA, install: str = "crystalgfn[structures]") -> None:
    """Check that the optional packages are installed, without importing them.

    Args:
        packages: names of the packages, as they are imported.
        install: what to install with pip.

    Raises:
        InputError: if a package is missing; the message says what to install.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise InputError(f"{', '.join(missing)} not installed; structures need: pip install '{install}'")
