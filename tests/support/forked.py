"""Commands in forked processes, which share the imports and can be killed, and what runs leave behind."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

from crystalgfn.cli import main


class Command:
    """A command of crystalgfn in a forked process.

    Args:
        args: the command and its options.
        log: file for what it prints.
        prepare: called in the process before the command.
    """

    def __init__(self, args, log: Path, prepare: Callable[[], None] = lambda: None) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.log = log
        self.pid = os.fork()
        if self.pid == 0:
            status = 99
            try:
                handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(handle, 1)
                os.dup2(handle, 2)
                sys.stdout = os.fdopen(1, "w", buffering=1)
                sys.stderr = os.fdopen(2, "w", buffering=1)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                prepare()
                status = main([str(argument) for argument in args])
                sys.stdout.flush()
                sys.stderr.flush()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)

    def wait(self, seconds: float = 120.0) -> int:
        """The exit status; minus the signal for a process that one ended."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        self.signal(signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise TimeoutError(self.text)

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    @property
    def text(self) -> str:
        return self.log.read_text()


def scalars(run: Path) -> dict[tuple[str, int], float]:
    """All that the versions of a run logged, by tag and step; repeated steps must repeat their values."""
    found: dict[tuple[str, int], float] = {}
    for path in sorted(run.glob("version_*/events*")):
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    key = value.tag, event.step
                    first = found.setdefault(key, value.simple_value)
                    assert first == value.simple_value or math.isnan(first), key
    return found


def assert_same(one, other, where="checkpoint"):
    """Two nested values are equal, tensors bit for bit."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}[{index}]")
    else:
        assert one == other, where


def assert_same_state(one: Path, other: Path, *left_out: str) -> None:
    """Two checkpoints hold the same state of training: networks, buffers, optimiser, generators, metrics."""
    first, second = (torch.load(path, weights_only=True) for path in (one, other))
    for content in (first, second):
        # Settings, which name the folder of the logs, and Lightning's own counts.
        for name in ("crystalgfn", "loops", "epoch", *left_out):
            del content[name]
    assert_same(first, second)
