"""Policy networks: from the encoding of a state to the logits of a decision."""

from crystalgfn.gflownet.policies.base import Policy, Shape
from crystalgfn.gflownet.policies.embedding_mlp import EmbeddingMLP
from crystalgfn.gflownet.policies.mlp import MLP

__all__ = ["MLP", "EmbeddingMLP", "Policy", "Shape"]
