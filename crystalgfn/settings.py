"""Settings: config files that build on each other, class paths of older versions, and objects made from settings."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import yaml

import crystalgfn
from crystalgfn.checks import did_you_mean, quoted, shortened, shown
from crystalgfn.errors import InputError

BASE = "base"
"""Key under which a config, or one of its settings such as ``fit``, names the config or configs that it builds on."""


# Files


def shipped_folder() -> Path:
    """Folder of the configs that come with the package: inside the package, or next to it in the repository."""
    package = Path(crystalgfn.__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


MODELS = Path(crystalgfn.__file__).parent / "models"
"""Folder of the trained models that come with the package."""


def shipped_model(name: str) -> Path | None:
    """The checkpoint of a model that comes with the package, such as ``discovered``.

    Args:
        name: name of the model.

    Returns:
        the checkpoint; None if there is no such model, or if there is a file or folder with this name.
    """
    path = MODELS / f"{name}.ckpt"
    return path if Path(name).name == name and not Path(name).exists() and path.is_file() else None


def find_file(name: str, beside: Path | None = None) -> Path | None:
    """Find a file by its path, or else a shipped config by its name, such as ``eform.yaml``.

    Args:
        name: path of the file, or name of a shipped config.
        beside: folder in which a relative path is looked up first.

    Returns:
        the path of the file, or None if there is no such file.
    """
    path, folder = Path(name), shipped_folder()
    # The documentation writes the paths of configs in the repository, such as `configs/eform.yaml`.
    places = [path] if path.is_absolute() else [path, folder / path, folder.parent / path]
    for place in [beside / path, *places] if beside is not None else places:
        try:
            if place.is_file():
                return place
        except (OSError, ValueError):  # the name is too long or contains a null byte
            return None
    return None


def find_config(name: str, beside: Path | None = None) -> Path:
    """Find a file like `find_file`; a missing file is an error.

    Args:
        name: path of the file, or name of a shipped config.
        beside: folder in which a relative path is looked up first.

    Returns:
        the path of the file.

    Raises:
        InputError: if there is no such file; the message lists the shipped configs.
    """
    found, folder = find_file(name, beside), shipped_folder()
    if found is not None:
        return found
    known = sorted(str(file.relative_to(folder)) for file in folder.rglob("*.yaml"))
    raise InputError(
        f"config: there is no file {shown(name)}, and no shipped config has this name; shipped: {', '.join(known)}"
    )


def read_yaml(path: str | Path, what: str) -> dict[str, Any]:
    """Read the settings in a YAML file without checking them.

    Args:
        path: the file.
        what: the setting that names the file, for messages.

    Returns:
        the value of each setting, by name.

    Raises:
        InputError: if the file cannot be read or does not contain named settings.
    """
    try:
        if not Path(path).is_file():
            raise InputError(f"{what}: there is no file {path}")
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{what}: {path} is not a valid YAML file: {shortened(' '.join(str(error).split()), 400)}"
        ) from None
    if content is None:
        raise InputError(f"{what}: {path} is empty; it must contain named settings")
    if not isinstance(content, dict):
        raise InputError(f"{what}: {path} must contain named settings, not a {type(content).__name__}")
    return content


def read_config(path: Path, allowed: Sequence[str] | None = None) -> dict[str, Any]:
    """Read the settings of a config file, including those of its bases.

    Args:
        path: the file.
        allowed: names of settings that the files may contain besides ``base``; None for any.

    Returns:
        the merged settings, by name.

    Raises:
        InputError: if a file does not exist, is not valid YAML, contains a setting that is not allowed, or is its own
            base.
    """
    return merged(_layers(path, allowed, ()))


def _layers(path: Path, allowed: Sequence[str] | None, above: tuple[Path, ...]) -> Iterator[dict[str, Any]]:
    """The settings of each base of a file, then the settings of the file itself."""
    above = (*above, path.resolve())
    content = read_yaml(path, "config")
    yield from _bases(path, content, allowed, above)
    for key, value in content.items():
        if allowed is not None and key not in allowed:
            raise InputError(
                f"config: {path}: there is no setting {quoted(key)}; allowed: {', '.join([BASE, *allowed])}"
            )
        if isinstance(value, dict) and BASE in value:
            content[key] = merged([*_bases(path, value, None, above), value])
    yield content


def _bases(
    path: Path, content: dict[str, Any], allowed: Sequence[str] | None, above: tuple[Path, ...]
) -> Iterator[dict[str, Any]]:
    """The settings of the files that ``base`` names; the key ``base`` is removed from ``content``."""
    names = content.pop(BASE, None) or []
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(
            f"config: {path}: {BASE}: {quoted(names)} is not allowed; it must be a file or a list of files"
        )
    for name in names:
        base = find_config(name, path.parent)
        if base.resolve() in above:
            raise InputError(f"config: {path}: {BASE}: {name} is a base of itself")
        yield from _layers(base, allowed, above)


def merged(layers: Iterator[Mapping[str, Any]] | Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge several layers of settings into one; a later layer replaces single settings of the earlier ones.

    If a layer names another ``class_path``, the arguments of the earlier class are dropped. A list replaces the earlier
    list as a whole; the key ``NAME+`` appends to the list ``NAME`` of the earlier layers instead.

    Args:
        layers: the settings of each layer, by name; they are not modified.

    Returns:
        the merged settings, by name.
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
    """Whether the later settings describe another class than the earlier settings."""
    if "class_path" not in after:
        return False
    names = [str(value.get("class_path", "")).rpartition(".")[2] for value in (before, after)]
    return names[0] != names[1]


def take_configs(args: Sequence[str], allowed: Sequence[str] | None = None) -> tuple[dict[str, Any], list[str]]:
    """Read the files of all ``--config`` options and separate these options from the others.

    Class paths of older versions are replaced by current ones, in the settings and in the other options.

    Args:
        args: the options of a command.
        allowed: names of settings that the files may contain; None for any.

    Returns:
        the settings of the files, merged in the order of the options, and the other options.

    Raises:
        InputError: if a file does not exist, is not valid YAML, or contains a setting that is not allowed.
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
    """Replace a class path of this package from an older version, in which the class was in another module.

    Args:
        path: a class path, or an option that sets one, such as ``--proxy=crystalgfn.proxies.Density``.

    Returns:
        the short name of the class if another module contains it now (after the option, if there is one); any other
        text unchanged.
    """
    option, equals, value = path.partition("=") if path.startswith("--") else ("", "", path)
    if not is_gone(value):
        return path
    from crystalgfn.plugins import is_known

    # Every class that a config can name has a short name, which does not depend on the module of the class.
    name = value.rpartition(".")[2]
    return f"{option}{equals}{name}" if is_known(name) else path


