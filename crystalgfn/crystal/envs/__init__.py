"""Environments: how objects are built, one decision at a time."""

from crystalgfn.gflownet.envs.base import BetaMixtureHead, CategoricalHead, Environment, Head
from crystalgfn.gflownet.envs.box import Box
from crystalgfn.crystal.envs.composition import Composition
from crystalgfn.crystal.envs.crystal import Crystal
from crystalgfn.gflownet.envs.hypergrid import HyperGrid
from crystalgfn.crystal.envs.lattice_parameters import LatticeParameters
from crystalgfn.gflownet.envs.sequence import Sequence
from crystalgfn.gflownet.envs.set import Set
from crystalgfn.crystal.envs.space_group import SpaceGroup
from crystalgfn.gflownet.envs.stack import Parts, Stack
from crystalgfn.gflownet.envs.stage import PlainStage, Stage

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
