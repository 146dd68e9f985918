"""Figures of the report as inline SVG with the colours of the page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from crystalgfn.crystal.crystallography import N_ELEMENTS, N_SPACE_GROUPS, atomic_numbers
from crystalgfn.evaluation.drawing import (
    ReferenceCrystals,
    elements_figure,
    property_figure,
    sampler_figure,
    space_groups_figure,
)
from crystalgfn.evaluation.measures import class_counts
from crystalgfn.evaluation.pools import Floats, Pool

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE_COLORS = {
    "#000000": "currentColor",
    "#444444": "var(--reference)",
    "#f1f1f1": "var(--empty)",
    "#aaaaaa": "var(--faint)",
    "#bbbbbb": "var(--rule)",
    "#cccccc": "var(--rule)",
}
"""Colours of `crystalgfn.evaluation.drawing` that change with the page between light and dark."""


def to_svg(figure: Figure, name: str) -> str:
    """A figure as an SVG element. The same figure always gives the same bytes.

    Args:
        figure: the figure.
        name: prefix of all names inside, so that they are unique on a page; letters, digits and dashes.
    """
    import matplotlib as mpl

    buffer = io.StringIO()
    # Text is kept as text: it is small, can be selected, and has the font of the page.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # A browser ignores comments and addresses of namespaces inside a page.
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)
    text = text.replace("xlink:href=", "href=")
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = text.replace("url(#", f"url(#{name}-")
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    for color, variable in PAGE_COLORS.items():
        text = text.replace(color, variable)
    return re.sub(r"\s*\n\s*", "\n", text)


def property_svg(name: str, unit: str, pools: Mapping[str, Floats], reference: Floats | None, identifier: str) -> str:
    """Distributions of one property.

    Args:
        name: name of the property.
        unit: unit of the property, or an empty string.
        pools: values by the name of the pool, the samples first.
        reference: values of the reference; None if there is none.
        identifier: name of the figure, see `to_svg`.
    """
    (_, values), *others = pools.items()
    no_groups = np.zeros(N_SPACE_GROUPS, dtype=np.int64)
    known = None if reference is None else ReferenceCrystals("reference", reference, no_groups)
    figure = property_figure(values, name, unit, "", known, dict(others))
    return to_svg(figure, identifier)


def elements_svg(pool: Pool) -> str:
    """Periodic table of the elements that occur."""
    shares = np.zeros(N_ELEMENTS)
    for symbol, count in class_counts(pool)["elements"].items():
        shares[atomic_numbers()[symbol] - 1] = count / len(pool)
    return to_svg(elements_figure(shares, shares > 0, ""), "elements")


def space_groups_svg(pool: Pool, reference: Pool | None) -> str:
    """Space groups and crystal systems."""
    known = None if reference is None else ReferenceCrystals("reference", np.zeros(0), _groups(reference))
    return to_svg(space_groups_figure(_groups(pool), "", known), "space-groups")


def sampler_svg(pool: Pool, log_z: float, name: str) -> str:
    """Log p(x) over log R(x).

    Args:
        pool: crystals with both columns.
        log_z: estimate of log Z.
        name: name of the figure, see `to_svg`.
    """
    assert pool.log_reward is not None and pool.log_pf is not None
    both = np.isfinite(pool.log_reward) & np.isfinite(pool.log_pf)
    return to_svg(sampler_figure(pool.log_reward[both], pool.log_pf[both], log_z), name)


def _groups(pool: Pool) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.bincount(pool.groups - 1, minlength=N_SPACE_GROUPS)
