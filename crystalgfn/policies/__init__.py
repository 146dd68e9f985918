"""Policy networks: from the encoding of a state to the logits of a decision."""

from crystalgfn.policies.base import Policy, Shape
from crystalgfn.policies.embedding_mlp import EmbeddingMLP
from crystalgfn.policies.mlp import MLP

__all__ = ["MLP", "EmbeddingMLP", "Policy", "Shape"]
