"""Checks of single settings; the message of each check names the setting, its value and what is allowed."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from typing import Any

from crystalgfn.errors import InputError

MOST_SHOWN = 80
"""Largest number of characters of a quoted value in a message."""

MOST_NAMES = 40
"""Largest number of names in a list in a message."""


def shortened(text: str, most: int = MOST_SHOWN) -> str:
    """A text for messages; if it has more than ``most`` characters, its end is replaced by ``...``."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def shown(value: Any) -> str:
    """A value as text for messages, shortened; texts that are empty or not printable are written as in Python."""
    try:
        if isinstance(value, str):
            text = value[: MOST_SHOWN + 1]
            return shortened(text if text.isprintable() and text else repr(text))
        return shortened(str(value))
    except (ValueError, RecursionError):  # such as integers with thousands of digits
        return f"a {type(value).__name__}"


def quoted(value: Any) -> str:
    """Like `shown`, with texts in quotation marks."""
    return repr(shortened(value)) if isinstance(value, str) else shown(value)


def listed(names: Iterable[Any]) -> str:
    """Names for messages, separated by commas: each is shortened, and only the first `MOST_NAMES` are given."""
    every = list(names)
    more = f" and {len(every) - MOST_NAMES} more" if len(every) > MOST_NAMES else ""
    return ", ".join(shortened(str(name)) for name in every[:MOST_NAMES]) + more


def refuse(name: str, value: Any, allowed: str) -> InputError:
    """The error for a value that is not allowed.

    Args:
        name: name of the setting, as users write it.
        value: value of the setting.
        allowed: what is allowed, such as ``it must be at least 1``.

    Returns:
        the error, for the caller to raise.
    """
    return InputError(f"{name}: {shown(value)} is not allowed; {allowed}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Text for the end of a message that names the known word most like a word; empty if none is like it."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.7)
    return f"; did you mean {close[0]}?" if close else ""


def at_least(name: str, value: float, least: float) -> None:
    """Raise an `InputError` unless a number is ``least`` or more."""
    if not value >= least:
        raise refuse(name, value, f"it must be at least {least}")


def positive(name: str, value: float) -> None:
    """Raise an `InputError` unless a number is above 0 and finite."""
    if not 0 < value < math.inf:
        raise refuse(name, value, "it must be a positive number")


def not_negative(name: str, value: float) -> None:
    """Raise an `InputError` unless a number is 0 or above, and finite."""
    if not 0 <= value < math.inf:
        raise refuse(name, value, "it must be 0 or a positive number")


def between(name: str, value: float, low: float, high: float, without: float | None = None) -> None:
    """Raise an `InputError` unless a number is from ``low`` to ``high``; both are included, but ``without`` is not."""
    if not low <= value <= high or value == without:
        excluded = "" if without is None else f", {without:g} excluded"
        raise refuse(name, value, f"it must lie between {low:g} and {high:g}{excluded}")


def rising(name: str, ends: Sequence[float], low: float = -math.inf, high: float = math.inf) -> None:
    """Raise an `InputError` unless the two ends of a range satisfy ``low`` < first end < second end < ``high``."""
    if not low < ends[0] < ends[1] < high:
        below, above = f"{low:g} < " * math.isfinite(low), f" < {high:g}" * math.isfinite(high)
        raise refuse(name, list(ends), f"it must be low and high with {below}low < high{above}")


def finite(name: str, value: float) -> None:
    """Raise an `InputError` unless a number is finite."""
    if not math.isfinite(value):
        raise refuse(name, value, "it must be a finite number")


def one_of(name: str, value: Any, allowed: Iterable[Any]) -> None:
    """Raise an `InputError` unless a value is one of the allowed values."""
    allowed = list(allowed)
    if value not in allowed:
        raise refuse(name, repr(value), f"allowed: {', '.join(map(str, allowed))}")
