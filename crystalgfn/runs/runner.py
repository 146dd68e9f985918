"""Run the commands of the Trainer from settings, for the command line, the discovery loop and notebooks."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    StoredSettings,
    find_checkpoint,
    newest_checkpoint,
    read_checkpoint,
    refuse_foreign,
    renewed,
    settings_in,
)
from crystalgfn.gflownet.data import Samples, refuse_restriction
from crystalgfn.gflownet.input_files import refuse_changed
from crystalgfn.gflownet.module import GFlowNet, check_accelerator, without_data_set
from crystalgfn.plugins import check_policy, load_everything, texts
from crystalgfn.runs.quiet import quieten
from crystalgfn.settings import gone_classes, instantiate, merged, with_suggestion

SETTINGS = ("model", "data", "trainer", "threads", "seed_everything", "ckpt_path", "weights_only", "return_predictions")
"""The keys that are allowed at the top level of a config."""

LAST = "last"
"""Value of ``ckpt_path`` for `fit`: continue from the newest checkpoint of this run, or start if there is none."""


class Parser(LightningArgumentParser):
    """Adds helpful details to an error: the known classes, and the version that wrote the settings in a checkpoint."""

    origin: ClassVar[str] = ""
    """Text about the checkpoint from which settings were read; empty if there is none."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        unknown = re.search(r"Expected a dot import path string: (\w+)", message)
        if unknown:
            names = [name for registry in load_everything() for name in registry]
            message += f"\nno class is called {unknown[1]!r}; 'crystalgfn list' shows what there is: {', '.join(names)}"
        # The second of these texts is that of older versions of jsonargparse.
        required = r'(?:arguments are required: (\w+)|Key "(\w+)" is required but not included)'
        missing = re.search(rf'key "([\w.]+)":.*{required}', message, re.DOTALL)
        if missing:
            setting = f"{missing[1]}.{missing[2] or missing[3]}"
            message = f"{setting}: is missing; set it in the config, or with --{setting}"
        subcommands = [action.choices for action in self._actions if isinstance(action.choices, dict)]
        parsers = [self, *(parser for choices in subcommands for parser in choices.values())]
        message = with_suggestion(message, [option for parser in parsers for option in parser._option_string_actions])
        super().error(message + gone_classes(message) + self.origin, ex)


@dataclass
class Request:
    """A command to run, and its settings.

    Attributes:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        settings: settings as in a config.
        ckpt_path: the checkpoint as given by the user: a file, a folder, a name or ``last``; None for no checkpoint.
        flags: options of the command line. They change the settings.
        trust: whether the checkpoint may name classes that are not part of this package or of an installed plugin.
        checkpoint: the file that belongs to ``ckpt_path``; None until it is found.
        stored: the settings in this file; None until it is read.
        own: texts in the user's own settings and flags, before those of the checkpoint are added.
        given: the model's settings that the user gives, such as ``proxy``.
    """

    command: str
    settings: dict[str, Any]
    ckpt_path: str | None
    flags: list[str]
    trust: bool = False
    checkpoint: Path | None = None
    stored: StoredSettings | None = None
    own: set[str] = field(default_factory=set)
    given: set[str] = field(default_factory=set)

    def note_own(self) -> None:
        """Note what the user gives: ``own`` and ``given``."""
        words = [*self.flags, *(flag.partition("=")[2] for flag in self.flags)]
        values = [_parsed(word) for word in words if word.startswith(("{", "["))]
        self.own = {*words, *(text for _, text in texts([self.settings, values]))}
        names = [re.split(r"[.=+]", flag)[1] for flag in self.flags if flag.startswith("--model.")]
        self.given = {*(self.settings.get("model") or {}), *names}

    def args(self) -> list[str]:
        """The arguments for Lightning's parser: the settings, then the flags, which change them."""
        configs = ["--config", yaml.safe_dump(self.settings, sort_keys=False)] if self.settings else []
        return [self.command, *configs, *self.flags]


