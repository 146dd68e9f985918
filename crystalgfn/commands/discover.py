"""``crystalgfn discover``: rounds of sampling with a GFlowNet, evaluating with a potential and training the proxy."""

from __future__ import annotations

from crystalgfn.commands.workers import told_if_stopped
from crystalgfn.discovery.settings import Run

DESCRIPTION = (
    "Discover crystals in rounds: sample, choose samples, evaluate them with a potential, train the proxy on the "
    "results, and continue training the GFlowNet. The same command continues a stopped run."
)


def main(args: list[str]) -> int:
    """Run the command.

    Args:
        args: what follows ``discover``: ``--config configs/discover.yaml [...]``.

    Returns:
        exit status 0.

    Raises:
        InputError: if a setting, a file or the database cannot be used.
        SystemExit: with status 2 if the options cannot be parsed, with 0 after ``--help``.
    """
    from crystalgfn.atoms import require_extra
    from crystalgfn.settings import parse_function

    # ``fit`` stays plain settings because each round makes its own objects from them, with another proxy.
    values = parse_function("crystalgfn discover", DESCRIPTION, Run, args, plain=("fit",))
    require_extra()
    from crystalgfn.discovery.loop import run

    settings = Run(**values)
    with told_if_stopped(lambda: f"what is finished is kept in {settings.out}; the same command continues the run"):
        run(settings, _print)
    return 0


def _print(line: str) -> None:
    from tqdm import tqdm

    tqdm.write(line)  # above the progress bar
