"""Elemental references, which convert the total energies of a potential to formation energies.

E_form = E - sum_i x_i mu_i, with the potential's energy E [eV/atom], corrections included, and the fraction x_i and the
reference energy mu_i [eV/atom] of each element i.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalgfn.errors import InputError
from crystalgfn.files import atomic_path

if TYPE_CHECKING:
    import numpy as np
    from pymatgen.core import Composition

    from crystalgfn.atoms.potentials.base import Potential

HUBER = 0.03
"""Crystals with a residual above this [eV/atom] have less weight in the fit; about three times the median residual."""


FIRST = "CHGNet"
"""The potential of files of older versions, which name none."""


@dataclass(frozen=True)
class ElementReferences:
    """One reference energy for each element.

    Attributes:
        energies: reference energy [eV/atom] of each symbol.
        potential: name of the potential for which the references are valid.
        model: version of its weights.
        recipe: settings and results of the fit, for information.
    """

    energies: Mapping[str, float]
    potential: str
    model: str
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, potential: Potential, path: str | Path | None = None) -> ElementReferences:
        """Read a file written by `save`.

        Args:
            potential: the potential whose energies are to be converted.
            path: the JSON file; None for the references that come with the potential.

        Raises:
            InputError: if the file cannot be read, has other content, or is for another potential or other weights, or
                no references come with the potential.
        """
        path = path or potential.references
        if path is None:
            raise InputError(
                f"--element-references: no references come with {potential.name}; give a file of "
                f"'crystalgfn references --potential {potential.name}'"
            )
        content = _read(path)
        try:
            energies = {str(symbol): float(value) for symbol, value in content["energies"].items()}
            references = cls(energies, content.get("potential", FIRST), content["model"], content["recipe"])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{path}: no table of references; 'crystalgfn references' writes one") from None
        if (references.potential, references.model) != (potential.name, potential.version):
            raise InputError(
                f"{path}: these are references for {references.potential} {references.model}, not for "
                f"{potential.name} {potential.version}"
            )
        return references

    @staticmethod
    def potential_of(path: str | Path) -> str:
        """Name of the potential that a file of references is for.

        Raises:
            InputError: if the file cannot be read or has other content.
        """
        return str(_read(path).get("potential", FIRST))

    def save(self, path: Path) -> None:
        """Write the references as JSON. The file is written completely or not at all."""
        rounded = {symbol: round(value, 5) for symbol, value in sorted(self.energies.items())}
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(asdict(self) | {"energies": rounded}, indent=1) + "\n")

    def missing(self, composition: Composition) -> list[str]:
        """Elements of a composition that have no reference."""
        return [element.symbol for element in composition.elements if element.symbol not in self.energies]

    def formation_energy(self, energy: float, composition: Composition) -> float:
        """Formation energy of a crystal.

        Args:
            energy: the potential's energy with corrections [eV/atom].
            composition: composition of the crystal; only the fractions of the elements count.

        Returns:
            formation energy [eV/atom]; NaN if an element has no reference.
        """
        fractions = composition.fractional_composition
        return energy - sum(x * self.energies.get(element.symbol, float("nan")) for element, x in fractions.items())


def _read(path: str | Path) -> dict[str, Any]:
    """Content of a file of references."""
    try:
        content = json.loads(Path(path).read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    except ValueError:
        content = None
    if not isinstance(content, dict) or "energies" not in content:
        raise InputError(f"{path}: no table of references; 'crystalgfn references' writes one")
    return content


def fit(
    energies: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], compositions: Sequence[Composition]
) -> dict[str, float]:
    """Fit references so that a potential's energies give the known formation energies.

    The fit is robust (Huber loss, by iteratively reweighted least squares), because a few labels and structures are
    outliers.

    Args:
        energies: (n,) energies of the potential, corrections included [eV/atom].
        labels: (n,) formation energies of the same structures [eV/atom].
        compositions: compositions of these n structures.

    Returns:
        reference energy [eV/atom] of each element that occurs, by symbol.
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
