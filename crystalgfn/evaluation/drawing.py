"""Figures of samples, drawn with matplotlib without a window and without its global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crystalgfn.crystal.crystallography import N_ELEMENTS, element_symbols
from crystalgfn.crystal.group_classes import group_classes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

SAMPLE_COLOR, REFERENCE_COLOR = "#2a78b5", "#444444"
"""Colours of the samples and of the reference."""

OTHER_COLORS = ("#d9772b", "#8c6bb1", "#2f9e77", "#c2476b", "#8a7a2f")
"""Colours of further tables of samples, used in turn."""

SYSTEM_COLORS = ("#8c6bb1", "#41a7a0", "#3b74b9", "#5aa04a", "#d9a520", "#de7a31", "#b8373b")
"""One colour per crystal system, in the order of `crystalgfn.crystal.group_classes.CRYSTAL_SYSTEMS`."""


@dataclass(frozen=True)
class ReferenceCrystals:
    """Known crystals to compare samples with.

    Attributes:
        label: their name in legends.
        values: (n,) their property, in the unit of the proxy.
        groups: (230,) number of known crystals with each space group.
    """

    label: str
    values: NDArray[np.float64]
    groups: NDArray[np.int64]


def property_figure(
    values: NDArray[np.float64],
    name: str,
    unit: str,
    title: str,
    reference: ReferenceCrystals | None = None,
    others: Mapping[str, NDArray[np.float64]] | None = None,
) -> Figure:
    """Distribution of a property in samples, compared with a reference.

    Args:
        values: (n,) property of the samples.
        name: name of the property.
        unit: unit of the property, or an empty string.
        title: title of the figure.
        reference: known crystals, drawn as an outline; None for none.
        others: property of further samples by their label, (m,) each, drawn as outlines.
    """
    figure, axes = _figure(7.0, 4.2)
    outlines = [
        (label, other, OTHER_COLORS[index % len(OTHER_COLORS)])
        for index, (label, other) in enumerate((others or {}).items())
    ]
    if reference is not None:
        outlines.append((reference.label, reference.values, REFERENCE_COLOR))
    pools = [values, *(outline for _, outline, _ in outlines)]
    bins = _bins(pools)
    axes.hist(
        values, bins=bins, weights=_shares(values), color=SAMPLE_COLOR, alpha=0.75, label=_label("samples", values)
    )
    for label, outline, color in outlines:
        axes.hist(
            outline,
            bins=bins,
            weights=_shares(outline),
            histtype="step",
            linewidth=1.6,
            color=color,
            label=_label(label, outline),
        )
    for pool, color in zip(pools, (SAMPLE_COLOR, *(color for _, _, color in outlines)), strict=True):
        # Bars and medians must end below the legend.
        axes.axvline(float(np.median(pool)), ymax=1 / _headroom(len(pools)), color=color, linestyle="--", linewidth=1.2)
    axes.set_xlim(bins[0], bins[-1])
    text = _plain(name.replace("_", " "))
    axes.set_xlabel(f"{text} [{unit}]" if unit else text)
    axes.set_ylabel("share of crystals [%]")
    if title:
        axes.set_title(title)
    axes.set_ylim(0, axes.get_ylim()[1] * _headroom(len(pools)))
    axes.set_yticks([tick for tick in axes.get_yticks() if tick <= 100])
    axes.legend(frameon=False, loc="upper right", title="dashed: median", alignment="left", title_fontsize="small")
    return figure


def elements_figure(shares: NDArray[np.float64], possible: NDArray[np.bool_], title: str) -> Figure:
    """Periodic table with the share of samples that contain each element.

    Args:
        shares: (94,) 0 to 1.
        possible: (94,) whether the element is allowed; other elements are grey.
        title: title of the figure.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    figure, axes = _figure(10.0, 5.6)
    norm = Normalize(0, max(float(shares.max(initial=0.0)), 1e-9) * 100)
    colors = colormaps["YlGnBu"]
    for index, symbol in enumerate(element_symbols()):
        row, column = _place(index + 1)
        share = float(shares[index]) * 100
        color = colors(norm(share)) if possible[index] else "#f1f1f1"
        axes.add_patch(Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, facecolor=color, edgecolor="#bbbbbb", lw=0.5))
        is_dark = possible[index] and norm(share) > 0.55
        ink = "white" if is_dark else ("#111111" if possible[index] else "#aaaaaa")
        axes.text(column, row - 0.12, symbol, ha="center", va="center", fontsize=10, weight="bold", color=ink)
        if possible[index]:
            text = f"{share:.0f}" if share >= 9.95 or share == 0 else f"{share:.1f}" if share >= 0.05 else "<0.1"
            axes.text(column, row + 0.27, text, ha="center", va="center", fontsize=6.5, color=ink)
    axes.set_xlim(0.4, 18.6)
    axes.set_ylim(9.9, 0.4)
    axes.set_aspect("equal")
    axes.set_axis_off()
    if title:
        axes.set_title(title)
    # The colour bar is in the gap above the transition metals.
    bar = axes.inset_axes((3.2, 2.45, 8.6, 0.4), transform=axes.transData)
    figure.colorbar(ScalarMappable(norm, colors), cax=bar, orientation="horizontal")
    bar.set_title("crystals that contain the element [%]", fontsize=9)
    bar.tick_params(labelsize=8)
    return figure


