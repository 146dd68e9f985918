"""``crystalgfn train-proxy``: train a property network on a table of crystals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def main(args: list[str]) -> int:
    """Run the command.

    Args:
        args: what follows ``train-proxy``: ``--config FILE``, ``--data.path TABLE``, ``--out FILE``, ... Each
            parameter of `crystalgfn.proxies.network.training.train_proxy` is an option.

    Returns:
        exit status 0.

    Raises:
        InputError: if the table or a setting cannot be used.
        SystemExit: with status 2 if the options cannot be parsed, with 0 after ``--help``.
    """
    # Imported here because importing torch takes seconds, and other commands do not need it.
    from crystalgfn.proxies.network.training import train_proxy

    return run(train_proxy, "train-proxy", "Train a property network on a table of crystals.", args)


def run(function: Callable[..., object], name: str, description: str, args: list[str]) -> int:
    """Call a function with the options of a command line. Each parameter of the function is an option.

    Args:
        function: the function. It also has the parameters ``command``, the command line as text, and ``log``, a
            function that prints a line.
        name: name of the command.
        description: text that describes the command in the help.
        args: what follows the name of the command.

    Returns:
        exit status 0.

    Raises:
        InputError: if the function cannot use a file or a setting.
        SystemExit: with status 2 if the options cannot be parsed, with 0 after ``--help``.
    """
    from crystalgfn.settings import parse_function

    values = parse_function(f"crystalgfn {name}", description, function, args, skip=("command", "log"))
    # The model card is meant to be shared, so it names files without the folders of this machine.
    shown = " ".join(Path(word).name if Path(word).is_absolute() else word for word in args)
    function(**values, command=f"crystalgfn {name} {shown}", log=_print)
    return 0


def _print(line: str) -> None:
    print(line, flush=True)  # without a delay in pipes, because training takes minutes
