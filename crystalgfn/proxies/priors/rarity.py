"""How rare the stoichiometry and the prototype of a crystal are among known crystals.

Element-independent: NaCl and MgO are one formula (1, 1) and, in space group 225 with 4 and 4 atoms in the
conventional cell, one prototype. Known crystals are not the only possible ones, so shares are smoothed: each level
backs off to a simpler one with as many pseudo-counts as it has different outcomes.

Source of the smoothing: Witten and Bell, IEEE Trans. Inf. Theory 37, 1085 (1991).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from crystalgfn.crystal.crystallography import N_SPACE_GROUPS
from crystalgfn.crystal.crystals import Crystals
from crystalgfn.crystal.formulas import anonymous_counts, formula_units, reduced, reduced_counts
from crystalgfn.gflownet.keys import hash_rows
from crystalgfn.gflownet.proxies.base import Proxy
from crystalgfn.proxies.priors.tables import Formula, read_formulas, read_prototypes
from crystalgfn.registry import PROXIES


class _Lookup(nn.Module):
    """Numbers by the hash of a tuple of integers, 0 for others.

    Args:
        table: a number for each tuple, all of the same kind.
    """

    def __init__(self, table: Mapping[tuple[int, ...], float]) -> None:
        super().__init__()
        width = max(map(len, table))
        padded = torch.tensor([key + (0,) * (width - len(key)) for key in table])
        keys, order = hash_rows(padded).sort()
        if (keys.diff() == 0).any():
            raise ValueError("two tuples of the table have one hash")
        self.keys: Tensor
        self.values: Tensor
        self.register_buffer("keys", keys, persistent=False)
        self.register_buffer("values", torch.tensor(list(table.values()), dtype=torch.float64)[order], persistent=False)

    def forward(self, tuples: Tensor) -> Tensor:
        """(n,) float64 the numbers of (n, k) int64 tuples; zeros at their end do not count."""
        keys = hash_rows(tuples)
        place = torch.searchsorted(self.keys, keys).clamp_max(len(self.keys) - 1)
        return torch.where(self.keys[place] == keys, self.values[place], 0.0)


class _Formulas(nn.Module):
    """Smoothed logarithm of the share of a reduced anonymous formula f among known compositions.

    p(f) = (n(f) + T q(f)) / (N + T) with n(f) of N compositions, T different formulas, and
    q(f) = 2^-k prod_i (1 - r) r^(a_i - 1) for k elements with coefficients a_i; r makes the mean of a_i that of the
    known ones. So a new formula is the rarer, the more elements and the larger coefficients it has.
    """

    def __init__(self, known: Mapping[Formula, int]) -> None:
        super().__init__()
        self.known = _Lookup(known)
        self.n, self.kinds = sum(known.values()), len(known)
        coefficients = sum(n * sum(formula) for formula, n in known.items())
        self.repeat = 1 - sum(n * len(formula) for formula, n in known.items()) / coefficients

    def forward(self, formulas: Tensor) -> Tensor:
        """(n,) float64 ln p of (n, k) formulas, padded with zeros."""
        k = (formulas > 0).sum(1).to(torch.float64)
        log_q = k * math.log((1 - self.repeat) / 2) + (formulas.sum(1) - k) * math.log(self.repeat)
        known = self.known(formulas).log()
        return torch.logaddexp(known, log_q + math.log(self.kinds)) - math.log(self.n + self.kinds)


@PROXIES.register
class FormulaRarity(Proxy):
    """Minus the logarithm of the smoothed share of the anonymous reduced formula among known compositions.

    ABX3 and A2BX4 are common, A5B7X11 is not. Which elements there are does not matter.

    Source: reduced formulas of the Materials Project (`crystalgfn.proxies.priors.tables`), each counted once.
    """

    name = "formula_rarity"
    valid_range = (0.0, float("inf"))

    def __init__(self) -> None:
        super().__init__()
        self.formulas = _Formulas(read_formulas())

    def forward(self, objects: Crystals) -> Tensor:
        """(n,) float64 -ln p, 0 or more."""
        log: Tensor = self.formulas(reduced_counts(anonymous_counts(objects.counts)))
        return -log


@PROXIES.register
class PrototypeRarity(Proxy):
    """Minus the logarithm of the smoothed share of the space group and the anonymous cell among known crystals.

    The cell is z times the formula f: p(group, z, f) = p(f) p(group, z | f), where

    - p(f) is that of `FormulaRarity`;
    - p(group, z | f) = (n(group, z, f) + T(f) p(group, z)) / (n(f) + T(f)), with T(f) different prototypes of the
      formula, or 1 if it has none;
    - p(group, z) = (n(group, z) + T p(group) / (z (z + 1))) / (N + T), with T different pairs;
    - p(group) = (n(group) + 1) / (N + 230).

    So a group that is new for a formula still has the share of the formula, and more the commoner it is by itself.

    Source: crystals of the Materials Project (`crystalgfn.proxies.priors.tables`); a prototype counts once for each
    composition.
    """

    name = "prototype_rarity"
    valid_range = (0.0, float("inf"))

    def __init__(self) -> None:
        super().__init__()
        known = read_prototypes()
        prototypes: dict[tuple[int, ...], float] = {}
        of_formula, kinds = Counter[Formula](), Counter[Formula]()
        pairs, groups = Counter[tuple[int, ...]](), Counter[int]()
        for (group, cell), n in known.items():
            formula = reduced(cell)
            z = cell[0] // formula[0]
            prototypes[group, *cell] = n
            of_formula[formula] += n
            kinds[formula] += 1
            pairs[group, z] += n
            groups[group] += n
        self.formulas = _Formulas(read_formulas())
        self.prototypes = _Lookup(prototypes)
        self.of_formula, self.kinds = _Lookup(of_formula), _Lookup(kinds)
        self.pairs = _Lookup(pairs)
        self.n_pairs, self.n = len(pairs), sum(known.values())
        self.group_shares: Tensor
        shares = [(groups[group] + 1) / (self.n + N_SPACE_GROUPS) for group in range(1, N_SPACE_GROUPS + 1)]
        self.register_buffer("group_shares", torch.tensor(shares, dtype=torch.float64), persistent=False)

    def forward(self, objects: Crystals) -> Tensor:
        """(n,) float64 -ln p, 0 or more."""
        cell = anonymous_counts(objects.counts)
        units = formula_units(cell)
        formula = cell // units[:, None]
        group, z = objects.space_group, units.to(torch.float64)
        new = self.n_pairs * self.group_shares[group - 1] / (z * (z + 1))
        pair = (self.pairs(torch.stack([group, units], dim=1)) + new) / (self.n + self.n_pairs)
        kinds = self.kinds(formula).clamp_min(1)
        seen = self.prototypes(torch.cat([group[:, None], cell], dim=1))
        given = (seen + kinds * pair) / (self.of_formula(formula) + kinds)
        log: Tensor = self.formulas(formula) + given.log()
        return -log
