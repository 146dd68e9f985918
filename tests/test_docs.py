"""Links and commands of the documentation lead somewhere."""

import re
from pathlib import Path

import pytest

from crystalgfn.cli import COMMANDS
from crystalgfn.settings import find_file

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "crystalgfn", "examples")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])


def name(page):
    return str(page.relative_to(ROOT))


def anchors(page):
    """Anchors of a page's headings, as the usual renderers make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("http:", "https:")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{link}: no such file"
        assert not anchor or target.suffix != ".md" or anchor in anchors(target), f"{link}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands(page):
    """Every command that a page shows exists, and so does every config that it names."""
    text = page.read_text()
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for command in re.findall(r"^crystalgfn ([a-z-]+)", "\n".join(blocks), re.MULTILINE):
        assert command in COMMANDS, command
    for config in re.findall(r"--config (configs/\S+?\.yaml)", text):
        assert find_file(config) is not None, config


def test_the_readme_names_every_command():
    text = (ROOT / "README.md").read_text()
    missing = [command for command in COMMANDS if f"crystalgfn {command}" not in text and f"`{command}`" not in text]
    assert not missing
