"""Exceptions for input that the user can correct, and for a run that is stopped by a signal."""

from __future__ import annotations

from signal import Signals
from typing import ClassVar


class InputError(ValueError):
    """Input that cannot be used.

    The command line prints only the message, without a traceback, and exits with status 2. The message must therefore
    name the field, its value and what is allowed.
    """

    latest: ClassVar[InputError | None] = None
    """The most recent error. A parser that tries several types for a setting keeps only the text of an error."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        InputError.latest = self


class Stopped(SystemExit):
    """A run was stopped by a signal between two steps.

    The exit code is 128 plus the number of the signal, as in shells.

    Args:
        number: the signal.
        step: number of steps done.
        checkpoint: path of the checkpoint written after these steps; empty if there is none.
    """

    def __init__(self, number: Signals, step: int, checkpoint: str) -> None:
        super().__init__(128 + number)
        name = "Ctrl-C" if number is Signals.SIGINT else number.name
        go_on = f"; go on with --ckpt_path {checkpoint}" if checkpoint else ""
        self.message = f"stopped by {name} after {step} steps{go_on}"
