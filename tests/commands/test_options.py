"""Options of the commands' own parsers: one syntax for lists, and the closest option to an unknown one."""

import pytest

from crystalgfn.checks import did_you_mean
from crystalgfn.commands.options import Parser, Words, split_words
from crystalgfn.settings import with_suggestion


@pytest.mark.parametrize(
    ("words", "entries"),
    [
        (["Li", "Fe"], ["Li", "Fe"]),
        (["Li,Fe"], ["Li", "Fe"]),
        (["[Li,Fe]"], ["Li", "Fe"]),
        (["[Li,", "Fe]"], ["Li", "Fe"]),
        (["[Li]"], ["Li"]),
        (["Li,", "Fe"], ["Li", "Fe"]),
        (["['Li', \"Fe\"]"], ["Li", "Fe"]),
        (["band gap", "energy"], ["band gap", "energy"]),
        (["[band gap, energy]"], ["band gap", "energy"]),
        (['"a, b",c'], ["a, b", "c"]),
        (["[]"], []),
        ([","], []),
    ],
)
def test_a_list_in_one_syntax(words, entries):
    assert split_words(words) == entries


def test_lists_of_a_parser(capsys):
    parser = Parser(prog="x")
    parser.add_argument("--elements", nargs="+", action=Words)
    assert parser.parse_args([]).elements is None
    assert parser.parse_args(["--elements", "[Li,Fe]"]).elements == ["Li", "Fe"]
    assert parser.parse_args(["--elements", "H", "--elements", "Li,Fe"]).elements == ["Li", "Fe"]
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["--elements", "[]"])
    assert stop.value.code == 2
    assert "argument --elements: [] is not allowed; give one or more, such as Li Fe" in capsys.readouterr().err


def test_closest_option(capsys):
    parser = Parser(prog="x")
    parser.add_argument("--elements")
    for unknown, hint in (("--elemnts", "; did you mean --elements?"), ("--depth", "--depth\n")):
        with pytest.raises(SystemExit):
            parser.parse_args([unknown])
        assert capsys.readouterr().err.rstrip(" \n").endswith(hint.strip())


def test_did_you_mean():
    assert did_you_mean("fitt", ["fit", "predict"]) == "; did you mean fit?"
    assert did_you_mean("xyz", ["fit", "predict"]) == ""


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("unrecognized arguments: --model.batchsize 3", "; did you mean --model.batch_size?"),
        ("unrecognized arguments: --model.batchsize=3", "; did you mean --model.batch_size?"),
        ("Subcommand 'fit' does not accept option 'model.bacth_size'", "; did you mean model.batch_size?"),
        (
            "Problem with given class_path 'crystalgfn.commands.options.Words':\n  Option 'dests' is not accepted",
            "; did you mean dest?",
        ),
        ("expected one argument", ""),
        ("unrecognized arguments: everything", ""),
    ],
)
def test_with_suggestion(message, expected):
    assert with_suggestion(message, ["-c", "--model.batch_size", "--model.lr"]) == message + expected
