"""The convex hull, against pymatgen's phase diagrams and linear programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import PAPER_ELEMENTS, make_crystal
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition, Element
from real_crystals import CRYSTALS
from scipy.optimize import linprog

from crystalgfn.cli import main
from crystalgfn.crystal.crystals import Crystals
from crystalgfn.crystal.formation_energies import LEAST
from crystalgfn.crystal.formulas import count_rows, formula_text, parse_formula
from crystalgfn.errors import InputError
from crystalgfn.proxies.energy_above_hull import SHIPPED_HULL, EnergyAboveHull
from crystalgfn.proxies.hull import (
    ConvexHull,
    Phases,
    ReferenceHull,
    build_hull,
    has_competitor,
    hull_energies,
    load_hull,
    read_phases,
)
from crystalgfn.proxies.hull.facets import enumerate_facets
from crystalgfn.proxies.hull.packing import STEP, pack_facets, unpack_facets
from crystalgfn.proxies.hull.sampling import fractions, random_compositions
from crystalgfn.random import generator
from crystalgfn.testing import ProxyContract, random_walk

SOME = ("Li", "O", "F", "Mg", "Al", "Si", "Cl")


def invented(elements: tuple[str, ...] = SOME, n: int = 60, seed: int = 0) -> Phases:
    """Random compounds of two to four elements, most of them with a negative energy."""
    stream = np.random.default_rng(seed)
    compositions, energies = [], []
    for _ in range(n):
        size = int(stream.integers(2, min(4, len(elements)) + 1))
        chosen = stream.choice(len(elements), size, replace=False)
        compositions.append({elements[i]: int(stream.integers(1, 5)) for i in chosen})
        energies.append(float(stream.uniform(-2.5, 0.3)))
    return Phases.of(compositions, energies, elements)


def hull_of(phases: Phases, max_elements: int = 5) -> ConvexHull:
    every = enumerate_facets(phases, max_elements)
    starts, potentials = torch.from_numpy(every.starts), torch.from_numpy(every.potentials)
    return ConvexHull(phases.elements, starts, potentials, max_elements)


def counts_of(hull: ConvexHull | Phases, rows: np.ndarray) -> torch.Tensor:
    counts = torch.zeros(len(rows), 94, dtype=torch.int64)
    counts[:, [Element(symbol).Z - 1 for symbol in hull.elements]] = torch.from_numpy(rows)
    return counts


def crystals_of(*compositions: Mapping[str, int]) -> Crystals:
    cell = [5.0, 5.0, 5.0, 90.0, 90.0, 90.0]
    return Crystals.from_arrays([1] * len(compositions), list(compositions), [cell] * len(compositions))


def pymatgen_energies(phases: Phases, rows: np.ndarray) -> list[float]:
    """Hull energies per atom by pymatgen, with one phase diagram for each chemical system."""
    entries = []
    for share, energy in zip(phases.fractions, phases.energies, strict=True):
        amounts = {s: float(x) for s, x in zip(phases.elements, share, strict=True) if x}
        entries.append((frozenset(amounts), PDEntry(Composition(amounts), float(energy) * sum(amounts.values()))))

    @cache
    def diagram(system: frozenset[str]) -> PhaseDiagram:
        return PhaseDiagram([entry for elements, entry in entries if elements <= system])

    energies = []
    for row in rows:
        composition = Composition({s: int(n) for s, n in zip(phases.elements, row, strict=True) if n})
        # A larger system holds the hulls of its parts, and there are fewer of them.
        present = {element.symbol for element in composition}
        system = frozenset(present | set([s for s in phases.elements if s not in present][: 5 - len(present)]))
        energies.append(diagram(system).get_hull_energy_per_atom(composition))
    return energies


def drawn(phases: Phases, n: int, seed: int = 1, max_elements: int = 5) -> np.ndarray:
    return random_compositions(len(phases.elements), n, max_elements, np.random.default_rng(seed))


def test_agrees_with_pymatgen(tmp_path: Path) -> None:
    phases = invented()
    hull = hull_of(phases)
    hull.save(tmp_path / "hull.pt", {})
    rows = drawn(phases, 1000)
    assert {1, 2, 3, 4, 5} == set((rows > 0).sum(1).tolist())
    expected = torch.tensor(pymatgen_energies(phases, rows), dtype=torch.float64)
    assert (expected < -0.1).sum() > 500
    for each in (hull, load_hull(tmp_path / "hull.pt")):
        torch.testing.assert_close(each(counts_of(each, rows)), expected, rtol=0, atol=1e-6)


@pytest.mark.skipif(not CRYSTALS.is_file(), reason="needs the table of crystals")
def test_shipped_hull_agrees_with_pymatgen() -> None:
    phases = read_phases(CRYSTALS, elements=PAPER_ELEMENTS).phases
    some = [PAPER_ELEMENTS.index(s) for s in ("Li", "C", "O", "F", "Na", "Al", "Si", "P", "Fe")]
    rows = np.zeros((1000, len(phases.elements)), dtype=np.int64)
    rows[:, [phases.elements.index(PAPER_ELEMENTS[i]) for i in some]] = random_compositions(
        len(some), 1000, 5, np.random.default_rng(1)
    )
    hull = load_hull(SHIPPED_HULL)
    expected = torch.tensor(pymatgen_energies(phases, rows), dtype=torch.float64)
    torch.testing.assert_close(hull(counts_of(hull, rows)), expected, rtol=0, atol=1e-6)


@pytest.mark.skipif(not CRYSTALS.is_file(), reason="needs the table of crystals")
def test_shipped_hull_equals_the_linear_program() -> None:
    phases = read_phases(CRYSTALS, elements=PAPER_ELEMENTS).phases
    shares = fractions(drawn(phases, 300))
    gap = phases.hull_energy(shares) - load_hull(SHIPPED_HULL).energy(torch.from_numpy(shares)).numpy()
    assert np.abs(gap).max() < 1e-6


def test_reference_hull_agrees_with_pymatgen(tmp_path: Path) -> None:
    """Oxygen is not in the table by itself, and lithium has a wrong energy there."""
    stream, table = np.random.default_rng(0), tmp_path / "known.csv"
    counts = random_compositions(len(SOME), 60, 4, stream)
    compositions = [{s: int(n) for s, n in zip(SOME, row, strict=True) if n} for row in counts[(counts > 0).sum(1) > 1]]
    energies = stream.uniform(-2.5, 0.3, len(compositions)).tolist()
    lines = [f"{formula_text(c)},{energy}" for c, energy in zip(compositions, energies, strict=True)]
    table.write_text("\n".join(["formula,formation_energy", "Li2,-0.2", "Mg1 Xx1,", *lines]))
    hull, phases = ReferenceHull(table), Phases.of(compositions, energies, SOME)
    rows = drawn(phases, 100)
    for row, expected in zip(rows, pymatgen_energies(phases, rows), strict=True):
        composition = {s: int(n) for s, n in zip(phases.elements, row, strict=True) if n}
        assert float(hull(count_rows([composition]))) == pytest.approx(expected, abs=1e-6)


def test_reference_hull(tmp_path: Path) -> None:
    table = tmp_path / "known.csv"
    table.write_text("formula,formation_energy\nNa4Cl4,-2.0\nNa1Cl1,-1.0\nNa1 Cl3,-0.5\nK1 Cl1,-2.2\nNa8,\nNa2,0.1\n")
    hull = ReferenceHull(table)
    counts = count_rows(map(parse_formula, ["NaCl", "Na3Cl", "NaCl3", "Na", "CuO"]))
    # NaCl and Cl are lower than NaCl3; the elements are at 0 for what is not there.
    energies = hull_energies(counts, hull)
    assert energies.tolist() == pytest.approx([-2.0, -1.0, -1.0, 0.0, 0.0]) and hull.refused(counts) == [""] * 5
    assert has_competitor(counts, energies).tolist() == [True, True, True, True, False]
    table.write_text("formula,energy\nNaCl,-2\n")
    with pytest.raises(InputError, match=r"missing column\(s\) formation_energy"):
        ReferenceHull(table)
    table.write_text("formula,formation_energy\nNa(Cl),\nQq2,-2\n")
    with pytest.raises(InputError, match=r"known\.csv: row 2, column formula: value 'Qq2' has an element 'Qq'"):
        ReferenceHull(table)
    table.write_text("formula,formation_energy\nNaCl,\n")
    with pytest.raises(InputError, match="no usable row; 1 rows: formation_energy is missing"):
        ReferenceHull(table)


def test_shipped_hull_knows_the_elements_of_the_configs() -> None:
    hull = load_hull(SHIPPED_HULL)
    assert set(hull.elements) == set(PAPER_ELEMENTS)
    assert SHIPPED_HULL.stat().st_size <= 6_000_000
    metrics = json.loads(SHIPPED_HULL.with_suffix(".json").read_text())
    assert metrics["settings"]["elements"] == list(hull.elements)
    pure = torch.eye(len(hull.elements), dtype=torch.int64).numpy()
    torch.testing.assert_close(hull(counts_of(hull, pure)), torch.zeros(22, dtype=torch.float64), rtol=0, atol=1e-9)
    known = hull(crystals_of({"Si": 1, "O": 2}, {"Na": 1, "Cl": 1}).counts)
    assert known[0].item() == pytest.approx(-3.28, abs=0.1)  # quartz, Materials Project
    assert known[1].item() == pytest.approx(-2.1, abs=0.1)  # rock salt


def test_every_facet_is_below_every_phase_of_its_system() -> None:
    phases = invented()
    every = enumerate_facets(phases, 5)
    for i, system in enumerate(every.systems):
        inside = (np.delete(phases.fractions, system, axis=1) == 0).all(1)
        potentials = every.potentials[every.starts[i] : every.starts[i + 1]]
        slack = phases.energies[inside] - potentials @ phases.fractions[inside][:, system].T
        assert slack.min() > -1e-9
        # Tight on one phase for each element at least: none could be raised.
        assert ((slack < 1e-9).sum(1) >= len(system)).all()


def test_phases_lie_on_or_above_the_hull() -> None:
    phases = invented(seed=4)
    above = phases.energies - hull_of(phases).energy(torch.from_numpy(phases.fractions)).numpy()
    assert above.min() > -1e-9
    every = enumerate_facets(phases, 5)
    on_hull = np.unique(every.members)
    np.testing.assert_allclose(above[on_hull], 0, atol=1e-9)
    assert (np.delete(above, on_hull) > 0).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(0, 25), st.integers(1, 5))
def test_any_table_equals_the_linear_program(seed: int, k: int, n: int, max_elements: int) -> None:
    elements = SOME[:k]
    # Energies on a coarse grid: many phases lie exactly on edges between others.
    phases = invented(elements, n if k > 1 else 0, seed)
    phases = Phases(phases.elements, phases.fractions, np.round(phases.energies, 0))
    shares = fractions(drawn(phases, 30, seed, max_elements))
    hull = hull_of(phases, max_elements)
    np.testing.assert_allclose(
        hull.energy(torch.from_numpy(shares)).numpy(), phases.hull_energy(shares), rtol=0, atol=1e-8
    )


def test_linear_program_over_all_phases_is_the_same() -> None:
    phases = invented()
    shares = fractions(drawn(phases, 20))
    for share, energy in zip(shares, phases.hull_energy(shares), strict=True):
        full = linprog(phases.energies, A_eq=phases.fractions.T, b_eq=share)
        assert full.fun == pytest.approx(energy, abs=1e-9)


def test_degenerate_tables() -> None:
    def hull(compositions: list[dict[str, int]], energies: list[float], elements: str) -> ConvexHull:
        return hull_of(Phases.of(compositions, energies, elements.split()))

    def energy(made: ConvexHull, **composition: int) -> float:
        return float(made(crystals_of(composition).counts))

    one = hull([], [], "Na")
    assert energy(one, Na=3) == 0
    nothing = hull([], [], "Na Cl Si O F Mg")
    assert energy(nothing, Na=1, Cl=2, O=3) == 0
    unstable = hull([{"Na": 1, "Cl": 1}], [0.5], "Na Cl")
    assert energy(unstable, Na=1, Cl=1) == 0
    # Duplicates, multiples and a phase exactly between two others.
    salts = [{"Na": 1, "Cl": 1}, {"Na": 4, "Cl": 4}, {"Na": 1, "Cl": 1}, {"Na": 3, "Cl": 1}]
    doubled = hull(salts, [-1.0, -2.0, -2.0, -1.0], "Na Cl Mg")
    assert energy(doubled, Na=2, Cl=2) == pytest.approx(-2)
    assert energy(doubled, Na=3, Cl=1) == pytest.approx(-1)
    assert energy(doubled, Na=7, Cl=1) == pytest.approx(-0.5)
    # Magnesium has no compound: it stays beside the salt.
    assert energy(doubled, Na=1, Cl=1, Mg=2) == pytest.approx(-1)


def test_pure_elements_stay_at_zero() -> None:
    phases = Phases.of([{"Se": 3}, {"Na": 2, "Se": 1}], [-0.4, -1.0], ["Na", "Se"])
    assert phases.hull_energy(np.array([[0.0, 1.0]])).tolist() == [0.0]


def test_rows_do_not_interact() -> None:
    phases = invented()
    hull = hull_of(phases)
    counts = counts_of(hull, drawn(phases, 1500))
    together = hull(counts)
    order = torch.randperm(1500, generator=generator("order"))
    torch.testing.assert_close(hull(counts[order]), together[order], rtol=0, atol=1e-12)
    single = torch.cat([hull(counts[i : i + 1]) for i in range(50)])
    torch.testing.assert_close(single, together[:50], rtol=0, atol=1e-12)
    torch.testing.assert_close(hull(3 * counts), together, rtol=0, atol=1e-12)
    assert hull(counts[:0]).shape == (0,)


def test_packed_facets_are_rounded_and_no_more() -> None:
    stream = np.random.default_rng(0)
    elements = stream.integers(0, 4, size=(200, 3))
    elements[:4, 0] = range(4)
    potentials = np.round(stream.uniform(-9, 0, size=(200, 3)), stream.integers(1, 9))
    packed = pack_facets(potentials, elements)
    found = unpack_facets(packed, elements)
    np.testing.assert_allclose(found, potentials, rtol=0, atol=STEP / 2 * (1 + 1e-6))
    again = pack_facets(found, elements)
    assert all(torch.equal(again[name], packed[name]) for name in packed)
    for change, message in [
        ({"sizes": packed["sizes"][:2]}, "do not fit the elements"),
        ({"sizes": packed["sizes"] + 1}, "damaged"),
        ({"places": packed["places"][:-20]}, "damaged"),
        ({"places": torch.cat([packed["places"], packed["places"]])}, "damaged"),
        ({"steps": packed["places"]}, "damaged"),
        ({"steps": torch.zeros(40, dtype=torch.uint8)}, "damaged"),
    ]:
        with pytest.raises(ValueError, match=message):
            unpack_facets(packed | change, elements)
    with pytest.raises(ValueError, match="damaged"):
        unpack_facets(packed, np.concatenate([elements, elements]))


def test_many_potentials_of_one_element() -> None:
    potentials = -np.arange(70_000.0)[:, None] * 1e-4
    elements = np.zeros_like(potentials, dtype=np.int64)
    found = unpack_facets(pack_facets(potentials, elements), elements)
    np.testing.assert_allclose(found, potentials, rtol=0, atol=1e-12)


def test_refuses_what_it_does_not_know() -> None:
    phases = invented()
    hull = hull_of(phases, 3)
    with pytest.raises(InputError, match=r"no phases with S, Au; its elements: Li O F Mg Al Si Cl"):
        hull(crystals_of({"Li": 1, "O": 1}, {"S": 1, "O": 2}, {"Au": 1}).counts)
    with pytest.raises(InputError, match="row 1 has no atoms"):
        hull(torch.cat([crystals_of({"Li": 1}).counts, torch.zeros(1, 94, dtype=torch.int64)]))
    with pytest.raises(ValueError, match=r"must be \(n, 94\)"):
        hull(torch.ones(2, 7))
    with pytest.raises(InputError, match="up to 3 elements in a composition, not for 4"):
        hull(crystals_of({"Li": 1, "O": 1, "F": 1, "Mg": 1}).counts)


def test_refused_phases_and_hulls() -> None:
    with pytest.raises(InputError, match="Na1 Cl1 has Cl; allowed: Na"):
        Phases.of([{"Na": 1, "Cl": 1}], [-1.0], ["Na"])
    with pytest.raises(InputError, match="Na1 Cl1 has the energy nan"):
        Phases.of([{"Na": 1, "Cl": 1}], [float("nan")], ["Na", "Cl"])
    with pytest.raises(InputError, match=r"unknown element\(s\) Xx"):
        Phases.of([], [], ["Xx"])
    with pytest.raises(InputError, match="none given"):
        Phases.of([], [], [])
    with pytest.raises(InputError, match="54,264 systems of 6"):
        enumerate_facets(Phases.of([], [], list(PAPER_ELEMENTS)[:21]), 6)
    one, zeros = torch.tensor([0, 1]), torch.zeros(1, 2)
    with pytest.raises(InputError, match="must be finite"):
        ConvexHull(["Na", "Cl"], one, torch.full((1, 2), float("nan")))
    with pytest.raises(InputError, match="order of atomic numbers"):
        ConvexHull(["Cl", "Na"], one, zeros)
    with pytest.raises(InputError, match="max_elements: 0"):
        ConvexHull(["Na", "Cl"], one, zeros, 0)
    with pytest.raises(InputError, match="starts"):
        ConvexHull(["Na", "Cl"], torch.tensor([0, 1, 2]), torch.zeros(2, 2))
    with pytest.raises(InputError, match="potentials"):
        ConvexHull(["Na", "Cl"], torch.tensor([0, 1]), torch.zeros(1, 3))
    with pytest.raises(InputError, match="must rise from 0"):
        ConvexHull(["Na", "Cl"], torch.tensor([0, 2]), torch.zeros(1, 2))


TABLE = """\
formula,e_form,energy_above_hull
Na4 Cl4,-2.1,0.0
NaCl,-2.0,0.1
Na2 O,-1.4,
Na O,,
Na O,inf,
nonsense,-1,
,-1,
Se3,-0.5,
O2,0.1,0.1
Na Cl O3,-1.0,
Na Mg Al Si O F,-2.0,
"""


def write(path: Path, text: str = TABLE) -> Path:
    path.write_text(text)
    return path


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "hull.pt"
    args = [str(write(tmp_path / "t.csv")), "--label", "e_form", "--out", str(out)]
    assert main(["build-hull", *args]) == 0
    shown = capsys.readouterr().out
    assert "3 phases from 11 rows, 3 elements" in shown
    assert "2 rows, formula is missing or cannot be read" in shown
    assert sorted(p.name for p in out.parent.iterdir()) == ["hull.json", "hull.md", "hull.pt"]
    metrics = json.loads(out.with_suffix(".json").read_text())
    assert metrics["dropped"] == {
        "formula is missing or cannot be read": 2,
        "e_form is missing or not a finite number": 2,
        "a pure element with a negative formation energy, which contradicts its definition": 1,
        "has more elements than a composition may have": 1,
        "not the lowest of its composition": 2,
    }
    assert metrics["facets"] == 5 and metrics["errors"]["facets"]["max"] < STEP
    assert metrics["errors"]["linear program"]["max"] < STEP
    assert metrics["published"]["n"] == 3 and metrics["published"]["mean_absolute"] == pytest.approx(0, abs=STEP)
    card = out.with_suffix(".md").read_text()
    assert "--label e_form" in card and str(tmp_path) not in card
    hull = load_hull(out)
    assert hull.elements == ("O", "Na", "Cl")
    assert float(hull(crystals_of({"Na": 2, "Cl": 2}).counts)) == pytest.approx(-2.1)
    proxy = EnergyAboveHull(hull=out)
    crystals = crystals_of({"Na": 4, "Cl": 4})
    expected = proxy.formation_energy(crystals).item() + 2.1
    assert proxy(crystals).item() == pytest.approx(expected, abs=1e-5)


def test_same_seed_same_hull(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv")
    before = torch.get_rng_state()
    for name in "ab":
        build_hull(table, tmp_path / f"{name}.pt", "e_form", samples=100)
    assert torch.equal(torch.get_rng_state(), before)
    a, b = (load_hull(tmp_path / f"{name}.pt") for name in "ab")
    assert torch.equal(a.potentials, b.potentials) and torch.equal(a.starts, b.starts)


def test_elements_outside_of_the_chosen_ones_are_counted(tmp_path: Path) -> None:
    metrics = build_hull(write(tmp_path / "t.csv"), tmp_path / "h.pt", "e_form", elements=["Cl", "Na"], samples=100)
    assert metrics["dropped"]["has elements outside of the chosen ones"] == 5
    assert metrics["settings"]["elements"] == ["Na", "Cl"]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,b\n1,2\n", {}, r"missing column\(s\) formula, e_form; the table has: a, b"),
        ("formula,energy\nNaCl,-1\n", {}, r"missing column\(s\) e_form"),
        ("formula,e_form\nNaCl,\n", {}, "no usable row; 1 rows: e_form is missing"),
        ("formula,e_form\n", {}, "no rows"),
        (TABLE, {"elements": ["Na", "Qq"]}, r"elements: unknown element\(s\) Qq"),
        (TABLE, {"max_elements": 0}, "max_elements: 0"),
    ],
)
def test_refused_tables_and_options(tmp_path: Path, text: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_hull(write(tmp_path / "t.csv", text), tmp_path / "h.pt", "e_form", **options)  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv"]


def test_energies_in_other_units_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "formula,formation_energy\nNaCl,-193.0\nLiF,-300\nNa,0\nKF,-2.9\n")
    words = (
        r"row 1 .*column formation_energy: value -193 is below -6 eV/atom.*\(2 of 4 rows\); allowed: .*96\.485 kJ/mol"
    )
    with pytest.raises(InputError, match=words):
        build_hull(path, tmp_path / "h.pt")
    assert not (tmp_path / "h.pt").exists()
    with pytest.raises(InputError, match=words):
        ReferenceHull(path)


@pytest.mark.skipif(not CRYSTALS.is_file(), reason="needs the table of crystals")
def test_no_real_energy_is_refused() -> None:
    assert pd.read_parquet(CRYSTALS)["formation_energy"].min() > LEAST + 1


def test_refused_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"must end in \.pt"):
        build_hull(write(tmp_path / "t.csv"), tmp_path / "h.csv", "e_form")
    assert main(["build-hull", str(tmp_path / "none.csv"), "--out", str(tmp_path / "h.pt")]) == 2
    assert "none.csv: no such file" in capsys.readouterr().err
    with pytest.raises(InputError, match="no such file with a hull"):
        load_hull(tmp_path / "h.pt")
    with pytest.raises(InputError, match="no such file with a hull"):
        EnergyAboveHull(hull=tmp_path / "h.pt")
    path = tmp_path / "h.pt"
    build_hull(tmp_path / "t.csv", path, "e_form", samples=100)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read as a hull"):
        load_hull(path)
    path.write_bytes(whole)
    content = torch.load(path, weights_only=True)
    for change, message in [
        ({"format": "other"}, "holds 'other', not a 'crystalgfn hull 2'"),
        ({"places": "other"}, "no usable hull: AttributeError"),
        ({"places": content["places"][:-9]}, "no usable hull: ValueError"),
        ({"facets": content["facets"][:0]}, "no usable hull: InputError: starts"),
        ({"facets": content["facets"] + 1}, "no usable hull: ValueError"),
        ({"elements": ["Na"]}, "no usable hull: ValueError"),
        ({"max_elements": 2}, "no usable hull: InputError: starts"),
    ]:
        torch.save(content | change, path)
        with pytest.raises(InputError, match=message):
            load_hull(path)
    torch.save([1, 2], path)
    with pytest.raises(InputError, match="holds 'list'"):
        load_hull(path)


def test_random_compositions() -> None:
    rows = random_compositions(4, 500, 3, np.random.default_rng(0))
    assert rows.shape == (500, 4) and (rows >= 0).all() and rows.max() == 16
    assert set((rows > 0).sum(1).tolist()) == {1, 2, 3}
    assert random_compositions(1, 10, 5, np.random.default_rng(0)).shape == (10, 1)


@pytest.fixture(scope="module")
def proxy() -> EnergyAboveHull:
    return EnergyAboveHull()


@pytest.fixture(scope="module")
def objects() -> Crystals:
    env = make_crystal(elements=PAPER_ELEMENTS, volume_per_atom=(7.0, 60.0))
    return env.decode(random_walk(env, 40, generator("stability"))[0])


class TestEnergyAboveHull(ProxyContract):
    pass


def test_proxy_is_formation_energy_minus_hull(proxy: EnergyAboveHull) -> None:
    crystals = crystals_of({"Na": 4, "Cl": 4}, {"Si": 3, "O": 6})
    energy, value = proxy.formation_energy.predict(crystals), proxy.predict(crystals)
    expected = energy.value.double() - proxy.hull(crystals.counts)
    torch.testing.assert_close(value.value.double(), expected, rtol=0, atol=1e-5)
    assert energy.uncertainty is not None and value.uncertainty is not None
    assert torch.equal(value.uncertainty, energy.uncertainty)
    with pytest.raises(InputError, match="no phases with Au"):
        proxy(crystals_of({"Au": 1}))
    assert not any(parameter.requires_grad for parameter in proxy.parameters())


def test_phases_are_read_from_parquet(tmp_path: Path) -> None:
    frame = pd.DataFrame({"formula": ["Na1 Cl1", None], "formation_energy": [-2.0, -1.0]})
    frame.to_parquet(tmp_path / "t.parquet")
    table = read_phases(tmp_path / "t.parquet")
    assert table.used == 1 and table.phases.elements == ("Na", "Cl")
    assert table.dropped == {"formula is missing or cannot be read": 1, "not the lowest of its composition": 0}


def test_a_hull_without_a_competing_compound() -> None:
    """In Li-Mg-N there is a compound; Co and K form none in the shipped table."""
    hull = load_hull(SHIPPED_HULL)
    counts = count_rows(map(parse_formula, ["Li3N", "K2 Co1", "K1", "Na1 Cl1", "Ca1 O1"]))
    energies = hull_energies(counts, hull)
    assert has_competitor(counts, energies).tolist() == [True, False, True, True, False]
    assert np.isnan(energies).tolist() == [False, False, False, False, True]
