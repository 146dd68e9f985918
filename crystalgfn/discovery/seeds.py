"""Crystals for the start of a discovery run: random, real, and perturbed real crystals.

A proxy that was trained on real crystals has seen few unstable ones. In a random crystal, everything is unfavourable at
once. A real crystal with one change shows how much this change raises the energy.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Generator, Tensor

from crystalgfn.checks import at_least
from crystalgfn.crystal.crystallography import CRYSTAL_LATTICE_SYSTEMS, space_groups
from crystalgfn.crystal.crystals import Crystals
from crystalgfn.crystal.envs.crystal import Crystal
from crystalgfn.crystal.envs.lattice_parameters import LatticeParameters
from crystalgfn.discovery.candidate import Candidate, candidates
from crystalgfn.errors import InputError
from crystalgfn.gflownet.data_set import read_states
from crystalgfn.random import generator

TOLERANCE = 0.01
"""Largest relative deviation of a real cell from the shape of its lattice system; the cell is then made exact."""

VOLUME = (0.6, 1.8)
"""Smallest and largest factor for the volume of a perturbed cell."""

AXIS = (0.7, 1.5)
"""Smallest and largest factor for the length of one axis of a perturbed cell, and of the axes tied to it."""

MONOCLINIC = (90.0, 115.0)
"""Range of beta [degrees] if a cell of another system becomes monoclinic."""

TRICLINIC = (75.0, 105.0)
"""Range of the angles [degrees] if a cell of another system becomes triclinic."""

_ROUNDS = 60
"""Largest number of rounds of proposals; after these, there are probably no more different crystals."""


def random_crystals(env: Crystal, n: int, seed: int) -> list[Candidate]:
    """Random crystals of an environment: every discrete choice is uniform.

    Args:
        env: the environment; the crystals satisfy all of its constraints.
        n: number of crystals.
        seed: random seed.

    Returns:
        n different crystals, source ``random``.

    Raises:
        InputError: if n is not positive, or fewer than n different crystals are found.
    """
    from crystalgfn.gflownet.policies.random_policy import RandomPolicy
    from crystalgfn.gflownet.rollout import sample_forward

    policy, stream = RandomPolicy(env, seed, scale=0.0), generator(seed, "random crystals")

    def propose(size: int) -> Crystals:
        return env.decode(sample_forward(env, policy, size, stream)[0].states)

    return _different(n, "random", propose, "the environment has")


def real_crystals(table: Path, env: Crystal, n: int, seed: int) -> list[Candidate]:
    """Unchanged crystals of a table that an environment can build.

    Args:
        table: CSV or parquet file of crystals; if it has a column ``split``, only rows with ``train`` are used.
        env: the environment.
        n: number of crystals.
        seed: random seed.

    Returns:
        n different crystals, source ``real``.

    Raises:
        InputError: if n is not positive, the table cannot be used, or it has fewer than n different crystals.
    """
    real = _pool(table, env)
    order = torch.randperm(len(real), generator=generator(seed, "real crystals"))
    given = iter([real[order]])

    return _different(n, "real", lambda size: next(given, real[:0]), f"{table} has")


def perturbed_crystals(table: Path, env: Crystal, n: int, seed: int) -> list[Candidate]:
    """Real crystals with one change. There are three kinds of change, each for a third of the crystals.

    ``perturbed-group``: another space group of the environment that the composition fits, with a cell of equal volume.
    ``perturbed-cell``: the volume changed by a factor from `VOLUME`, or one axis changed by a factor from `AXIS`.
    ``perturbed-elements``: one or more elements replaced by others of the environment; charges need not balance.

    The crystals satisfy all other constraints of the environment.

    Args:
        table: CSV or parquet file of crystals; if it has a column ``split``, only rows with ``train`` are used.
        env: the environment.
        n: number of crystals.
        seed: random seed.

    Returns:
        n different crystals, none of which is in the table's usable rows; the source names the change.

    Raises:
        InputError: if n is not positive, the table cannot be used, or fewer than n different crystals are found.
    """
    at_least("n", n, 1)
    real, stream = _pool(table, env), generator(seed, "perturbed crystals")
    known = {candidate.key for candidate in candidates(real, "real")}
    changes = {"group": _other_group, "cell": _other_cell, "elements": _other_elements}
    parts = []
    for number, (name, change) in enumerate(changes.items()):

        def propose(size: int, change: _Change = change) -> Crystals:
            base = real[torch.randint(len(real), (size,), generator=stream)]
            crystals = change(env, base, stream)
            reasons = env.states_of(crystals, TOLERANCE)[1]
            # Only a change of elements can unbalance the charges, because the real crystals are balanced.
            good = torch.tensor([reason in ("", "charge") for reason in reasons], dtype=torch.bool)
            return crystals[good]

        share = n // 3 + (number < n % 3)
        if share:
            parts.append(_different(share, f"perturbed-{name}", propose, f"{table} gives", known))
    return [candidate for part in parts for candidate in part]


_Change = Callable[[Crystal, Crystals, Generator], Crystals]


def _pool(table: Path, env: Crystal) -> Crystals:
    """The crystals of a table that an environment can build, with exact cells."""
    from crystalgfn.files import read_frame

    only = {"split": "train"} if "split" in read_frame(table).columns else None
    known = read_states(env, table, TOLERANCE, only, "table")
    if not len(known.states):
        reasons = ", ".join(sorted(set(known.problems.values())))
        raise InputError(f"{table}: the environment can build none of its crystals{f' ({reasons})' * bool(reasons)}")
    return env.decode(known.states)


def _different(
    n: int, source: str, propose: Callable[[int], Crystals], who: str, known: set[str] | None = None
) -> list[Candidate]:
    """The first n proposals with different keys that are not known."""
    at_least("n", n, 1)
    seen, found = set(known or ()), list[Candidate]()
    for _ in range(_ROUNDS):
        for candidate in candidates(propose(2 * (n - len(found)) + 16), source):
            if candidate.key not in seen and len(found) < n:
                seen.add(candidate.key)
                found.append(candidate)
        if len(found) == n:
            return found
    raise InputError(f"n: {n} is too many; {who} only {len(found)} different {source} crystals")


def _uniform(size: int, ends: tuple[float, float], stream: Generator) -> Tensor:
    low, high = ends
    return low + (high - low) * torch.rand(size, generator=stream, dtype=torch.float64)


def _log_uniform(size: int, ends: tuple[float, float], stream: Generator) -> Tensor:
    bounds = torch.tensor(ends, dtype=torch.float64).log().tolist()
    return _uniform(size, (bounds[0], bounds[1]), stream).exp()


def _prescribed(env: Crystal, groups: Tensor) -> tuple[Tensor, Tensor]:
    """(n, 3) whether a, b, c is tied to a (for a: whether any is); (n, 3) fixed angles [degrees], 0 for free ones."""
    stage = env.stage("lattice_parameters")
    assert isinstance(stage, LatticeParameters)
    names = [CRYSTAL_LATTICE_SYSTEMS.index(group.crystal_lattice_system) for group in space_groups()]
    tied, fixed = stage.prescribed(torch.tensor(names, dtype=torch.float64)[groups - 1].unsqueeze(1))
    tied = tied.clone()
    tied[:, 0] = tied.any(1)
    return tied, fixed


def _other_group(env: Crystal, base: Crystals, stream: Generator) -> Crystals:
    """Each crystal in another group, with a cell of that group's lattice system and the same volume."""
    choices = torch.tensor(env.space_groups)
    groups = choices[torch.randint(len(choices), (len(base),), generator=stream)]
    keep = groups != base.space_group
    base, groups = base[keep], groups[keep]
    tied, fixed = _prescribed(env, groups)
    lengths = base.lattice[:, :3]
    mean = torch.where(tied, lengths.log(), 0.0).sum(1) / tied.sum(1).clamp_min(1)
    lengths = torch.where(tied, mean.exp()[:, None], lengths)
    # Angles that become free were 90 or 120 degrees; beta alone is free in monoclinic cells.
    n_free = (fixed == 0).sum(1, keepdim=True)
    new = torch.stack([_uniform(len(base), TRICLINIC, stream) for _ in range(3)], 1)
    monoclinic = _uniform(len(base), MONOCLINIC, stream)[:, None].expand(-1, 3)
    angles = torch.where(fixed > 0, fixed, torch.where(n_free == 1, monoclinic, new))
    changed = Crystals(groups, base.counts, torch.cat([lengths, angles], 1))
    scale = (base.volume / changed.volume) ** (1 / 3)
    return Crystals(groups, base.counts, torch.cat([lengths * scale[:, None], angles], 1))


