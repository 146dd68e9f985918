"""The crystal environment: space group, then composition, then lattice parameters."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from crystalgfn.checks import at_least, between, refuse, rising
from crystalgfn.crystal.crystallography import (
    CRYSTAL_LATTICE_SYSTEMS,
    N_SPACE_GROUPS,
    atomic_numbers,
    electronegativity_order,
    element_symbols,
    oxidation_state_set,
    space_groups,
)
from crystalgfn.crystal.crystallography.group_ranges import GROUPS_ALLOWED, as_ranges, group_range
from crystalgfn.crystal.crystals import ANGLES, LATTICE_PARAMETERS, OXIDATION_STATES, Crystals
from crystalgfn.crystal.envs.cell_space import CellSpace
from crystalgfn.crystal.envs.composition import NO_ELEMENT, Composition, last_name
from crystalgfn.crystal.envs.composition_limits import CompositionLimits
from crystalgfn.crystal.envs.crystal_limits import (
    CrystalLimits,
    CrystalSettings,
    NothingLeftError,
    check_against,
    culprits,
    limits_of,
    nothing_left,
)
from crystalgfn.crystal.envs.lattice_parameters import LatticeParameters
from crystalgfn.crystal.envs.space_group import SYSTEM_NAMES, SpaceGroup
from crystalgfn.crystal.keys import crystal_keys
from crystalgfn.crystal.restriction import PREFIX, Restriction
from crystalgfn.errors import InputError
from crystalgfn.gflownet.envs.base import ObjectTable
from crystalgfn.gflownet.envs.stack import Parts, Stack
from crystalgfn.registry import ENVIRONMENTS

if TYPE_CHECKING:
    import pandas as pd


@ENVIRONMENTS.register
class Crystal(Stack):
    """Crystals built as space group, composition and lattice parameters, under hard physical constraints.

    Every crystal fits the Wyckoff positions of its space group, has a cell of its lattice system with a positive
    volume, and is charge neutral unless ``charge_neutral`` is false. No choice leads to a dead end. Numbers of atoms
    refer to the conventional cell.

    Probability densities are relative to the uniform distribution on the ranges of the free lattice parameters. This
    means that p(x) is proportional to R(x) if every parameter is measured in units of its range.

    Args:
        space_groups: numbers or ranges such as ``[1, 2, "16-20"]``; None means all 230.
        elements: symbols; None means the elements 1 to 94.
        min_elements: least number of different elements.
        max_elements: largest number of different elements.
        min_atoms: least number of atoms in the conventional cell.
        max_atoms: largest number of atoms in the conventional cell.
        min_atoms_per_element: least number of atoms of an element that is present.
        max_atoms_per_element: largest number of atoms of one element.
        charge_neutral: whether each element must have an oxidation state such that the charges sum to zero.
        mixed_valence: whether one element may have two oxidation states of one sign, as iron has in Fe3O4.
        oxidation_states: name of the set of oxidation states: ``pymatgen_common``, ``pymatgen_icsd`` or
            ``pymatgen_all``.
        lengths: lowest and highest a, b, c [Å].
        angles: lowest and highest alpha, beta, gamma [degrees].
        volume_per_atom: lowest and highest cell volume per atom [Å³], or None for no bound. If the shortest lengths
            make upright cells of few atoms too large, these numbers of atoms are left out, with a warning.
        angle_margin: least distance of triclinic angles from those of a flat cell [degrees]: half the sum of the
            angles, and its difference to each angle, stay at least half of this margin away from 0 and 180 degrees.
        components: number of Beta distributions in the mixture of each lattice parameter.
        log_lengths: whether the mixtures for lengths are on a logarithmic scale. This changes the parametrisation of
            the policy, not the distribution that it should learn.

    Raises:
        InputError: if a setting is not allowed, or if no crystal satisfies all settings.
    """

    def __init__(
        self,
        space_groups: Sequence[int | str] | None = None,
        elements: Sequence[str] | None = None,
        min_elements: int = 1,
        max_elements: int = 5,
        min_atoms: int = 1,
        max_atoms: int = 80,
        min_atoms_per_element: int = 1,
        max_atoms_per_element: int = 16,
        charge_neutral: bool = True,
        mixed_valence: bool = False,
        oxidation_states: str = "pymatgen_common",
        lengths: tuple[float, float] = (0.9, 100.0),
        angles: tuple[float, float] = (50.0, 150.0),
        volume_per_atom: tuple[float, float] | None = None,
        angle_margin: float = 1.0,
        components: int = 5,
        log_lengths: bool = True,
    ) -> None:
        numbers = _parse_space_groups(space_groups)
        symbols = _parse_elements(elements)
        for what, least, most in (
            ("elements", min_elements, max_elements),
            ("atoms_per_element", min_atoms_per_element, max_atoms_per_element),
            ("atoms", min_atoms, max_atoms),
        ):
            at_least(f"min_{what}", least, 1)
            at_least(f"max_{what}", most, 1)
            if least > most:
                raise InputError(f"min_{what}: {least} is larger than max_{what}, which is {most}")
        if min_elements > len(symbols):
            raise InputError(f"min_elements: {min_elements} is more than the {len(symbols)} elements that are allowed")
        rising("lengths", lengths, 0)
        rising("angles", angles, 0, 180)
        if volume_per_atom is not None:
            rising("volume_per_atom", volume_per_atom, 0)
        between("angle_margin", angle_margin, 0, 60, without=0)
        at_least("components", components, 1)

        ranges = {name: angles if name in ANGLES else lengths for name in LATTICE_PARAMETERS}
        settings = CrystalSettings(
            groups=tuple(numbers),
            elements=tuple(symbols),
            n_elements=(min_elements, min(max_elements, len(symbols))),
            atoms=(min_atoms, max_atoms),
            count=(min_atoms_per_element, min(max_atoms_per_element, max_atoms)),
            charge_neutral=charge_neutral,
            mixed_valence=mixed_valence,
            oxidation_states=_oxidation_states(symbols, oxidation_states, charge_neutral),
            ranges=ranges,
            volume_per_atom=None if volume_per_atom is None else (volume_per_atom[0], volume_per_atom[1]),
            angle_margin=angle_margin,
            components=components,
            log_lengths=log_lengths,
        )
        limits = _no_limits(settings)
        cells = CellSpace(settings.ranges, settings.angle_margin)
        atoms_by_group = _atoms_by_group(limits, cells)
        left_out = _left_out(settings, limits, cells)
        if not atoms_by_group:
            raise InputError(
                "no crystal satisfies the constraints: the ranges of lengths and angles, together with the bounds on "
                f"atoms ({min_atoms}-{max_atoms}) and on the volume per atom ({volume_per_atom}), leave no cell for "
                "any of the space groups; if a lattice system has fixed angles, the range of angles must contain 90 "
                "degrees (and 120 degrees for hexagonal axes)" + (f"; {LEFT_OUT}: {left_out}" if left_out else "")
            )
        if left_out:
            warnings.warn(
                f"volume_per_atom: some crystals are left out although the settings allow them; {LEFT_OUT}: {left_out}",
                stacklevel=2,
            )
        composition = _composition(settings, atoms_by_group, limits)
        feasible = composition.feasible_groups()
        if not feasible:
            raise InputError(
                f"no crystal satisfies the constraints: with {min_elements}-{max_elements} of the elements "
                f"{' '.join(symbols)}, {min_atoms}-{max_atoms} atoms and {min_atoms_per_element}-"
                f"{max_atoms_per_element} of each, no {'charge-neutral ' if charge_neutral else ''}composition fits "
                f"the Wyckoff positions of any of the {len(atoms_by_group)} space groups; widen one of these settings"
            )
        if len(feasible) < len(numbers):
            missing = sorted(set(numbers) - set(feasible))
            warnings.warn(
                f"no composition fits {len(missing)} of the {len(numbers)} space groups, which are left out: {missing}",
                stacklevel=2,
            )
        # The policy does not know space groups without a composition, and a restriction cannot name them.
        known = replace(settings, groups=tuple(feasible))
        bounds = {number: atoms_by_group[number] for number in feasible}
        lattice = _lattice(settings)
        self._assemble(known, bounds, SpaceGroup(feasible), composition, lattice, limits)

    def _assemble(
        self,
        settings: CrystalSettings,
        atoms_by_group: Mapping[int, tuple[int, int]],
        space_group: SpaceGroup,
        composition: Composition,
        lattice: LatticeParameters,
        limits: CrystalLimits,
    ) -> None:
        """Set up the environment from its stages; settings and bounds on atoms are those without a restriction."""
        super().__init__({"space_group": space_group, "composition": composition, "lattice_parameters": lattice})
        self._settings = settings
        self._atoms_by_group = dict(atoms_by_group)
        self.elements = settings.elements
        self.space_groups = tuple(space_group.decode(space_group.enumerate()).tolist())
        self.charge_neutral = limits.charge_neutral
        self.volume_per_atom = limits.volume_per_atom
        ends = self.volume_per_atom or (0.0, math.inf)
        self._log_volumes: Tensor
        self.register_buffer("_log_volumes", torch.tensor(ends, dtype=torch.float64).log(), persistent=False)

    def restricted(self, restriction: Mapping[str, Any] | Restriction) -> Crystal:
        """Like `Environment.restricted`.

        Args:
            restriction: a `Restriction`, or the values of its fields, by name.

        Returns:
            the restricted environment.

        Raises:
            InputError: if a field does not fit the model, or if no crystal satisfies the restriction.
        """
        if not isinstance(restriction, Restriction):
            restriction = Restriction.parse(restriction)
        check_against(restriction, self._settings)

        def is_empty(part: Restriction) -> bool:
            try:
                self._restricted(limits_of(part, self._settings))
            except NothingLeftError:
                return True
            return False

        try:
            limits = limits_of(restriction, self._settings)
        except NothingLeftError:
            raise nothing_left(culprits(restriction, is_empty)) from None
        left_out = self._left_out(limits)
        try:
            env = self._restricted(limits)
        except NothingLeftError:
            note = f"; {LEFT_OUT}: {left_out}" if left_out else ""
            raise nothing_left(culprits(restriction, is_empty), note) from None
        if left_out:
            warnings.warn(
                f"{PREFIX}: some crystals are left out although the restriction allows them; {LEFT_OUT}: {left_out}",
                stacklevel=2,
            )
        return env

    def _left_out(self, limits: CrystalLimits) -> str:
        """Like the function `_left_out`."""
        cells = CellSpace(limits.ranges, self._settings.angle_margin)
        return _left_out(self._settings, limits, cells, self._atoms_by_group)

    def _restricted(self, limits: CrystalLimits) -> Crystal:
        settings = self._settings
        bounds = _within(_atoms_by_group(limits, CellSpace(limits.ranges, settings.angle_margin)), self._atoms_by_group)
        if not bounds:
            raise NothingLeftError("no cell")
        composition = _composition(settings, bounds, limits)
        feasible = composition.feasible_groups()
        if not feasible:
            raise NothingLeftError("no composition")
        env = type(self).__new__(type(self))
        space_group = SpaceGroup(settings.groups, feasible)
        lattice = _lattice(settings, limits, {number: bounds[number] for number in feasible})
        env._assemble(settings, self._atoms_by_group, space_group, composition, lattice, limits)
        return env.to(self.device)

    @property
    def composition(self) -> Composition:
        """The stage that chooses the composition."""
        stage = self.stage("composition")
        assert isinstance(stage, Composition)
        return stage

    def condition(self, name: str, states: Tensor) -> Tensor:
        if name == "space_group":
            return states[:, :0]
        group = self.part("space_group", states)
        if name == "composition":
            stage = self.stage("space_group")
            assert isinstance(stage, SpaceGroup)
            return stage.decode(group).unsqueeze(1).to(torch.float64)
        system = group[:, :1] - 1
        if self.volume_per_atom is None:
            return torch.cat([system, self._log_volumes.expand(len(states), -1)], 1)
        log_atoms = self.composition.n_atoms(self.part("composition", states)).clamp_min(1).log().unsqueeze(1)
        return torch.cat([system, log_atoms + self._log_volumes], 1)

    def implied_inputs(self, head: str) -> dict[str, Tensor]:
        """After the last of the elements, all columns for the last element so far are 0."""
        if head not in self.composition.heads_of_stage:
            return {}
        symbol = self.elements[-1]
        # Exactly one crystal-lattice system is chosen, so the sum of their columns is 1.
        one = {f"space_group: {name}" for name in SYSTEM_NAMES}
        is_last = {NO_ELEMENT, *map(last_name, self.elements)}
        factors = [float(name in one) - float(name in is_last) for name in self.input_names(head) or ()]
        return {last_name(symbol): torch.tensor(factors)}

    def option_names(self, head: str) -> tuple[str, ...] | None:
        names, volumes = super().option_names(head), self._settings.volume_per_atom
        if names is None or head not in LATTICE_PARAMETERS:
            return names
        # The intervals of the lattice parameters depend on the bounds on the volume.
        bounds = "any volume per atom" if volumes is None else "{} to {} Å³ per atom".format(*map(float, volumes))
        return tuple(f"{name}, {bounds}" for name in names)

    def decode(self, states: Tensor) -> Crystals:
        group, composition, lattice = (self.stage(name).decode(self.part(name, states)) for name in self.stages)
        return Crystals(group, composition, lattice)

    def kinds(self, states: Tensor) -> Tensor:
        """(n, 94) int64, the composition: crystals with the same composition are of the same kind."""
        return self.composition.decode(self.part("composition", states))

    def object_keys(self, objects: Crystals, states: Tensor) -> Tensor:
        return crystal_keys(objects)

    def states_of(self, objects: Crystals, tolerance: float = 0.0) -> tuple[Tensor, list[str]]:
        """Like `Stack.states_of`.

        Args:
            objects: n crystals in conventional cells.
            tolerance: largest relative deviation from the shape of the lattice system: of lengths that must be equal
                from their mean, and of fixed angles from their values. Cells within the tolerance are made exact.

        Returns:
            (n, state_size) float64, terminal states, and for each crystal the reason why it cannot be built; the reason
            is empty if it can be built.
        """
        parts = (objects.space_group, objects.counts, objects.lattice)
        return super().states_of(Parts(dict(zip(self.stages, parts, strict=True))), tolerance)

    def read_table(self, path: Path) -> ObjectTable:
        from crystalgfn.crystal.tables import read_table

        table = read_table(path, strict=False)
        problems = {
            row: f"{problem.kind}; allowed: {problem.allowed}"
            for row, problem in enumerate(table.problems)
            if problem is not None
        }
        return ObjectTable(table.frame, table.rows, table.crystals, problems)

    def to_frame(self, states: Tensor) -> pd.DataFrame:
        """Table with one row for each crystal.

        Returns:
            columns formula, space_group, a, b, c [Å], alpha, beta, gamma [degrees], oxidation_states.
        """
        crystals = self.decode(states)
        frame = crystals.to_frame()
        frame[OXIDATION_STATES] = self.oxidation_states(crystals)
        return frame

    def describe(self, states: Tensor) -> list[str]:
        crystals = self.decode(states)
        return [
            f"{formula.replace(' ', '')} ({number})"
            for formula, number in zip(crystals.formulas(), crystals.space_group.tolist(), strict=True)
        ]

    def oxidation_states(self, crystals: Crystals) -> list[str]:
        """A neutral assignment of oxidation states for each crystal, such as ``Na+:4 Cl-:4``.

        Species are written as in pymatgen, with their counts, in the order of the formula. The text is empty if
        crystals may have any charge.
        """
        if not self.charge_neutral:
            return [""] * len(crystals)
        symbols, order = element_symbols(), electronegativity_order()
        texts = []
        for row in crystals.counts.tolist():
            species = self.composition.assignment({symbols[z - 1]: row[z - 1] for z in order if row[z - 1]})
            texts.append(" ".join(f"{symbol}{_charge(charge)}:{n}" for symbol, charge, n in species or []))
        return texts


LEFT_OUT = (
    "with so few atoms, cells with the shortest lengths are small enough only if their angles are far from 90 degrees, "
    "and such numbers of atoms cannot be sampled exactly"
)
"""Reason for which numbers of atoms are left out, for messages."""


def _no_limits(settings: CrystalSettings) -> CrystalLimits:
    """Limits that leave the whole space of the settings."""
    counts = frozenset(range(settings.count[0], settings.count[1] + 1))
    return CrystalLimits(
        groups=settings.groups,
        composition=CompositionLimits([counts] * len(settings.elements), settings.n_elements),
        atoms=settings.atoms,
        charge_neutral=settings.charge_neutral,
        mixed_valence=settings.mixed_valence,
        oxidation_states=settings.oxidation_states,
        ranges=settings.ranges,
        volume_per_atom=settings.volume_per_atom,
    )


def _lattice(
    settings: CrystalSettings,
    limits: CrystalLimits | None = None,
    atoms_by_group: Mapping[int, tuple[int, int]] | None = None,
) -> LatticeParameters:
    """The stage of the lattice parameters, within limits on crystals and their numbers of atoms if they are given."""
    common = (settings.ranges, settings.angle_margin, settings.components, settings.log_lengths)
    if limits is None:
        return LatticeParameters(*common)
    own, asked = settings.volume_per_atom, limits.volume_per_atom
    if asked is None:
        return LatticeParameters(*common, limits=limits.ranges)
    if own == asked:
        offsets = (0.0, 0.0)
    elif own is None:
        offsets = (float("-inf"), float("inf"))
    else:
        offsets = (math.log(own[0] / asked[0]), math.log(own[1] / asked[1]))
    # No crystal has more atoms than this.
    most = limits.composition.n_elements[1] * limits.composition.max_count
    volumes = dict[str, tuple[float, float]]()
    for number, (least, largest) in (atoms_by_group or {}).items():
        system = space_groups()[number - 1].crystal_lattice_system
        low, high = volumes.get(system, (0.0, math.inf))
        volumes[system] = (max(low, asked[0] * min(largest, most)), min(high, asked[1] * least))
    return LatticeParameters(*common, limits=limits.ranges, volume_offsets=offsets, volumes=volumes)


def _composition(
    settings: CrystalSettings, atoms_by_group: Mapping[int, tuple[int, int]], limits: CrystalLimits
) -> Composition:
    """The stage of the composition, within limits."""
    return Composition(
        elements=settings.elements,
        atoms_by_group=atoms_by_group,
        n_elements=settings.n_elements,
        count=settings.count,
        charge_neutral=limits.charge_neutral,
        mixed_valence=limits.mixed_valence,
        oxidation_states=limits.oxidation_states,
        limits=limits.composition,
    )


def _charge(oxidation_state: int) -> str:
    """An oxidation state as pymatgen's `Species` writes it: ``+``, ``2+``, ``-``, ``2-``."""
    size = abs(oxidation_state)
    return f"{size if size != 1 else ''}{'+' if oxidation_state > 0 else '-'}"


