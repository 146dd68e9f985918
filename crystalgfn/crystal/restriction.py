"""Restrictions: which crystals of a trained model's space may be sampled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from crystalgfn.checks import shown
from crystalgfn.crystal.crystallography import (
    CRYSTAL_LATTICE_SYSTEMS,
    OXIDATION_STATE_SETS,
    atomic_numbers,
    space_groups,
)
from crystalgfn.crystal.crystallography.group_ranges import GROUPS_ALLOWED, group_range
from crystalgfn.crystal.crystals import LATTICE_PARAMETERS
from crystalgfn.crystal.formulas import MAX_COUNT, formula_text, parse_formula, reduced
from crystalgfn.errors import InputError

PREFIX = "restrict"
"""Name of the command-line option for the restriction, under ``data``."""


@dataclass(frozen=True)
class Restriction:
    """Limits on the crystals that a trained model samples; a field that is left out does not limit anything.

    Numbers of atoms refer to the conventional cell. Every sampled crystal satisfies all fields.

    Args:
        elements: allowed elements.
        forbidden_elements: elements that no crystal may contain; elements that the model does not know are ignored.
        required_elements: elements that every crystal must contain.
        forbidden_pairs: pairs of elements that must not occur in the same crystal, such as ``[[Li, H], [Na, K]]``.
        chemical_system: exactly these elements, such as ``Li-Mn-O``.
        formula: exact counts of the conventional cell, such as ``Li4 Mn8 O16``.
        reduced_formula: exact ratio of the counts, such as ``LiMn2O4``; any multiple is allowed.
        min_elements: least number of different elements.
        max_elements: largest number of different elements.
        min_atoms: least number of atoms.
        max_atoms: largest number of atoms.
        min_atoms_per_element: least number of atoms of an element that is present.
        max_atoms_per_element: largest number of atoms of one element.
        charge_neutral: True if every crystal must have oxidation states that sum to zero.
        mixed_valence: whether one element may have two oxidation states of one sign; by default the model's setting.
        oxidation_states: name of the set of oxidation states; by default the model's setting.
        space_groups: numbers or ranges such as ``[225, "195-206"]``; from a range, the groups that the model knows.
        crystal_systems: such as ``[cubic, trigonal]``.
        lattice_systems: such as ``[rhombohedral]``.
        point_groups: Hermann-Mauguin symbols such as ``[m-3m, 4/mmm]``.
        lengths: lowest and highest a, b and c [Å].
        angles: lowest and highest alpha, beta and gamma [degrees], including angles that the lattice system fixes.
        a: lowest and highest a [Å].
        b: lowest and highest b [Å].
        c: lowest and highest c [Å].
        alpha: lowest and highest alpha [degrees].
        beta: lowest and highest beta [degrees].
        gamma: lowest and highest gamma [degrees].
        volume_per_atom: lowest and highest volume of the cell per atom [Å³].

    Raises:
        InputError: if a value is not allowed for its field. Whether it fits a model is checked by the environment.
    """

    elements: Sequence[str] | None = None
    forbidden_elements: Sequence[str] | None = None
    required_elements: Sequence[str] | None = None
    forbidden_pairs: Sequence[Sequence[str]] | None = None
    chemical_system: str | None = None
    formula: str | None = None
    reduced_formula: str | None = None
    min_elements: int | None = None
    max_elements: int | None = None
    min_atoms: int | None = None
    max_atoms: int | None = None
    min_atoms_per_element: int | None = None
    max_atoms_per_element: int | None = None
    charge_neutral: bool | None = None
    mixed_valence: bool | None = None
    oxidation_states: str | None = None
    space_groups: Sequence[int | str] | None = None
    crystal_systems: Sequence[str] | None = None
    lattice_systems: Sequence[str] | None = None
    point_groups: Sequence[int | str] | None = None
    lengths: tuple[float, float] | None = None
    angles: tuple[float, float] | None = None
    a: tuple[float, float] | None = None
    b: tuple[float, float] | None = None
    c: tuple[float, float] | None = None
    alpha: tuple[float, float] | None = None
    beta: tuple[float, float] | None = None
    gamma: tuple[float, float] | None = None
    volume_per_atom: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name, value in self.given().items():
            object.__setattr__(self, name, _CHECKS[name](name, value))
        for what in ("elements", "atoms", "atoms_per_element"):
            low, high = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            if low is not None and high is not None and low > high:
                raise _error(f"min_{what}", low, f"is larger than max_{what}, which is {high}")

    def given(self) -> dict[str, Any]:
        """The values of the fields that are set, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def parse(cls, values: Any) -> Restriction:
        """Make a restriction from the values of its fields, as read from YAML.

        Args:
            values: the value of each field, by name; None for no restriction. A single value stands for a list of one.

        Returns:
            the restriction.

        Raises:
            InputError: if a name or a value is not allowed.
        """
        if values is None:
            return cls()
        if not isinstance(values, Mapping):
            raise InputError(
                f"{PREFIX}: {shown(values)} is not allowed; it must be fields with values, or the name of a file"
            )
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise InputError(f"{PREFIX}.{shown(name)}: there is no such field; allowed: {', '.join(known)}")
        return cls(**values)


