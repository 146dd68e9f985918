"""Proxies: predict a property of an object."""

from crystalgfn.proxies.base import Prediction, Proxy
from crystalgfn.proxies.density import Density
from crystalgfn.proxies.formation_energy import FormationEnergy
from crystalgfn.proxies.hypergrid import HyperGridModes
from crystalgfn.proxies.proxy_set import ProxySet

__all__ = ["Density", "FormationEnergy", "HyperGridModes", "Prediction", "Proxy", "ProxySet"]