def is_gone(path: str) -> bool:
    """Whether a text is a class path of this package, but its module does not contain such a class."""
    module, _, name = path.rpartition(".")
    if not path.startswith("crystalgfn.") or not name.isidentifier():
        return False
    try:
        if find_spec(module) is None:
            return True
    except ModuleNotFoundError:
        return True
    from importlib import import_module

    return not hasattr(import_module(module), name)


def gone_classes(message: str) -> str:
    """A line to add to a message that names class paths of this package that do not exist; empty if it names none."""
    paths = dict.fromkeys(re.findall(r"crystalgfn(?:\.[A-Za-z_]\w*)+", message))
    found = [path for path in paths if path.rpartition(".")[2][:1].isupper() and is_gone(path)]
    return f"\n{gone(found[0])}" if found else ""


def gone(path: str) -> str:
    """Text that says that a class path of this package does not exist in this version."""
    return (
        f"{path}: crystalgfn {crystalgfn.__version__} has no such class; CHANGELOG.md says what was removed, and "
        "'crystalgfn list' shows what there is"
    )


def current(settings: Any) -> Any:
    """Copy settings and replace every class path of an older version of this package by the current one."""
    if isinstance(settings, Mapping):
        return {
            key: current_class_path(value) if key == "class_path" and isinstance(value, str) else current(value)
            for key, value in settings.items()
        }
    return [current(value) for value in settings] if isinstance(settings, list) else settings


# Objects


