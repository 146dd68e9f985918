"""``crystalgfn likelihood``: add the likelihood under a trained model to a table of objects."""

from __future__ import annotations

from pathlib import Path

from crystalgfn.commands.options import Parser


def main(args: list[str]) -> int:
    """Run the command.

    Args:
        args: what follows ``likelihood``: ``TABLE --ckpt_path FILE --out FILE`` and options.

    Returns:
        exit status 0, even if some rows do not fit the environment.

    Raises:
        InputError: if a table, checkpoint, output or option cannot be used.
        SystemExit: with status 2 if the options cannot be parsed, with 0 after ``--help``.
    """
    import json

    parser = Parser(
        prog="crystalgfn likelihood",
        description="Add log p(x) under a trained model and log R(x) to a table of objects, such as real crystals.",
    )
    parser.add_argument("table", type=Path, help="CSV or parquet file with one object per row")
    parser.add_argument(
        "--ckpt_path",
        required=True,
        help="the model: a checkpoint file, the folder of a run, or a shipped model such as discovered",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="table to write; its ending .csv or .parquet sets the format"
    )
    parser.add_argument("--metrics", type=Path, help="JSON file for the metrics (default: OUT with the ending .json)")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="COLUMN=TEXT",
        help="use only rows with this text in a column; can be given several times",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.01,
        help="largest relative deviation of a cell from an allowed one; such a cell is corrected (default 0.01)",
    )
    parser.add_argument(
        "--trajectories",
        type=int,
        default=100,
        help="trajectories drawn for each row, if an object can be built in several ways (default 100)",
    )
    parser.add_argument("--restrict", help="YAML file that restricts the space of the model")
    parser.add_argument("--seed", type=int, default=0, help="seed of these trajectories (default 0)")
    parser.add_argument(
        "--trust-checkpoint", action="store_true", help="allow the checkpoint to name classes of your own, and run them"
    )
    options = parser.parse_args(args)
    from crystalgfn.checks import at_least, between
    from crystalgfn.errors import InputError
    from crystalgfn.files import atomic_path, check_writable, table_kind, write_frame
    from crystalgfn.runs import load
    from crystalgfn.runs.likelihood import likelihood_table
    from crystalgfn.runs.model import read_restriction
    from crystalgfn.runs.quiet import quieten

    quieten()
    at_least("--trajectories", options.trajectories, 1)
    between("--tolerance", options.tolerance, 0, 0.5, without=0.5)
    pairs = [text.partition("=") for text in options.only]
    for column, equals, _ in pairs:
        if not equals or not column:
            raise InputError(f"--only: {column}{equals} is not allowed; write COLUMN=TEXT, such as split=val")
    metrics_path = options.metrics or options.out.with_suffix(".json")
    table_kind(options.out)
    check_writable(options.out)
    check_writable(metrics_path)
    module = load(options.ckpt_path, options.trust_checkpoint).module
    if options.restrict is not None:
        module.env = module.env.restricted(read_restriction(options.restrict))
    frame, metrics = likelihood_table(
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
    for name, values in metrics["surprisal"].items():
        print(f"bits of an object, {name}: {values['bits']:.2f}; of a decision: {values['bits_per_decision']:.2f}")
    print(f"{metrics_path}: all numbers")
    return 0
