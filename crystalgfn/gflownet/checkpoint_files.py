"""Checkpoint files: their contents, written completely or not at all, and read without running code.

A checkpoint contains the complete settings of its run. A compact checkpoint contains only what sampling needs.
"""

from __future__ import annotations

import copy
import io
import os
import pickle
import re
from collections.abc import Collection, ItemsView, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from crystalgfn import __version__
from crystalgfn.errors import InputError
from crystalgfn.files import atomic_path, write_through
from crystalgfn.gflownet.envs.base import Environment
from crystalgfn.gflownet.input_files import FILE, SHA256, checksums, is_changed
from crystalgfn.gflownet.policies.base import Axis, Policy
from crystalgfn.plugins import foreign_classes
from crystalgfn.settings import current, gone, is_gone, shipped_model

LAST = "last.ckpt"
"""The newest checkpoint of a run, in its folder ``checkpoints``."""

BEST = "best.ckpt"
"""The checkpoint of a run with the best value in a validation; not all runs have one."""

PREVIOUS = "previous.ckpt"
"""The checkpoint before the newest one, in case the newest one is lost or damaged."""


class CheckpointFiles(TorchCheckpointIO):
    """Writes and reads checkpoints for Lightning.

    A file is first written in its final folder under another name, then forced to the disk, then renamed. If a process
    is killed or a disk is full, either the complete old file or the complete new file exists. Lightning's own method
    writes to the folder of temporary files, which may be on another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint; an old ``last.ckpt`` is kept as ``previous.ckpt``.

        Raises:
            InputError: if the file cannot be written; existing files are not changed.
        """
        path = Path(path)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                write_through(temporary, content.getbuffer())
                if path.name == LAST and path.is_file():
                    _keep(path)
        except OSError as error:
            kept = "the old checkpoint is complete" if path.is_file() else "there is no old checkpoint"
            raise InputError(
                f"checkpoint {path}: cannot be written ({error.strerror or error}); {kept}. Free disk space or "
                "choose another folder, then continue with --ckpt_path"
            ) from None

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint; objects that would run code are always refused, also with ``weights_only=False``."""
        content: dict[str, Any] = _load(Path(path))
        return content


def _keep(last: Path) -> None:
    """Give the last checkpoint the name of the previous one as well, so that a complete file exists at every moment."""
    with atomic_path(last.with_name(PREVIOUS)) as temporary:
        link(last, temporary)


def link(source: Path, target: Path) -> None:
    """Give a file a second name, and replace any file of that name; make a copy if the file system has no links."""
    try:
        target.unlink(missing_ok=True)
        os.link(source, target)
    except OSError:
        write_through(target, source.read_bytes())


def read_checkpoint(path: str | Path, setting: str = "ckpt_path") -> dict[str, Any]:
    """The content of a checkpoint, on the CPU.

    Args:
        path: the file.
        setting: name of the setting that gives the path, for messages.

    Raises:
        InputError: if the file is missing, is not a checkpoint, is damaged, or contains objects that would run code.
    """
    checkpoint = _load(Path(path), setting)
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise InputError(f"{setting}: {path} is not a checkpoint that 'crystalgfn fit' has written")
    return checkpoint


def _load(path: Path, setting: str = "ckpt_path") -> Any:
    """The content of a file, on the CPU; see `read_checkpoint`."""
    if not path.is_file():
        raise InputError(f"{setting}: there is no file {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{setting}: {path} is damaged, is not a checkpoint, or contains objects that are not loaded for safety"
        ) from None
    except Exception as error:  # zip, pickle and torch raise many kinds of errors for damaged files
        reason = str(error).partition("\n")[0]
        raise InputError(f"{setting}: {path} cannot be read; it may be damaged ({reason})") from None


def find_checkpoint(name: str | Path, setting: str = "ckpt_path", to_continue: bool = False) -> Path:
    """Find the file of a checkpoint.

    Args:
        name: a file, a folder (its newest complete checkpoint is used), or a model that comes with the package.
        setting: name of the setting that gives it, for messages.
        to_continue: whether training continues from it. Otherwise the best checkpoint of a run is used, if the run
            has kept it.

    Returns:
        the file. It is not checked whether the file exists.

    Raises:
        InputError: if a folder has no complete checkpoint.
    """
    shipped = shipped_model(str(name))
    if shipped is not None:
        return shipped
    path = Path(name)
    if not path.is_dir():
        return path
    found = newest_checkpoint(path)
    if found is None:
        raise InputError(f"{setting}: there is no complete checkpoint in the folder {path}")
    best = found.with_name(BEST)
    return best if best.is_file() and not to_continue else found


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is not damaged, at any depth of a folder; each damaged one gives a warning.

    Returns:
        the path of the checkpoint, or None if there is none.
    """
    for path in _newest_first(folder):
        try:
            read_checkpoint(path)
        except InputError as error:
            rank_zero_warn(f"{error}; an older checkpoint is used", stacklevel=2)
            continue
        return path
    return None


