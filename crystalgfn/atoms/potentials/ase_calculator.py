"""Any ase calculator as a potential."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Literal

from crystalgfn.atoms.potentials.base import Evaluation, Potential
from crystalgfn.atoms.potentials.quiet import silence
from crystalgfn.checks import one_of
from crystalgfn.errors import InputError
from crystalgfn.registry import POTENTIALS

if TYPE_CHECKING:
    from pymatgen.core import Structure


@POTENTIALS.register
class AseCalculator(Potential):
    """Any ase calculator, by its class path. It has no element references; fit some with `crystalgfn references`.

    Structures are evaluated one after another. A calculator says by a ValueError that it cannot evaluate a structure.

    Args:
        class_path: the class, such as ``ase.calculators.lj.LennardJones``.
        elements: symbols of the elements that the calculator knows, also as one text with spaces; None for all.
        corrections: corrections that its energies lack, see `Potential`.
        arguments: arguments of the class, such as ``sigma=3.4``.

    Raises:
        InputError: if ``corrections`` is not allowed.
    """

    packages = ("ase",)

    def __init__(
        self,
        class_path: str,
        elements: Iterable[str] | None = None,
        corrections: Literal["none", "MP2020"] = "none",
        **arguments: Any,
    ) -> None:
        one_of("AseCalculator: corrections", corrections, ("none", "MP2020"))
        self.corrections = corrections
        words = elements.split() if isinstance(elements, str) else elements
        self.elements = None if words is None else frozenset(words)
        self._class_path, self._arguments = class_path, arguments
        package = class_path.partition(".")[0]
        try:
            self.version = version(package)
        except PackageNotFoundError:  # a module of the user's own
            self.version = ""

    @property
    def name(self) -> str:
        if type(self) is not AseCalculator:  # a subclass, registered under its own name
            return type(self).__name__
        given = {} if self.elements is None else {"elements": " ".join(sorted(self.elements))}
        given |= {} if self.corrections == "none" else {"corrections": self.corrections}
        words = [f"{key}={value}" for key, value in (given | self._arguments).items()]
        return ",".join([f"AseCalculator:{self._class_path}", *words])

    def prepare(self) -> None:
        self.calculator()

    def calculator(self) -> Any:
        return _make(self._class_path, tuple(sorted(self._arguments.items())))

    def _evaluate(self, structures: Sequence[Structure], forces: bool, stresses: bool) -> Evaluation:
        from pymatgen.io.ase import AseAtomsAdaptor

        calculator = self.calculator()
        found = Evaluation.empty(structures, forces, stresses)
        for row, structure in enumerate(structures):
            with silence():
                atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
                atoms.calc = calculator
                try:
                    found.energies[row] = atoms.get_potential_energy()
                    if found.forces is not None:
                        found.forces[row] = atoms.get_forces()
                    if found.stresses is not None:
                        found.stresses[row] = atoms.get_stress(voigt=False)
                except ValueError:
                    found.energies[row] = float("nan")
        return found


@cache
def _make(class_path: str, arguments: tuple[tuple[str, Any], ...]) -> Any:
    """Make a calculator; later calls return the same one, because it may be slow to load."""
    module, _, name = class_path.rpartition(".")
    try:
        cls = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"AseCalculator: class_path: {class_path!r} cannot be imported: {error}") from None
    try:
        with silence():
            return cls(**dict(arguments))
    except TypeError as error:
        raise InputError(f"AseCalculator: {class_path}: {error}") from None
