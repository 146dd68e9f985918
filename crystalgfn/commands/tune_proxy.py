"""``crystalgfn tune-proxy``: continue training a property network with new rows."""

from __future__ import annotations


def main(args: list[str]) -> int:
    """Run the command.

    Args:
        args: what follows ``tune-proxy``: ``--new TABLE``, ``--weights FILE``, ``--data.path TABLE``, ``--out FILE``,
            ... Each parameter of `crystalgfn.proxies.network.tuning_run.tune_proxy` is an option.

    Returns:
        exit status 0.

    Raises:
        InputError: if a table, the weights or a setting cannot be used.
        SystemExit: with status 2 if the options cannot be parsed, with 0 after ``--help``.
    """
    from crystalgfn.commands.train_proxy import run
    from crystalgfn.proxies.network.tuning_run import tune_proxy

    return run(tune_proxy, "tune-proxy", "Continue training a property network with new rows of a table.", args)
