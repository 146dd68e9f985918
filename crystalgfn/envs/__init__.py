"""Environments: how objects are built, one decision at a time."""

from crystalgfn.envs.base import BetaMixtureHead, CategoricalHead, Environment, Head
from crystalgfn.envs.box import Box
from crystalgfn.envs.composition import Composition
from crystalgfn.envs.crystal import Crystal
from crystalgfn.envs.hypergrid import HyperGrid
from crystalgfn.envs.lattice_parameters import LatticeParameters
from crystalgfn.envs.sequence import Sequence
from crystalgfn.envs.set import Set
from crystalgfn.envs.space_group import SpaceGroup
from crystalgfn.envs.stack import Parts, Stack
from crystalgfn.envs.stage import PlainStage, Stage

__all__ = [
    "BetaMixtureHead",
    "Box",
    "CategoricalHead",
    "Composition",
    "Crystal",
    "Environment",
    "Head",
    "HyperGrid",
    "LatticeParameters",
    "Parts",
    "PlainStage",
    "Sequence",
    "Set",
    "SpaceGroup",
    "Stack",
    "Stage",
]
