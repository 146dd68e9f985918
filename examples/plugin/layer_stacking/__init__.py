"""Stacking sequences of close-packed layers, as an environment and a proxy for crystalgfn.

In a close packing, a layer is hexagonal (h) if its two neighbours lie in the same position, and cubic (c) if not. So
polytypes, such as those of SiC, are words of h and c.
"""

from layer_stacking.environment import LayerStacking
from layer_stacking.proxy import Hexagonality

__all__ = ["Hexagonality", "LayerStacking"]