def _newest_first(folder: Path) -> Iterator[Path]:
    # Hidden files are incomplete files that a killed process has left.
    found = [path for path in folder.rglob("*.ckpt") if path.is_file() and not path.name.startswith(".")]
    # If last.ckpt and previous.ckpt are the same file, last.ckpt comes first.
    yield from sorted(found, key=lambda path: (-path.stat().st_mtime_ns, path.name, str(path)))


# Settings

CONFIG_KEY = "crystalgfn"
"""Entry of a checkpoint with the version of the program, the settings of the run, and checksums of its input files."""


class SaveSettings(Callback):
    """Stores a run's complete settings in its checkpoints, so that a checkpoint can be used without a config.

    Args:
        config: the settings of the run: model, data and trainer. The files that they name are read once, when training
            begins, for their checksums.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self._files = checksums(config)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        config = yaml.safe_dump(self._config, sort_keys=False)
        checkpoint[CONFIG_KEY] = {"version": __version__, "config": config, "files": copy.deepcopy(self._files)}


class StoredSettings(NamedTuple):
    """Settings in a checkpoint.

    Attributes:
        settings: model, data, trainer and others, with class paths brought up to date.
        version: version of the program that wrote the checkpoint.
        files: checksums of the files that the settings name, see `checksums`; empty in old checkpoints.
        is_compact: whether the checkpoint is for sampling only, see `write_compact`.
    """

    settings: dict[str, Any]
    version: str
    files: dict[str, dict[str, str]]
    is_compact: bool


def settings_in(checkpoint: Mapping[str, Any], path: str | Path) -> StoredSettings:
    """The settings in a checkpoint.

    Args:
        checkpoint: what `read_checkpoint` returned.
        path: the file, for messages.

    Raises:
        InputError: if it is not a checkpoint of this program.
    """
    try:
        stored = checkpoint[CONFIG_KEY]
        config = yaml.safe_load(stored["config"])
        version = str(stored["version"])
        files = {str(place): {key: str(entry[key]) for key in (FILE, SHA256)} for place, entry in _files(stored)}
    except (KeyError, TypeError, ValueError, AttributeError, yaml.YAMLError):
        raise InputError(f"ckpt_path: {path} is not a checkpoint that 'crystalgfn fit' has written") from None
    if not isinstance(config, dict) or "model" not in config:
        raise InputError(f"ckpt_path: {path}, written by version {version}, contains no settings of a model")
    return StoredSettings(current(config), version, files, bool(checkpoint.get(COMPACT)))


def _files(stored: Mapping[str, Any]) -> ItemsView[str, Any]:
    """The checksums in a checkpoint; version 0.1.0 stored none."""
    return dict(stored.get("files", {})).items()


def renewed(stored: StoredSettings, model: Mapping[str, Any], given: Collection[str]) -> set[str]:
    """Which of ``proxy`` and ``reward`` the user changes, so that their values in a checkpoint do not count any more.

    Args:
        stored: the settings in the checkpoint.
        model: the settings of the model that are going to be used.
        given: names of the model's settings that the user gives, such as ``proxy``.
    """
    return {
        name
        for name in VALUES_OF_FILES
        if name in given
        and (
            _short(model.get(name)) != _short(stored.settings["model"].get(name))
            or any(place.startswith(f"model.{name}.") and is_changed(entry) for place, entry in stored.files.items())
        )
    }


def _short(value: Any) -> Any:
    """Settings with short class paths, which can be compared."""
    if isinstance(value, Mapping):
        return {key: str(e).rpartition(".")[2] if key == "class_path" else _short(e) for key, e in value.items()}
    return [_short(entry) for entry in value] if isinstance(value, list) else value


def refuse_foreign(stored: StoredSettings, path: str | Path, own: Collection[str] = ()) -> None:
    """Refuse settings of a checkpoint that name classes of somebody's own, before anything is imported or called.

    Args:
        stored: the settings that the checkpoint holds, or what is used of them.
        path: the checkpoint, for messages.
        own: class paths that are allowed, because the user's own settings name them.

    Raises:
        InputError: with the first such class and the setting that names it.
    """
    for place, name in foreign_classes(stored.settings):
        if name in own:
            continue
        if is_gone(name):
            raise InputError(
                f"ckpt_path: {place}: {gone(name)}\n(settings come from {path}, written by version {stored.version}; "
                f"this is {__version__})"
            )
        raise InputError(
            f"ckpt_path: {path} names {name!r} in {place}, which is not part of crystalgfn or of an installed "
            "plugin. A checkpoint from someone else could run code on your machine. If you trust this one, add "
            "--trust-checkpoint (in Python: trust=True)"
        )


# Networks of another run

VALUES_OF_FILES = {"proxy": "proxies.", "reward": "reward.", "prior": "prior."}
"""Settings whose files' values are part of a checkpoint, such as weights of proxies, and prefixes of their names."""

