"""Runs the Trainer's commands from settings: what the command line, the discovery loop and notebooks share."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch
import yaml
from jsonargparse import ArgumentError, Namespace
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.utilities.rank_zero import rank_zero_info

from crystalgfn import __version__
from crystalgfn.callbacks import SampleWriter
from crystalgfn.checks import at_least
from crystalgfn.errors import InputError
from crystalgfn.gflownet.checkpoint_files import (
    CheckpointFiles,
    SaveSettings,
    newest_checkpoint,
    read_settings,
    refuse_compact,
)
from crystalgfn.gflownet.data import Samples
from crystalgfn.gflownet.module import GFlowNet, check_accelerator
from crystalgfn.plugins import load_everything
from crystalgfn.runs.quiet import quieten
from crystalgfn.settings import instantiate, merged

SETTINGS = ("model", "data", "trainer", "threads", "seed_everything", "ckpt_path", "weights_only", "return_predictions")
"""What a config may hold."""

MODELS = Path(__file__).parents[1] / "models"
"""Folder of the trained models that come with the package."""

LAST = "last"
"""As ``ckpt_path`` of `fit`: the newest checkpoint of this run, or none yet."""


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


@dataclass
class Request:
    """What is to run.

    Attributes:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        settings: as a config holds them.
        ckpt_path: what was named as the checkpoint; None for none.
        flags: options of the command line, which change the settings.
        checkpoint: the file that ``ckpt_path`` stands for, once it is found.
    """

    command: str
    settings: dict[str, Any]
    ckpt_path: str | None
    flags: list[str]
    checkpoint: Path | None = None

    def args(self) -> list[str]:
        """The options that Lightning's parser reads: all settings, then the flags, which change them."""
        configs = ["--config", yaml.safe_dump(self.settings, sort_keys=False)] if self.settings else []
        return [self.command, *configs, *self.flags]


