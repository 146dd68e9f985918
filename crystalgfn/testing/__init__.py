"""Contract tests for your own environments, proxies and potentials.

Subclass a contract in a test file and provide the object to test as a fixture; pytest then runs all tests of the
contract::

    class TestMyProxy(ProxyContract):
        @pytest.fixture
        def proxy(self):
            return MyProxy()

        @pytest.fixture
        def objects(self):
            return Crystals.from_arrays([225], [{"Na": 4, "Cl": 4}], [[5.64, 5.64, 5.64, 90, 90, 90]])

This package needs pytest; the rest of crystalgfn does not.
"""

from crystalgfn.gflownet.policies.random_policy import RandomPolicy
from crystalgfn.testing.environment import EnvironmentContract
from crystalgfn.testing.potential import PotentialContract
from crystalgfn.testing.proxy import ProxyContract
from crystalgfn.testing.walk import Transition, random_walk

__all__ = ["EnvironmentContract", "PotentialContract", "ProxyContract", "RandomPolicy", "Transition", "random_walk"]
