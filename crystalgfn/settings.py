"""Settings: config files in layers, current class paths, and the objects that settings describe."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

import crystalgfn
from crystalgfn.errors import InputError

BASE = "base"
"""Under this key a config, or one of its settings such as ``fit``, names the config or the list of configs that it
changes."""


# Files


def shipped_folder() -> Path:
    """Folder of the configs that come with the package: inside of it, or beside it in a checkout of the repository."""
    package = Path(crystalgfn.__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def find_file(name: str, beside: Path | None = None) -> Path | None:
    """The file of that name, or else the shipped one of that name, such as ``eform.yaml``; None if there is neither.

    Args:
        name: path of the file.
        beside: folder in which a relative path is looked up first.
    """
    path, folder = Path(name), shipped_folder()
    # The documentation names configs as they lie in the repository.
    places = [path] if path.is_absolute() else [path, folder / path, folder.parent / path]
    for place in [beside / path, *places] if beside is not None else places:
        try:
            if place.is_file():
                return place
        except (OSError, ValueError):  # too long for a name, or with a null byte
            return None
    return None


def find_config(name: str, beside: Path | None = None) -> Path:
    """Like `find_file`, but a missing file is an error.

    Raises:
        InputError: if there is no such file; the message lists the shipped configs.
    """
    found, folder = find_file(name, beside), shipped_folder()
    if found is not None:
        return found
    known = sorted(str(file.relative_to(folder)) for file in folder.rglob("*.yaml"))
    raise InputError(f"config: there is no file {name}, and no config of that name in the package: {', '.join(known)}")


def read_yaml(path: str | Path, what: str) -> dict[str, Any]:
    """The settings in a YAML file, unchecked.

    Args:
        path: the file.
        what: the setting that named the file, for messages.

    Raises:
        InputError: if the file cannot be read or does not hold settings by name.
    """
    try:
        if not Path(path).is_file():
            raise InputError(f"{what}: there is no file {path}")
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{what}: {path} is no YAML file: {' '.join(str(error).split())}") from None
    if content is None:
        raise InputError(f"{what}: {path} is empty; it must hold settings by name")
    if not isinstance(content, dict):
        raise InputError(f"{what}: {path} must hold settings by name, not a {type(content).__name__}")
    return content


def read_config(path: Path, allowed: Sequence[str] | None = None) -> dict[str, Any]:
    """The settings of a config file, those of its bases included.

    Args:
        path: the file.
        allowed: names that the files may hold beside ``base``; None for any.

    Raises:
        InputError: if a file is not there, is no YAML, holds another name, or is its own base.
    """
    return merged(_layers(path, allowed, ()))


def _layers(path: Path, allowed: Sequence[str] | None, above: tuple[Path, ...]) -> Iterator[dict[str, Any]]:
    """The settings of a file's bases, then its own."""
    above = (*above, path.resolve())
    content = read_yaml(path, "config")
    yield from _bases(path, content, allowed, above)
    for key, value in content.items():
        if allowed is not None and key not in allowed:
            raise InputError(f"config: {path}: there is no setting {key!r}; allowed: {', '.join([BASE, *allowed])}")
        if isinstance(value, dict) and BASE in value:
            content[key] = merged([*_bases(path, value, None, above), value])
    yield content


def _bases(
    path: Path, content: dict[str, Any], allowed: Sequence[str] | None, above: tuple[Path, ...]
) -> Iterator[dict[str, Any]]:
    """The settings of the files that ``base`` names, which is taken out of the content."""
    names = content.pop(BASE, None) or []
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"config: {path}: {BASE}: {names!r} is not allowed; it must be a file or a list of files")
    for name in names:
        base = find_config(name, path.parent)
        if base.resolve() in above:
            raise InputError(f"config: {path}: {BASE}: {name} is a base of itself")
        yield from _layers(base, allowed, above)


