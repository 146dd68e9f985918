"""Stability: the convex hull of formation energies, fast enough for use during training."""

from crystalgfn.proxies.hull.build import build_hull
from crystalgfn.proxies.hull.hull import (
    AnyHull,
    ConvexHull,
    has_competitor,
    hull_energies,
    joined,
    load_hull,
    open_hull,
)
from crystalgfn.proxies.hull.phases import Phases, ReferenceHull, read_phases

__all__ = [
    "AnyHull",
    "ConvexHull",
    "Phases",
    "ReferenceHull",
    "build_hull",
    "has_competitor",
    "hull_energies",
    "joined",
    "load_hull",
    "open_hull",
    "read_phases",
]