NETWORKS = ("policy.", "flow.", "backward_policy.")
"""Prefixes of the names of the networks' weights in the state of a `GFlowNet`."""


NAMES = "names"
"""Entry of a checkpoint with the names of its policy's inputs and options, see `space_names`."""

_ALL = "all inputs and options of this run must be among those of the checkpoint"


def space_names(env: Environment) -> dict[str, dict[str, list[str]]]:
    """Names of the ``options`` and ``inputs`` of each decision; what has no names is left out."""
    found = {head: {"options": env.option_names(head), "inputs": env.input_names(head)} for head in env.heads}
    names = {head: {kind: list(own) for kind, own in both.items() if own is not None} for head, both in found.items()}
    return {head: both for head, both in names.items() if both}


def start_networks(module: nn.Module, name: Path | str) -> None:
    """Give the networks of a model the weights from a checkpoint; everything else in the model is unchanged.

    Args:
        module: a `GFlowNet`.
        name: checkpoint of a run with the same policy, see `find_checkpoint`. Its decisions must include those of the
            model, see `networks_for`. Networks for log F and for a learned P_B must have equal decisions.

    Raises:
        InputError: if the file is missing or damaged, if its networks do not fit the model, or if a weight is not
            finite.
    """
    setting = "model.start_from"
    path = find_checkpoint(name, setting)
    checkpoint = read_checkpoint(path, setting)
    env, policy = module.env, module.policy
    assert isinstance(env, Environment) and isinstance(policy, Policy)
    fitted = {f"policy.{key}": value for key, value in _fitted(env, policy, checkpoint, path, setting).items()}
    others = NETWORKS[1:]
    own, given = (
        {key: value for key, value in state.items() if key.startswith(others)}
        for state in (module.state_dict(), checkpoint["state_dict"])
    )
    _refuse_other_shapes(own, given, path, setting)
    names = space_names(env)
    if given and checkpoint.get(NAMES, names) != names:
        raise InputError(
            f"{setting}: the networks in {path} do not fit: those for log F or P_B cannot be moved to decisions with "
            "other inputs or options; use a checkpoint of a run without them, and a loss that needs none"
        )
    module.load_state_dict(fitted | given, strict=False)


def networks_for(env: Environment, policy: Policy, name: Path | str, setting: str) -> dict[str, Tensor]:
    """The weights of a checkpoint's policy for a policy that may be in a smaller environment.

    If the names of inputs and options differ, those of this environment are chosen by their names and the others are
    left out. Decisions that only the checkpoint has are left out.

    Args:
        env: the environment of the policy.
        policy: a policy of the same kind as in the checkpoint; it is not changed.
        name: the checkpoint, see `find_checkpoint`.
        setting: name of the setting that gives the checkpoint, for messages.

    Returns:
        the policy's state, for its ``load_state_dict``.

    Raises:
        InputError: if the file is missing or damaged, if a decision, an input or an option is missing there, if another
            size differs, or if a weight is not finite.
    """
    path = find_checkpoint(name, setting)
    return _fitted(env, policy, read_checkpoint(path, setting), path, setting)


def _unscaled(name: str) -> tuple[str, float]:
    """A name without its scale, and the scale, such as 24 of ``atoms of Fe / 24``; 1 if there is none."""
    found = re.fullmatch(r"(.*) / (\d+(?:\.\d+)?)", name)
    return (found[1], float(found[2])) if found else (name, 1.0)


def _fitted(
    env: Environment, policy: Policy, checkpoint: Mapping[str, Any], path: Path, setting: str
) -> dict[str, Tensor]:
    """See `networks_for`."""
    own, axes = policy.state_dict(), policy.axes()
    there: Mapping[str, Mapping[str, list[str]]] = checkpoint.get(NAMES, {})
    moves = _moves(env, there, path, setting) if axes else {}
    left_out = there.keys() - env.heads.keys()
    fitted = {}
    for key, value in checkpoint["state_dict"].items():
        if not key.startswith("policy."):
            continue
        name = key.removeprefix("policy.")
        if name not in own and left_out.intersection(name.split(".")):
            continue
        if not value.isfinite().all():
            raise InputError(f"{setting}: the weights {key} in {path} are not finite")
        fitted[name] = value
        for place, axis in enumerate(axes.get(name, ())):
            move = moves.get(axis) if axis is not None else None
            if move is not None and value.ndim > place and value.shape[place] == move.shape[1]:
                moved = torch.tensordot(move, fitted[name].float(), dims=([1], [place]))
                fitted[name] = moved.movedim(0, place)
    _refuse_other_shapes(own, fitted, path, setting, "policy.")
    return fitted


