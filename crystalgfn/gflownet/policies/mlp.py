"""A separate multilayer perceptron for each decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from crystalgfn.errors import InputError
from crystalgfn.gflownet.policies.base import Axis, Policy, Shape
from crystalgfn.registry import POLICIES

_PIECE = 1024
"""Number of rows evaluated at once on a CPU, so that values between two layers stay in the CPU cache."""


@POLICIES.register
class MLP(Policy):
    """A separate multilayer perceptron for each decision; the policy is uniform over the options at the start.

    Args:
        sizes: the shape of each decision, by name.
        hidden: widths of the hidden layers.

    Raises:
        InputError: if a width is below 1.
    """

    def __init__(self, sizes: Mapping[str, Shape], hidden: Sequence[int] = (256, 256)) -> None:
        super().__init__()
        if any(width < 1 for width in hidden):
            raise InputError(f"hidden: {list(hidden)} is not allowed; every width must be at least 1")
        self.heads = nn.ModuleDict()
        for name, shape in sizes.items():
            widths = [shape.n_inputs, *hidden]
            layers: list[nn.Module] = []
            for before, after in pairwise(widths):
                layers += [nn.Linear(before, after), nn.LeakyReLU(inplace=True)]
            last = nn.Linear(widths[-1], shape.n_logits)
            # Equal logits at the start, so that the first trajectories are spread over all options.
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.heads[name] = nn.Sequential(*layers, last)

    def forward(self, head: str, inputs: Tensor) -> Tensor:
        layers = self.heads[head]
        if inputs.device.type != "cpu" or len(inputs) <= 2 * _PIECE:
            logits: Tensor = layers(inputs)
            return logits
        return torch.cat([layers(piece) for piece in inputs.split(_PIECE)])

    def axes(self) -> dict[str, tuple[Axis | None, ...]]:
        axes: dict[str, tuple[Axis | None, ...]] = {}
        for head, layers in self.heads.items():
            assert isinstance(layers, nn.Sequential)
            last = len(layers) - 1
            for place in range(0, last + 1, 2):
                before: Axis | None = (head, "inputs") if place == 0 else None
                after: Axis | None = (head, "options") if place == last else None
                axes[f"heads.{head}.{place}.weight"] = (after, before)
                axes[f"heads.{head}.{place}.bias"] = (after,)
        return axes
