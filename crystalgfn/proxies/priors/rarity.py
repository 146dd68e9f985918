"""How rare the stoichiometry and the prototype of a crystal are among known crystals.

The elements do not matter: NaCl and MgO have the same anonymous formula (1, 1) and, in space group 225 with 4 and 4
atoms in the conventional cell, the same prototype. Known crystals are not the only possible ones, therefore shares are
smoothed: each distribution is mixed with a simpler one, which has as many pseudo-counts as there are different known
outcomes.

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
    """Looks up the number of a tuple of integers by the hash of the tuple; 0 for tuples that are not in the table.

    Args:
        table: the number of each tuple.

    Raises:
        ValueError: if two tuples have the same hash.
    """

    def __init__(self, table: Mapping[tuple[int, ...], float]) -> None:
        super().__init__()
        width = max(map(len, table))
        padded = torch.tensor([key + (0,) * (width - len(key)) for key in table])
        keys, order = hash_rows(padded).sort()
        if (keys.diff() == 0).any():
            raise ValueError("two tuples of the table have the same hash")
        self.keys: Tensor
        self.values: Tensor
        self.register_buffer("keys", keys, persistent=False)
        self.register_buffer("values", torch.tensor(list(table.values()), dtype=torch.float64)[order], persistent=False)

    def forward(self, tuples: Tensor) -> Tensor:
        """(n,) float64 numbers of (n, k) int64 tuples; zeros at the end of a tuple are ignored."""
        keys = hash_rows(tuples)
        place = torch.searchsorted(self.keys, keys).clamp_max(len(self.keys) - 1)
        return torch.where(self.keys[place] == keys, self.values[place], 0.0)


class _Formulas(nn.Module):
    """Smoothed logarithm of the share of a reduced anonymous formula f among known compositions.

    p(f) = (n(f) + T q(f)) / (N + T), where n(f) of the N known compositions have the formula f, T is the number of
    different formulas, and q(f) = 2^-k prod_i (1 - r) r^(a_i - 1) for k elements with coefficients a_i. The value of r
    is chosen so that the mean of a_i equals that of the known compositions. A new formula is rarer if it has more
    elements or larger coefficients.
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
    """Rarity of the anonymous reduced formula: -ln p, with its smoothed share p among known compositions.

    ABX3 and A2BX4 are common, A5B7X11 is rare. The elements do not matter.

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
    """Rarity of the space group with the anonymous cell: -ln p, with their smoothed share p among known crystals.

    The cell contains z times the formula f, and p(group, z, f) = p(f) p(group, z | f), where

    - p(f) is that of `FormulaRarity`;
    - p(group, z | f) = (n(group, z, f) + T(f) p(group, z)) / (n(f) + T(f)), where T(f) is the number of
      different prototypes of the formula, at least 1;
    - p(group, z) = (n(group, z) + T p(group) / (z (z + 1))) / (N + T), where T is the number of different pairs
      (group, z);
    - p(group) = (n(group) + 1) / (N + 230).

    Here n counts known crystals and N is the number of all of them. If a space group is new for a formula, p is still
    proportional to p(f), and it is larger for a space group that is more common.

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
