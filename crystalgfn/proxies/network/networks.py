"""One member of a property network: it computes one or two numbers from the features of a crystal.

The network embeds the elements of a crystal, in the context of the space group and cell. Every pair of elements
exchanges a message. The output is computed from the average of the elements' embeddings and the row features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from crystalgfn.crystal.crystallography import N_ELEMENTS, N_SPACE_GROUPS
from crystalgfn.crystal.descriptors import element_property_table, space_group_table
from crystalgfn.proxies.network.features import (
    Features,
    ragged_ranges,
)


@dataclass(frozen=True)
class NetworkSizes:
    """Sizes of a property network.

    Attributes:
        members: number of networks in the ensemble; the prediction is their mean.
        embedding: width of the embedding of an element in a crystal.
        rounds: number of exchanges of messages between the elements of a crystal.
        hidden: width of the layers that read the property.
        layers: number of residual layers that read the property.
        prototype: width of the embedding of a prototype (space group and counts).
        dropout: probability of dropping a hidden unit while training.
        zero_share: for a property that is exactly zero for many crystals, such as the band gap of metals: each member
            also predicts the probability of another value, and learns the value only from crystals where it is not
            zero.
    """

    members: int = 3
    embedding: int = 64
    rounds: int = 1
    hidden: int = 192
    layers: int = 2
    prototype: int = 16
    dropout: float = 0.1
    zero_share: bool = False


@dataclass(frozen=True)
class Constituents:
    """Indices of the constituents of a batch and of their pairs; all members use the same.

    Attributes:
        row: (m,) crystal of each constituent.
        fraction: (m, 1) atomic fraction of each constituent.
        receiver: (p,) constituent that receives the message of each ordered pair of constituents of one crystal.
        sender: (p,) constituent that sends the message of each pair.
    """

    row: Tensor
    fraction: Tensor
    receiver: Tensor
    sender: Tensor

    @classmethod
    def of(cls, features: Features) -> Constituents:
        """Constituents and pairs of a batch."""
        lengths = features.n_elements
        rows = torch.arange(len(features), device=lengths.device)
        row = torch.repeat_interleave(rows, lengths, output_size=features.element.shape[0])
        starts, partners = (lengths.cumsum(0) - lengths)[row], lengths[row]
        sender = ragged_ranges(starts, partners)
        constituents = torch.arange(row.shape[0], device=row.device)
        receiver = torch.repeat_interleave(constituents, partners, output_size=sender.shape[0])
        return cls(row, features.fractions[row, features.element][:, None], receiver, sender)


class Member(nn.Module):
    """One network of the ensemble.

    Args:
        sizes: sizes of the network.
        row_size: number of row features.
        constituent_size: number of constituent features.
        n_prototypes: number of known prototypes; index 0 stands for all others.
        outputs: number of outputs for each crystal.
    """

    def __init__(
        self, sizes: NetworkSizes, row_size: int, constituent_size: int, n_prototypes: int, outputs: int = 1
    ) -> None:
        super().__init__()
        d, h = sizes.embedding, sizes.hidden
        self.properties: Tensor
        self.groups: Tensor
        self.register_buffer("properties", element_property_table(), persistent=False)
        self.register_buffer("groups", space_group_table(), persistent=False)
        # Embeddings of single elements, groups, counts and prototypes start at zero and change only with data. Without
        # data, elements, groups, counts and prototypes are described only by their classes and properties.
        self.element = nn.Linear(self.properties.shape[1], d)
        self.element_own = zeros_embedding(N_ELEMENTS, d)
        self.count_own = zeros_embedding(65, d)
        self.group = nn.Linear(self.groups.shape[1], d)
        self.group_own = zeros_embedding(N_SPACE_GROUPS, d)
        self.prototype_own = zeros_embedding(n_prototypes + 1, sizes.prototype)
        context = row_size + d + sizes.prototype
        self.context = nn.Linear(context, d)
        # Files of weights use the name "site" for a constituent.
        self.context_to_site = nn.Linear(d, d)
        self.site = nn.Linear(constituent_size, d)
        self.messages = nn.ModuleList(Message(d) for _ in range(sizes.rounds))
        self.read = nn.Linear(context + d + d, h)
        self.fractions = nn.Linear(N_ELEMENTS, h, bias=False)
        self.blocks = nn.ModuleList(Block(h, sizes.dropout) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(h)
        self.out = nn.Linear(h, outputs)
        self.drop = nn.Dropout(sizes.dropout)

    def forward(self, features: Features, constituents: Constituents) -> Tensor:
        """(n, outputs) for n crystals; ``features.prototype`` is the index of a prototype or 0."""
        group = (self.group(self.groups) + self.group_own.weight).index_select(0, features.space_group)
        described = torch.cat([features.row, group, self.prototype_own(features.prototype)], dim=1)
        context = silu(self.context(described))
        element = self.element(self.properties) + self.element_own.weight
        embedding = element.index_select(0, features.element) + self.count_own(features.count)
        embedding = embedding + self.site(features.constituent)
        embedding = silu(embedding + self.context_to_site(context).index_select(0, constituents.row))
        for message in self.messages:
            embedding = message(embedding, constituents)
        weighted = constituents.fraction * embedding
        pooled = weighted.new_zeros(len(features), weighted.shape[1]).index_add(0, constituents.row, weighted)
        summed = torch.cat([described, context, pooled], dim=1)
        hidden = self.drop(silu(self.read(summed) + self.fractions(features.fractions)))
        for block in self.blocks:
            hidden = block(hidden)
        out: Tensor = self.out(self.norm(hidden))
        return out


class Message(nn.Module):
    """Each element of a crystal receives messages from the elements, weighted by the sender's atomic fraction."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.receive = nn.Linear(size, size)
        self.send = nn.Linear(size, size, bias=False)
        self.update = nn.Linear(size, size)

    def forward(self, embedding: Tensor, constituents: Constituents) -> Tensor:
        received = self.receive(embedding).index_select(0, constituents.receiver)
        sent = self.send(embedding).index_select(0, constituents.sender)
        # These are the largest tensors of a batch: they are overwritten in place if no gradient needs them.
        pair = silu(received.add_(sent), inplace=not torch.is_grad_enabled())
        pair = pair.mul_(constituents.fraction.index_select(0, constituents.sender))
        heard = torch.zeros_like(embedding).index_add(0, constituents.receiver, pair)
        update: Tensor = self.update(heard)
        return embedding + update


class Block(nn.Module):
    """Residual layer: x + W silu(V norm(x))."""

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.inner = nn.Linear(size, size)
        self.outer = nn.Linear(size, size)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.outer(self.drop(silu(self.inner(self.norm(x)))))
        return out


def zeros_embedding(n: int, size: int) -> nn.Embedding:
    """Embedding of n entries, (n, size), with initial weights of zero."""
    embedding = nn.Embedding(n, size)
    nn.init.zeros_(embedding.weight)
    return embedding
