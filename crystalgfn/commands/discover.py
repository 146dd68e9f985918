"""``crystalgfn discover``: rounds in which a GFlowNet samples, CHGNet judges, and the proxy learns."""

from __future__ import annotations

from crystalgfn.discovery.settings import Run

DESCRIPTION = "Sample, screen, evaluate with CHGNet, teach the proxy, train on; the same command goes on."


def main(args: list[str]) -> int:
    """Run the command.

    Args:
        args: what follows ``discover``: ``--config configs/discover.yaml [...]``.

    Returns:
        exit status 0.

    Raises:
        InputError: for settings, files or a database that cannot be used.
        SystemExit: with status 2 for options that cannot be parsed, with 0 after ``--help``.
    """
    from crystalgfn.atoms import require_extra
    from crystalgfn.settings import parse_function

    # Settings of training, not objects: each round makes its own, with another proxy.
    values = parse_function("crystalgfn discover", DESCRIPTION, Run, args, plain=("fit",))
    require_extra()
    from crystalgfn.discovery.loop import run

    run(Run(**values), _print)
    return 0


def _print(line: str) -> None:
    from tqdm import tqdm

    tqdm.write(line)  # above the bar
