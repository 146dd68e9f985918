"""``crystalgfn judge``: relax crystals with several potentials and say which survive, stay as they are, and are new."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalgfn.commands.options import Parser, add_hull
from crystalgfn.commands.workers import add_workers, told_if_stopped

if TYPE_CHECKING:
    import argparse

DATABASES = (".db", ".sqlite")
"""Endings of the names of databases in files."""


def main(args: list[str]) -> int:
    """Run the command.

    Args:
        args: what follows ``judge``: ``STRUCTURES --out FOLDER [...]``.

    Returns:
        exit status 0, even if some crystals could not be relaxed.

    Raises:
        InputError: if a file, folder or option cannot be used.
        SystemExit: with status 2 if the options cannot be parsed, with 0 after ``--help``.
    """
    options = _parser().parse_args(args)
    from crystalgfn.atoms import require_extra

    require_extra()
    from crystalgfn.atoms.run import kept
    from crystalgfn.checks import at_least
    from crystalgfn.errors import InputError
    from crystalgfn.judging import judge, read_given
    from crystalgfn.judging.judgement import POTENTIALS
    from crystalgfn.judging.summary import lines

    if options.n is not None:
        at_least("--n", options.n, 1)
    if is_database(options.structures):
        from crystalgfn.discovery.judged import of_database

        given = of_database(options.structures, options.source)
    elif options.source is not None:
        raise InputError(f"--source: only for a database, not for {options.structures}")
    else:
        given = read_given(Path(options.structures))
    with told_if_stopped(lambda: kept(options.out)):
        judgement = judge(
            given[: options.n],
            options.potential or POTENTIALS,
            reference=options.reference,
            hull=options.hull,
            element_references=options.element_references,
            out=options.out,
            seed=options.seed,
            jobs=options.jobs,
            backend=options.backend,
            scheduler=options.scheduler,
            timeout=options.timeout,
            source=options.structures,
        )
    for line in lines(judgement, options.out):
        print(line)
    return 0


def is_database(name: str) -> bool:
    """Whether a name is that of a database of evaluated crystals."""
    return "://" in name or Path(name).suffix in DATABASES


def _parser() -> Any:
    parser: argparse.ArgumentParser = Parser(
        prog="crystalgfn judge",
        description="Relax crystals with several potentials, place them on the hull of known phases, and say which "
        "survive by all potentials, which keep their symmetry and volume, and which are new.",
    )
    parser.add_argument(
        "structures",
        help="folder of build, folder of CIF files, CIF file, extxyz file, table with a column cif, or database of "
        "label or discover",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results; a stopped run is continued")
    parser.add_argument(
        "--potential",
        action="append",
        metavar="NAME",
        help="a potential that judges; give the option once for each (default: chgnet and sevennet)",
    )
    parser.add_argument(
        "--reference",
        type=Path,
        help="known crystals with atoms: a table with a column cif, or a folder of CIF files (default: none, and "
        "nothing is said about what is new)",
    )
    add_hull(parser)
    parser.add_argument(
        "--element-references",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="elemental references of a potential, as written by references; may be given for each potential "
        "(default: the shipped files)",
    )
    parser.add_argument("--source", help="of a database: only crystals of this source, such as final")
    parser.add_argument("--n", type=int, help="judge only the first N crystals (default: all)")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the small displacements in relaxations (default 0)"
    )
    add_workers(parser)
    return parser
