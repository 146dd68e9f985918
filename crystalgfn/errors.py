"""The one exception for mistakes a user can mend."""

from __future__ import annotations

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
