"""``crystalgfn discovery-page``: the best new crystals of a database of labels, as a page."""

from __future__ import annotations

import shlex
from pathlib import Path

TOP = 20


def main(args: list[str]) -> int:
    """Run the command.

    Args:
        args: what follows ``discovery-page``: ``--db DATABASE --reference TABLE --out FOLDER [...]``.

    Returns:
        exit status 0.

    Raises:
        InputError: for a database, table, folder or option that cannot be used.
        SystemExit: with status 2 for options that cannot be parsed, with 0 after ``--help``.
    """
    import argparse

    parser = argparse.ArgumentParser(
        prog="crystalgfn discovery-page",
        description="Write a page of the best new crystals: Markdown, a table, CIF files and pictures.",
    )
    parser.add_argument("--db", required=True, help="database of evaluated crystals: SQLite file or postgresql:// URL")
    parser.add_argument("--reference", type=Path, required=True, help="table of known crystals, to tell what is new")
    parser.add_argument("--out", type=Path, required=True, help="folder for the page; an older page is replaced")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--samples", type=Path, metavar="TABLE", help="only these crystals, all of them; from predict")
    which.add_argument("--source", nargs="+", metavar="NAME", help="only crystals of these sources")
    parser.add_argument("--top", type=int, default=TOP, help="crystals to show (default %(default)s)")
    parser.add_argument("--hull", type=Path, help="hull of known phases, from build-hull; the shipped one if left out")
    parser.add_argument("--chgnet-references", type=Path, help="elemental references; the shipped ones if left out")
    parser.add_argument(
        "--offset", type=float, default=0.0, help="what CHGNet's formation energies are too high by [eV/atom]"
    )
    parser.add_argument("--recipe", help="how the crystals were sampled: command and seed; the page quotes it")
    options = parser.parse_args(args)

    from crystalgfn.atoms import require_extra
    from crystalgfn.checks import at_least
    from crystalgfn.discovery.outcome import KnownCrystals, Outcome
    from crystalgfn.discovery.page import PAGE, check_folder, write_page

    at_least("--top", options.top, 1)
    require_extra()
    check_folder(options.out)

    from crystalgfn.discovery.database import LabelDatabase
    from crystalgfn.discovery.selection import of_samples, of_sources, with_shipped_energies

    database = LabelDatabase(options.db, create=False)
    frame = database.frame()
    if options.samples is not None:
        frame = of_samples(frame, options.samples, str(database))
    else:
        frame = of_sources(frame, options.source, str(database))
    frame = with_shipped_energies(frame, options.chgnet_references, options.hull, options.offset)
    outcome = Outcome(frame, KnownCrystals.read(options.reference))
    shown = " ".join(_plain(word) for word in args)
    about = {"sampled by": f"`{options.recipe}`"} if options.recipe else {}
    about |= {
        "sources": ", ".join(f"{name} ({count})" for name, count in frame["source"].value_counts().items()),
        "this page": f"`crystalgfn discovery-page {shown}`",
    }
    write_page(outcome, database.structure, options.out, top=options.top, about=about)
    for name, text in outcome.rows().items():
        print(f"{name}: {text.replace('**', '')}")
    print(f"{options.out / PAGE}: the page")
    return 0


def _plain(word: str) -> str:
    """A word of the command without folders of this machine, and quoted where it needs to be."""
    return shlex.quote(Path(word).name if Path(word).is_absolute() else word)
