"""The reward of the hypergrid."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crystalgfn.errors import InputError
from crystalgfn.gflownet.envs import HyperGrid
from crystalgfn.gflownet.proxies import HyperGridModes
from crystalgfn.testing import ProxyContract


class TestHyperGridModes(ProxyContract):
    @pytest.fixture
    def proxy(self) -> HyperGridModes:
        return HyperGridModes(8)

    @pytest.fixture
    def objects(self) -> Tensor:
        grid = HyperGrid(2, 8)
        return grid.decode(grid.enumerate())


def test_values() -> None:
    # At height 8 the axis runs over 0, 1/7, ..., 1: 1 and 6 are 0.357 from the middle, in the band; 2 and 5 are 0.214.
    cells = torch.tensor([[0, 0], [1, 1], [1, 6], [1, 0], [2, 1], [4, 4]])
    assert HyperGridModes(8)(cells).tolist() == pytest.approx([0.6, 2.6, 2.6, 0.6, 0.1, 0.1])


def test_bad_height() -> None:
    with pytest.raises(InputError, match="height: 1 "):
        HyperGridModes(1)


def test_the_band_is_symmetric_at_every_height() -> None:
    for height in range(2, 40):
        rewards = HyperGridModes(height)(torch.arange(height).unsqueeze(1))
        assert torch.equal(rewards, rewards.flip(0))
    # At height 6 the cells next to the corners lie on the band's edge, 0.3, and so outside.
    assert HyperGridModes(6).n_modes(torch.zeros(0, 2)) == 0
    assert HyperGridModes(8).n_modes(torch.zeros(0, 3)) == 8
