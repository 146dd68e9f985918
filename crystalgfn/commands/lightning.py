"""``crystalgfn fit | validate | test | predict``: the Trainer's commands, on LightningCLI."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch
import yaml
from jsonargparse import Namespace
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.utilities.rank_zero import rank_zero_info

from crystalgfn import __version__
from crystalgfn.callbacks import SampleWriter
from crystalgfn.gflownet.checkpoint_files import CheckpointFiles, newest_checkpoint, read_checkpoint
from crystalgfn.commands.configs import find_file, with_configs
from crystalgfn.commands.quiet import quieten
from crystalgfn.gflownet.compact import refuse_compact, shipped_model
from crystalgfn.gflownet.data import Samples
from crystalgfn.errors import InputError
from crystalgfn.gflownet.module import GFlowNet, check_accelerator
from crystalgfn.plugins import load_everything
from crystalgfn.crystal.restriction import PREFIX, Restriction, read_restriction

CONFIG_KEY = "crystalgfn"
"""Where a checkpoint keeps the version and the settings it was made with."""


SETTINGS = ("model", "data", "trainer", "threads", "seed_everything", "ckpt_path", "weights_only", "return_predictions")
"""What a config may hold."""


class SaveSettings(Callback):
    """Keeps a run's complete settings in its checkpoints, so that a checkpoint needs no config beside it.

    Args:
        config: the settings of the run: model, data and trainer.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[CONFIG_KEY] = {"version": __version__, "config": yaml.safe_dump(self._config, sort_keys=False)}


class Parser(LightningArgumentParser):
    """Adds to an error what helps: the known classes, and the version that settings in a checkpoint come from."""

    origin: ClassVar[str] = ""
    """Where settings come from that no one typed."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        unknown = re.search(r"Expected a dot import path string: (\w+)", message)
        if unknown:
            names = [name for registry in load_everything() for name in registry]
            message += f"\nno class is called {unknown[1]!r}; 'crystalgfn list' shows what there is: {', '.join(names)}"
        super().error(message + self.origin, ex)


class CrystalGFNCLI(LightningCLI):
    """LightningCLI whose commands fill in, from a checkpoint, what the user does not say."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--threads",
            type=int,
            default=1,
            help="Threads of torch on the CPU. Two are faster on idle cores, and can be far slower on busy ones.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        assert isinstance(args, list)
        subcommand, rest = args[0], args[1:]
        rest = with_configs(rest, SETTINGS)
        is_help = bool({"-h", "--help"} & set(rest))
        if not is_help:
            rest = self._with_checkpoint(parser, subcommand, rest)
        paths = _options(rest, "--ckpt_path")
        # Settings of the checkpoint come first, so that a config or a flag can still change them.
        Parser.origin = ""
        if paths and not is_help:
            config, version = read_settings(paths[-1])
            if subcommand == "fit":
                refuse_compact(paths[-1])
            Parser.origin = f"\n(settings come from {paths[-1]}, written by version {version}; this is {__version__})"
            kept = ("model", "data", "trainer", "threads") if subcommand == "fit" else ("model", "data")
            inherited = {key: config[key] for key in kept if key in config}
            rest = ["--config", yaml.safe_dump(inherited, sort_keys=False), *rest]
        rest = with_restriction(rest)
        if subcommand == "predict":
            # Samples go to the table as they come; keeping them all as well would cost memory without bound.
            rest = ["--return_predictions", "false", *rest]
        self.config = parser.parse_args([subcommand, *rest])

    def _with_checkpoint(self, parser: LightningArgumentParser, subcommand: str, args: list[str]) -> list[str]:
        """Options in which ``--ckpt_path`` names a file, where it named a folder or was ``last``."""
        paths = _options(args, "--ckpt_path")
        if not paths:
            return args
        others = _without(args, "--ckpt_path")
        shipped = shipped_model(paths[-1])
        if shipped is not None:
            return [*others, "--ckpt_path", str(shipped)]
        if paths[-1] != "last" and not Path(paths[-1]).is_dir():
            return args
        if paths[-1] != "last":
            found = newest_checkpoint(Path(paths[-1]))
            if found is None:
                raise InputError(f"ckpt_path: there is no whole checkpoint in the folder {paths[-1]}")
            return [*others, "--ckpt_path", str(found)]
        if subcommand != "fit" or not _options(others, "--config"):
            raise InputError("ckpt_path: 'last' is for 'fit --config CONFIG'; else name the folder of a run, or a file")
        folder = _run_folder(parser.parse_args([subcommand, *others])[subcommand])
        found = newest_checkpoint(folder)
        rank_zero_info(f"ckpt_path: goes on from {found}" if found else f"ckpt_path: none in {folder} yet, a new run")
        return [*others, "--ckpt_path", str(found)] if found else others

    def before_instantiate_classes(self) -> None:
        check_accelerator(str(self.config[self.config.subcommand].trainer.accelerator))
        threads = self.config[self.config.subcommand].threads
        if threads < 1:
            raise InputError(f"threads: {threads} is not allowed; it must be at least 1")
        torch.set_num_threads(threads)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        trainer = super().instantiate_trainer(**kwargs)
        trainer.strategy.checkpoint_io = CheckpointFiles()
        if self.subcommand == "fit":
            self._dump_config()
            keys = ("model", "data", "trainer", "threads")
            callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
            callbacks.insert(0, SaveSettings({key: self.config_dump[key] for key in keys}))
        return trainer


