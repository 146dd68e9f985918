"""The contract of an environment: how objects are built, one decision at a time, for a whole batch at once.

A *state* is one row of an (n, state_size) float64 tensor. An *action* is one row of an (n, 1) tensor: an index or a
value. A *head* is a named kind of decision, such as ``space_group`` or ``alpha``, with its own logits in the policy. At
every state that is not terminal, exactly one head decides. Environments are modules without parameters. Their tables
are non-persistent buffers, which move with the module to its device.
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
        input_size: number of columns of the state's encoding at this decision.
    """

    input_size: int

    @property
    @abstractmethod
    def n_logits(self) -> int:
        """Number of outputs the policy needs for this decision."""

    @property
    @abstractmethod
    def support_size(self) -> int:
        """Number of columns of the support: one for each discrete option, or two for the ends of an interval."""

    @abstractmethod
    def distribution(self, logits: Tensor, support: Tensor) -> Distribution:
        """Distribution over the legal actions of n states.

        Args:
            logits: (n, n_logits) the policy's output.
            support: (n, support_size) the legal actions, from `Environment.support`.
        """

    @abstractmethod
    def uniform(self, support: Tensor) -> Distribution:
        """Uniform distribution over the legal actions of n states, given the support (n, support_size)."""


@dataclass(frozen=True)
class CategoricalHead(Head):
    """A choice among ``n_options`` options; the support is an (n, n_options) bool mask of the legal ones."""

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
    """A real value; the support is (n, 2) float64: low and high end of the legal interval.

    Attributes:
        components: number of Betas in the mixture.
        reference: range in which densities are measured (see `BetaMixture`).
        log_scale: whether the mixture is a distribution of the logarithm of the value.
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
    """Objects that were read from a table.

    Attributes:
        frame: the table.
        rows: (k,) int64, numbers of the rows, from 0, that contain an object.
        objects: these k objects, as a batch.
        problems: for each other row, the reason why it contains no object.
    """

    frame: pd.DataFrame
    rows: Tensor
    objects: Any
    problems: dict[int, str]


@dataclass(frozen=True)
class TruncatedBetaMixtureHead(BetaMixtureHead):
    """A real value with a mixture on a wider interval than the legal one.

    The support is (n, 4) float64: low and high end of the legal interval, then low and high end of the mixture's
    interval.
    """

    @property
    def support_size(self) -> int:
        return 4

    def distribution(self, logits: Tensor, support: Tensor) -> TruncatedBetaMixture:
        return TruncatedBetaMixture(logits, support, self.reference, self.log_scale)


def first_faults(*faults: tuple[str, Tensor]) -> list[str]:
    """Reasons why objects cannot be built.

    Args:
        faults: reasons, the most important one first, each with (n,) bool, the objects to which the reason applies.

    Returns:
        for each object the first reason that applies, or an empty string.
    """
    reasons = [*(reason for reason, _ in faults), ""]
    holds = torch.stack([*(of for _, of in faults), torch.ones_like(faults[0][1])])
    return [reasons[i] for i in holds.int().argmax(0).tolist()]


class Environment(nn.Module, ABC):
    """Builds objects step by step.

    Attributes:
        heads: every kind of decision, by name, in a fixed order.
        schedule: the order in which a batch visits the decisions in lockstep. A row takes part in a step if this head
            is due for the row; otherwise the row waits. Every trajectory is a subsequence of the schedule.
        state_size: number of columns of a state.
        is_enumerable: whether `enumerate` lists all terminal states.
        is_tree: whether every state has one parent, so that exactly one trajectory leads to each terminal state. If
            only the states after some heads have one parent, see `has_one_parent`.
        has_partial_objects: whether `decode_partial` returns objects for intermediate states.
    """

    is_enumerable: bool = False
    is_tree: bool = False
    has_partial_objects: ClassVar[bool] = False

    heads: Mapping[str, Head]
    schedule: tuple[str, ...]
    state_size: int

    @abstractmethod
    def initial_states(self, n: int) -> Tensor:
        """(n, state_size) the state from which every trajectory starts, n times, on the environment's device."""

    @abstractmethod
    def next_head(self, states: Tensor) -> Tensor:
        """(n,) int64, position in `heads` of the decision that is due; -1 at terminal states."""

    @abstractmethod
    def previous_head(self, states: Tensor) -> Tensor:
        """(n,) int64, position in `heads` of the decision that led to each state; -1 at initial states."""

    @abstractmethod
    def encode(self, head: str, states: Tensor) -> Tensor:
        """(n, heads[head].input_size) float32, the input of the policy when this head decides."""

    @abstractmethod
    def support(self, head: str, states: Tensor) -> Tensor:
        """(n, support_size) legal actions where this head decides; after each of them, an object can be completed."""

    @abstractmethod
    def step(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        """(n, state_size) the next states; the given states are not changed."""

    def advance(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        """As `step`, but the given states may be overwritten; for callers that do not need them any more."""
        return self.step(head, states, actions)

    def due(self, head: str, states: Tensor) -> Tensor:
        """(k,) int64, rows for which this head is due, if all rows have taken the earlier turns of the schedule.

        The result follows from `next_head`; an environment with a faster test may override this method.
        """
        return torch.nonzero(self.next_head(states) == self.head_position(head)).squeeze(1)

    @abstractmethod
    def parent_actions(self, head: str, states: Tensor) -> Tensor:
        """Actions of this head that can have led to each state.

        Returns:
            if the head `has_one_parent`: (n, 1), the action. Otherwise a support, as for forward actions:
            (n, n_options) bool, the mask of discrete actions, or (n, support_size) float64, the interval of values.
        """

    @abstractmethod
    def step_back(self, head: str, states: Tensor, actions: Tensor) -> Tensor:
        """(n, state_size) the states from which these actions of this head led to the given states."""

    @abstractmethod
    def decode(self, states: Tensor) -> Any:
        """The objects of n terminal states, as a batch; this is the input of proxies."""

    @abstractmethod
    def to_frame(self, states: Tensor) -> pd.DataFrame:
        """The objects of n terminal states as a readable table, one row for each object; n may be 0."""

    def columns(self) -> list[str]:
        """Columns of `to_frame`."""
        return [str(column) for column in self.to_frame(self.initial_states(0)).columns]

    def enumerate(self) -> Tensor:
        """(n, state_size) all terminal states, each once; implemented only if `is_enumerable`.

        Raises:
            TypeError: if the environment cannot list its terminal states.
        """
        raise TypeError(f"{type(self).__name__} cannot enumerate its terminal states")

    def restricted(self, restriction: Mapping[str, Any]) -> Environment:
        """An environment for the same policy that builds only objects that a restriction allows.

        Heads keep their names and sizes, and the encoding of a state does not change. A restriction always refers to
        the space with which the environment was made: a second restriction replaces the first one.

        Args:
            restriction: settings by name; each environment has its own settings.

        Returns:
            the restricted environment.

        Raises:
            InputError: if this environment has no restrictions, if a setting does not fit it, or if no object is
                allowed.
        """
        raise InputError(
            f"restrict: the environment {type(self).__name__} has no restrictions; allowed: none (leave restrict out)"
        )

    def describe(self, states: Tensor) -> list[str]:
        """A short text for the object of each terminal state, for messages and top-k tables."""
        return [", ".join(f"{k}={v}" for k, v in row.items()) for row in self.to_frame(states).to_dict("records")]

    def decode_partial(self, states: Tensor) -> Any:
        """The unfinished objects of n intermediate states, in the form that `decode` returns for terminal states.

        Implemented only if `has_partial_objects`: proxies can then evaluate unfinished objects.

        Raises:
            TypeError: if the environment has no unfinished objects that proxies can evaluate.
        """
        raise TypeError(f"{type(self).__name__} has no objects for intermediate states")

    @property
    def can_learn_backward(self) -> bool:
        """Whether `encode_backward` is implemented for all states that can have several parents."""
        return type(self).encode_backward is not Environment.encode_backward

    def encode_backward(self, head: str, states: Tensor) -> Tensor:
        """Input of a learned backward policy for n states to which this head led.

        Only needed for states that can have several parents; for other states there is nothing to learn.

        Returns:
            (n, heads[head].input_size) float32.

        Raises:
            TypeError: if the environment has no such encoding.
        """
        raise TypeError(f"{type(self).__name__} has no encoding for a learned backward policy")

    def input_features(self, head: str) -> Tensor | None:
        """Features that say what the columns of `encode` stand for; policies may use them.

        Returns:
            (heads[head].input_size, k) float32, one row for each column, with any number k of features. Columns with
            similar rows mean similar things, such as the presence of one halogen and the presence of another. None if
            there are no features.
        """
        return None

    def option_features(self, head: str) -> Tensor | None:
        """Features that say what the options of a discrete decision stand for, see `input_features`.

        Returns:
            (n_options, k) float32, or None.
        """
        return None

    def input_names(self, head: str) -> tuple[str, ...] | None:
        """Names of the columns of `encode`, with which a network is moved to an environment with other columns.

        A name says what a column stands for, with its scale. Equal names, in whatever environment of this class, mean
        equal values for equal objects. A name may end with a number, as in ``atoms / 24``: the value is a quantity
        divided by this number, which may be smaller in the smaller environment. A column that only the larger
        environment has must be 0 for all objects of the smaller one, or be one of its `implied_inputs`. A restriction
        does not change the names.

        Returns:
            heads[head].input_size different names; None if there are no names. Networks are then taken over only if
            all sizes are equal.
        """
        return None

    def implied_inputs(self, head: str) -> dict[str, Tensor]:
        """Inputs that have a column only in larger environments, although they are not always 0 in this one.

        Returns:
            for each name, (heads[head].input_size,) float32 factors: the input is the sum of this environment's columns
            times these factors, at every state at which the head decides.
        """
        return {}

    def option_names(self, head: str) -> tuple[str, ...] | None:
        """Names of the logits of a decision, see `input_names`.

        The name of an option says which one it is. The names of a continuous decision also contain everything on which
        the meaning of its logits depends, such as the range of values.

        Returns:
            heads[head].n_logits different names, or None.
        """
        return None

    def kinds(self, states: Tensor) -> Tensor:
        """(n, k) kinds of terminal states: equal rows are of one kind. Replay buffers can limit states of one kind."""
        return states

    def object_keys(self, objects: Any, states: Tensor) -> Tensor:
        """(n, k) int64 keys of n objects and their terminal states; equal rows are the same object."""
        return state_keys(states)

    def states_of(self, objects: Any, tolerance: float = 0.0) -> tuple[Tensor, list[str]]:
        """Terminal states of objects, the inverse of `decode`.

        Args:
            objects: n objects, as `decode` returns them.
            tolerance: largest relative deviation of an object from one that can be built; the object is changed to
                the one that can be built.

        Returns:
            (n, state_size) the states, and for each object the reason why it cannot be built, or an empty string if it
            can be built. The states of objects that cannot be built have no meaning.

        Raises:
            TypeError: if the environment cannot turn objects into states.
        """
        raise TypeError(f"{type(self).__name__} cannot turn objects into states")

    def read_table(self, path: Path) -> ObjectTable:
        """Read objects from a table with one object in each row and the columns of `to_frame`.

        Args:
            path: CSV or parquet file.

        Returns:
            the objects, and the reasons why other rows contain none.

        Raises:
            InputError: if the file cannot be read or lacks a column.
            TypeError: if the environment cannot read tables.
        """
        raise TypeError(f"{type(self).__name__} cannot read tables")

    def has_one_parent(self, head: str) -> bool:
        """Whether every state to which this head leads has one parent; in a tree this is true for all heads."""
        return self.is_tree

    def is_terminal(self, states: Tensor) -> Tensor:
        """(n,) bool, whether no decision is left."""
        return self.next_head(states) < 0

    def stage_of(self, head: str) -> str:
        """Name of the part of the building to which a head belongs, for reports; by default each head is a part."""
        return head

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
        """P_B over the actions of this head that can have led to each state; by default `uniform_backward`."""
        return self.uniform_backward(head, states)

    @property
    def has_own_backward(self) -> bool:
        """Whether `backward_distribution` differs from `uniform_backward`."""
        return type(self).backward_distribution is not Environment.backward_distribution

    @property
    def device(self) -> torch.device:
        """Device of the environment's tables."""
        return next(self.buffers()).device
