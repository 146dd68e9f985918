"""Limits on crystals: the part of a trained model's space that satisfies a restriction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from crystalgfn.crystal.crystallography import oxidation_state_set, space_groups
from crystalgfn.crystal.crystallography.group_ranges import as_ranges, group_range
from crystalgfn.crystal.crystals import ANGLES, LATTICE_PARAMETERS
from crystalgfn.crystal.envs.composition_limits import CompositionLimits
from crystalgfn.crystal.formulas import parse_formula
from crystalgfn.crystal.restriction import PREFIX, Restriction
from crystalgfn.errors import InputError


class NothingLeftError(InputError):
    """No crystal satisfies a restriction."""


@dataclass(frozen=True)
class CrystalSettings:
    """The checked settings of a crystal environment.

    Attributes:
        groups: numbers of the space groups.
        elements: symbols, in the order in which they are decided.
        n_elements: least and largest number of different elements.
        atoms: least and largest number of atoms in the conventional cell.
        count: least and largest number of atoms of an element that is present.
        charge_neutral: whether crystals must be charge neutral.
        mixed_valence: whether one element may have two oxidation states.
        oxidation_states: oxidation states of each element, by symbol.
        ranges: lowest and highest value of each lattice parameter [Å, degrees].
        volume_per_atom: lowest and highest volume per atom [Å³], or None for no bound.
        angle_margin: least distance of triclinic angles from those of a flat cell [degrees].
        components: number of Beta distributions in each mixture.
        log_lengths: whether the mixtures for lengths are on a logarithmic scale.
    """

    groups: tuple[int, ...]
    elements: tuple[str, ...]
    n_elements: tuple[int, int]
    atoms: tuple[int, int]
    count: tuple[int, int]
    charge_neutral: bool
    mixed_valence: bool
    oxidation_states: Mapping[str, tuple[int, ...]]
    ranges: Mapping[str, tuple[float, float]]
    volume_per_atom: tuple[float, float] | None
    angle_margin: float
    components: int
    log_lengths: bool


@dataclass(frozen=True)
class CrystalLimits:
    """Limits on the crystals that may be built.

    Attributes:
        groups: numbers of the space groups.
        composition: limits on elements and counts.
        atoms: least and largest number of atoms in the conventional cell.
        charge_neutral: whether crystals must be charge neutral.
        mixed_valence: whether one element may have two oxidation states.
        oxidation_states: oxidation states of each element, by symbol.
        ranges: lowest and highest value of each lattice parameter [Å, degrees].
        volume_per_atom: lowest and highest volume per atom [Å³], or None for no bound.
    """

    groups: tuple[int, ...]
    composition: CompositionLimits
    atoms: tuple[int, int]
    charge_neutral: bool
    mixed_valence: bool
    oxidation_states: Mapping[str, tuple[int, ...]]
    ranges: Mapping[str, tuple[float, float]]
    volume_per_atom: tuple[float, float] | None


def check_against(restriction: Restriction, settings: CrystalSettings) -> None:
    """Check that every field of a restriction fits a model.

    Raises:
        InputError: if a field asks for something that the model does not have.
    """
    known = set(settings.elements)
    for name in ("elements", "required_elements"):
        _check_elements(name, getattr(restriction, name) or (), known, settings)
    if restriction.chemical_system is not None:
        _check_elements("chemical_system", restriction.chemical_system.split("-"), known, settings)
    for name in ("formula", "reduced_formula"):
        text = getattr(restriction, name)
        if text is not None:
            counts = parse_formula(text)
            _check_elements(name, list(counts), known, settings)
            symbol = max(counts, key=lambda s: counts[s])
            if counts[symbol] > settings.count[1]:
                raise InputError(
                    f"{PREFIX}.{name}: {text} has {counts[symbol]} atoms of {symbol}; the model has at most "
                    f"{settings.count[1]} atoms of an element"
                )
    bounds = {"elements": settings.n_elements, "atoms": settings.atoms, "atoms_per_element": settings.count}
    for what, (low, high) in bounds.items():
        for name in (f"min_{what}", f"max_{what}"):
            value = getattr(restriction, name)
            if value is not None and not low <= value <= high:
                raise InputError(f"{PREFIX}.{name}: {value} is outside of the model's range; allowed: {low} to {high}")
    _check_charges(restriction, settings)
    for entry in restriction.space_groups or ():
        if not set(group_range(entry)) & set(settings.groups):
            shown = as_ranges(settings.groups)
            raise InputError(f"{PREFIX}.space_groups: the model has no space group in {entry}; allowed: {shown}")
    for name, value in _ranges_of(restriction):
        outer = settings.volume_per_atom if name == "volume_per_atom" else settings.ranges[_example(name)]
        if outer is not None and not outer[0] <= value[0] < value[1] <= outer[1]:
            raise InputError(
                f"{PREFIX}.{name}: {list(value)} reaches outside of the model's range; allowed: low and high within "
                f"{list(outer)}"
            )


def limits_of(restriction: Restriction, settings: CrystalSettings) -> CrystalLimits:
    """Limits on the crystals that satisfy a restriction and the settings of a model.

    Raises:
        NothingLeftError: if these limits alone show that no crystal satisfies the restriction. The look-ahead of the
            environment finds the other cases.
    """
    ranges = {name: _narrowed(name, restriction, settings) for name in LATTICE_PARAMETERS}
    volume = restriction.volume_per_atom or settings.volume_per_atom
    limits = CrystalLimits(
        groups=tuple(number for number in settings.groups if _allows_group(restriction, number)),
        composition=_composition_limits(restriction, settings),
        atoms=(restriction.min_atoms or settings.atoms[0], restriction.max_atoms or settings.atoms[1]),
        charge_neutral=settings.charge_neutral or restriction.charge_neutral is not None,
        mixed_valence=settings.mixed_valence if restriction.mixed_valence is None else restriction.mixed_valence,
        oxidation_states=_oxidation_states(restriction, settings),
        ranges=ranges,
        volume_per_atom=volume,
    )
    composition = limits.composition
    enough = sum(bool(counts) for counts in composition.counts) >= composition.n_elements[0]
    if (
        not limits.groups
        or not enough
        or not all(composition.counts[e] for e in composition.required)
        or not len(composition.required) <= composition.n_elements[1]
        or composition.n_elements[0] > composition.n_elements[1]
        or limits.atoms[0] > limits.atoms[1]
        or not all(low < high for low, high in ranges.values())
    ):
        raise NothingLeftError(f"{PREFIX}: no crystal satisfies the restriction")
    return limits


def culprits(restriction: Restriction, is_empty: Callable[[Restriction], bool]) -> dict[str, Any]:
    """Fields that together leave no crystal, and as few of them as possible: without any one, some crystals are left.

    Args:
        restriction: a restriction that leaves no crystal.
        is_empty: function that returns whether a restriction leaves no crystal.

    Returns:
        the values of these fields, by name.
    """
    for name in restriction.given():
        without = replace(restriction, **{name: None})
        if is_empty(without):
            restriction = without
    return restriction.given()


def nothing_left(fields: Mapping[str, Any], note: str = "") -> InputError:
    """The error for a restriction that leaves no crystal, from the fields of `culprits` and a note on the reason."""
    parts = " and ".join(f"{PREFIX}.{name} {_shown(value)}" for name, value in fields.items())
    if len(fields) == 1:
        return InputError(
            f"{PREFIX}: no crystal satisfies the restriction: {parts} leaves none of the model's crystals{note}"
        )
    return InputError(
        f"{PREFIX}: no crystal satisfies the restriction: {parts} together leave none of the model's crystals; widen "
        f"or drop one of them{note}"
    )


def _shown(value: Any) -> str:
    return str([list(v) if isinstance(v, tuple) else v for v in value]) if isinstance(value, tuple) else str(value)


def _check_elements(name: str, symbols: Sequence[str], known: set[str], settings: CrystalSettings) -> None:
    for symbol in symbols:
        if symbol not in known:
            allowed = " ".join(settings.elements)
            raise InputError(f"{PREFIX}.{name}: {symbol} is not among the model's elements; allowed: {allowed}")


def _oxidation_states(restriction: Restriction, settings: CrystalSettings) -> Mapping[str, tuple[int, ...]]:
    """Oxidation states of each of the model's elements, by symbol."""
    if restriction.oxidation_states is None:
        return settings.oxidation_states
    known = oxidation_state_set(restriction.oxidation_states)
    return {symbol: known[symbol] for symbol in settings.elements}


