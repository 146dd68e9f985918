"""Losses: pure functions of the log-probabilities of trajectories."""

from crystalgfn.losses.trajectory_balance import trajectory_balance

__all__ = ["trajectory_balance"]
