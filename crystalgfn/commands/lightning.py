"""``crystalgfn fit | validate | test | predict``: the Trainer's commands."""

from __future__ import annotations

import json
from typing import Any

import yaml

from crystalgfn.errors import InputError
from crystalgfn.runs.runner import SETTINGS, run
from crystalgfn.settings import find_file, read_yaml, take_configs

RESTRICT = "restrict"
"""Name of the restriction among the options, under ``data``."""


def main(args: list[str]) -> int:
    """Run a Trainer command.

    Args:
        args: the command, then its options.

    Returns:
        exit status 0.

    Raises:
        InputError: for settings or files that cannot be used.
        SystemExit: with status 2 for options that cannot be parsed, with 0 after ``--help``.
    """
    settings, flags = take_configs(args[1:], SETTINGS)
    ckpt_path, flags = take_option(flags, "--ckpt_path")
    run(args[0], settings, ckpt_path, flags=with_restriction(flags), exit_on_error=True)
    return 0


def take_option(args: list[str], name: str) -> tuple[str | None, list[str]]:
    """The last value of an option, in either of its spellings, and the arguments without it.

    Raises:
        InputError: if the option has no value.
    """
    found, others = None, []
    rest = iter(args)
    for argument in rest:
        option, equals, value = argument.partition("=")
        if option != name:
            others.append(argument)
            continue
        found = value if equals else next(rest, None)
        if found is None:
            raise InputError(f"{name[2:]}: {name} needs a value")
    return found, others


def with_restriction(args: list[str]) -> list[str]:
    """Options in which all that is said about a restriction is one value.

    ``--data.restrict`` names a file or holds settings, ``--data.restrict.KEY`` sets one; if several set the same one,
    the last is used.

    Raises:
        InputError: if a file cannot be read, or a value is no YAML.
    """
    name = f"--data.{RESTRICT}"
    values: dict[str, Any] = {}
    others: list[str] = []
    is_given = False
    rest = iter(args)
    for argument in rest:
        option, equals, value = argument.partition("=")
        if (option != name and not option.startswith(f"{name}.")) or option == f"{name}.help":
            others.append(argument)
            continue
        if not equals:
            following = next(rest, None)
            if following is None:
                raise InputError(f"{RESTRICT}: {option} needs a value")
            value = following
        is_given = True
        file = find_file(value) if option == name else None
        if file is not None:
            values |= read_yaml(file, RESTRICT)
            continue
        try:
            parsed = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise InputError(f"{option[2:]}: {value} is no YAML value: {' '.join(str(error).split())}") from None
        if option != name:
            values[option[len(name) + 1 :]] = parsed
        elif parsed is None:
            values = {}
        elif isinstance(parsed, dict):
            values |= parsed
        else:
            raise InputError(f"{RESTRICT}: there is no file {value}")
    if not is_given:
        return args
    return [*others, name, json.dumps(values) if values else "null"]
