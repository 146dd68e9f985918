"""Policy networks: from the encoding of a state to the logits of a decision."""

from crystalgfn.policies.base import Policy
from crystalgfn.policies.mlp import MLP

__all__ = ["MLP", "Policy"]