def space_groups_figure(counts: NDArray[np.int64], title: str, reference: ReferenceCrystals | None = None) -> Figure:
    """Share of the samples in each space group, coloured by crystal system, and in each crystal system.

    Args:
        counts: (230,) number of samples in each space group.
        title: title of the figure.
        reference: known crystals, shown as marks at the crystal systems; None for none.
    """
    from matplotlib.figure import Figure

    classes = group_classes("crystal_system")
    system = classes.of_group.numpy()
    colors = np.array(SYSTEM_COLORS)
    figure = Figure(figsize=(11.0, 4.4), dpi=110, layout="constrained")
    groups, systems = figure.subplots(1, 2, width_ratios=(3, 1))
    numbers = np.arange(1, len(counts) + 1)
    shares = _percent(counts)
    groups.bar(numbers, shares, width=1.0, color=colors[system])
    edges = [int(numbers[system == i].max()) for i in range(len(classes.names) - 1)]
    for edge in edges:
        groups.axvline(edge + 0.5, color="#cccccc", linewidth=0.8, zorder=0)
    groups.set_xlim(0, 231)
    groups.set_xticks([1, 16, 75, 143, 168, 195, 230])
    groups.set_xlabel("space group number")
    groups.set_ylabel("share of crystals [%]")
    groups.set_ylim(0, max(float(shares.max()), 1e-9) * 1.12)
    for number in _peaks(shares, n=8, gap=8):
        groups.annotate(
            str(number), (number, shares[number - 1]), (0, 2), textcoords="offset points", ha="center", fontsize=8
        )
    _tidy(groups)

    by_system = _percent(np.bincount(system, weights=counts, minlength=len(classes.names)))
    rows = np.arange(len(classes.names))
    systems.barh(rows, by_system, color=colors)
    systems.set_yticks(rows, classes.names)
    systems.invert_yaxis()
    systems.set_xlabel("share of crystals [%]")
    highest = float(by_system.max())
    if reference is not None:
        known = _percent(np.bincount(system, weights=reference.groups, minlength=len(classes.names)))
        systems.scatter(known, rows, marker="D", s=22, color=REFERENCE_COLOR, label=reference.label, zorder=3)
        systems.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        highest = max(highest, float(known.max()))
    systems.set_xlim(0, max(highest, 1e-9) * 1.1)
    _tidy(systems)
    if title:
        figure.suptitle(title)
    return figure


