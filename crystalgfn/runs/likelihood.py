"""Likelihood of the objects of a table under a trained model."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from crystalgfn.errors import InputError
from crystalgfn.gflownet.data_set import read_states
from crystalgfn.gflownet.likelihood import log_likelihood, surprisal
from crystalgfn.gflownet.metrics import LikelihoodAgreement
from crystalgfn.gflownet.module import GFlowNet
from crystalgfn.random import generator

if TYPE_CHECKING:
    import pandas as pd

REASON = "reason"
"""Column that says why a row has no likelihood; it is empty for the other rows."""


def likelihood_table(
    module: GFlowNet,
    table: Path,
    only: dict[str, str] | None = None,
    tolerance: float = 0.01,
    trajectories: int = 100,
    seed: int = 0,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Calculate log p and log R of the objects of a table.

    Args:
        module: the trained model.
        table: CSV or parquet file.
        only: values that columns of the table must have, by name of the column; the result has no other rows.
        tolerance: largest relative deviation of an object from the nearest one that the environment can build. A
            deviating object is replaced by that one.
        trajectories: number of backward trajectories for each object, if it can be built in several ways.
        seed: seed of these trajectories.

    Returns:
        the rows with the columns ``log_p``, ``log_p_standard_error``, ``log_reward`` and ``reason``, and the metrics.

    Raises:
        InputError: if the table or none of its rows can be used, or it has a column with one of these names.
    """
    known = read_states(module.env, table, tolerance, only, "table")
    added = ["log_p", "log_p_standard_error", "log_reward", REASON]
    if module.prior is not None:
        added.insert(3, "log_prior")
    taken = [column for column in added if column in known.frame.columns]
    if taken:
        raise InputError(f"{table}: already has column(s) {', '.join(taken)}; rename them first")
    if not len(known.rows):
        counts = Counter(known.problems.values()).most_common(5)
        why = ", ".join(f"{reason} ({count})" for reason, count in counts) or "none has the text that 'only' asks for"
        raise InputError(f"{table}: none of the {len(known.frame)} rows can be used: {why}")
    log_p, errors = log_likelihood(
        module.env,
        module.policy,
        known.states,
        generator(seed, "likelihood"),
        trajectories,
        module.backward_policy,
    )
    log_reward = module.log_rewards(known.states)
    reasons = known.problems | {int(row): "no finite prediction" for row in known.rows[~log_reward.isfinite()]}
    numbers = [log_p, errors, log_reward]
    if module.prior is not None:
        numbers.append(module.log_priors(known.states))
    values = torch.full((len(numbers), len(known.frame)), float("nan"), dtype=torch.float64)
    values[:, known.rows] = torch.stack(numbers)
    frame = known.frame.reset_index(drop=True)
    for column, own in zip(added, values, strict=False):
        frame[column] = own.numpy()
    frame[REASON] = [reasons.get(row, "") for row in range(len(frame))]
    agreement = LikelihoodAgreement()
    agreement.update(log_p, log_reward)
    stream, backward = generator(seed, "likelihood"), module.backward_policy
    surprisals = surprisal(module.env, {"policy": module.policy, "uniform": None}, known.states, stream, backward)
    results = {name: float(value) for name, value in agreement.compute().items()}
    metrics = {
        "rows": int(known.wanted.sum()),
        **{name: (value if math.isfinite(value) else None) for name, value in results.items()},
        "log_z": module.log_z.item(),
        "surprisal": {name: values.values() for name, values in surprisals.items()},
        "left_out": dict(Counter(reasons.values()).most_common()),
    }
    metrics["n"] = int(results["n"])
    return frame[known.wanted.numpy()], metrics
