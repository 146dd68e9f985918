"""The command line. It runs one command, and shows a mistake in the input as one message."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from signal import SIG_DFL
from types import FrameType

from crystalgfn import __version__

COMMANDS = {
    "fit": ("crystalgfn.commands.lightning", "train a GFlowNet: crystalgfn fit --config configs/eform.yaml"),
    "validate": ("crystalgfn.commands.lightning", "measure a trained model on new samples, fewer than test"),
    "test": ("crystalgfn.commands.lightning", "measure a trained model on new samples"),
    "predict": ("crystalgfn.commands.lightning", "sample crystals into a table: crystalgfn predict --ckpt_path CKPT"),
    "list": ("crystalgfn.commands.list", "show the registered environments, proxies, rewards, policies and losses"),
    "train-proxy": ("crystalgfn.commands.train_proxy", "train a property network on a table of crystals"),
    "tune-proxy": ("crystalgfn.commands.tune_proxy", "continue training a property network with new rows"),
    "evaluate": ("crystalgfn.commands.evaluate", "measure a table of samples and write a page with the results"),
    "import-matbench": ("crystalgfn.commands.import_matbench", "write a MatBench data set as a table of crystals"),
    "score": ("crystalgfn.commands.score", "add a proxy's prediction to a table of crystals"),
    "likelihood": ("crystalgfn.commands.likelihood", "add log p under a trained model to a table of objects"),
    "build": ("crystalgfn.commands.build", "find atomic positions for sampled crystals with a potential"),
    "judge": ("crystalgfn.commands.judge", "relax crystals with several potentials: what survives, stays, is new"),
    "label": ("crystalgfn.commands.label", "evaluate crystals with a potential and keep the results in a database"),
    "discover": ("crystalgfn.commands.discover", "discover crystals in rounds of sampling, evaluating and training"),
    "discovery-page": ("crystalgfn.commands.discovery_page", "write a page of the best new crystals in a database"),
    "references": ("crystalgfn.commands.references", "fit the elemental references of a potential's energies"),
    "build-hull": ("crystalgfn.commands.build_hull", "make a convex hull of formation energies from a table of phases"),
}
"""The module of each command, with a function ``main``, and a description. Modules are imported only when needed."""


def usage() -> str:
    """The help text of the whole program."""
    width = max(map(len, COMMANDS))
    lines = [
        "usage: crystalgfn COMMAND [options]",
        "",
        "Discover crystals. A GFlowNet learns to sample them in proportion to a reward.",
        "",
        "commands:",
        *(f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()),
        "",
        "options:",
        f"  {'--help':<{width}}  show this text; 'crystalgfn COMMAND --help' shows the options of a command",
        f"  {'--version':<{width}}  show the version",
        f"  {'--debug':<{width}}  after a command, show the full traceback of an error",
    ]
    return "\n".join(lines)


def main(args: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        args: the command and its options; None for the arguments of the process.

    Returns:
        exit status: 0 after success, 1 after an unexpected error, 2 if the input has to be corrected, 128 + number
        after a signal.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        print(f"crystalgfn {__version__}")
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        from crystalgfn.checks import did_you_mean

        hint = did_you_mean(name, COMMANDS)
        print(
            f"crystalgfn: error: unknown command {name!r}{hint or ';'} allowed: {', '.join(COMMANDS)}", file=sys.stderr
        )
        return 2
    # This matters with more than one thread: a waiting thread spins for a fraction of a millisecond, then sleeps. If it
    # slept at once, most of a second core would be wasted; if it spun longer, other processes could not use the core.
    # torch reads the variable when it is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "100000")
    with _ends_cleanly():
        return _run(name, arguments, debug)


@contextmanager
def _ends_cleanly() -> Iterator[None]:
    """Make SIGTERM raise SystemExit. Otherwise it would end the process before temporary files are removed."""
    is_ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == SIG_DFL
    if is_ours:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGTERM, SIG_DFL)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _interrupted(name: str) -> int:
    print(f"crystalgfn {name}: interrupted", file=sys.stderr)
    return 130


def _run(name: str, arguments: list[str], debug: bool) -> int:
    from crystalgfn.errors import InputError, Stopped

    try:
        status = import_module(COMMANDS[name][0]).main(arguments if _is_lightning(name) else arguments[1:])
        return int(status or 0)
    except Stopped as stop:
        print(f"crystalgfn {name}: {stop.message}", file=sys.stderr)
        return int(str(stop.code))
    except SystemExit as stop:  # parsers end like this after their own message
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning ends like this after Ctrl-C
            return _interrupted(name)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        return _interrupted(name)
    except (InputError, OSError) as error:
        if debug:
            raise
        print(f"crystalgfn {name}: error: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        if debug:
            raise
        kind = type(error).__name__
        # Lightning raises this for a setting of the Trainer that it cannot use.
        is_setting = kind == "MisconfigurationException"
        hint = "" if is_setting else " (--debug shows the traceback)"
        print(f"crystalgfn {name}: error: {'' if is_setting else kind + ': '}{error}{hint}", file=sys.stderr)
        return 2 if is_setting else 1


def _is_lightning(name: str) -> bool:
    return COMMANDS[name][0] == "crystalgfn.commands.lightning"
