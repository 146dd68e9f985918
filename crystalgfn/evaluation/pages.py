"""Pages made from templates: each page is one HTML file that loads nothing from elsewhere.

A template is named by its room and file: ``judging/judged.html`` is ``crystalgfn/judging/templates/judged.html``. So
every room keeps its own templates, and this module imports no room above it. All pages extend ``evaluation/base.html``.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from crystalgfn.evaluation import markup

PACKAGE = "crystalgfn"


def render(template: str, **values: Any) -> str:
    """A page as HTML. Values are escaped, except those of type `markupsafe.Markup`.

    Args:
        template: room and file of the template, for example ``judging/judged.html``.
        values: the names that the template uses.

    Raises:
        jinja2.TemplateNotFound: if there is no such template.
        jinja2.UndefinedError: if the template uses a name that has no value.
    """
    return _environment().get_template(template).render(**values)


def asset(name: str) -> Markup:
    """The text of a style or script of this package, to be put into a page as it is.

    Args:
        name: path in the folder ``assets``, for example ``3dmol/3Dmol-min.js``.
    """
    return Markup((files(__package__) / "assets" / name).read_text(encoding="utf-8"))


def json_block(identifier: str, content: Any) -> Markup:
    """Data for the scripts of a page, as a block that no HTML in the data can end.

    Args:
        identifier: id of the block; ``JSON.parse(document.getElementById(identifier).textContent)`` reads it.
        content: numbers, texts, lists and mappings. Numbers must be finite.

    Raises:
        ValueError: if a number is not finite.
    """
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # "<" ends or nests a block only as part of a tag or comment; JSON can write it as an escape.
    safe = Markup(text.replace("<", "\\u003c"))
    return Markup('<script type="application/json" id="{}">{}</script>\n').format(identifier, safe)


def bond_radii() -> dict[str, float]:
    """Covalent radius [Å] of each element, by its symbol, for the bonds that the structure viewer draws."""
    from crystalgfn.atoms.arrangements import covalent_radii
    from crystalgfn.crystal.crystallography import element_symbols

    return {symbol: float(covalent_radii()[number]) for number, symbol in enumerate(element_symbols(), start=1)}


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= {"asset": asset, "json_block": json_block, "bond_radii": bond_radii, "NONE": markup.NONE}
    environment.filters |= {
        "number": markup.number,
        "fixed": markup.fixed,
        "percent": lambda tally: Markup(markup.percent(tally)),
        "formula": lambda text: Markup(markup.formula_html(text)),
    }
    return environment


def _source(name: str) -> str | None:
    """The text of a template; None if there is none, which jinja2 reports."""
    room, _, file = name.partition("/")
    try:
        return (files(f"{PACKAGE}.{room}") / "templates" / file).read_text(encoding="utf-8")
    except (ModuleNotFoundError, FileNotFoundError):
        return None
