"""Figures of a discovery run: its rounds, and a crystal with its cell. No window is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from crystalgfn.crystal.crystallography import element_symbols
from crystalgfn.discovery.outcome import Floats, column, proxy_errors
from crystalgfn.evaluation.drawing import OTHER_COLORS, REFERENCE_COLOR, SAMPLE_COLOR
from crystalgfn.evaluation.intervals import wilson
from crystalgfn.judging.verdict import SURVIVES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pymatgen.core import Structure

EDGE = 0.02
"""Atoms this close to a face of the cell, in fractions of an edge, are also drawn on the opposite face."""

RADIUS = 0.5
"""Radius of drawn atoms, as a share of the covalent radius."""

ALIKE = 0.5
"""Distance between two colours (red, green, blue, each 0 to 1) below which they look alike."""

VIEW = "-80x,-20y,0z"
"""Rotation of a drawn cell: nearly along b, with c upwards."""


def rounds_figure(rounds: pd.DataFrame, frame: pd.DataFrame | None = None) -> Figure:
    """Results of the rounds: survivors, errors of the proxy before training on each round, diversity.

    Args:
        rounds: one row per round, from `crystalgfn.discovery.outcome.rounds_table`.
        frame: all crystals with their energies above the hull, for a fourth panel: mean absolute error over mean
            uncertainty in the first and the last round, for crystals in groups of equal size by uncertainty. None
            leaves this panel out.
    """
    from matplotlib.figure import Figure

    number = rounds["round"].to_numpy(dtype=int)
    figure = Figure(figsize=(11.0, 7.0) if frame is not None else (13.0, 3.9), dpi=110, layout="constrained")
    axes = figure.subplots(2, 2) if frame is not None else figure.subplots(1, 3)
    panels = axes.ravel().tolist()
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
    _survival(panels[0], rounds, number)
    _errors(panels[1], rounds, number)
    _diversity(panels[2], rounds, number)
    for panel in panels[:3]:
        panel.set_xlabel("round")
        # Ticks between two rounds have no meaning.
        panel.set_xticks(number[:: max(1, len(number) // 10)])
        panel.set_xlim(number.min() - 0.5, number.max() + 0.5)
    if frame is not None:
        _calibration(panels[3], frame)
    return figure


def _survival(axes: Axes, rounds: pd.DataFrame, number: Any) -> None:
    series = [("all evaluated", "evaluated", "survivors", SAMPLE_COLOR, -0.06)]
    if "drawn" in rounds.columns and (rounds["drawn"] > 0).any():
        series.append(("random samples of the model", "drawn", "drawn_survivors", OTHER_COLORS[0], 0.06))
    highest = 10.0
    for label, total, count, color, shift in series:
        pairs = list(zip(rounds[count].astype(int), rounds[total].astype(int), strict=True))
        has_some = np.array([n > 0 for _, n in pairs])
        rate = 100 * np.array([k / n if n else np.nan for k, n in pairs])
        bounds = 100 * np.array([wilson(k, n) for k, n in pairs]).T
        axes.errorbar(
            (number + shift)[has_some], rate[has_some], np.abs(bounds - rate)[:, has_some], fmt="o-", ms=4, lw=1.4,
            capsize=3, color=color, label=label,
        )  # fmt: skip
        highest = max(highest, float(bounds[1][has_some].max(initial=0.0)))
    axes.set_ylim(0, min(119.0, 1.25 * highest))
    axes.set_yticks([tick for tick in axes.get_yticks() if tick <= 100])
    axes.set_ylabel(f"below {SURVIVES} eV/atom above the hull [%]")
    axes.set_title("survivors (95 % interval)", fontsize=10)
    axes.legend(frameon=False, fontsize=9, loc="upper left", ncols=2)


def _errors(axes: Axes, rounds: pd.DataFrame, number: Any) -> None:
    lines = (
        ("mae_before", "mean absolute error", SAMPLE_COLOR, "o-"),
        ("uncertainty_before", "mean uncertainty", OTHER_COLORS[0], "s--"),
        ("bias_before", "mean error", REFERENCE_COLOR, "^:"),
    )
    for name, label, color, style in lines:
        axes.plot(number, column(rounds, name), style, color=color, ms=4, lw=1.4, label=label)
    axes.axhline(0, color="#cccccc", lw=0.8, zorder=0)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.3 * (high - low))  # room for the legend
    axes.set_ylabel("eV/atom")
    axes.set_title("proxy, before training on the round", fontsize=10)
    axes.legend(frameon=False, fontsize=9, loc="upper right")


def _diversity(axes: Axes, rounds: pd.DataFrame, number: Any) -> None:
    lines = (
        ("survivors", "survivors", "#aaaaaa", "o:"),
        ("groups", "space groups", OTHER_COLORS[1], "o-"),
        ("elements", "elements", OTHER_COLORS[2], "s-"),
        ("novel", "new formula in its group", OTHER_COLORS[3], "^--"),
    )
    highest = 1.0
    for name, label, color, style in lines:
        values = column(rounds, name)
        if np.isfinite(values).any():
            axes.plot(number, values, style, color=color, ms=4, lw=1.4, label=label)
            highest = max(highest, float(np.nanmax(values)))
    axes.set_ylim(0, 1.45 * highest)
    axes.set_ylabel("number")
    axes.set_title("diversity and novelty of the survivors", fontsize=10)
    axes.legend(frameon=False, fontsize=9, loc="upper right", ncols=2)


def _calibration(axes: Axes, frame: pd.DataFrame) -> None:
    highest = 0.1
    predicted = frame.loc[np.isfinite(column(frame, "predicted"))]
    found = np.unique(predicted["round"].to_numpy(dtype=int))
    for index, (number, color) in enumerate(zip(found[[0, -1]] if len(found) else [], _TWO, strict=False)):
        if index and number == found[0]:
            break
        bins = proxy_errors(predicted[predicted["round"] == number]).bins
        uncertainty, error = np.array([values[1:] for values in bins]).reshape(-1, 2).T
        axes.plot(uncertainty, error, "o-", color=color, ms=4, lw=1.4, label=f"round {number}")
        highest = max([highest, *uncertainty.tolist(), *error.tolist()])
    axes.plot([0, 1.1 * highest], [0, 1.1 * highest], color="#aaaaaa", lw=1.0, ls="--", label="perfect calibration")
    axes.set_xlim(0, 1.1 * highest)
    axes.set_ylim(0, 1.1 * highest)
    axes.set_xlabel("mean uncertainty [eV/atom]")
    axes.set_ylabel("mean absolute error [eV/atom]")
    axes.set_title("calibration, before training on the round", fontsize=10)
    axes.legend(frameon=False, fontsize=9, loc="lower right")


_TWO = (REFERENCE_COLOR, SAMPLE_COLOR)


def crystal_figure(structure: Structure) -> Figure:
    """A crystal's conventional cell with its atoms. Atoms on a face are also drawn on the opposite face.

    Args:
        structure: the crystal, in any cell.
    """
    from ase.data import covalent_radii
    from ase.visualize.plot import plot_atoms
    from matplotlib.figure import Figure

    atoms = _cell(structure)
    figure = Figure(figsize=(3.2, 3.2), dpi=110)
    axes = figure.add_axes((0.0, 0.11, 1.0, 0.88))
    radii = RADIUS * covalent_radii[atoms.numbers]
    of_element = _colors(sorted(set(atoms.numbers.tolist())))
    colors = np.array([of_element[number] for number in atoms.numbers.tolist()])
    plot_atoms(atoms, axes, radii=radii, colors=colors, rotation=VIEW, show_unit_cell=2)
    axes.set_axis_off()
    handles, names = [_dot(color) for color in of_element.values()], [element_symbols()[z - 1] for z in of_element]
    figure.legend(
        handles, names, loc="lower center", ncols=len(names), frameon=False, fontsize=11, handletextpad=0.1,
        columnspacing=1.0, borderaxespad=0.2,
    )  # fmt: skip
    return figure


def _colors(numbers: list[int]) -> dict[int, Floats]:
    """A colour for each element (atomic number): Jmol's, or another one if it looks like a colour taken before."""
    from ase.data.colors import jmol_colors
    from matplotlib.colors import to_rgb

    chosen: dict[int, Floats] = {}
    for number in numbers:
        choices = [np.array(jmol_colors[number]), *(np.array(to_rgb(color)) for color in OTHER_COLORS)]
        # If every colour looks like one taken before, the element gets Jmol's.
        free = (c for c in choices if all(np.linalg.norm(c - taken) >= ALIKE for taken in chosen.values()))
        chosen[number] = next(free, choices[0])
    return chosen


def _dot(color: Floats) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], ls="", marker="o", ms=9, mfc=tuple(color), mec="#222222", mew=0.6)


def _cell(structure: Structure) -> Any:
    """Atoms (ASE) of the conventional standard cell and their copies on opposite faces."""
    from ase import Atoms
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer, SymmetryUndeterminedError

    from crystalgfn.atoms.build import SYMPREC
    from crystalgfn.atoms.potentials.quiet import silence

    with silence():
        try:
            cell = SpacegroupAnalyzer(structure, symprec=SYMPREC).get_conventional_standard_structure()
        except (SymmetryUndeterminedError, TypeError):  # spglib finds nothing if atoms nearly coincide
            cell = structure
    fractions, numbers = [], []
    for atom in cell:
        place = atom.frac_coords % 1.0
        place[place > 1 - EDGE] -= 1.0
        on_face = place < EDGE
        for shift in np.ndindex(*(2 if on else 1 for on in on_face)):
            fractions.append(place + shift)
            numbers.append(atom.specie.Z)
    return Atoms(numbers=numbers, scaled_positions=fractions, cell=cell.lattice.matrix, pbc=False)