def sampler_figure(
    log_reward: NDArray[np.float64],
    log_p: NDArray[np.float64],
    log_z: float,
    known: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
    title: str = "",
) -> Figure:
    """Log-probability of samples over their log R, with the line log p = log R - log Z.

    Args:
        log_reward: (n,) log R(x) of the samples.
        log_p: (n,) log p(x) of the samples.
        log_z: estimate of log Z.
        known: (m,) log R(x) and (m,) log p(x) of known objects; None for none.
        title: title of the figure.
    """
    figure, axes = _figure(7.0, 5.0)
    # The points become one picture inside the drawing, because thousands of shapes are slow to show.
    alpha = 0.35 if known is None else 0.6
    label = None if known is None else f"samples: n = {len(log_p):,}"
    axes.scatter(log_reward, log_p, s=6, color=SAMPLE_COLOR, alpha=alpha, linewidths=0, rasterized=True, label=label)
    if known is not None:
        log_reward = np.concatenate([log_reward, known[0]])
        label = f"known objects: n = {len(known[1]):,}"
        axes.scatter(*known, s=14, facecolors="none", edgecolors=REFERENCE_COLOR, linewidths=0.7, label=label)
    ends = np.array([log_reward.min(), log_reward.max()])
    axes.plot(ends, ends - log_z, color=OTHER_COLORS[0], linewidth=1.4, label=f"log R − log Z, log Z = {log_z:.2f}")
    axes.set_xlabel("log R(x)")
    axes.set_ylabel("log p(x)")
    if title:
        axes.set_title(title)
    axes.legend(frameon=False, loc="upper left")
    return figure


def to_image(figure: Figure) -> NDArray[np.uint8]:
    """(height, width, 3) pixels of a figure: red, green, blue, 0 to 255."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def _bins(pools: Sequence[NDArray[np.float64]]) -> list[float]:
    """Edges of a histogram of nearly all values: one bar per integer for integers in a short range, else 50 bars."""
    # A few extreme values must not squeeze all others into one bar.
    low = min(float(np.quantile(pool, 0.005)) for pool in pools)
    high = max(float(np.quantile(pool, 0.995)) for pool in pools)
    is_whole = high - low <= 100 and max(abs(low), abs(high)) < 1e6
    if is_whole and all((pool == np.floor(pool)).all() for pool in pools):
        return (np.arange(np.floor(low), np.ceil(high) + 2) - 0.5).tolist()
    margin = 0.03 * (high - low) or max(abs(low) * 0.05, 0.5)
    return np.linspace(low - margin, high + margin, 51).tolist()


def _headroom(n: int) -> float:
    """Ratio of the height of an axis to that of its bars, so that a legend of n lines fits above the bars."""
    return 1.2 + 0.06 * n


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure; width and height are in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    axes = figure.subplots()
    _tidy(axes)
    return figure, axes


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _plain(text: str) -> str:
    """A text with dollar signs escaped, so that matplotlib does not read it as a formula."""
    return text.replace("$", r"\$")


def _label(name: str, values: NDArray[np.float64]) -> str:
    return f"{_plain(name)}: n = {len(values):,}, median {np.median(values):.3g}"


def _shares(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights with which the bars of a histogram add up to 100."""
    return np.full(len(values), 100 / len(values))


def _percent(counts: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    return 100 * counts / max(float(counts.sum()), 1.0)


def _peaks(heights: NDArray[np.float64], n: int, gap: int) -> Sequence[int]:
    """Numbers (from 1) of at most n bars to label: the tallest ones that have no taller bar less than ``gap`` away."""
    chosen: list[int] = []
    for index in np.argsort(-heights, kind="stable").tolist():
        is_peak = heights[index] >= heights[max(index - gap + 1, 0) : index + gap].max()
        if is_peak and heights[index] > 0 and len(chosen) < n and all(abs(index + 1 - x) >= gap for x in chosen):
            chosen.append(index + 1)
    return chosen


def _place(z: int) -> tuple[float, int]:
    """Row and column of an element (atomic number) in the periodic table, with the f block below."""
    if not 1 <= z <= N_ELEMENTS:
        raise ValueError(f"z: {z} is not allowed; it must lie between 1 and {N_ELEMENTS}")
    if 57 <= z <= 71:
        return 8.3, z - 54
    if z >= 89:
        return 9.3, z - 86
    from pymatgen.core import Element

    element = Element.from_Z(z)
    return float(element.row), int(element.group)