def _parse_space_groups(entries: Sequence[int | str] | None) -> list[int]:
    """Sorted numbers of the space groups in numbers and ranges; None means all."""
    if entries is None:
        return list(range(1, N_SPACE_GROUPS + 1))
    for entry in entries:
        if not group_range(entry):
            raise refuse("space_groups", repr(entry), f"allowed: {GROUPS_ALLOWED}")
    if not entries:
        raise InputError("space_groups: the list is empty; name at least one group, or leave the field out for all")
    return sorted({number for entry in entries for number in group_range(entry)})


def _parse_elements(entries: Sequence[str] | None) -> list[str]:
    """Symbols in the order in which they are decided: from high to low electronegativity, anions first."""
    known = atomic_numbers()
    # YAML reads an unquoted No as false.
    for entry in entries or []:
        if not isinstance(entry, str) or entry not in known:
            raise InputError(
                f"elements: {entry!r} is not the symbol of an element from H to {element_symbols()[-1]} "
                "(quote symbols that YAML reads as something else)"
            )
    if entries is not None and not entries:
        raise InputError("elements: the list is empty; name at least one element, or leave the field out for all")
    if entries is not None and len(set(entries)) < len(entries):
        raise InputError(f"elements: {max(entries, key=list(entries).count)!r} is named twice")
    chosen = set(entries) if entries is not None else set(known)
    symbols = element_symbols()
    return [symbols[z - 1] for z in reversed(electronegativity_order()) if symbols[z - 1] in chosen]


