"""Config files: one's own, or those that come with the package."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import crystalgfn
from crystalgfn.errors import InputError

if TYPE_CHECKING:
    from crystalgfn.gflownet.envs.base import Environment


def shipped_folder() -> Path:
    """Where the configs of the package lie: inside of it, or beside it in a checkout of the repository."""
    package = Path(crystalgfn.__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def find_file(name: str) -> Path | None:
    """The file of that name, or else the shipped one of that name, such as ``eform.yaml``; None if there is neither."""
    path, folder = Path(name), shipped_folder()
    # The documentation names configs as they lie in the repository.
    candidates = [path] if path.is_absolute() else [path, folder / path, folder.parent / path]
    for candidate in candidates:
        try:
            if candidate.is_file():
                return candidate
        except (OSError, ValueError):  # too long for a name, or with a null byte
            return None
    return None


def find_config(name: str) -> Path:
    """Like `find_file`, but there has to be one.

    Raises:
        InputError: if there is none.
    """
    found, folder = find_file(name), shipped_folder()
    if found is not None:
        return found
    known = sorted(str(file.relative_to(folder)) for file in folder.rglob("*.yaml"))
    raise InputError(f"config: there is no file {name}, and no config of that name in the package: {', '.join(known)}")


def read_config(path: Path) -> dict[str, Any]:
    """The settings in a file, unchecked.

    Raises:
        InputError: if it does not hold YAML settings.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"config: {path} is no YAML file: {' '.join(str(error).split())}") from None
    if content is None:
        raise InputError(f"config: {path} is empty; it must hold settings by name")
    if not isinstance(content, dict):
        raise InputError(f"config: {path} must hold settings by name, not a {type(content).__name__}")
    return content


def with_configs(args: Sequence[str], allowed: Sequence[str] | None = None) -> list[str]:
    """Options in which each ``--config`` names a file that was read and can be.

    Args:
        args: the options.
        allowed: names that the files may hold; None for any.

    Raises:
        InputError: if a file is not there, is no YAML, or holds another name.
    """
    checked, is_value = [], False
    for argument in args:
        option, equals, value = argument.partition("=")
        is_option = not is_value and option in ("--config", "-c")
        name = argument if is_value else value if is_option and equals else None
        if name is not None:
            path = find_config(name)
            for key in read_config(path):
                if allowed is not None and key not in allowed:
                    raise InputError(f"config: {path}: there is no setting {key!r}; allowed: {', '.join(allowed)}")
            checked.append(str(path) if is_value else f"{option}={path}")
        else:
            checked.append(argument)
        is_value = is_option and not equals
    return checked


def load_env(settings: Any, name: str) -> Environment:
    """The environment that a config describes.

    Args:
        settings: ``class_path`` and ``init_args``, as under ``model.env``.
        name: what they are called in messages.

    Raises:
        InputError: if the settings are not those of an environment.
    """
    from jsonargparse import ArgumentParser

    from crystalgfn.gflownet.envs.base import Environment
    from crystalgfn.plugins import load_everything

    load_everything()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Environment, "env", required=True)
    # jsonargparse 4.49 gave the method a new name and warns of the old one.
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes
    InputError.latest = None
    try:
        # A copy: the parser puts its own containers into what it reads.
        env: Environment = instantiate(parser.parse_object({"env": copy.deepcopy(settings)})).env
    except Exception as error:  # the parser raises many kinds; what a class said of its settings is clearer
        raise InputError(f"{name}: {InputError.latest or ' '.join(str(error).split())}") from None
    return env
