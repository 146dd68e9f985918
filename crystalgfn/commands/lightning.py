"""``crystalgfn fit | validate | test | predict``: the commands of the Lightning Trainer."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from crystalgfn.errors import InputError
from crystalgfn.gflownet.checkpoint_files import newest_checkpoint
from crystalgfn.runs.runner import SETTINGS, run
from crystalgfn.settings import find_file, read_yaml, take_configs

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

RESTRICT = "restrict"
"""Name of the option for the restriction, under ``data``."""


TRUST = "--trust-checkpoint"
"""Option that allows a checkpoint to name classes that are not part of this package or of an installed plugin."""


def main(args: list[str]) -> int:
    """Run a command of the Trainer.

    Args:
        args: the name of the command, then its options.

    Returns:
        exit status 0.

    Raises:
        InputError: if a setting or a file cannot be used.
        SystemExit: with status 2 if the options cannot be parsed, with 0 after ``--help``.
    """
    settings, flags = take_configs(args[1:], SETTINGS)
    ckpt_path, flags = take_option(flags, "--ckpt_path")
    trust = TRUST in flags
    flags = [flag for flag in flags if flag != TRUST]
    _check_model(args[0], settings, ckpt_path, flags)
    runner = run(args[0], settings, ckpt_path, flags=with_restriction(flags), exit_on_error=True, trust=trust)
    if args[0] == "fit" and runner.trainer.is_global_zero:
        print(trained(runner.trainer))
    return 0


def trained(trainer: Trainer) -> str:
    """Where a finished training has left its run, and the command that samples from it."""
    # `trainer.log_dir` would wait for the other processes.
    logs = [getattr(logger, "log_dir", None) for logger in trainer.loggers]
    folder = Path(next((log for log in logs if log), trainer.default_root_dir))
    written = [getattr(callback, "last_model_path", "") for callback in trainer.checkpoint_callbacks]
    checkpoint = folder if newest_checkpoint(folder) is not None else next((path for path in written if path), None)
    if checkpoint is None:
        return f"{folder}: the run, without a checkpoint; with the callback Checkpoints you can sample from it"
    next_command = f"crystalgfn predict --ckpt_path {shlex.quote(str(checkpoint))} --data.out samples.csv"
    return f"{folder}: the run; sample from it with: {next_command}"


def _check_model(command: str, settings: Mapping[str, Any], ckpt_path: str | None, flags: Sequence[str]) -> None:
    """Raise an `InputError` if nothing defines a model; the parser would only list keys."""
    is_help = any(flag in ("-h", "--print_config") or "help" in flag.split("=")[0] for flag in flags)
    named = ckpt_path is not None or settings.get("ckpt_path") is not None or settings.get("model") is not None
    if named or is_help or any(flag.startswith("--model") for flag in flags):
        return
    if command == "fit":
        raise InputError("give --config or --ckpt_path, such as --config eform.yaml; nothing defines the model")
    raise InputError("give --ckpt_path, such as --ckpt_path logs/eform or --ckpt_path discovered; there is no model")


def take_option(args: list[str], name: str) -> tuple[str | None, list[str]]:
    """Take an option out of the arguments. If it is given several times, the last value is used.

    Args:
        args: the arguments.
        name: the option, such as ``--ckpt_path``; ``NAME VALUE`` and ``NAME=VALUE`` are recognised.

    Returns:
        the value (None if the option is not given), and the other arguments.

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
    """Combine all options for a restriction into one option.

    ``--data.restrict`` gives a file or settings, and ``--data.restrict.KEY`` gives one setting. If a setting is given
    several times, the last one is used.

    Args:
        args: the arguments.

    Returns:
        the other arguments, followed by ``--data.restrict`` with all settings as JSON.

    Raises:
        InputError: if a file cannot be read, or a value is not valid YAML.
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
            raise InputError(f"{option[2:]}: {value} is not valid YAML: {' '.join(str(error).split())}") from None
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
