"""``crystalgfn likelihood``: how likely a trained model is to sample the objects of a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from crystalgfn.gflownet.module import GFlowNet

REASON = "reason"
"""Column that says why a row has no likelihood; empty for the others."""


def main(args: list[str]) -> int:
    """Run the command.

    Args:
        args: what follows ``likelihood``: ``TABLE --ckpt_path FILE --out FILE`` and options.

    Returns:
        exit status 0, also when some rows do not fit the environment.

    Raises:
        InputError: for a table, checkpoint or output that cannot be used.
        SystemExit: with status 2 for options that cannot be parsed, with 0 after ``--help``.
    """
    import argparse
    import json

    parser = argparse.ArgumentParser(
        prog="crystalgfn likelihood",
        description="Add log p(x) under a trained model and log R(x) to a table of objects, such as real crystals.",
    )
    parser.add_argument("table", type=Path, help="CSV or parquet file with one object a row")
    parser.add_argument("--ckpt_path", required=True, help="checkpoint of the model")
    parser.add_argument("--out", type=Path, required=True, help="table to write, CSV or parquet by its ending")
    parser.add_argument("--metrics", type=Path, help="JSON file for the metrics (OUT with the ending .json)")
    parser.add_argument(
        "--only", action="append", default=[], metavar="COLUMN=TEXT", help="only rows with this text in a column"
    )
    parser.add_argument(
        "--tolerance", type=float, default=0.01, help="relative deviation of a cell that is made exact (0.01)"
    )
    parser.add_argument(
        "--trajectories", type=int, default=100, help="drawn for each row, where there can be several (100)"
    )
    parser.add_argument("--restrict", help="restriction of the model's space, a YAML file")
    parser.add_argument("--seed", type=int, default=0, help="of these trajectories (0)")
    options = parser.parse_args(args)
    from crystalgfn.commands.quiet import quieten
    from crystalgfn.commands.trained import load_model
    from crystalgfn.errors import InputError
    from crystalgfn.gflownet.known_states import check_tolerance
    from crystalgfn.crystal.restriction import read_restriction
    from crystalgfn.crystal.tables import atomic_path, check_writable, table_kind, write_frame

    quieten()
    if options.trajectories < 1:
        raise InputError(f"--trajectories: {options.trajectories} is not allowed; it must be at least 1")
    check_tolerance("--tolerance", options.tolerance)
    pairs = [text.partition("=") for text in options.only]
    for column, equals, _ in pairs:
        if not equals or not column:
            raise InputError(f"--only: {column}{equals} is not allowed; write COLUMN=TEXT, such as split=val")
    metrics_path = options.metrics or options.out.with_suffix(".json")
    table_kind(options.out)
    check_writable(options.out)
    check_writable(metrics_path)
    module = load_model(options.ckpt_path)
    if options.restrict is not None:
        from crystalgfn.crystal.restriction import Restriction

        module.env = module.env.restricted(Restriction.parse(read_restriction(options.restrict)))
    frame, metrics = score(
        module,
        options.table,
        only={column: text for column, _, text in pairs},
        tolerance=options.tolerance,
        trajectories=options.trajectories,
        seed=options.seed,
    )
    write_frame(frame, options.out)
    with atomic_path(metrics_path) as temporary:
        temporary.write_text(json.dumps(metrics, indent=2) + "\n")
    print(f"{options.out}: {metrics['n']} of {metrics['rows']} rows have log p and log R")
    for reason, count in metrics["left_out"].items():
        print(f"  left out, {reason}: {count}")
    for name in ("pearson", "spearman"):
        value = metrics[name]
        print(f"correlation of log p and log R, {name}: {'-' if value is None else format(value, '.3f')}")
    print(f"{metrics_path}: all numbers")
    return 0


def score(
    module: GFlowNet,
    table: Path,
    only: dict[str, str] | None = None,
    tolerance: float = 0.01,
    trajectories: int = 100,
    seed: int = 0,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Score the objects of a table by log p and log R.

    Args:
        module: the trained model.
        table: CSV or parquet file.
        only: values that columns of the table must have; other rows are left out of the result.
        tolerance: largest relative deviation of an object from one that can be built; it is moved there.
        trajectories: backward trajectories for each object, where there can be several.
        seed: of these.

    Returns:
        the rows with the columns ``log_p``, ``log_p_standard_error``, ``log_reward`` and ``reason``, and the metrics.

    Raises:
        InputError: if the table cannot be used or has a column of that name.
    """
    import math
    from collections import Counter

    import torch

    from crystalgfn.errors import InputError
    from crystalgfn.gflownet.known_states import BATCH, read_states
    from crystalgfn.gflownet.likelihood import log_likelihood
    from crystalgfn.gflownet.metrics import LikelihoodAgreement
    from crystalgfn.random import generator

    known = read_states(module.env, table, tolerance, only, "table")
    added = ("log_p", "log_p_standard_error", "log_reward", REASON)
    taken = [column for column in added if column in known.frame.columns]
    if taken:
        raise InputError(f"{table}: already has column(s) {', '.join(taken)}; rename them first")
    log_p, errors = log_likelihood(
        module.env,
        module.policy,
        known.states,
        generator(seed, "likelihood"),
        trajectories,
        module.backward_policy,
    )
    rewards = [module.evaluate(part)[1] for part in known.states.split(BATCH) if len(part)]
    log_reward = torch.cat(rewards) if rewards else log_p
    reasons = known.problems | {int(row): "no finite prediction" for row in known.rows[~log_reward.isfinite()]}
    values = torch.full((3, len(known.frame)), float("nan"), dtype=torch.float64)
    values[:, known.rows] = torch.stack([log_p, errors, log_reward])
    frame = known.frame.reset_index(drop=True)
    for column, numbers in zip(added, values, strict=False):
        frame[column] = numbers.numpy()
    frame[REASON] = [reasons.get(row, "") for row in range(len(frame))]
    agreement = LikelihoodAgreement()
    agreement.update(log_p, log_reward)
    results = {name: float(value) for name, value in agreement.compute().items()}
    metrics = {
        "rows": int(known.wanted.sum()),
        **{name: (value if math.isfinite(value) else None) for name, value in results.items()},
        "log_z": module.log_z.item(),
        "left_out": dict(Counter(reasons.values()).most_common()),
    }
    metrics["n"] = int(results["n"])
    return frame[known.wanted.numpy()], metrics
