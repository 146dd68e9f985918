"""Elemental references: from CHGNet's total energies to formation energies.

E_form = E_CHGNet - sum_i x_i mu_i, with the fractions x_i of the elements and one reference mu_i [eV/atom] each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalgfn.atoms.potentials.chgnet import MODEL
from crystalgfn.errors import InputError
from crystalgfn.files import atomic_path

if TYPE_CHECKING:
    import numpy as np
    from pymatgen.core import Composition

SHIPPED = Path(__file__).parent / "data" / "chgnet_references.json"

HUBER = 0.03
"""Residual [eV/atom] from which a crystal counts less in the fit, about three times the median one."""


@dataclass(frozen=True)
class References:
    """One energy for each element.

    Attributes:
        energies: symbol to reference energy [eV/atom].
        model: name of the CHGNet weights that they belong to.
        recipe: how they were made, for people.
    """

    energies: Mapping[str, float]
    model: str = MODEL
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path = SHIPPED) -> References:
        """Read a file that `save` wrote.

        Raises:
            InputError: if it cannot be read, is no such file, or belongs to other weights of CHGNet.
        """
        try:
            content = json.loads(Path(path).read_text())
            references = cls(
                {str(k): float(v) for k, v in content["energies"].items()}, content["model"], content["recipe"]
            )
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{path}: no table of references; 'crystalgfn chgnet-references' writes one") from None
        if references.model != MODEL:
            raise InputError(f"{path}: references for CHGNet {references.model}, not for {MODEL}")
        return references

    def save(self, path: Path) -> None:
        """Write as JSON; the file appears complete or not at all."""
        rounded = {symbol: round(value, 5) for symbol, value in sorted(self.energies.items())}
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(asdict(self) | {"energies": rounded}, indent=1) + "\n")

    def missing(self, composition: Composition) -> list[str]:
        """Elements of a composition that have no reference."""
        return [element.symbol for element in composition.elements if element.symbol not in self.energies]

    def formation_energy(self, energy: float, composition: Composition) -> float:
        """Formation energy of a crystal.

        Args:
            energy: CHGNet's energy [eV/atom].
            composition: of the cell, in any multiple.

        Returns:
            eV/atom; NaN if an element has no reference.
        """
        fractions = composition.fractional_composition
        return energy - sum(x * self.energies.get(element.symbol, float("nan")) for element, x in fractions.items())


def fit(
    energies: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], compositions: Sequence[Composition]
) -> dict[str, float]:
    """References that bring CHGNet's energies closest to known formation energies.

    Robust least squares (Huber's loss, by reweighting): a few labels and structures are odd.

    Args:
        energies: (n,) CHGNet energies [eV/atom].
        labels: (n,) formation energies of the same structures [eV/atom].
        compositions: their n compositions.

    Returns:
        symbol to reference [eV/atom], for each element that occurs.
    """
    import numpy as np

    symbols = sorted({element.symbol for composition in compositions for element in composition.elements})
    column = {symbol: i for i, symbol in enumerate(symbols)}
    fractions = np.zeros((len(compositions), len(symbols)))
    for row, composition in enumerate(compositions):
        for element, x in composition.fractional_composition.items():
            fractions[row, column[element.symbol]] = x
    target = energies - labels
    weight = np.ones(len(target))
    for _ in range(30):
        root = np.sqrt(weight)
        solution = np.linalg.lstsq(fractions * root[:, None], target * root, rcond=None)[0]
        residual = np.abs(target - fractions @ solution)
        weight = np.minimum(1.0, HUBER / np.maximum(residual, 1e-12))
    return dict(zip(symbols, solution.tolist(), strict=True))