def _parsed(text: str) -> Any:
    """A list or a mapping in YAML; None if the text is neither."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None


class Runner(LightningCLI):
    """Creates trainer, model and data for a `Request` and runs its command. The argument ``args`` is the request."""

    _request: Request
    _renewed: frozenset[str] | set[str] = frozenset()

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--threads",
            type=int,
            default=1,
            help="Threads of torch on the CPU. Two are faster on idle cores, but can be much slower on busy ones.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        request: Request = args
        Parser.origin = ""
        if request.ckpt_path is not None and not {"-h", "--help"} & set(request.flags):
            request.checkpoint = self._find(parser, request)
        path, is_fit = request.checkpoint, request.command == "fit"
        if path is not None:
            request.note_own()
            request.stored = settings_in(read_checkpoint(path), path)
            stored, version = request.stored.settings, request.stored.version
            if is_fit and request.stored.is_compact:
                raise InputError(
                    f"ckpt_path: {path} is for sampling only; to train from its networks use --model.start_from {path}"
                )
            Parser.origin = f"\n(settings come from {path}, written by version {version}; this is {__version__})"
            kept = ("model", "data", "trainer", "threads") if is_fit else ("model", "data")
            inherited = {key: stored[key] for key in kept if key in stored}
            # The settings in the checkpoint come first, so that a config or a flag can change them.
            request.settings = merged([inherited, request.settings, {"ckpt_path": str(path)}])
            if not request.trust:
                refuse_foreign(request.stored._replace(settings=request.settings), path, request.own)
        self._request = request
        self.config = parser.parse_args(request.args())

    def _find(self, parser: LightningArgumentParser, request: Request) -> Path | None:
        """The file that belongs to ``ckpt_path``; None if it is ``last`` and there is no checkpoint yet."""
        assert request.ckpt_path is not None
        if request.ckpt_path != LAST:
            return find_checkpoint(request.ckpt_path, to_continue=request.command == "fit")
        if request.command != "fit" or not request.settings:
            raise InputError("ckpt_path: 'last' is for 'fit --config CONFIG'; here give the folder of a run or a file")
        folder = _run_folder(parser.parse_args(request.args())[request.command])
        found = newest_checkpoint(folder)
        rank_zero_info(f"ckpt_path: continues {found}" if found else f"ckpt_path: no checkpoint in {folder}, new run")
        return found

    def before_instantiate_classes(self) -> None:
        policy = self.config[self.config.subcommand].model.policy
        if policy is not None:
            check_policy(str(getattr(policy, "class_path", policy)))
        check_accelerator(str(self.config[self.config.subcommand].trainer.accelerator))
        threads = self.config[self.config.subcommand].threads
        at_least("threads", threads, 1)
        torch.set_num_threads(threads)
        if self.subcommand == "fit":
            refuse_restriction(self.config.fit.data.restrict)  # before a folder for logs is made
        self._check_files()

    def _check_files(self) -> None:
        """Refuse files of the checkpoint's settings that have another content now."""
        stored, path = self._request.stored, self._request.checkpoint
        if stored is None or path is None:
            return
        self._dump_config()
        model, callbacks = self.config_dump["model"], self.config_dump["trainer"].get("callbacks")
        used = {**model, "callbacks": callbacks} if self.subcommand == "fit" else without_data_set(model)
        refuse_changed(stored.files, used, path, self._request.own)
        self._renewed = renewed(stored, model, self._request.given)

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        self.model.renewed = self._renewed

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
    trust: bool = False,
) -> Runner:
    """Run a command of the Trainer.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        settings: model, data, trainer and threads, as in a config. If there is a checkpoint, they change the settings
            in the checkpoint.
        ckpt_path: a checkpoint file, the folder of a run, or the name of a model that comes with the package. For
            ``fit`` also ``last``: the newest complete checkpoint of this run, or none if there is none yet.
        callbacks: callbacks of the trainer, in addition to those in the settings.
        flags: options of the command line. They change the settings.
        exit_on_error: whether the process ends with the parser's message if settings cannot be parsed, as in a
            command. Otherwise an InputError is raised.
        trust: whether the settings in the checkpoint may name classes that are not part of this package or of an
            installed plugin. To use such a class runs its code.

    Returns:
        the finished run, with its ``trainer``, ``model`` and ``datamodule``.

    Raises:
        InputError: if a setting or a file cannot be used.
    """
    quieten()
    load_everything()
    settings = copy.deepcopy(dict(settings or {}))
    named = settings.pop("ckpt_path", None)
    usage = f"crystalgfn {command} [--config CONFIG] [--ckpt_path CKPT_PATH [--trust-checkpoint]] [options]"
    defaults: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "num_sanity_val_steps": 0}
    if command == "predict":
        callbacks = [SampleWriter(), *callbacks]
        # Samples are written to the table batch by batch. Keeping them as well would need unlimited memory.
        flags = ["--return_predictions", "false", *flags]
    if command != "fit":
        # Only training has a log folder.
        defaults["logger"] = False
    if callbacks:
        defaults["callbacks"] = list(callbacks)
    ckpt_path = ckpt_path if ckpt_path is not None else named
    request = Request(command, settings, None if ckpt_path is None else str(ckpt_path), list(flags), trust)
    try:
        return Runner(
            GFlowNet,
            Samples,
            save_config_kwargs={"overwrite": True},
            save_config_callback=SaveConfigCallback if command == "fit" else None,
            seed_everything_default=False,
            trainer_defaults=defaults,
            auto_configure_optimizers=False,
            # A short usage line. The full list of about two hundred options is in --help.
            parser_kwargs={
                "prog": "crystalgfn",
                command: {
                    "usage": usage,
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
        # If several types are allowed, the parser wraps the message of a class in a longer text. Show the message only.
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
            f"and the policy unchanged, or train a new model{Parser.origin}"
        ) from None


def _run_folder(settings: Namespace) -> Path:
    """The folder that holds the versions of a run."""
    trainer = settings.trainer
    logger = trainer.logger[0] if isinstance(trainer.logger, list) and trainer.logger else trainer.logger
    arguments = getattr(logger, "init_args", None)
    if arguments is not None and arguments.get("save_dir") is not None:
        return Path(str(arguments.save_dir), str(arguments.get("name") or ""))
    return Path(str(trainer.default_root_dir or "."), "checkpoints" if logger is False else "lightning_logs")


def check_fit(settings: Mapping[str, Any], name: str) -> None:
    """Check that `fit` can train with some settings, by creating the model once.

    Args:
        settings: model, and optionally trainer, data and threads.
        name: name of the settings in messages.

    Raises:
        InputError: if a setting cannot be used.
    """
    quieten()
    # This check must not create a log folder.
    own = copy.deepcopy(dict(settings))
    own["trainer"] = {"accelerator": "cpu", **(own.get("trainer") or {}), "logger": False}
    own["threads"] = own.get("threads", 1)
    classes = {"model": GFlowNet, "data": Samples, "trainer": Trainer, "threads": int}
    at_least(f"{name}.threads", instantiate(own, classes, name).threads, 1)
