"""What the commands' own parsers share: lists in one syntax, and the closest option to an unknown one."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from crystalgfn.settings import with_suggestion


class Parser(argparse.ArgumentParser):
    """Names the closest option in the message about an unknown one."""

    def error(self, message: str) -> NoReturn:
        super().error(with_suggestion(message, self._option_string_actions))


DEFAULT_POTENTIAL = "chgnet"


def add_potential(parser: argparse.ArgumentParser, default: str | None, otherwise: str = "") -> None:
    """Add the option ``potential``.

    Args:
        parser: the parser.
        default: default of the option.
        otherwise: default as text for the help, if it is not a fixed one.
    """
    parser.add_argument(
        "--potential",
        default=default,
        metavar="NAME",
        help="potential for energies and forces, with arguments after a colon: chgnet, sevennet, sevennet:7net-0, or "
        f"another that 'crystalgfn list' shows (default {otherwise or default})",
    )


def add_hull(parser: argparse.ArgumentParser) -> None:
    """Add the option ``hull``, for `crystalgfn.proxies.hull.open_hull`."""
    parser.add_argument(
        "--hull",
        type=Path,
        metavar="FILE",
        help="hull of known phases as written by build-hull, or a table with formula and formation_energy (default: "
        "the shipped hull, for 22 elements)",
    )


def add_energies(parser: argparse.ArgumentParser) -> None:
    """Add the options that turn a potential's energies into energies above the hull: hull, references and offset."""
    parser.add_argument(
        "--offset",
        type=float,
        default=0.0,
        help="value to subtract from the potential's formation energies in eV/atom (default 0)",
    )
    parser.add_argument(
        "--hull", type=Path, help="hull of known phases, as written by build-hull (default: the shipped file)"
    )
    add_references(parser)


def add_references(parser: argparse.ArgumentParser) -> None:
    """Add the option ``element-references``."""
    parser.add_argument(
        "--element-references",
        type=Path,
        metavar="FILE",
        help="elemental references of the potential, as written by references (default: the shipped file)",
    )


class Words(argparse.Action):
    """A list of texts: ``--elements Li Fe``, ``--elements Li,Fe`` and ``--elements '[Li, Fe]'`` are the same.

    Use it with ``nargs="+"``. If the option is given several times, the last list is used.
    """

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        found = split_words(values)
        if not found:
            parser.error(f"argument {option}: {' '.join(values)} is not allowed; give one or more, such as Li Fe")
        setattr(namespace, self.dest, found)


def split_words(values: Sequence[str]) -> list[str]:
    """The entries of a list that is written with spaces, with commas or in brackets.

    Args:
        values: the words of the command line. An entry may contain spaces, and commas if it is in double quotes.
    """
    text = " ".join(values).strip()
    if text.startswith("[") and text.endswith("]"):
        values = [text[1:-1]]
    entries = [entry.strip().strip("'") for row in csv.reader(values, skipinitialspace=True) for entry in row]
    return [entry for entry in entries if entry]