class Runner(LightningCLI):
    """Makes trainer, model and data of a `Request` and runs its command; ``args`` is the request."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--threads",
            type=int,
            default=1,
            help="Threads of torch on the CPU. Two are faster on idle cores, and can be far slower on busy ones.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        request: Request = args
        Parser.origin = ""
        if request.ckpt_path is not None and not {"-h", "--help"} & set(request.flags):
            request.checkpoint = self._find(parser, request)
        path, is_fit = request.checkpoint, request.command == "fit"
        if path is not None:
            stored, version = read_settings(path)
            if is_fit:
                refuse_compact(path)
            Parser.origin = f"\n(settings come from {path}, written by version {version}; this is {__version__})"
            kept = ("model", "data", "trainer", "threads") if is_fit else ("model", "data")
            inherited = {key: stored[key] for key in kept if key in stored}
            # Settings of the checkpoint come first, so that a config or a flag can still change them.
            request.settings = merged([inherited, request.settings, {"ckpt_path": str(path)}])
        self.config = parser.parse_args(request.args())

    def _find(self, parser: LightningArgumentParser, request: Request) -> Path | None:
        """The file that ``ckpt_path`` names; None where ``last`` finds none yet."""
        assert request.ckpt_path is not None
        if request.ckpt_path != LAST:
            return find_checkpoint(request.ckpt_path)
        if request.command != "fit" or not request.settings:
            raise InputError("ckpt_path: 'last' is for 'fit --config CONFIG'; else name the folder of a run, or a file")
        folder = _run_folder(parser.parse_args(request.args())[request.command])
        found = newest_checkpoint(folder)
        rank_zero_info(f"ckpt_path: goes on from {found}" if found else f"ckpt_path: none in {folder} yet, a new run")
        return found

    def before_instantiate_classes(self) -> None:
        check_accelerator(str(self.config[self.config.subcommand].trainer.accelerator))
        threads = self.config[self.config.subcommand].threads
        at_least("threads", threads, 1)
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


def run(
    command: str,
    settings: Mapping[str, Any] | None = None,
    ckpt_path: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    flags: Sequence[str] = (),
    exit_on_error: bool = False,
) -> Runner:
    """Run a command of the Trainer.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        settings: model, data, trainer and threads, as a config holds them. With a checkpoint, they change the settings
            that it holds.
        ckpt_path: a checkpoint file, the folder of a run, the name of a model that comes with the package, or, for
            ``fit``, ``last``: the newest whole checkpoint of this run, or none.
        callbacks: of the trainer, beside those of the settings.
        flags: options of the command line, which change the settings.
        exit_on_error: whether settings that cannot be parsed end the process with the parser's own message, as a
            command does; otherwise they raise.

    Returns:
        what ran, with its ``trainer``, ``model`` and ``datamodule``.

    Raises:
        InputError: for settings or files that cannot be used.
    """
    quieten()
    load_everything()
    settings = copy.deepcopy(dict(settings or {}))
    named = settings.pop("ckpt_path", None)
    defaults: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "num_sanity_val_steps": 0}
    if command == "predict":
        callbacks = [SampleWriter(), *callbacks]
        # Samples go to the table as they come; keeping them all as well would cost memory without bound.
        flags = ["--return_predictions", "false", *flags]
    if command != "fit":
        # Only training leaves a run behind.
        defaults["logger"] = False
    if callbacks:
        defaults["callbacks"] = list(callbacks)
    ckpt_path = ckpt_path if ckpt_path is not None else named
    request = Request(command, settings, None if ckpt_path is None else str(ckpt_path), list(flags))
    try:
        return Runner(
            GFlowNet,
            Samples,
            save_config_kwargs={"overwrite": True},
            save_config_callback=SaveConfigCallback if command == "fit" else None,
            seed_everything_default=False,
            trainer_defaults=defaults,
            auto_configure_optimizers=False,
            # A short line instead of all two hundred options, which --help explains.
            parser_kwargs={
                "prog": "crystalgfn",
                command: {
                    "usage": f"crystalgfn {command} [--config CONFIG] [--ckpt_path CKPT_PATH] [options]",
                    "exit_on_error": exit_on_error,
                },
                "exit_on_error": exit_on_error,
            },
            parser_class=Parser,
            args=request,  # type: ignore[arg-type]
        )
    except ArgumentError as error:
        raise InputError(f"{command}: {' '.join(str(error).split())}") from None
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
            f"ckpt_path: the weights in {request.checkpoint} do not fit the model: {problem}; leave the environment "
            f"and the policy as they were, or train anew{Parser.origin}"
        ) from None


def shipped_model(name: str) -> Path | None:
    """The checkpoint of a model that comes with the package, such as ``discovered``; None if there is no such one.

    A file or folder of that name comes first.
    """
    path = MODELS / f"{name}.ckpt"
    return path if Path(name).name == name and not Path(name).exists() and path.is_file() else None


def find_checkpoint(name: str | Path) -> Path:
    """The file of a checkpoint: a file, the newest whole one of a folder, or a model that comes with the package.

    Raises:
        InputError: if a folder has no whole checkpoint. Whether a file is there is found when it is read.
    """
    shipped = shipped_model(str(name))
    if shipped is not None:
        return shipped
    path = Path(name)
    if not path.is_dir():
        return path
    found = newest_checkpoint(path)
    if found is None:
        raise InputError(f"ckpt_path: there is no whole checkpoint in the folder {path}")
    return found


def _run_folder(settings: Namespace) -> Path:
    """The folder in which the versions of a run lie."""
    trainer = settings.trainer
    logger = trainer.logger[0] if isinstance(trainer.logger, list) and trainer.logger else trainer.logger
    arguments = getattr(logger, "init_args", None)
    if arguments is not None and arguments.get("save_dir") is not None:
        return Path(str(arguments.save_dir), str(arguments.get("name") or ""))
    return Path(str(trainer.default_root_dir or "."), "checkpoints" if logger is False else "lightning_logs")


def check_fit(settings: Mapping[str, Any], name: str) -> None:
    """Refuse settings that `fit` could not train with; the model is made and forgotten.

    Args:
        settings: model, and perhaps trainer, data and threads.
        name: what they are called in messages.

    Raises:
        InputError: with what is wrong.
    """
    quieten()
    # Logs of a run that is not one would be in the way.
    own = copy.deepcopy(dict(settings))
    own["trainer"] = {"accelerator": "cpu", **(own.get("trainer") or {}), "logger": False}
    own["threads"] = own.get("threads", 1)
    classes = {"model": GFlowNet, "data": Samples, "trainer": Trainer, "threads": int}
    at_least(f"{name}.threads", instantiate(own, classes, name).threads, 1)
