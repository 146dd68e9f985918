"""The chemist's priors, against cases by hand and against a search over all assignments."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import pytest
import torch
from helpers import make_crystal
from real_crystals import CRYSTALS
from torch import Tensor

from crystalgfn.crystal.crystallography import (
    OXIDATION_STATE_SETS,
    atomic_numbers,
    element_symbols,
    oxidation_state_set,
)
from crystalgfn.crystal.crystals import Crystals
from crystalgfn.errors import InputError
from crystalgfn.gflownet.proxies import Proxy
from crystalgfn.proxies.priors import (
    AnionKinds,
    AtomCount,
    ElectronegativityOrder,
    ElementCount,
    FormulaRarity,
    PrototypeRarity,
    VolumeMismatch,
)
from crystalgfn.proxies.priors.tables import (
    count_prototypes,
    read_atomic_volumes,
    read_formulas,
    read_prototypes,
    write_tables,
)
from crystalgfn.random import generator
from crystalgfn.testing import ProxyContract, random_walk

PRIORS = (
    VolumeMismatch,
    FormulaRarity,
    PrototypeRarity,
    ElectronegativityOrder,
    AnionKinds,
    AtomCount,
    ElementCount,
)
WORST = 3.98 - 0.7


def crystals(*cells: tuple[int, dict[str, int], float]) -> Crystals:
    """Cubic cells from space group, composition and length [Å]."""
    groups, compositions, lengths = zip(*cells, strict=True)
    return Crystals.from_arrays(groups, compositions, [[a, a, a, 90, 90, 90] for a in lengths])


def composition(**counts: int) -> Crystals:
    return crystals((1, counts, 5.0))


CHARGED = [
    atomic_numbers()[s] - 1 for s in ("H", "C", "N", "O", "F", "P", "S", "Cl", "Mn", "Fe", "Se", "Br", "Sn", "I")
]
"""Columns of elements that make many neutral compositions, with cations and anions in order or not."""


def random_crystals(n: int, most: int, seed: str, columns: Sequence[int] = range(94)) -> Crystals:
    """Compositions of up to ``most`` elements, with up to 6 atoms of each."""
    gen = generator(seed)
    chosen = torch.tensor(columns)[torch.rand(n, len(columns), generator=gen).argsort(1)[:, :most]]
    counts = torch.randint(0, 7, (n, most), generator=gen)
    counts[:, 0].clamp_min_(1)
    groups = torch.randint(1, 231, (n,), generator=gen)
    lattice = torch.tensor([4.0, 5.0, 6.0, 90.0, 90.0, 90.0], dtype=torch.float64).expand(n, 6)
    return Crystals(groups, torch.zeros(n, 94, dtype=torch.int64).scatter(1, chosen, counts), lattice)


@pytest.fixture(scope="module")
def objects() -> Crystals:
    env = make_crystal(charge_neutral=False, volume_per_atom=(5.0, 60.0), max_elements=3, max_atoms_per_element=6)
    return env.decode(random_walk(env, 30, generator("priors"))[0])


@pytest.mark.parametrize("kind", PRIORS)
class TestPriors(ProxyContract):
    @pytest.fixture
    def proxy(self, kind: type[Proxy]) -> Proxy:
        return kind()


@pytest.mark.parametrize("kind", PRIORS)
def test_finite_for_everything(kind: type[Proxy]) -> None:
    odd = Crystals.cat(
        [
            random_crystals(20, 9, "odd"),
            Crystals(
                torch.tensor([230, 1]),
                torch.stack([torch.full((94,), 10_000), torch.zeros(94, dtype=torch.int64)]),
                torch.tensor([[3.0, 3, 3, 50, 50, 120]] * 2, dtype=torch.float64),  # flat
            ),
        ]
    )
    keep = torch.arange(22) != (20 if kind in (ElectronegativityOrder, AnionKinds) else 22)
    assert kind()(odd[keep]).isfinite().all()


def test_sizes() -> None:
    cells = crystals((225, {"Na": 4, "Cl": 4}, 5.6), (221, {"Cs": 1}, 4.0))
    assert AtomCount()(cells).tolist() == [8, 1]
    assert ElementCount()(cells).tolist() == [2, 1]


def test_volume_mismatch() -> None:
    usual = read_atomic_volumes()
    assert ((usual > 1) & (usual < 150)).all()
    na_cl = 4 * (usual[10] + usual[16]).item()
    lengths = [(factor * na_cl) ** (1 / 3) for factor in (1.0, 2.0, 0.5)]
    found = VolumeMismatch()(crystals(*((225, {"Na": 4, "Cl": 4}, a) for a in lengths)))
    torch.testing.assert_close(found, torch.tensor([0, math.log(2), math.log(2)], dtype=torch.float64))


def test_rarity_of_known_formulas_and_prototypes() -> None:
    formulas, prototypes = read_formulas(), read_prototypes()
    total, kinds = sum(formulas.values()), len(formulas)
    cells = crystals((225, {"Na": 4, "Cl": 4}, 5.6), (225, {"O": 4, "Mg": 4}, 4.2), (225, {"Na": 2, "Cl": 2}, 5.6))
    found = FormulaRarity()(cells)
    assert found.unique().numel() == 1  # neither the elements nor the size of the cell matter
    mean = sum(n * sum(f) for f, n in formulas.items()) / sum(n * len(f) for f, n in formulas.items())
    base = (1 / (2 * mean)) ** 2
    assert found[0].item() == pytest.approx(-math.log((formulas[1, 1] + kinds * base) / (total + kinds)))

    found_prototypes = PrototypeRarity()(cells)
    assert found_prototypes[0] == found_prototypes[1] < found_prototypes[2]
    groups, pairs, of_formula = Counter[int](), Counter[tuple[int, int]](), Counter[tuple[int, ...]]()
    for (group, cell), n in prototypes.items():
        groups[group] += n
        pairs[group, math.gcd(*cell)] += n
        of_formula[tuple(a // math.gcd(*cell) for a in cell)] += n
    known = sum(prototypes.values())
    ways = sum(set(cell) == {cell[0]} and len(cell) == 2 for _, cell in prototypes)
    pair = (pairs[225, 4] + len(pairs) * (groups[225] + 1) / (known + 230) / 20) / (known + len(pairs))
    given = (prototypes[225, (4, 4)] + ways * pair) / (of_formula[1, 1] + ways)
    assert found_prototypes[0].item() == pytest.approx(found[0].item() - math.log(given))


def test_order_of_rarity() -> None:
    cells = crystals(
        (221, {"Ca": 1, "Ti": 1, "O": 3}, 3.9),  # perovskite
        (221, {"Ca": 2, "Ti": 2, "O": 6}, 4.9),  # a formula that is known, a cell that is not in this group
        (221, {"Ca": 5, "Ti": 7, "O": 11}, 6.0),
        (221, {"Ca": 13, "Ti": 17, "O": 19}, 8.0),
    )
    formula, prototype = FormulaRarity()(cells), PrototypeRarity()(cells)
    assert formula[0] == formula[1] < formula[2] < formula[3]
    assert prototype[0] < prototype[1:3].min() and prototype[1:3].max() < prototype[3]


def test_shares_sum_to_one() -> None:
    # All groups and multiples of one formula; the sum over z converges like 1 / z.
    n_z = 2000
    groups = torch.arange(1, 231).repeat_interleave(n_z)
    z = torch.arange(1, n_z + 1).repeat(230)
    counts = torch.zeros(len(z), 94, dtype=torch.int64)
    counts[:, 10], counts[:, 16] = z, z
    cells = Crystals(groups, counts, torch.ones(len(z), 6, dtype=torch.float64))
    log_p = -PrototypeRarity()(cells)
    log_formula = -FormulaRarity()(cells[:1])
    assert (log_p - log_formula).exp().sum().item() == pytest.approx(1, abs=1e-3)


def test_counting(tmp_path: Path) -> None:
    cells = crystals(
        (225, {"Na": 4, "Cl": 4}, 5.6),
        (225, {"Na": 4, "Cl": 4}, 5.7),
        (225, {"Mg": 4, "O": 4}, 4.2),
        (221, {"Na": 1, "Cl": 1}, 3.4),
        (62, {"Na": 4, "Cl": 12, "Zr": 4}, 9.0),
    )
    formulas, prototypes = count_prototypes(cells)
    assert formulas == {(1, 1): 2, (3, 1, 1): 1}
    assert prototypes == {(225, (4, 4)): 2, (221, (1, 1)): 1, (62, (12, 4, 4)): 1}
    write_tables(cells, tmp_path)
    assert read_formulas(tmp_path) == formulas and read_prototypes(tmp_path) == prototypes
    assert (read_atomic_volumes(tmp_path) >= 1).all()


@pytest.mark.parametrize(
    ("cell", "order", "kinds"),
    [
        ({"Na": 4, "Cl": 4}, 0.0, 1),
        ({"Na": 2, "S": 1, "O": 4}, 0.0, 1),  # a sulfate
        ({"Li": 1, "H": 1}, 0.0, 1),
        ({"Na": 1, "B": 1, "H": 4}, 0.0, 1),
        ({"Na": 1, "O": 1, "H": 1}, 0.0, 1),
        ({"Mg": 2, "N": 1, "F": 1}, 0.0, 2),
        ({"Na": 1, "H": 2, "F": 1}, WORST, 2),  # not neutral: H2 has charge 2 or -2
        ({"Al": 1, "Fe": 3}, 0.0, 0),  # an alloy
        ({"Si": 8}, 0.0, 1),
        ({"Fe": 3, "O": 4}, WORST, 1),  # mixed valence
        ({"S": 1, "F": 2, "Fe": 2}, 0.0, 2),
    ],
)
def test_known_chemistry(cell: dict[str, int], order: float, kinds: int) -> None:
    assert ElectronegativityOrder()(composition(**cell)).item() == pytest.approx(order)
    assert AnionKinds()(composition(**cell)).item() == kinds


@pytest.mark.parametrize(
    ("cell", "order"),
    [
        ({"S": 1, "Se": 2}, 2.58 - 2.55),  # only S4+ with Se2-
        ({"N": 2, "S": 5}, 3.04 - 2.58),  # only N5+ with S2-
        ({"N": 2, "S": 3}, 0.0),  # N3+ with S2-, or S2+ with N3-
    ],
)
def test_violation_by_hand(cell: dict[str, int], order: float) -> None:
    assert ElectronegativityOrder()(composition(**cell)).item() == pytest.approx(order)


def search(counts: Tensor, name: str) -> tuple[float, int]:
    """Least violation and fewest anions, over all assignments; (inf, 0) if none is neutral."""
    from pymatgen.core import Element

    known, symbols = oxidation_state_set(name), element_symbols()
    cell = {symbols[i]: int(counts[i]) for i in counts.nonzero()[:, 0].tolist()}
    found = []
    for chosen in product(*(known[symbol] for symbol in cell)):
        if sum(n * charge for n, charge in zip(cell.values(), chosen, strict=True)):
            continue
        cations = [Element(symbol).X for symbol, charge in zip(cell, chosen, strict=True) if charge > 0]
        anions = [Element(symbol).X for symbol, charge in zip(cell, chosen, strict=True) if charge < 0]
        found.append((max(0.0, max(cations) - min(anions)), len(anions)))
    return min(found, default=(math.inf, 0))


@pytest.mark.parametrize("name", OXIDATION_STATE_SETS)
@pytest.mark.parametrize("many", [None, 100])
def test_best_assignment_against_a_search(name: str, many: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if many is not None:
        monkeypatch.setattr("crystalgfn.proxies.priors.anions._MANY", many)
    cells = Crystals.cat([random_crystals(60, most, f"search {most}", CHARGED) for most in (2, 3, 4, 5)])
    expected = [search(row, name) for row in cells.counts]
    found = ElectronegativityOrder(name).assign(cells.counts)
    violation, anions = (torch.tensor(column) for column in zip(*expected, strict=True))
    assert 40 < violation.isfinite().sum() < 200 and (violation[violation.isfinite()] > 0).sum() > 10
    torch.testing.assert_close(found.violation, violation.double())
    assert torch.equal(found.anions, anions) and torch.equal(found.neutral, violation.isfinite())


def test_unknown_set_of_states() -> None:
    with pytest.raises(InputError, match="oxidation_states: 'none' is not allowed"):
        AnionKinds("none")


def known_crystals() -> Crystals:
    """Validation rows of MP-20."""
    import pandas as pd

    from crystalgfn.crystal.formulas import parse_formula

    frame = pd.read_parquet(CRYSTALS)
    frame = frame[(frame["split"] == "val") & (frame["source"] == "mp20")]
    return Crystals.from_arrays(
        frame["space_group"].tolist(),
        [parse_formula(formula) for formula in frame["formula"]],
        frame[["a", "b", "c", "alpha", "beta", "gamma"]].to_numpy().tolist(),
    )


@pytest.mark.parametrize(
    "source",
    [
        lambda: random_crystals(60, 3, "smact", CHARGED),
        pytest.param(known_crystals, marks=pytest.mark.skipif(not CRYSTALS.is_file(), reason="needs real crystals")),
    ],
    ids=["random", "known"],
)
def test_agrees_with_smact(source: Callable[[], Crystals]) -> None:
    screening = pytest.importorskip("smact.screening")
    from pymatgen.core import Element

    cells = source()[:300]
    known, symbols = oxidation_state_set("pymatgen_common"), element_symbols()
    found, compared = ElectronegativityOrder().assign(cells.counts), 0
    for row, violation in zip(cells.counts, found.violation.tolist(), strict=True):
        cell = {symbols[i]: int(row[i]) for i in row.nonzero()[:, 0].tolist()}
        enegs = [Element(symbol).X for symbol in cell]
        if len(set(enegs)) < len(enegs) or not math.isfinite(sum(enegs)):
            continue  # SMACT fails equal electronegativities
        passes = any(
            screening.pauling_test(list(chosen), enegs)
            for chosen in product(*(known[symbol] for symbol in cell))
            if sum(n * charge for n, charge in zip(cell.values(), chosen, strict=True)) == 0
        )
        assert passes == (violation == 0), cell
        compared += 1
    assert compared > 20


@pytest.mark.skipif(not CRYSTALS.is_file(), reason="needs a table of real crystals")
def test_known_crystals_are_less_rare() -> None:
    cells = known_crystals()
    shuffled = Crystals(cells.space_group.roll(1), cells.counts, cells.lattice.roll(1, 0))
    for prior in (PrototypeRarity(), VolumeMismatch()):
        assert prior(cells).median() < 0.7 * prior(shuffled).median()