def _oxidation_states(symbols: Sequence[str], name: str, charge_neutral: bool) -> dict[str, tuple[int, ...]]:
    """Oxidation states of each element, by symbol; warns if neutral crystals cannot contain an element."""
    known = oxidation_state_set(name)
    without = [symbol for symbol in symbols if not known[symbol]]
    if charge_neutral and without:
        warnings.warn(
            f"{', '.join(without)}: no oxidation state other than 0 in the set {name!r}, so charge-neutral crystals "
            "cannot contain them",
            stacklevel=3,
        )
    return {symbol: known[symbol] for symbol in symbols}


def _atoms_by_group(limits: CrystalLimits, cells: CellSpace, complete: bool = False) -> dict[int, tuple[int, int]]:
    """Least and largest number of atoms for each space group; groups without any possible cell are left out.

    Args:
        limits: limits on the crystals.
        cells: the cells in the limits' ranges.
        complete: whether to keep the numbers of atoms that `CellSpace.atom_bounds` leaves out.
    """
    by_system = {s: cells.atom_bounds(s, limits.volume_per_atom, complete) for s in CRYSTAL_LATTICE_SYSTEMS}
    bounds = {}
    for number in limits.groups:
        of_system = by_system[space_groups()[number - 1].crystal_lattice_system]
        if of_system is not None:
            low, high = max(limits.atoms[0], of_system[0]), int(min(limits.atoms[1], of_system[1]))
            if low <= high:
                bounds[number] = (low, high)
    return bounds