def _moves(
    env: Environment, there: Mapping[str, Mapping[str, list[str]]], path: Path, setting: str
) -> dict[Axis, Tensor]:
    """How the weights of inputs and options here follow from those in a checkpoint, where the names differ.

    Returns:
        for a decision and one of its kinds, ``inputs`` or ``options``, (n here, n there) float32 factors.
    """
    moves: dict[Axis, Tensor] = {}
    for head, both in space_names(env).items():
        for kind, names in both.items():
            known = there.get(head, {}).get(kind, names)
            if known == names:
                continue
            place = {_unscaled(name)[0]: (i, _unscaled(name)[1]) for i, name in enumerate(known)}
            # A larger scale stands for larger values, which the checkpoint's policy has never seen.
            missing = [n for n in names if _unscaled(n)[1] > place.get(_unscaled(n)[0], (0, 0.0))[1]]
            if missing:
                closest = "".join(f" (closest: {name!r})" for name in get_close_matches(missing[0], known, 1, 0.7))
                more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
                raise InputError(
                    f"{setting}: the networks in {path} do not know {missing[0]!r}{closest}{more} among the {kind} of "
                    f"{head}; {_ALL}"
                )
            move = torch.zeros(len(names), len(known))
            for i, (base, scale) in enumerate(map(_unscaled, names)):
                column, own = place[base]
                # The weight of x / 24 is that of x / 16, times 24 / 16.
                move[i, column] = scale / own
            if kind == "inputs":
                for name, factors in env.implied_inputs(head).items():
                    if name in place:
                        move[:, place[name][0]] += factors
            moves[head, "inputs" if kind == "inputs" else "options"] = move
    return moves


def _refuse_other_shapes(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor], path: Path, setting: str, prefix: str = ""
) -> None:
    for name in sorted(own.keys() | given.keys()):
        shapes = [tuple(state[name].shape) if name in state else None for state in (given, own)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"{setting}: the networks in {path} do not fit: {prefix}{name} has the shape {shapes[0]} there and "
                f"{shapes[1]} in this run; both must have the same decisions of the environment and the same policy"
            )


# Small checkpoints

COMPACT = "compact"
"""Entry that marks a checkpoint as compact."""

_KEPT = ("epoch", "global_step", "pytorch-lightning_version", CONFIG_KEY, NAMES)


def write_compact(source: Path, out: Path, proxy: Any) -> None:
    """Write a compact checkpoint: only what is needed to sample from a model, in a quarter of the space or less.

    Weights of the policy's networks are rounded to half precision, so samples differ a little from those of the source.
    All other values are unchanged; half precision represents the weights of proxies' networks exactly.

    Args:
        source: checkpoint of a run.
        out: the new file, which is written completely or not at all.
        proxy: settings of the proxy, or a list of several, that make proxies of the same shapes on any machine. The
            settings in the source may name files in its own folder. The weights of the proxies come from the source.

    Raises:
        InputError: if the source cannot be read, or if the file cannot be written.
    """
    checkpoint = read_checkpoint(source)
    content: dict[str, Any] = {key: copy.deepcopy(checkpoint[key]) for key in _KEPT if key in checkpoint}
    config = yaml.safe_load(content[CONFIG_KEY]["config"])
    config["model"] |= {"proxy": proxy, "start_from": None}
    # These settings belong to the run only: where it logs and saves, and the folder of its table.
    config.pop("trainer", None)
    table = (config["model"].get("data_set") or {}).get("init_args", {})
    if "table" in table:
        table["table"] = Path(table["table"]).name
    content[CONFIG_KEY]["config"] = yaml.safe_dump(config, sort_keys=False)
    # Files of the proxy are named anew; others have to be those of the run.
    kept = {place: e for place, e in _files(content[CONFIG_KEY]) if place.startswith("model.")}
    kept = {place: e for place, e in kept.items() if not place.startswith(("model.proxy", "model.data_set"))}
    content[CONFIG_KEY]["files"] = kept | checksums({"model": {"proxy": proxy}})
    content[COMPACT] = True
    content["state_dict"] = {
        name: value.half() if name.startswith(NETWORKS) or _is_half(value) else value
        for name, value in checkpoint["state_dict"].items()
        if not name.startswith("replay.")
    }
    CheckpointFiles().save_checkpoint(content, out)


def _is_half(value: torch.Tensor) -> bool:
    """Whether values have single precision, but half precision represents them exactly."""
    return value.dtype == torch.float32 and bool((value.half().float() == value).all())
