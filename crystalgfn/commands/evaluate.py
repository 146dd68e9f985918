"""``crystalgfn evaluate``: measure a table of samples and write a page with the results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalgfn.commands.options import Parser, Words

if TYPE_CHECKING:
    from collections.abc import Sequence

RESERVED = ("samples", "reference")
"""Names of tables that the report uses itself."""


def main(args: list[str]) -> int:
    """Run the command.

    Args:
        args: what follows ``evaluate``: ``SAMPLES [--reference TABLE] [--samples NAME=TABLE] [--out FOLDER] ...``.

    Returns:
        exit status 0, even if some rows could not be read; the report counts them.

    Raises:
        InputError: if a table, setting or folder cannot be used.
        SystemExit: with status 2 if the options cannot be parsed, with 0 after ``--help``.
    """
    from crystalgfn.crystal.crystallography import OXIDATION_STATE_SETS

    parser = Parser(
        prog="crystalgfn evaluate",
        description="Measure validity, uniqueness, novelty, diversity and properties of samples. Writes a page and a "
        "file with all numbers.",
    )
    parser.add_argument("table", type=Path, metavar="SAMPLES", help="CSV or parquet file with one crystal per row")
    parser.add_argument("--reference", type=Path, metavar="TABLE", help="table of known crystals to compare with")
    parser.add_argument(
        "--samples",
        action="append",
        default=[],
        metavar="NAME=TABLE",
        help="another table of samples and its name on the page; can be given several times",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("report"), help="folder for index.html and metrics.json (default report)"
    )
    parser.add_argument(
        "--top",
        type=int,
        default=100,
        metavar="K",
        help="number of crystals with the highest log_reward to show (default 100)",
    )
    parser.add_argument(
        "--structures",
        type=Path,
        metavar="FOLDER",
        help="folder with structures.csv, as written by build, or a table with the names of CIF files",
    )
    parser.add_argument(
        "--proxy", metavar="NAME", help="proxy that predicts its property for tables without that column"
    )
    parser.add_argument(
        "--weights", type=Path, help="weights of the proxy (default: the shipped file, if there is one)"
    )
    parser.add_argument(
        "--properties",
        nargs="+",
        action=Words,
        metavar="COLUMN",
        help="columns to compare (default: all columns of numbers)",
    )
    parser.add_argument(
        "--oxidation-states",
        default="pymatgen_common",
        metavar="SET",
        help=f"oxidation states for the check of charge neutrality: {', '.join(OXIDATION_STATE_SETS)} "
        "(default %(default)s)",
    )
    parser.add_argument(
        "--mixed-valence",
        action="store_true",
        help="allow two oxidation states of the same sign for one element in this check",
    )
    options = parser.parse_args(args)
    others = named_tables(options.samples)

    from crystalgfn.errors import InputError
    from crystalgfn.evaluation.report import METRICS, PAGE, evaluate

    if options.weights is not None and options.proxy is None:
        raise InputError("--weights: needs --proxy, the name of the proxy that uses them")
    result = evaluate(
        options.table,
        out=options.out,
        reference=options.reference,
        others=others,
        top=options.top,
        structures=options.structures,
        proxy=_proxy(options.proxy, options.weights),
        properties=options.properties,
        oxidation_states=options.oxidation_states,
        mixed_valence=options.mixed_valence,
    )
    for line in summary(result.metrics):
        print(line)
    print(f"{options.out / PAGE}: the page; {options.out / METRICS}: its numbers")
    return 0


def named_tables(entries: Sequence[str]) -> dict[str, Path]:
    """Parse the values of ``--samples``.

    Args:
        entries: values of the form ``NAME=TABLE``.

    Returns:
        the table of each name.

    Raises:
        InputError: if an entry has no name or no table, or if a name is already in use.
    """
    from crystalgfn.errors import InputError

    tables: dict[str, Path] = {}
    for entry in entries:
        name, _, path = entry.partition("=")
        if not name.strip() or not path:
            raise InputError(f"--samples: {entry!r} is not allowed; it must be NAME=TABLE, such as oxides=oxides.csv")
        if name in RESERVED or name in tables:
            raise InputError(f"--samples: the name {name!r} is taken; choose another one")
        tables[name] = Path(path)
    return tables


def summary(metrics: dict[str, Any]) -> list[str]:
    """Lines with the main numbers of the samples, for the terminal."""
    tables, valid = metrics["tables"], metrics["validity"]["samples"]
    shares = {
        "unique": metrics["uniqueness"]["samples"]["crystals"],
        "valid": valid["valid"],
        "charge neutral": valid["charge_neutral"],
        "usual cell shape": valid["cell_shape"],
    }
    if metrics["novelty"] is not None:
        shares["new crystals among the unique ones"] = metrics["novelty"]["samples"]["new_crystal"]
        if tables["reference"]["problems"]:
            shares["not counted as new, because the reference has them in a row that cannot be used"] = metrics[
                "novelty"
            ]["samples"]["not_comparable"]
    lines = _rows(tables["samples"]) + [f"  {name}: {n['count']:,} of {n['of']:,}" for name, n in shares.items()]
    faulty = [table for name, table in tables.items() if name != "samples" and table["problems"]]
    return lines + [line for table in faulty for line in _rows(table)]


def _rows(table: dict[str, Any]) -> list[str]:
    """Lines with the number of rows of a table that are crystals, and why the others cannot be used."""
    from crystalgfn.evaluation.pools import problem_lines

    readable = f"{table['file']}: {table['readable']:,} of {table['rows']:,} rows are crystals"
    return [readable, *problem_lines(table["problems"])]


def _proxy(name: str | None, weights: Path | None) -> Any:
    """The proxy with this name and these weights; None if there is no name."""
    if name is None:
        import crystalgfn.proxies  # noqa: F401 - registers the built-in proxies, which give the units of columns

        return None
    from crystalgfn.proxies.scoring import make_proxy, precision

    proxy = make_proxy(name, weights)
    precision(proxy, name)  # raises if the proxy has no values for crystals
    return proxy