def _check_charges(restriction: Restriction, settings: CrystalSettings) -> None:
    """Check that the rules for charges only take crystals away from a model."""
    if not settings.charge_neutral:
        for name in ("mixed_valence", "oxidation_states"):
            value = getattr(restriction, name)
            if value is not None and restriction.charge_neutral is None:
                raise InputError(
                    f"{PREFIX}.{name}: {value} has no effect, because the model's crystals may have any charge; add "
                    f"{PREFIX}.charge_neutral: true"
                )
        return
    if restriction.mixed_valence and not settings.mixed_valence:
        raise InputError(
            f"{PREFIX}.mixed_valence: True would allow crystals that the model does not have, because it was trained "
            "with one oxidation state for each element; allowed: False"
        )
    for symbol, states in _oxidation_states(restriction, settings).items():
        new = sorted(set(states) - set(settings.oxidation_states[symbol]))
        if new:
            raise InputError(
                f"{PREFIX}.oxidation_states: {restriction.oxidation_states} would allow crystals that the model does "
                f"not have, because it was trained without the oxidation state {new[0]:+d} of {symbol}; allowed: a set "
                "whose oxidation states are all in the model's set"
            )


def _ranges_of(restriction: Restriction) -> list[tuple[str, tuple[float, float]]]:
    names = ("lengths", "angles", *LATTICE_PARAMETERS, "volume_per_atom")
    return [(name, getattr(restriction, name)) for name in names if getattr(restriction, name) is not None]


