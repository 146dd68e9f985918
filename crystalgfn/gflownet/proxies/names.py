"""Names of properties: each names a column of tables and a tag in TensorBoard."""

from __future__ import annotations

import re
from collections.abc import Iterable

from crystalgfn.checks import refuse

UNCERTAINTY = "_uncertainty"
"""Suffix of the column name for the uncertainty of a property."""

RESERVED = ("log_reward", "log_pf", "log_pb", "log_p", "log_p_standard_error", "reason")
"""Columns of the tables that commands write, besides the columns of the objects and of the proxies."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def is_property_name(name: object) -> bool:
    """Whether something can be the name of a property: letters from a to z, digits and _, no digit at the start."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def check_property_name(field: str, name: object, columns: Iterable[str] = ()) -> None:
    """Check that a property can have a name.

    Args:
        field: the setting that gives the name, for messages.
        name: the name.
        columns: columns of the tables of objects, such as ``a`` and ``formula`` of crystals.

    Raises:
        InputError: if the name is no identifier, ends like the column of an uncertainty, or names another column.
    """
    if not is_property_name(name):
        raise refuse(
            field,
            repr(name),
            "allowed: letters, digits and _, but no digit at the start, because it names a column and a tag",
        )
    taken = (*columns, *RESERVED)
    if name in taken or str(name).endswith(UNCERTAINTY):
        raise refuse(
            field,
            repr(name),
            "tables use a column of this name for something else; it must not be one of "
            f"{', '.join(dict.fromkeys(taken))}, or end in {UNCERTAINTY}",
        )