def _other_cell(env: Crystal, base: Crystals, stream: Generator) -> Crystals:
    """Each crystal with another volume or with one axis changed, at equal odds."""
    size = len(base)
    whole = _log_uniform(size, VOLUME, stream)[:, None] ** (1 / 3)
    axis = torch.randint(3, (size,), generator=stream)
    tied, _ = _prescribed(env, base.space_group)
    moved = torch.nn.functional.one_hot(axis, 3).bool()
    moved |= tied & (tied & moved).any(1, keepdim=True)
    single = torch.where(moved, _log_uniform(size, AXIS, stream)[:, None], 1.0)
    factors = torch.where(torch.rand(size, 1, generator=stream) < 0.5, whole, single)
    return Crystals(base.space_group, base.counts, torch.cat([base.lattice[:, :3] * factors, base.lattice[:, 3:]], 1))


def _other_elements(env: Crystal, base: Crystals, stream: Generator) -> Crystals:
    """Each crystal with at least one element replaced by an element it does not have, with the same counts and cell."""
    from crystalgfn.crystal.crystallography.elements import atomic_numbers

    columns = torch.tensor([atomic_numbers()[symbol] - 1 for symbol in env.elements])
    counts = base.counts.clone()
    own = counts[:, columns] > 0
    order = torch.rand(own.shape, generator=stream).masked_fill(~own, 2.0).argsort(1)
    absent = torch.rand(own.shape, generator=stream).masked_fill(own, 2.0).argsort(1)
    n_own, n_absent = own.sum(1), (~own).sum(1)
    # One element in most cases; each further one has a probability of 0.4.
    n_swaps = 1 + (torch.rand(len(base), 4, generator=stream) < 0.4).int().cumprod(1).sum(1)
    n_swaps = torch.minimum(n_swaps, torch.minimum(n_own, n_absent))
    rows = torch.arange(len(base))
    for swap in range(int(n_swaps.max()) if len(base) else 0):
        active = rows[n_swaps > swap]
        old, new = columns[order[active, swap]], columns[absent[active, swap]]
        counts[active, new] = base.counts[active, old]
        counts[active, old] = 0
    return Crystals(base.space_group, counts, base.lattice)