def with_restriction(args: list[str]) -> list[str]:
    """Options in which all that is said about a restriction is one checked value.

    ``--data.restrict`` names a file or holds settings, ``--data.restrict.KEY`` sets one; the later one counts.

    Raises:
        InputError: if a file cannot be read, or a setting is not allowed.
    """
    name = f"--data.{PREFIX}"
    values: dict[str, Any] = {}
    others: list[str] = []
    said = False
    rest = iter(args)
    for argument in rest:
        option, equals, value = argument.partition("=")
        if (option != name and not option.startswith(f"{name}.")) or option == f"{name}.help":
            others.append(argument)
            continue
        if not equals:
            following = next(rest, None)
            if following is None:
                raise InputError(f"{PREFIX}: {option} needs a value")
            value = following
        said = True
        file = find_file(value) if option == name else None
        if file is not None:
            values |= read_restriction(file)
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
            raise InputError(f"{PREFIX}: there is no file {value}")
    if not said:
        return args
    checked = Restriction.parse(values).given()
    return [*others, name, json.dumps(checked) if checked else "null"]


def read_settings(path: str) -> tuple[dict[str, Any], str]:
    """The settings a checkpoint was made with, and the version of the program.

    Raises:
        InputError: if the file is missing, is no checkpoint of this program, or is damaged.
    """
    checkpoint = read_checkpoint(path)
    try:
        stored = checkpoint[CONFIG_KEY]
        config = yaml.safe_load(stored["config"])
        version = str(stored["version"])
    except (KeyError, TypeError, AttributeError, yaml.YAMLError):
        raise InputError(f"ckpt_path: {path} is not a checkpoint that 'crystalgfn fit' has written") from None
    if not isinstance(config, dict) or "model" not in config:
        raise InputError(f"ckpt_path: {path}, written by version {version}, names no model")
    return config, version


def main(args: list[str], callbacks: Sequence[Callback] = ()) -> int:
    """Run a Trainer command.

    Args:
        args: the command, then its options.
        callbacks: of the trainer, beside those of the config.
    """
    quieten()
    load_everything()
    trainer_defaults: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "num_sanity_val_steps": 0}
    if args[0] == "predict":
        callbacks = [SampleWriter(), *callbacks]
    if callbacks:
        trainer_defaults["callbacks"] = list(callbacks)
    if args[0] != "fit":
        # Only training leaves a run behind.
        trainer_defaults["logger"] = False
    try:
        _run(args, trainer_defaults)
    except ValueError as error:
        # Where several types are allowed the parser puts what a class said of its settings into a text of its own.
        cause = InputError.latest
        if isinstance(error, InputError) or cause is None or str(cause) not in str(error):
            raise
        raise cause from None
    except RuntimeError as error:
        if not str(error).startswith("Error(s) in loading state_dict"):
            raise
        problem = " ".join(str(error).partition("\n")[2].split())
        raise InputError(
            f"ckpt_path: the weights in {_options(args, '--ckpt_path')[-1]} do not fit the model: {problem}; leave the "
            f"environment and the policy as they were, or train anew{Parser.origin}"
        ) from None
    return 0


def _run(args: list[str], trainer_defaults: dict[str, Any]) -> None:
    CrystalGFNCLI(
        GFlowNet,
        Samples,
        save_config_kwargs={"overwrite": True},
        save_config_callback=SaveConfigCallback if args[0] == "fit" else None,
        seed_everything_default=False,
        trainer_defaults=trainer_defaults,
        auto_configure_optimizers=False,
        # A short line instead of all two hundred options, which --help explains.
        parser_kwargs={
            "prog": "crystalgfn",
            args[0]: {"usage": f"crystalgfn {args[0]} [--config CONFIG] [--ckpt_path CKPT_PATH] [options]"},
        },
        parser_class=Parser,
        args=args,
    )


def _options(args: list[str], name: str) -> list[str]:
    """Values of an option, in either of its spellings."""
    following = [value for argument, value in pairwise(args) if argument == name]
    return following + [argument[len(name) + 1 :] for argument in args if argument.startswith(name + "=")]


def _without(args: list[str], name: str) -> list[str]:
    """Arguments without an option and its values, in either of its spellings."""
    kept, is_value = [], False
    for argument in args:
        if not is_value and argument != name and not argument.startswith(name + "="):
            kept.append(argument)
        is_value = not is_value and argument == name
    return kept


def _run_folder(settings: Namespace) -> Path:
    """The folder in which the versions of a run lie."""
    trainer = settings.trainer
    logger = trainer.logger[0] if isinstance(trainer.logger, list) and trainer.logger else trainer.logger
    arguments = getattr(logger, "init_args", None)
    if arguments is not None and arguments.get("save_dir") is not None:
        return Path(str(arguments.save_dir), str(arguments.get("name") or ""))
    return Path(str(trainer.default_root_dir or "."), "checkpoints" if logger is False else "lightning_logs")
