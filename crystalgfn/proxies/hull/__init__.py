"""Stability: the convex hull of formation energies, fast enough for use during training."""

from crystalgfn.proxies.hull.build import build_hull
from crystalgfn.proxies.hull.hull import ConvexHull, load_hull
from crystalgfn.proxies.hull.phases import Phases, read_phases

__all__ = ["ConvexHull", "Phases", "build_hull", "load_hull", "read_phases"]