def _example(name: str) -> str:
    """A lattice parameter to which a field of the restriction refers."""
    return {"lengths": "a", "angles": "alpha"}.get(name, name)


def _narrowed(name: str, restriction: Restriction, settings: CrystalSettings) -> tuple[float, float]:
    """Range of one lattice parameter that satisfies the restriction and the settings."""
    asked = (restriction.angles if name in ANGLES else restriction.lengths, getattr(restriction, name))
    ranges = [settings.ranges[name], *(r for r in asked if r is not None)]
    return max(low for low, _ in ranges), min(high for _, high in ranges)


def _allows_group(restriction: Restriction, number: int) -> bool:
    group = space_groups()[number - 1]
    of_groups = restriction.space_groups
    return (
        (of_groups is None or any(number in group_range(entry) for entry in of_groups))
        and (restriction.crystal_systems is None or group.crystal_system in restriction.crystal_systems)
        and (restriction.lattice_systems is None or group.lattice_system in restriction.lattice_systems)
        and (restriction.point_groups is None or group.point_group in restriction.point_groups)
    )


def _composition_limits(restriction: Restriction, settings: CrystalSettings) -> CompositionLimits:
    position = {symbol: e for e, symbol in enumerate(settings.elements)}
    low = restriction.min_atoms_per_element or settings.count[0]
    high = restriction.max_atoms_per_element or settings.count[1]
    counts = {symbol: set(range(low, high + 1)) for symbol in settings.elements}
    required = set(restriction.required_elements or ())
    allowed = set(settings.elements) - set(restriction.forbidden_elements or ())
    if restriction.elements is not None:
        allowed &= set(restriction.elements)
    formula = parse_formula(restriction.formula) if restriction.formula else {}
    ratio = parse_formula(restriction.reduced_formula) if restriction.reduced_formula else {}
    system = restriction.chemical_system.split("-") if restriction.chemical_system else []
    for symbols in filter(None, (list(formula), list(ratio), system)):
        allowed &= set(symbols)
        required |= set(symbols)
    for symbol, count in formula.items():
        counts[symbol] &= {count}
    for symbol, count in ratio.items():
        counts[symbol] = {n for n in counts[symbol] if n % count == 0}
    pairs = [sorted(position[s] for s in pair) for pair in restriction.forbidden_pairs or () if set(pair) <= allowed]
    return CompositionLimits(
        counts=[frozenset(counts[s]) if s in allowed else frozenset() for s in settings.elements],
        n_elements=(
            max(restriction.min_elements or 1, settings.n_elements[0]),
            min(restriction.max_elements or settings.n_elements[1], settings.n_elements[1], max(len(allowed), 1)),
        ),
        required=frozenset(position[symbol] for symbol in required),
        forbidden_pairs=frozenset((first, second) for first, second in pairs),
        ratio={position[symbol]: count for symbol, count in ratio.items()},
    )
