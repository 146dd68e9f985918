"""``crystalgfn train-proxy``: train a property network on a table of crystals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def main(args: list[str]) -> int:
    """Run the command.

    Args:
        args: what follows ``train-proxy``: ``--config FILE``, ``--data.path TABLE``, ``--out FILE``, ...; each
            parameter of `crystalgfn.proxies.network.training.train_proxy` is an option.

    Returns:
        exit status 0.

    Raises:
        InputError: for a table or settings that cannot be used.
        SystemExit: with status 2 for options that cannot be parsed, with 0 after ``--help``.
    """
    # Imported here: importing torch takes seconds, and other commands do without.
    from crystalgfn.proxies.network.training import train_proxy

    return run(train_proxy, "train-proxy", "Train a property network on a table.", args)


def run(function: Callable[..., object], name: str, description: str, args: list[str]) -> int:
    """Call a function with the options of a command line: each of its parameters is one.

    Args:
        function: takes also ``command``, the command line, and ``log``.
        name: of the command.
        description: what it does, for the help.
        args: what follows the name of the command.
    """
    from crystalgfn.settings import parse_function

    values = parse_function(f"crystalgfn {name}", description, function, args, skip=("command", "log"))
    # The model card is meant to be passed on: it names files without the folders of this machine.
    shown = " ".join(Path(word).name if Path(word).is_absolute() else word for word in args)
    function(**values, command=f"crystalgfn {name} {shown}", log=_print)
    return 0


def _print(line: str) -> None:
    print(line, flush=True)  # at once, also into a pipe: training takes minutes