def instantiate(settings: Mapping[str, Any], classes: Mapping[str, type], what: str) -> Any:
    """Make the objects that settings describe.

    Args:
        settings: the settings of each object, by name.
        classes: the class of each object, by name. The settings of an object are the arguments of its class. If the
            class is abstract, they are ``class_path`` and ``init_args`` of a subclass. For a plain type such as int,
            they are a value.
        what: name of the settings in messages.

    Returns:
        a namespace with one object for each name.

    Raises:
        InputError: if the settings cannot be used; the message says why.
    """
    from inspect import isabstract

    from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
    from pytorch_lightning.cli import LightningArgumentParser

    from crystalgfn.plugins import check_policy, load_everything

    load_everything()
    model = settings.get("model")
    policy = model.get("policy") if isinstance(model, Mapping) else None
    if policy is not None:
        check_policy(str(policy.get("class_path") if isinstance(policy, Mapping) else policy))
    parser = LightningArgumentParser(exit_on_error=False)
    for name, cls in classes.items():
        if isabstract(cls):
            parser.add_subclass_arguments(cls, name, required=True)
        elif issubclass(cls, Trainer | LightningModule | LightningDataModule | Callback):
            parser.add_lightning_class_args(cls, name)
        else:
            parser.add_argument(f"--{name}", type=cls)
    # jsonargparse 4.49 renamed this method and warns about the old name.
    make = getattr(parser, "instantiate", None) or parser.instantiate_classes
    InputError.latest = None
    try:
        # A copy is parsed because the parser replaces the containers of its input by its own.
        return make(parser.parse_object(current(copy.deepcopy(dict(settings)))))
    except Exception as error:  # the parser raises many types; an InputError of the class itself is clearer
        text = f"{what}: {InputError.latest or ' '.join(str(error).split())}"
        raise InputError(text + gone_classes(text)) from None


# Options of a command


def parse_function(
    prog: str,
    description: str,
    function: Callable[..., Any],
    args: Sequence[str],
    skip: Sequence[str] = (),
    plain: Sequence[str] = (),
) -> dict[str, Any]:
    """Read the arguments of a function or class from the options of a command and its ``--config`` files.

    Args:
        prog: name of the command.
        description: description of the command for ``--help``.
        function: the function or class; its parameters are the options of the command.
        args: the options that are given.
        skip: parameters that are not options.
        plain: parameters that are returned as dictionaries and lists; no objects are made from them.

    Returns:
        the value of each parameter, by name.

    Raises:
        InputError: if a config cannot be used.
        SystemExit: with status 2 for options that cannot be parsed, with 0 after ``--help``.
    """
    from jsonargparse import ArgumentParser

    class Parser(ArgumentParser):
        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            super().error(with_suggestion(message, self._option_string_actions), ex)

    parser = Parser(prog=prog, description=description)
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


def with_suggestion(message: str, known: Iterable[str]) -> str:
    """Add the closest option to a parser's message about an unknown one.

    Args:
        message: the message; if it is about something else, it is returned unchanged.
        known: the options of the command, such as ``--model.batch_size``.
    """
    # Each second form is that of the parser's older versions.
    argument = re.search(
        r"given class_path '([\w.]+)':\s+"
        r"(?:Option '(\w+)' is not accepted|Validation failed: Key '(\w+)' is not expected)",
        message,
    )
    if argument is not None:
        return message + did_you_mean(argument[2] or argument[3], _arguments(argument[1]))
    unknown = re.search(
        r"[Uu]nrecognized arguments: (--[^\s=]+)"
        r"|(?:does not accept (?:option|nested key)|Validation failed: Key) '([^']+)'",
        message,
    )
    if unknown is None:
        return message
    known = [option for option in known if option.startswith("--")]
    flag = unknown[1] or f"--{unknown[2]}"
    hint = did_you_mean(flag, known)
    return message + (hint if unknown[1] else hint.replace(" --", " "))


def _arguments(class_path: str) -> list[str]:
    """Names of the arguments of a class that is already imported."""
    from inspect import signature

    module, _, name = class_path.rpartition(".")
    cls = getattr(sys.modules.get(module), name, None)
    return list(signature(cls).parameters) if isinstance(cls, type) else []


def _as_plain(value: Any) -> Any:
    """Convert the parser's own containers to dictionaries and lists."""
    if hasattr(value, "as_dict"):
        value = value.as_dict()
    if isinstance(value, dict):
        return {key: _as_plain(inner) for key, inner in value.items()}
    return [_as_plain(inner) for inner in value] if isinstance(value, list) else value
