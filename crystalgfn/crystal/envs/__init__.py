"""The crystal environment and its stages."""

from crystalgfn.crystal.envs.composition import Composition
from crystalgfn.crystal.envs.crystal import Crystal
from crystalgfn.crystal.envs.lattice_parameters import LatticeParameters
from crystalgfn.crystal.envs.space_group import SpaceGroup

__all__ = ["Composition", "Crystal", "LatticeParameters", "SpaceGroup"]