def _error(name: str, value: Any, problem: str) -> InputError:
    return InputError(f"{PREFIX}.{name}: {shown(value)} {problem}")


def _list(name: str, value: Any, what: str) -> list[Any]:
    """The entries of a list; a single text or number stands for a list of one."""
    entries = [value] if isinstance(value, str | int | float) else value
    if not isinstance(entries, list | tuple) or not entries:
        raise _error(name, value, f"is not allowed; it must be a list of {what}")
    return list(entries)


def _element(name: str, value: Any) -> str:
    # YAML reads an unquoted No as false.
    if not isinstance(value, str) or value not in atomic_numbers():
        raise _error(
            name,
            value,
            "is not the symbol of an element from H to Pu (quote symbols that YAML reads as something else)",
        )
    return value


def _elements(name: str, value: Any) -> tuple[str, ...]:
    return _unique(name, [_element(name, entry) for entry in _list(name, value, "elements, such as [Fe, O]")])


def _unique(name: str, entries: list[str]) -> tuple[str, ...]:
    for entry in entries:
        if entries.count(entry) > 1:
            raise _error(name, entry, "is named twice")
    return tuple(entries)


def _pairs(name: str, value: Any) -> tuple[tuple[str, str], ...]:
    entries = _list(name, value, "pairs of elements, such as [[Li, H], [Na, K]]")
    pairs = []
    for entry in entries:
        pair = entry.split("-") if isinstance(entry, str) else entry
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise _error(name, entry, "is not allowed; a pair is two elements, such as [Li, H]")
        first, second = (_element(name, symbol) for symbol in pair)
        if first == second:
            raise _error(name, entry, "is not allowed; the elements of a pair must differ")
        pairs.append((first, second))
    return tuple(pairs)


def _system(name: str, value: Any) -> str:
    entries = value.split("-") if isinstance(value, str) else value
    if not isinstance(entries, list | tuple) or not entries:
        raise _error(name, value, "is not allowed; it must be elements joined by dashes, such as Li-Mn-O")
    return "-".join(_unique(name, [_element(name, entry) for entry in entries]))


