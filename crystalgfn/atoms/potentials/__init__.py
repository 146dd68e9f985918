"""Potentials: energies, forces and stresses of structures, and the elemental references of their energies."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import cast

import yaml

from crystalgfn.atoms.potentials.ase_calculator import AseCalculator
from crystalgfn.atoms.potentials.base import Evaluation, Potential
from crystalgfn.atoms.potentials.chgnet import CHGNet
from crystalgfn.atoms.potentials.sevennet import SevenNet
from crystalgfn.errors import InputError
from crystalgfn.registry import POTENTIALS, load_plugins

__all__ = ["DEFAULT", "AseCalculator", "CHGNet", "Evaluation", "Potential", "SevenNet", "make", "runs_named_class"]

DEFAULT = "CHGNet"
"""The potential that is used if none is named. Folders and databases of older versions name none."""


def runs_named_class(potential: Potential) -> bool:
    """Whether the name of a potential contains the path of a class, whose code runs if the potential is used."""
    return type(potential) is AseCalculator


@cache
def make(text: str = DEFAULT) -> Potential:
    """Make a potential from a text; later calls with the same text return the same potential.

    This imports no class that the text names; to use an `AseCalculator` does. Texts of files must not be used without
    `runs_named_class`.

    Args:
        text: the name of a registered class in any case; if needed with arguments after a colon, the first one without
            its name: ``chgnet``, ``sevennet:7net-0``, ``AseCalculator:ase.calculators.lj.LennardJones,sigma=3.4``.

    Raises:
        InputError: if there is no such class, or its arguments cannot be used.
    """
    here = str(Path.cwd())
    if here not in sys.path:  # a calculator may be in the current folder
        sys.path.append(here)
    name, _, rest = text.partition(":")
    classes = {known.lower(): known for known in POTENTIALS}
    if name.lower() not in classes:
        load_plugins()
        classes = {known.lower(): known for known in POTENTIALS}
    if name.lower() not in classes:
        raise InputError(f"potential: {text!r} is not allowed; allowed: {', '.join(POTENTIALS)}")
    words = rest.split(",") if rest else []
    first = words[:1] if words and "=" not in words[0] else []
    pairs = [word.partition("=") for word in words[len(first) :]]
    try:
        made = POTENTIALS.get(classes[name.lower()])(*first, **{key: yaml.safe_load(value) for key, _, value in pairs})
    except (TypeError, yaml.YAMLError) as error:
        raise InputError(f"potential: {text!r} is not allowed: {error}") from None
    return cast(Potential, made)
