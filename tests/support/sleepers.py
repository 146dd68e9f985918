"""Functions for tests of `crystalgfn.atoms.isolated`: one is too slow, one raises, one dies."""

import os
import time


def sleep(task):
    """Sleep ``seconds``; the time-out is to interrupt it."""
    time.sleep(task["seconds"])
    return {"id": task["id"], "reason": "", "process": os.getpid()}


def fail(task):
    """Raise."""
    raise RuntimeError("no atoms today")


def die(task):
    """End the process without a word, as the kernel does where memory runs out."""
    os._exit(9)


def talk(task):
    """Print, as libraries do, and return."""
    print("CHGNet will run on cpu")
    return {"id": task["id"], "reason": ""}


def stop_at_three(task):
    """Interrupt the run at its third crystal, once: a file says that it has happened."""
    from pathlib import Path

    mark = Path(task["mark"])
    if task["id"] == "row-3" and not mark.exists():
        mark.touch()
        time.sleep(60)
    return {"id": task["id"], "reason": "", "process": os.getpid()}
