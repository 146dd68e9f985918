"""The contract of a proxy, sets of proxies, and proxies with known modes."""

from crystalgfn.gflownet.proxies.base import Prediction, Proxy, predict_in_batches
from crystalgfn.gflownet.proxies.modes import BoxCorners, HammingDistance, HyperGridModes, SetOverlap
from crystalgfn.gflownet.proxies.of_stage import OfStage
from crystalgfn.gflownet.proxies.proxy_set import ProxySet

__all__ = [
    "BoxCorners",
    "HammingDistance",
    "HyperGridModes",
    "OfStage",
    "Prediction",
    "Proxy",
    "ProxySet",
    "SetOverlap",
    "predict_in_batches",
]
