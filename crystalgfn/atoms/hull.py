"""Energy above the convex hull of a table of known crystals, by pymatgen's `PhaseDiagram`."""

from __future__ import annotations

from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymatgen.core import Composition


class Reference:
    """Known crystals by their elements, the lowest formation energy of each reduced formula.

    Elements are on the hull at 0 eV/atom, whether the table has them or not.

    Args:
        path: CSV or parquet table with the columns formula and formation_energy [eV/atom]; other columns are ignored,
            rows without an energy too.

    Raises:
        InputError: if the table cannot be read, lacks a column, has a bad formula, or no row with an energy.
    """

    def __init__(self, path: Path) -> None:
        import numpy as np
        import pandas as pd

        from crystalgfn.crystal.tables import parse_formula
        from crystalgfn.errors import InputError
        from crystalgfn.files import read_frame

        frame = read_frame(path, ["formula", "formation_energy"])
        values = pd.to_numeric(frame["formation_energy"], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
        self._lowest: dict[frozenset[str], dict[tuple[tuple[str, int], ...], float]] = {}
        for number, (formula, value) in enumerate(
            zip(frame["formula"].tolist(), values.tolist(), strict=True), start=1
        ):
            if not np.isfinite(value):
                continue
            try:
                counts = parse_formula(str(formula))
            except InputError as error:
                raise InputError(f"{path}: row {number}, column formula: value {str(formula)!r} {error}") from None
            divisor = int(np.gcd.reduce(list(counts.values())))
            key = tuple(sorted((symbol, count // divisor) for symbol, count in counts.items()))
            known = self._lowest.setdefault(frozenset(counts), {})
            known[key] = min(value, known.get(key, np.inf))
        if not self._lowest:
            raise InputError(f"{path}: no row has a formation energy")

    @cached_property
    def _diagrams(self) -> dict[frozenset[str], Any]:
        return {}

    def above_hull(self, composition: Composition, formation_energy: float) -> float:
        """Energy of a crystal above the hull of the table.

        Args:
            composition: of the crystal.
            formation_energy: its formation energy [eV/atom].

        Returns:
            eV/atom, negative below the hull. The crystal itself is not part of it, unless the table has it.
        """
        symbols = frozenset(element.symbol for element in composition.elements)
        if symbols not in self._diagrams:
            self._diagrams[symbols] = self._diagram(symbols)
        return formation_energy - float(self._diagrams[symbols].get_hull_energy_per_atom(composition))

    def _diagram(self, symbols: frozenset[str]) -> Any:
        from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
        from pymatgen.core import Composition

        entries = [PDEntry(Composition(symbol), 0.0) for symbol in sorted(symbols)]
        for size in range(2, len(symbols) + 1):
            for subset in combinations(sorted(symbols), size):
                for key, value in self._lowest.get(frozenset(subset), {}).items():
                    composition = Composition(dict(key))
                    entries.append(PDEntry(composition, value * composition.num_atoms))
        return PhaseDiagram(entries)