def _within(bounds: Mapping[int, tuple[int, int]], own: Mapping[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """Least and largest number of atoms that are in both bounds, for each space group that has any."""
    both = {n: (max(low, own[n][0]), min(high, own[n][1])) for n, (low, high) in bounds.items()}
    return {number: (low, high) for number, (low, high) in both.items() if low <= high}


def _left_out(
    settings: CrystalSettings,
    limits: CrystalLimits,
    cells: CellSpace,
    own: Mapping[int, tuple[int, int]] | None = None,
) -> str:
    """Crystals that `CellSpace.atom_bounds` leaves out although the limits allow them; an empty text if there are none.

    The first and the last number of atoms in the text are those of possible compositions. ``own`` are the numbers of
    atoms of a model whose crystals are limited, for each space group.
    """
    if limits.volume_per_atom is None:
        return ""
    kept, wanted = _atoms_by_group(limits, cells), _atoms_by_group(limits, cells, complete=True)
    if own is not None:
        wanted = _within(wanted, own)
    lost = dict[str, dict[int, list[int]]]()
    for number, (low, high) in wanted.items():
        system = space_groups()[number - 1].crystal_lattice_system
        for atoms in range(low, min(kept[number][0] - 1 if number in kept else high, high) + 1):
            lost.setdefault(system, {}).setdefault(atoms, []).append(number)

    def has_composition(system: str, atoms: int) -> bool:
        bounds = dict.fromkeys(lost[system][atoms], (atoms, atoms))
        return bool(_composition(settings, bounds, limits).feasible_groups())

    texts = []
    for system, groups_by_atoms in lost.items():
        # All numbers between the first and the last one that have a composition: to try each would take long.
        first = next((n for n in groups_by_atoms if has_composition(system, n)), None)
        if first is not None:
            last = next(n for n in reversed(groups_by_atoms) if n == first or has_composition(system, n))
            missing = range(first, last + 1)
            low, high = wanted[groups_by_atoms[first][0]]
            share = cells.share(system, limits.volume_per_atom, missing, range(low, high + 1))
            shown = f"{share:.1%}" if share >= 0.001 else "less than 0.1%"
            texts.append(f"{system} with {as_ranges(missing)} atoms ({shown} of the {system} cells that are asked for)")
    return "; ".join(texts)
