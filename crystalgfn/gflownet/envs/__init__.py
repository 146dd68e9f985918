"""Environments: how objects are built, one decision at a time."""

from crystalgfn.gflownet.envs.base import BetaMixtureHead, CategoricalHead, Environment, Head
from crystalgfn.gflownet.envs.box import Box
from crystalgfn.gflownet.envs.hypergrid import HyperGrid
from crystalgfn.gflownet.envs.sequence import Sequence
from crystalgfn.gflownet.envs.set import Set
from crystalgfn.gflownet.envs.stack import Parts, Stack
from crystalgfn.gflownet.envs.stage import PlainStage, Stage

__all__ = [
    "BetaMixtureHead",
    "Box",
    "CategoricalHead",
    "Environment",
    "Head",
    "HyperGrid",
    "Parts",
    "PlainStage",
    "Sequence",
    "Set",
    "Stack",
    "Stage",
]