def merged(layers: Iterator[Mapping[str, Any]] | Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One set of settings from several; a later layer changes an earlier one, name by name.

    A class is one value: where a layer names another ``class_path``, nothing is kept of the arguments of the class
    before it. A list is one value too; ``NAME+`` adds to the list of the layers before.
    """
    result: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            before = result.get(name)
            longer = result.get(str(name)[:-1]) if str(name).endswith("+") else None
            if isinstance(longer, list) and isinstance(value, list):
                result[name[:-1]] = [*longer, *copy.deepcopy(value)]
            elif isinstance(before, Mapping) and isinstance(value, Mapping) and not _is_other_class(before, value):
                result[name] = merged([before, value])
            else:
                result[name] = merged([value]) if isinstance(value, Mapping) else copy.deepcopy(value)
    return result


def _is_other_class(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether the later settings are those of another class than the earlier ones."""
    if "class_path" not in after:
        return False
    names = [str(value.get("class_path", "")).rpartition(".")[2] for value in (before, after)]
    return names[0] != names[1]


def take_configs(args: Sequence[str], allowed: Sequence[str] | None = None) -> tuple[dict[str, Any], list[str]]:
    """The settings that the options ``--config`` name, merged in order, and the other options.

    Args:
        args: the options.
        allowed: names that the files may hold; None for any.

    Raises:
        InputError: if a file is not there, is no YAML, or holds another name.
    """
    layers, others = [], []
    rest = iter(args)
    for argument in rest:
        option, equals, value = argument.partition("=")
        if option not in ("--config", "-c"):
            others.append(current_class_path(argument))
            continue
        name = value if equals else next(rest, None)
        if name is None:
            raise InputError("config: --config needs a file")
        layers.append(read_config(find_config(name), allowed))
    return current(merged(layers)), others


# Class paths


def current_class_path(path: str) -> str:
    """A class path of this package as it is today; older versions had other modules. Anything else stays as it is."""
    option, equals, value = path.partition("=") if path.startswith("--") else ("", "", path)
    module, _, name = value.rpartition(".")
    if not value.startswith("crystalgfn.") or not name.isidentifier():
        return path
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is not None:
        from importlib import import_module

        if hasattr(import_module(module), name):
            return path
    # Every class that a config can name has a short name, which holds wherever the class lives.
    return f"{option}{equals}{name}"


def current(settings: Any) -> Any:
    """Settings in which every class path of this package is the one of this version."""
    if isinstance(settings, Mapping):
        return {
            key: current_class_path(value) if key == "class_path" and isinstance(value, str) else current(value)
            for key, value in settings.items()
        }
    return [current(value) for value in settings] if isinstance(settings, list) else settings


# Objects


def instantiate(settings: Mapping[str, Any], classes: Mapping[str, type], what: str) -> Any:
    """The objects that settings describe.

    Args:
        settings: for each name the settings of its object.
        classes: for each name its class, whose arguments are the settings; for an abstract class, ``class_path`` and
            ``init_args`` of a subclass; for a plain type, a value.
        what: what the settings are called in messages.

    Returns:
        a namespace with an object for each name.

    Raises:
        InputError: with what is wrong.
    """
    from inspect import isabstract

    from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
    from pytorch_lightning.cli import LightningArgumentParser

    from crystalgfn.plugins import load_everything

    load_everything()
    parser = LightningArgumentParser(exit_on_error=False)
    for name, cls in classes.items():
        if isabstract(cls):
            parser.add_subclass_arguments(cls, name, required=True)
        elif issubclass(cls, Trainer | LightningModule | LightningDataModule | Callback):
            parser.add_lightning_class_args(cls, name)
        else:
            parser.add_argument(f"--{name}", type=cls)
    # jsonargparse 4.49 gave the method a new name and warns of the old one.
    make = getattr(parser, "instantiate", None) or parser.instantiate_classes
    InputError.latest = None
    try:
        # A copy: the parser puts its own containers into what it reads.
        return make(parser.parse_object(current(copy.deepcopy(dict(settings)))))
    except Exception as error:  # the parser raises many kinds; what a class said of its settings is clearer
        raise InputError(f"{what}: {InputError.latest or ' '.join(str(error).split())}") from None


# Options of a command


def parse_function(
    prog: str,
    description: str,
    function: Callable[..., Any],
    args: Sequence[str],
    skip: Sequence[str] = (),
    plain: Sequence[str] = (),
) -> dict[str, Any]:
    """The arguments of a function or class, from the options of a command and its ``--config`` files.

    Args:
        prog: name of the command.
        description: what it does, for its help.
        function: whose parameters are the options.
        args: the options.
        skip: parameters that are no options.
        plain: parameters that stay settings; no objects are made of them.

    Raises:
        InputError: if a config cannot be used.
        SystemExit: with status 2 for options that cannot be parsed, with 0 after ``--help``.
    """
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog=prog, description=description)
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    add = parser.add_class_arguments if isinstance(function, type) else parser.add_function_arguments
    add(function, skip=set(skip), as_group=False)
    settings, others = take_configs(args)
    configs = ["--config", yaml.safe_dump(settings, sort_keys=False)] if settings else []
    options = parser.parse_args([*configs, *others])
    kept = {name: _as_plain(options.pop(name)) for name in plain}
    make = getattr(parser, "instantiate", None) or parser.instantiate_classes
    values: dict[str, Any] = make(options).as_dict() | kept
    values.pop("config")
    return values


def _as_plain(value: Any) -> Any:
    """The parser's own containers as dictionaries and lists."""
    if hasattr(value, "as_dict"):
        value = value.as_dict()
    if isinstance(value, dict):
        return {key: _as_plain(inner) for key, inner in value.items()}
    return [_as_plain(inner) for inner in value] if isinstance(value, list) else value
