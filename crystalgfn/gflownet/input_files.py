"""Input files of a run, such as a hull: a checkpoint names them and holds their checksums.

A relative path means another file in another folder. The checksum shows whether the file is the one that the model was
trained with.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from crystalgfn.errors import InputError
from crystalgfn.files import checksum
from crystalgfn.plugins import texts

FILE, SHA256 = "file", "sha256"

_NO_INPUTS = ("out", "class_path")
"""Names of arguments whose texts are no input files: files that a run writes, and classes."""

_UNUSED = ("model.start_from",)
"""Files that are not read again once a checkpoint exists."""

_PARTS = ("model", "trainer.callbacks")
"""Settings in which files are inputs; others name outputs, such as the folder of logs."""


def checksums(settings: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Checksums of the files that settings name.

    Args:
        settings: model, trainer and others, as in a config. Every text in ``model`` and ``trainer.callbacks`` that is
            the path of an existing file counts, except for outputs (``out``) and ``model.start_from``.

    Returns:
        for each setting, such as ``model.proxy.init_args.hull``, the ``file`` as the setting gives it, and its
        ``sha256``.
    """
    return {
        place: {FILE: text, SHA256: checksum(Path(text))}
        for part in _PARTS
        for place, text in texts(_get(settings, part), part)
        if place not in _UNUSED and place.rpartition(".")[2] not in _NO_INPUTS and is_file(text)
    }


def is_file(text: str) -> bool:
    """Whether a text is the path of an existing file; False for a text that cannot be a path."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # the text is too long or contains a null byte
        return False


def is_changed(entry: Mapping[str, str]) -> bool:
    """Whether a file exists, but with another content than an entry of `checksums` says."""
    return is_file(entry[FILE]) and checksum(Path(entry[FILE])) != entry[SHA256]


def refuse_changed(
    files: Mapping[str, Mapping[str, str]], settings: Mapping[str, Any], checkpoint: str | Path, own: Collection[str]
) -> None:
    """Refuse a file whose content is not that of the file with which a model was trained.

    A missing file is no error here: whatever reads it says so.

    Args:
        files: entries of `checksums`, from a checkpoint.
        settings: the settings that are going to be used; a file that they do not name is not compared.
        checkpoint: the checkpoint, for the message.
        own: texts that the user's own settings contain; files that they name are not compared.

    Raises:
        InputError: with the setting, the file, and what the user can do.
    """
    given = {str(Path(text)) for text in own}
    used = {str(Path(text)) for _, text in texts(settings)}
    for place, entry in files.items():
        name = str(Path(entry[FILE]))
        if name in used and name not in given and is_changed(entry):
            raise InputError(
                f"ckpt_path: {checkpoint} was trained with {place}: {entry[FILE]}, but the content of "
                f"{Path(name).absolute()} is not that of the file in the training. Run the command in the folder of "
                "the training, or restore the file. To use this file, give the setting yourself in a config or with a "
                f"flag, --{place} {entry[FILE]} (in Python: GFlowNet.load_from_checkpoint with this setting)"
            )


def _get(settings: Mapping[str, Any], place: str) -> Any:
    value: Any = settings
    for key in place.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
