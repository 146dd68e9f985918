"""The exception for mistakes a user can mend, and the one that ends a run as a signal asked for."""

from __future__ import annotations

from signal import Signals
from typing import ClassVar


class InputError(ValueError):
    """Input that cannot be used.

    The command line prints the message alone, without a traceback, and exits with status 2. So the message names
    the field, the value and what is allowed.
    """

    latest: ClassVar[InputError | None] = None
    """The last one made: a parser that tries several types for a setting keeps no more of it than the text."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        InputError.latest = self


class Stopped(SystemExit):
    """A signal ended a run between two steps; its code is what shells give for the signal.

    Args:
        number: the signal.
        step: steps done.
        checkpoint: the checkpoint of these steps; empty if there is none.
    """

    def __init__(self, number: Signals, step: int, checkpoint: str) -> None:
        super().__init__(128 + number)
        name = "Ctrl-C" if number is Signals.SIGINT else number.name
        go_on = f"; go on with --ckpt_path {checkpoint}" if checkpoint else ""
        self.message = f"stopped by {name} after {step} steps{go_on}"
