"""The contract of an environment: how objects are built, one decision at a time, for a whole batch at once.

A *state* is one row of an (n, state_size) float64 tensor, an *action* one row of (n, 1): an index or a value. At every
state that is not terminal exactly one *head* decides: a named kind of decision, such as ``space_group`` or ``alpha``,
with its own logits in the policy. Environments are modules without parameters; their tables are non-persistent
buffers, which follow the module to its device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from crystalgfn.errors import InputError
from crystalgfn.gflownet.distributions import (
    BetaMixture,
    Determined,
    Distribution,
    MaskedCategorical,
    UniformCategorical,
)
from crystalgfn.gflownet.keys import state_keys
from crystalgfn.gflownet.truncated import TruncatedBetaMixture

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Head(ABC):
    """One kind of decision.

    Attributes:
        input_size: width of the state's encoding at this decision.
    """

    input_size: int

    @property
    @abstractmethod
    def n_logits(self) -> int:
        """Number of outputs the policy needs for this decision."""

    @property
    @abstractmethod
    def support_size(self) -> int:
        """Columns of the support: one a discrete option, or the two ends of an interval."""

    @abstractmethod
    def distribution(self, logits: Tensor, support: Tensor) -> Distribution:
        """Distribution over the legal actions of n states.

        Args:
            logits: (n, n_logits) the policy's output.
            support: (n, support_size) what is legal, from `Environment.support`.
        """

    @abstractmethod
    def uniform(self, support: Tensor) -> Distribution:
        """Uniform distribution over the legal actions of n states."""


@dataclass(frozen=True)
class CategoricalHead(Head):
    """A choice among ``n_options``; its support is an (n, n_options) bool mask of the legal ones."""

    n_options: int

    @property
    def n_logits(self) -> int:
        return self.n_options

    @property
    def support_size(self) -> int:
        return self.n_options

    def distribution(self, logits: Tensor, support: Tensor) -> MaskedCategorical:
        return MaskedCategorical(logits, support)

    def uniform(self, support: Tensor) -> UniformCategorical:
        return UniformCategorical(support)


@dataclass(frozen=True)
class BetaMixtureHead(Head):
    """A real value; its support is (n, 2) float64: low and high end of its interval.

    Attributes:
        components: number of Betas in the mixture.
        reference: range in which densities are measured (see `BetaMixture`).
        log_scale: whether the mixture lives on the logarithm of the value.
    """

    components: int
    reference: tuple[float, float]
    log_scale: bool = False

    @property
    def n_logits(self) -> int:
        return 3 * self.components

    @property
    def support_size(self) -> int:
        return 2

    def distribution(self, logits: Tensor, support: Tensor) -> BetaMixture:
        return BetaMixture(logits, support, self.reference, self.log_scale)

    def uniform(self, support: Tensor) -> Distribution:
        one = torch.zeros(len(support), 3, dtype=torch.float64, device=support.device)
        return self.distribution(one, support).uniform()


class ObjectTable(NamedTuple):
    """Objects as read from a table.

    Attributes:
        frame: the table.
        rows: (k,) int64, the rows, from 0, that hold an object.
        objects: these k objects, as a batch.
        problems: for each other row what is wrong with it.
    """

    frame: pd.DataFrame
    rows: Tensor
    objects: Any
    problems: dict[int, str]


@dataclass(frozen=True)
class TruncatedBetaMixtureHead(BetaMixtureHead):
    """A real value whose mixture lives on a wider interval than what is legal.

    Its support is (n, 4) float64: low and high end of what is legal, then those of the mixture's own interval.
    """

    @property
    def support_size(self) -> int:
        return 4

    def distribution(self, logits: Tensor, support: Tensor) -> TruncatedBetaMixture:
        return TruncatedBetaMixture(logits, support, self.reference, self.log_scale)


def first_faults(*faults: tuple[str, Tensor]) -> list[str]:
    """Why objects cannot be built.

    Args:
        faults: reasons, the one that counts most first, each with (n,) bool, which objects it holds for.

    Returns:
        for each object the first reason, an empty text if there is none.
    """
    reasons = [*(reason for reason, _ in faults), ""]
    holds = torch.stack([*(of for _, of in faults), torch.ones_like(faults[0][1])])
    return [reasons[i] for i in holds.int().argmax(0).tolist()]


class Environment(nn.Module, ABC):
    """Builds objects step by step.

    Attributes:
        heads: every kind of decision, by name, in a fixed order.
        schedule: the order in which decisions are visited in lockstep: a row takes part in a step if it is this
            head's turn for it, else it waits. Every trajectory is a subsequence of the schedule.
        state_size: columns of a state.
        is_enumerable: whether `enumerate` lists all terminal states.
        is_tree: whether every state has one parent, so that a terminal state has exactly one trajectory. Where only
            some heads lead to such states, see `has_one_parent`.
        has_partial_objects: whether `decode_partial` gives objects for states on the way.
    """

    is_enumerable: bool = False
    is_tree: bool = False
    has_partial_objects: ClassVar[bool] = False

    heads: Mapping[str, Head]
    schedule: tuple[str, ...]
    state_size: int

    @abstractmethod
    def initial_states(self, n: int) -> Tensor:
        """(n, state_size) the state every trajectory starts from, n times, on the environment's device."""

    @abstractmethod
    def next_head(self, states: Tensor) -> Tensor:
        """(n,) int64 position in `heads` of the decision that is due; -1 at terminal states."""

    @abstractmethod
    def previous_head(self, states: Tensor) -> Tensor:
        """(n,) int64 position in `heads` of the decision that led here; -1 at initial states."""

    @abstractmethod
    def encode(self, head: str, states: Tensor) -> Tensor:
        """(n, heads[head].input_size) float32, what the policy sees when this head decides."""

    @abstractmethod
    def support(self, head: str, states: Tensor) -> Tensor:
        """(n, support_size) the legal actions at states where this head decides, look-ahead included."""

    @abstractmethod
    def step(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        """(n, state_size) the next states; the given ones are left as they are."""

    def advance(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        """As `step`, but the given states may be overwritten: the caller has no more use for them."""
        return self.step(head, states, actions)

    def due(self, head: str, states: Tensor) -> Tensor:
        """(k,) int64 rows at which this head decides, when all have taken the earlier turns of the schedule.

        As `next_head` says; an environment that can tell from less may override it.
        """
        return torch.nonzero(self.next_head(states) == self.head_position(head)).squeeze(1)

    @abstractmethod
    def parent_actions(self, head: str, states: Tensor) -> Tensor:
        """Actions of this head that can have led to each state.

        Returns:
            if the head `has_one_parent` (n, 1), the action; else what `support` has of forward actions: (n, n_options)
            bool, the mask of discrete ones, or (n, support_size) float64, the interval of values.
        """

    @abstractmethod
    def step_back(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        """(n, state_size) the states from which these actions of this head led to the given states."""

    @abstractmethod
    def decode(self, states: Tensor) -> Any:
        """The objects that n terminal states stand for, as a batch; what proxies take."""

    @abstractmethod
    def to_frame(self, states: Tensor) -> pd.DataFrame:
        """The objects of n terminal states as a table for people, one row each."""

    def enumerate(self) -> Tensor:
        """(n, state_size) every terminal state, once; only where `is_enumerable`.

        Raises:
            TypeError: if the environment cannot list its objects.
        """
        raise TypeError(f"{type(self).__name__} cannot enumerate its terminal states")

    def restricted(self, restriction: Mapping[str, Any]) -> Environment:
        """An environment that builds only what a restriction allows, for the same policy.

        Heads have the same names and sizes, and encodings of the same states are equal. A restriction always refers
        to the space that the environment was made with: restricting again replaces an earlier restriction.

        Args:
            restriction: settings by name; each environment has its own.

        Raises:
            InputError: if this environment has no restrictions, a field does not fit it, or nothing is left.
        """
        raise InputError(
            f"restrict: the environment {type(self).__name__} has no restrictions; allowed: none (leave restrict out)"
        )

    def describe(self, states: Tensor) -> list[str]:
        """A short name for the object of each terminal state, for messages and top-k tables."""
        return [", ".join(f"{k}={v}" for k, v in row.items()) for row in self.to_frame(states).to_dict("records")]

    def decode_partial(self, states: Tensor) -> Any:
        """The objects that n states on the way stand for, as `decode` gives those of terminal states.

        Only where unfinished objects are objects too, so that a proxy can judge them: `has_partial_objects`.

        Raises:
            TypeError: if unfinished objects are none.
        """
        raise TypeError(f"{type(self).__name__} has no objects for states on the way")

    @property
    def can_learn_backward(self) -> bool:
        """Whether `encode_backward` is there wherever states can have several parents."""
        return type(self).encode_backward is not Environment.encode_backward

    def encode_backward(self, head: str, states: Tensor) -> Tensor:
        """What a learned backward policy sees of n states to which this head led.

        Only where states can have several parents; elsewhere there is nothing to learn.

        Returns:
            (n, heads[head].input_size) float32.

        Raises:
            TypeError: if the environment has no such encoding.
        """
        raise TypeError(f"{type(self).__name__} has no encoding for a learned backward policy")

    def input_features(self, head: str) -> Tensor | None:
        """What the columns of `encode` stand for, where it can be said in numbers; policies may use it.

        Returns:
            (heads[head].input_size, k) float32, a row for each column, for some k: columns with similar rows mean
            similar things, such as the presence of one halogen and that of another. None if there is nothing to say.
        """
        return None

    def option_features(self, head: str) -> Tensor | None:
        """What the options of a discrete decision stand for, as `input_features` does for inputs.

        Returns:
            (n_options, k) float32, or None.
        """
        return None

    def kinds(self, states: Tensor) -> Tensor:
        """(n, k) what makes terminal states alike, for variety in a replay buffer: equal rows are of one kind."""
        return states

    def object_keys(self, objects: Any, states: Tensor) -> Tensor:
        """(n, k) int64 keys of n objects and their terminal states: equal rows are the same object."""
        return state_keys(states)

    def states_of(self, objects: Any, tolerance: float = 0.0) -> tuple[Tensor, list[str]]:
        """Terminal states of objects: the inverse of `decode`.

        Args:
            objects: n objects, as `decode` returns them.
            tolerance: largest relative deviation of an object from one that can be built; it is moved there.

        Returns:
            (n, state_size) the states, and for each object why it cannot be built, an empty text if it can. The
            states of the others mean nothing.

        Raises:
            TypeError: if the environment cannot do this.
        """
        raise TypeError(f"{type(self).__name__} cannot turn objects into states")

    def read_table(self, path: Path) -> ObjectTable:
        """Read objects from a table, a row each, with the columns of `to_frame`.

        Raises:
            InputError: if the file cannot be read or has not the columns it needs.
            TypeError: if the environment reads no tables.
        """
        raise TypeError(f"{type(self).__name__} reads no tables")

    def has_one_parent(self, head: str) -> bool:
        """Whether every state to which this head leads has one parent; in a tree all of them have."""
        return self.is_tree

    def is_terminal(self, states: Tensor) -> Tensor:
        """(n,) bool, whether nothing is left to decide."""
        return self.next_head(states) < 0

    def head_position(self, head: str) -> int:
        """Position of a head in `heads`."""
        return list(self.heads).index(head)

    def forward_distribution(self, head: str, states: Tensor, logits: Tensor) -> Distribution:
        """P_F: distribution over the legal actions, given the policy's logits (n, heads[head].n_logits)."""
        return self.heads[head].distribution(logits, self.support(head, states))

    def uniform_backward(self, head: str, states: Tensor) -> Distribution:
        """The uniform distribution over the actions of this head that can have led to each state."""
        actions = self.parent_actions(head, states)
        return Determined(actions) if self.has_one_parent(head) else self.heads[head].uniform(actions)

    def backward_distribution(self, head: str, states: Tensor) -> Distribution:
        """P_B over the actions of this head that can have led to each state; `uniform_backward` if not overridden."""
        return self.uniform_backward(head, states)

    @property
    def has_own_backward(self) -> bool:
        """Whether `backward_distribution` is another one than `uniform_backward`."""
        return type(self).backward_distribution is not Environment.backward_distribution

    @property
    def device(self) -> torch.device:
        """Device of the tables."""
        return next(self.buffers()).device
