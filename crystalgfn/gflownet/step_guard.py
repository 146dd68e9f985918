"""Protection against single bad training steps: they are skipped or damped, counted and logged."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from crystalgfn.errors import InputError

SPIKE = 10.0
"""A gradient is a spike, and is scaled down, if its norm exceeds this many times the running mean of norms."""

WARM_UP = 100
"""Number of first steps in which no gradient counts as a spike, because norms fall fast at the start."""

DECAY = 0.99
"""Decay factor of the running mean, which then averages over about the last hundred steps."""

BAD_IN_A_ROW = 20
"""A run stops after this number of steps in a row whose gradients are not finite."""

FLOOR_IN_A_ROW = 100
"""A warning is given after this number of steps in a row in which all rewards were at the floor."""


class StepGuard(nn.Module):
    """Checks the gradients and the rewards of each training step.

    A step whose gradients are not finite (a loss that overflows, a log-probability of minus infinity) changes only the
    counts. A spike is scaled down, because otherwise it would stay in Adam's running mean of squared gradients for a
    thousand steps and slow learning down. Counts are buffers, so checkpoints contain them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bad_steps: Tensor
        self.bad_in_a_row: Tensor
        self.spikes: Tensor
        self.seen: Tensor
        self.floor_in_a_row: Tensor
        for name in ("bad_steps", "bad_in_a_row", "spikes", "seen", "floor_in_a_row"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))
        self.mean_norm: Tensor
        self.register_buffer("mean_norm", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def check_gradients(self, parameters: Iterable[nn.Parameter], step: int) -> Tensor:
        """Check the gradients of a step: scale down a spike, and drop gradients that are not finite.

        Args:
            parameters: the learned parameters; their gradients may be changed.
            step: number of the step, for messages.

        Returns:
            () float64, the norm of all gradients before any change.

        Raises:
            InputError: if the gradients of `BAD_IN_A_ROW` steps in a row were not finite.
        """
        learned = [parameter for parameter in parameters if parameter.grad is not None]
        gradients = [parameter.grad for parameter in learned if parameter.grad is not None]
        norm = torch.stack([torch.linalg.vector_norm(gradient).double() for gradient in gradients]).norm()
        size = norm.item()
        if not size < float("inf"):  # NaN as well
            self._drop(learned, step)
            return norm
        self.bad_in_a_row.zero_()
        largest = SPIKE * self.mean_norm.item()
        if int(self.seen) >= WARM_UP and size > largest > 0:
            self.spikes += 1
            for gradient in gradients:
                gradient.mul_(largest / size)
            size = largest
        # At first a mean over all steps, later a mean with exponential weights.
        self.seen += 1
        weight = max(1 / int(self.seen), 1 - DECAY)
        self.mean_norm += weight * (size - self.mean_norm)
        return norm

    def _drop(self, parameters: list[nn.Parameter], step: int) -> None:
        for parameter in parameters:
            parameter.grad = None  # the optimiser skips these: weights and running means do not change
        self.bad_steps += 1
        self.bad_in_a_row += 1
        if int(self.bad_in_a_row) >= BAD_IN_A_ROW:
            raise InputError(
                f"the gradients of {BAD_IN_A_ROW} steps in a row, up to step {step}, are not finite; lower model.lr "
                "and model.lr_log_z, or check the rewards; the weights are still those from before these steps"
            )

    def check_rewards(self, log_reward: Tensor, floor: float) -> Tensor:
        """() float64, the share of n objects whose log R is at the floor; warn if all rewards stay at the floor.

        Args:
            log_reward: (n,) finite log R.
            floor: lowest log R.
        """
        at_floor = log_reward <= floor + 1e-9
        if len(log_reward):
            self.floor_in_a_row = torch.where(at_floor.all(), self.floor_in_a_row + 1, 0)
            if int(self.floor_in_a_row) == FLOOR_IN_A_ROW:
                rank_zero_warn(
                    f"all rewards of the last {FLOOR_IN_A_ROW} steps are at the floor, so good and bad objects have "
                    "the same reward; check the reward's settings and its floor",
                    stacklevel=2,
                )
        return at_floor.double().mean()

    def counts(self) -> dict[str, Tensor]:
        """Counts since the run began, by the names of their tags."""
        return {"bad_steps": self.bad_steps.double(), "gradient_spikes": self.spikes.double()}
