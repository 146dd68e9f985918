"""``crystalgfn label``: evaluate crystals with a potential and keep the results in a database of labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from crystalgfn.commands.options import DEFAULT_POTENTIAL, Parser, add_energies, add_potential
from crystalgfn.commands.workers import add_workers, told_if_stopped

if TYPE_CHECKING:
    import argparse

    from crystalgfn.discovery.candidate import Candidate
    from crystalgfn.discovery.database import LabelDatabase


def main(args: list[str]) -> int:
    """Run the command.

    Args:
        args: what follows ``label``: ``[TABLE] --db DATABASE [...]``.

    Returns:
        exit status 0, even if some crystals could not be built.

    Raises:
        InputError: if a table, database or option cannot be used.
        SystemExit: with status 2 if the options cannot be parsed, with 0 after ``--help``.
    """
    options = _parser().parse_args(args)
    from crystalgfn.atoms import require_extra

    require_extra()
    from crystalgfn.atoms.potentials import make
    from crystalgfn.atoms.potentials.references import ElementReferences
    from crystalgfn.atoms.run import Workers
    from crystalgfn.checks import at_least, positive
    from crystalgfn.discovery import labels
    from crystalgfn.discovery.database import LabelDatabase
    from crystalgfn.discovery.labelling import evaluate, summary
    from crystalgfn.errors import InputError
    from crystalgfn.files import check_writable, table_kind, write_frame
    from crystalgfn.proxies.energy_above_hull import SHIPPED_HULL
    from crystalgfn.proxies.hull import load_hull
    from crystalgfn.runs.quiet import quieten

    quieten()
    workers = Workers(options.jobs, options.backend, options.scheduler, options.timeout)
    workers.check()
    at_least("--tries", options.tries, 1)
    positive("--cap", options.cap)
    if options.export is not None:
        table_kind(options.export)
    potential = None if options.potential is None else make(options.potential)
    if potential is not None:
        require_extra(potential.packages, potential.install)
    hull = load_hull(options.hull or SHIPPED_HULL)
    waiting = chosen(options)
    if potential is not None or not Path(options.db).exists():  # before a database is created
        ElementReferences.load(potential or make(), options.element_references)
    database = LabelDatabase(options.db, create=bool(waiting), potential=potential)
    references = ElementReferences.load(database.potential, options.element_references)
    if options.export is not None:
        check_writable(options.export)
    with told_if_stopped(lambda: _kept(waiting, database)):
        new = evaluate(waiting, database, workers, options.tries, options.seed)
    frame = labels.with_energies(database.frame(), references, hull, options.offset)
    for line in summary(frame, str(database), len(waiting), new):
        print(line)
    if options.export is not None:
        rows = labels.training_rows(frame, options.cap)
        if rows.empty:
            raise InputError(f"--export: {database} holds no crystal with a label")
        write_frame(rows, options.export)
        kinds = ", ".join(f"{count} {kind}" for kind, count in rows["kind"].value_counts(sort=False).items())
        print(f"{options.export}: {len(rows)} rows to train on ({kinds})")
        impossible = int(labels.contradicts_itself(frame).sum())
        if impossible:
            print(
                f"  left out: {impossible} failed crystals that cannot exist, because their cell does not have the "
                "shape that the space group demands, or because no Wyckoff positions hold their atoms"
            )
    return 0


def _kept(waiting: list[Candidate], database: LabelDatabase) -> str:
    """Message for an interrupted run: how many crystals were evaluated, and which command continues it."""
    done = len({candidate.key for candidate in waiting} & database.keys())
    return (
        f"{done} of {len(waiting)} crystals are evaluated and kept in {database}; the same command evaluates the others"
    )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="crystalgfn label",
        description="Build and relax crystals with a potential and keep the results in a database. A proxy can be "
        "trained on them.",
    )
    parser.add_argument("table", type=Path, nargs="?", help="CSV or parquet file with one crystal per row")
    parser.add_argument("--db", required=True, help="database: a file for SQLite, or postgresql://USER@HOST:PORT/NAME")
    parser.add_argument("--real", type=int, metavar="N", help="evaluate N crystals of --known, unchanged")
    parser.add_argument(
        "--perturbed",
        type=int,
        metavar="N",
        help="evaluate N crystals of --known with another space group, cell or element",
    )
    parser.add_argument("--random", type=int, metavar="N", help="evaluate N random crystals of the environment")
    parser.add_argument(
        "--known", type=Path, help="table of real crystals; if it has a column split, only rows with train are used"
    )
    parser.add_argument(
        "--config", help="config with the environment that defines the allowed crystals, such as eform.yaml"
    )
    parser.add_argument("--restrict", help="YAML file that restricts this environment")
    parser.add_argument(
        "--tries", type=int, default=4, help="arrangements of the atoms to relax in the sampled cell (default 4)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices (default 0)")
    add_potential(parser, None, f"that of the database, {DEFAULT_POTENTIAL} for a new one")
    add_workers(parser)
    parser.add_argument("--export", type=Path, help="CSV or parquet file to write, with rows to train a proxy on")
    parser.add_argument(
        "--cap",
        type=float,
        default=1.5,
        help="largest energy above the hull in the exported rows in eV/atom; higher ones are set to it (default 1.5)",
    )
    add_energies(parser)
    return parser


def chosen(options: argparse.Namespace) -> list[Candidate]:
    """The crystals that the options ask for, each one once.

    Raises:
        InputError: if an option is missing or cannot be used.
    """
    from crystalgfn.checks import at_least
    from crystalgfn.discovery import seeds
    from crystalgfn.discovery.labelling import environment, table_crystals
    from crystalgfn.errors import InputError

    found: list[Candidate] = []
    env = None
    for name in ("real", "perturbed", "random"):
        n = getattr(options, name)
        if n is None:
            continue
        at_least(f"--{name}", n, 1)
        if options.config is None:
            raise InputError(f"--{name}: needs --config, whose environment defines the allowed crystals")
        if name != "random" and options.known is None:
            raise InputError(f"--{name}: needs --known, a table of real crystals")
        env = env if env is not None else environment(options.config, options.restrict)
        if name == "random":
            found += seeds.random_crystals(env, n, options.seed)
        elif name == "real":
            found += seeds.real_crystals(options.known, env, n, options.seed)
        else:
            found += seeds.perturbed_crystals(options.known, env, n, options.seed)
    if options.table is not None:
        found += table_crystals(options.table)
    return list({candidate.key: candidate for candidate in reversed(found)}.values())[::-1]
