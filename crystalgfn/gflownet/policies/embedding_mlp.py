"""A multilayer perceptron that uses features of its inputs and options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crystalgfn.checks import between
from crystalgfn.errors import InputError
from crystalgfn.gflownet.policies.base import Axis, Policy, Shape
from crystalgfn.registry import POLICIES


class Embeddings(nn.Module):
    """A vector for each of n items: a free vector plus a linear function of the item's features.

    With features (n, k), the vectors are ``own + features @ shared``, so training on one item also changes the vectors
    of similar items. Without features, the vectors are free parameters. Features are part of the module's state, so a
    checkpoint does not depend on the tables from which they were made.

    Args:
        n: number of items.
        width: length of the vectors.
        features: (n, k) float32, or None.
        scale: parameters start uniformly distributed in [-scale, scale]; with 0, all vectors start at zero.
    """

    def __init__(self, n: int, width: int, features: Tensor | None, scale: float) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.empty(n, width).uniform_(-scale, scale))
        self.features: Tensor | None
        self.register_buffer("features", None)
        self.shared: nn.Parameter | None = None
        self._blocks: list[tuple[slice, slice]] = []
        self._kept: tuple[tuple[int, int], Tensor] | None = None
        if features is not None:
            # Rows have a length of about 1, so an optimizer step moves `own` and `features @ shared` about equally.
            self.features = features / features.square().sum(1).mean().sqrt().clamp_min(1e-6)
            self.shared = nn.Parameter(torch.empty(features.shape[1], width).uniform_(-scale, scale))
            self._blocks = diagonal_blocks(features)

    def forward(self) -> Tensor:
        """(n, width) the vectors."""
        if self.features is None or self.shared is None:
            return self.own
        if torch.is_grad_enabled():
            # The optimizer will change the parameters after this, so nothing is kept.
            self._kept = None
            return self._vectors(self.features, self.shared)
        # A rollout needs the vectors many times between two updates, so they are kept.
        versions = (self.own._version, self.shared._version)
        if self._kept is None or self._kept[0] != versions:
            self._kept = (versions, self._vectors(self.features, self.shared))
        return self._kept[1]

    def _vectors(self, features: Tensor, shared: Tensor) -> Tensor:
        own = self.own.split([rows.stop - rows.start for rows, _ in self._blocks])
        parts = [
            torch.addmm(vectors, features[rows, columns], shared[columns])
            for vectors, (rows, columns) in zip(own, self._blocks, strict=True)
        ]
        return torch.cat(parts)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        if self.features is not None:
            # Features of another space can have other blocks.
            self._kept, self._blocks = None, diagonal_blocks(self.features.cpu())

    def _apply(self, *args: Any, **kwargs: Any) -> Embeddings:
        self._kept = None  # the parameters move to another device or type
        super()._apply(*args, **kwargs)
        return self


def diagonal_blocks(matrix: Tensor) -> list[tuple[slice, slice]]:
    """Find the blocks of a block-diagonal matrix.

    If inputs are of several kinds, their features are such a matrix, which is mostly zeros. A matrix of another form
    is one block. A matrix with more than eight blocks is also treated as one block, because that is faster.

    Args:
        matrix: (n, k) any matrix.

    Returns:
        the rows and the columns of each block, in order; all nonzero entries are in these blocks.
    """
    ends: list[list[int]] = []  # first row, first column, and the column after the last one, of each block
    for row, values in enumerate(matrix):
        columns = values.nonzero().squeeze(1).tolist()
        if not columns:
            continue  # a row of zeros belongs to the block before it
        if ends and columns[0] < ends[-1][2]:
            ends[-1][1:] = [min(ends[-1][1], columns[0]), max(ends[-1][2], columns[-1] + 1)]
        else:
            ends.append([row if ends else 0, columns[0], columns[-1] + 1])
    is_diagonal = all(before[2] <= after[1] for before, after in pairwise(ends))
    if not ends or not is_diagonal or len(ends) > 8:
        return [(slice(0, len(matrix)), slice(0, matrix.shape[1]))]
    rows = [first for first, _, _ in ends] + [len(matrix)]
    return [(slice(*own), slice(low, high)) for own, (_, low, high) in zip(pairwise(rows), ends, strict=True)]


@POLICIES.register
class EmbeddingMLP(Policy):
    """A multilayer perceptron that shares what it learns between similar elements, space groups and counts.

    Each column of the first layer's weights is the embedding of an input. Each row of the last layer's weights is the
    embedding of an option. Embeddings depend partly on features that the environment provides, such as properties of
    elements. The policy is uniform over the options at the start.

    Args:
        sizes: the shape of each decision, by name.
        hidden: widths of the hidden layers.
        shared: whether all decisions share the layers between the first and the last hidden one.
        dropout: probability that a value of the first or of the last hidden layer is set to 0. It is used by the loss
            `MaximumLikelihood` alone, which could otherwise learn its objects by heart.

    Raises:
        InputError: if a width is below 1, if there is no width, or if the probability is not below 1.
    """

    def __init__(
        self,
        sizes: Mapping[str, Shape],
        hidden: Sequence[int] = (256, 256),
        shared: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        between("dropout", dropout, 0, 1, without=1)
        if not hidden or any(width < 1 for width in hidden):
            raise InputError(f"hidden: {list(hidden)} is not allowed; it must be one or more widths, each at least 1")
        self.inputs, self.options = nn.ModuleDict(), nn.ModuleDict()
        self.input_biases, self.option_biases = nn.ParameterDict(), nn.ParameterDict()
        self.trunks = nn.ModuleDict()
        for name, shape in sizes.items():
            scale = shape.n_inputs**-0.5
            self.inputs[name] = Embeddings(shape.n_inputs, hidden[0], shape.inputs, scale)
            self.input_biases[name] = nn.Parameter(torch.empty(hidden[0]).uniform_(-scale, scale))
            self.options[name] = Embeddings(shape.n_logits, hidden[-1], shape.options, 0.0)
            self.option_biases[name] = nn.Parameter(torch.zeros(shape.n_logits))
            if not shared or not self.trunks:
                layers: list[nn.Module] = []
                for before, after in pairwise(hidden):
                    layers += [nn.Linear(before, after), nn.LeakyReLU()]
                self.trunks["all" if shared else name] = nn.Sequential(*layers)
        self.shared, self.dropout = shared, dropout

    def forward(self, head: str, inputs: Tensor) -> Tensor:
        first = torch.addmm(self.input_biases[head], inputs, self.inputs[head]())
        middle = self.trunks["all" if self.shared else head](self._dropped(F.leaky_relu(first)))
        logits: Tensor = F.linear(self._dropped(middle), self.options[head](), self.option_biases[head])
        return logits

    def _dropped(self, values: Tensor) -> Tensor:
        if self.noise is None or not self.dropout:
            return values
        kept = torch.empty_like(values).bernoulli_(1 - self.dropout, generator=self.noise)
        return values * kept / (1 - self.dropout)

    def axes(self) -> dict[str, tuple[Axis | None, ...]]:
        axes: dict[str, tuple[Axis | None, ...]] = {name: (None,) * x.ndim for name, x in self.state_dict().items()}
        for head in self.inputs:
            axes[f"option_biases.{head}"] = ((head, "options"),)
            # An entry without features has no such rows.
            for entry in {"own", "features"} & {name.rpartition(".")[2] for name in axes}:
                axes[f"inputs.{head}.{entry}"] = ((head, "inputs"), None)
                axes[f"options.{head}.{entry}"] = ((head, "options"), None)
        return axes
