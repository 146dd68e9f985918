"""Stacking sequences of close-packed layers, as an environment and a proxy for crystalgfn.

In a close packing each layer lies in one of two ways on the two below it: its neighbours sit in the same place
(hexagonal, h) or in different places (cubic, c). Polytypes such as those of SiC are words of h and c.
"""

from layer_stacking.environment import LayerStacking
from layer_stacking.proxy import Hexagonality

__all__ = ["Hexagonality", "LayerStacking"]
