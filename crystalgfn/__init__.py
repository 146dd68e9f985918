"""Discover crystals with a GFlowNet under hard physical constraints.

Sample 100 crystals with the trained model that comes with the package:

    import crystalgfn as cg

    samples = cg.load("discovered").sample(100)
    samples.to_frame()

A name is imported when it is first used, so that the command line starts fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from crystalgfn.atoms.potentials import Potential
    from crystalgfn.crystal.crystals import Crystals
    from crystalgfn.crystal.envs import Crystal
    from crystalgfn.gflownet.envs import Environment, Stack, Stage
    from crystalgfn.gflownet.losses import Loss
    from crystalgfn.gflownet.module import GFlowNet
    from crystalgfn.gflownet.policies import Policy
    from crystalgfn.gflownet.proxies import Prediction, Proxy
    from crystalgfn.gflownet.rewards import Reward
    from crystalgfn.judging import judge
    from crystalgfn.registry import ENVIRONMENTS, LOSSES, POLICIES, POTENTIALS, PROXIES, REWARDS
    from crystalgfn.runs import Model, SampledObjects, fit, load

_HOMES = {
    "Crystals": "crystalgfn.crystal.crystals",
    "Crystal": "crystalgfn.crystal.envs",
    "Environment": "crystalgfn.gflownet.envs",
    "Stack": "crystalgfn.gflownet.envs",
    "Stage": "crystalgfn.gflownet.envs",
    "Loss": "crystalgfn.gflownet.losses",
    "GFlowNet": "crystalgfn.gflownet.module",
    "Policy": "crystalgfn.gflownet.policies",
    "Potential": "crystalgfn.atoms.potentials",
    "Prediction": "crystalgfn.gflownet.proxies",
    "Proxy": "crystalgfn.gflownet.proxies",
    "Reward": "crystalgfn.gflownet.rewards",
    "judge": "crystalgfn.judging",
    "ENVIRONMENTS": "crystalgfn.registry",
    "LOSSES": "crystalgfn.registry",
    "POLICIES": "crystalgfn.registry",
    "POTENTIALS": "crystalgfn.registry",
    "PROXIES": "crystalgfn.registry",
    "REWARDS": "crystalgfn.registry",
    "Model": "crystalgfn.runs",
    "SampledObjects": "crystalgfn.runs",
    "fit": "crystalgfn.runs",
    "load": "crystalgfn.runs",
}

__all__ = [
    "ENVIRONMENTS",
    "LOSSES",
    "POLICIES",
    "POTENTIALS",
    "PROXIES",
    "REWARDS",
    "Crystal",
    "Crystals",
    "Environment",
    "GFlowNet",
    "Loss",
    "Model",
    "Policy",
    "Potential",
    "Prediction",
    "Proxy",
    "Reward",
    "SampledObjects",
    "Stack",
    "Stage",
    "fit",
    "judge",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'crystalgfn' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