def _formula(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _error(name, value, "is not allowed; it must be a formula, such as 'Li4 Mn8 O16'")
    try:
        counts = parse_formula(value, once=True)
    except InputError as error:
        raise _error(name, value, f"{error}; allowed: elements and counts, such as 'Li4 Mn8 O16'") from None
    if name == "reduced_formula" and reduced(counts) != counts:
        raise _error(name, value, f"is not reduced; write {formula_text(reduced(counts))}")
    return value


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_COUNT:
        is_whole = isinstance(value, float) and value.is_integer() and 1 <= value <= MAX_COUNT
        hint = f"; write {int(value)}" if is_whole else ""
        raise _error(name, value, f"is not allowed; it must be a whole number from 1 to {MAX_COUNT}{hint}")
    return value


def _neutral(name: str, value: Any) -> bool:
    if value is not True:
        hint = "; leave the field out to sample crystals of any charge that the model has" if value is False else ""
        raise _error(name, value, f"is not allowed; it must be true{hint}")
    return True


def _mixed_valence(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _error(name, value, "is not allowed; it must be true or false")
    return value


def _oxidation_states(name: str, value: Any) -> str:
    if not isinstance(value, str) or value not in OXIDATION_STATE_SETS:
        raise _error(name, value, f"is not allowed; allowed: {', '.join(OXIDATION_STATE_SETS)}")
    return value


def _is_text_or_int(value: Any) -> bool:
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) < 10**6
    return isinstance(value, str)


def _groups(name: str, value: Any) -> tuple[int | str, ...]:
    entries = _list(name, value, "numbers and ranges, such as [225, '195-206']")
    for entry in entries:
        if not group_range(entry):
            raise _error(name, entry, f"is not allowed; allowed: {GROUPS_ALLOWED}")
    return tuple(entries)


@cache
def _class_names(name: str) -> tuple[str, ...]:
    systems = [s.partition("-")[0] for s in CRYSTAL_LATTICE_SYSTEMS]
    if name == "crystal_systems":
        return tuple(dict.fromkeys(systems))
    attribute = {"lattice_systems": "lattice_system", "point_groups": "point_group"}[name]
    return tuple(dict.fromkeys(getattr(group, attribute) for group in space_groups()))


def _classes(name: str, value: Any) -> tuple[str, ...]:
    # YAML reads point groups such as 222 and -1 as numbers.
    entries = [str(e) if _is_text_or_int(e) else e for e in _list(name, value, "names")]
    for entry in entries:
        if not isinstance(entry, str) or entry not in _class_names(name):
            raise _error(name, entry, f"is not allowed; allowed: {', '.join(_class_names(name))}")
    return _unique(name, entries)


def _as_number(value: Any) -> str:
    """The end of a message about numbers that YAML reads as text, such as 1e1: how to write them."""
    for entry in value if isinstance(value, list | tuple) else [value]:
        try:
            number = float(entry) if isinstance(entry, str) else math.nan
        except ValueError:
            continue
        if math.isfinite(number):
            return f"; YAML reads {shown(entry)} as text, write {number!r}"
    return ""


def _range(name: str, value: Any) -> tuple[float, float]:
    largest = 180.0 if name in ("angles", "alpha", "beta", "gamma") else math.inf
    allowed = "low and high with 0 < low < high" + (" < 180 degrees" if largest < math.inf else "")
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise _error(name, value, f"is not allowed; it must be {allowed}")
    for end in value:
        if isinstance(end, bool) or not isinstance(end, int | float):
            raise _error(name, value, f"is not allowed; it must be {allowed}{_as_number(value)}")
    try:
        low, high = float(value[0]), float(value[1])
    except OverflowError:
        raise _error(name, value, f"is not allowed; it must be {allowed}") from None
    if not 0 < low < high < largest:
        raise _error(name, value, f"is not allowed; it must be {allowed}")
    return low, high


_CHECKS: dict[str, Any] = {
    "elements": _elements,
    "forbidden_elements": _elements,
    "required_elements": _elements,
    "forbidden_pairs": _pairs,
    "chemical_system": _system,
    "formula": _formula,
    "reduced_formula": _formula,
    **{f"{end}_{what}": _count for end in ("min", "max") for what in ("elements", "atoms", "atoms_per_element")},
    "charge_neutral": _neutral,
    "mixed_valence": _mixed_valence,
    "oxidation_states": _oxidation_states,
    "space_groups": _groups,
    "crystal_systems": _classes,
    "lattice_systems": _classes,
    "point_groups": _classes,
    **dict.fromkeys(("lengths", "angles", *LATTICE_PARAMETERS, "volume_per_atom"), _range),
}
