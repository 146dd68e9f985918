"""Run a function in a process of its own that can be killed: a hard time-out that works in any thread of any worker.

Signals reach only a main thread, and workers of clusters run tasks in others; compiled code does not listen to them at
all. So each thread that asks has one child process, kept between calls because importing CHGNet takes seconds. Parent
and child talk in lines of JSON. A child whose time is up is killed, and the next call starts a new one. A child whose
parent dies reads the end of its input and ends at once.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any

_START_TIMEOUT = 300.0
"""Seconds that a child may need to start, on a busy machine."""

_IDLE = 300.0
"""Seconds without a call after which a child ends: workers of a cluster live on when the work is done."""

_local = threading.local()
_children: weakref.WeakSet[_Child] = weakref.WeakSet()


class Failed(Exception):
    """The function raised, was too slow, or its process died; the message says which."""


def run(function: str, arguments: Mapping[str, Any], timeout: float) -> Any:
    """Call a function in this thread's child process.

    Args:
        function: ``module:name`` of a function of one argument. If the module has a function ``prepare``, the child
            calls it once before.
        arguments: that argument; values that JSON can hold.
        timeout: seconds of wall-clock time for the call; starting a child does not count.

    Returns:
        what the function returns, through JSON.

    Raises:
        Failed: if it raises, takes too long, or its process dies.
    """
    child: _Child | None = getattr(_local, "child", None)
    if child is None or not child.is_fresh() or child.function != function:
        stop()
        child = _local.child = _Child(function)
        _children.add(child)
    try:
        return child.call(arguments, timeout)
    except Failed:
        if not child.is_fresh():
            stop()
        raise


def attempt(function: str, task: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """`run` for a task with an ``id``; what goes wrong becomes the ``reason`` of the result.

    Such a result says in ``gave_up_after`` how many seconds it had. The function stands here, in
    a module that imports little, because each worker imports it.
    """
    try:
        result: dict[str, Any] = run(function, task, timeout)
    except Failed as error:
        return {"id": task["id"], "reason": f"not built: {error}", "seconds": None, "gave_up_after": timeout}
    return result


def stop() -> None:
    """End this thread's child process, if there is one."""
    child: _Child | None = getattr(_local, "child", None)
    if child is not None:
        child.kill()
        _local.child = None


@atexit.register
def _stop_all() -> None:
    for child in list(_children):
        child.kill()


class _Child:
    """A child process that waits for calls of one function."""

    def __init__(self, function: str) -> None:
        self.function = function
        # torch takes its number of threads from them: one, because each core has its own crystal.
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        environment = os.environ | one_thread
        # The child imports what the parent can, also where the parent's path was changed.
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "crystalgfn.atoms.isolated", function],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
        )  # fmt: skip
        self._buffer = b""
        self._used = time.monotonic()
        ready = self._read(_START_TIMEOUT)
        self._used = time.monotonic()
        if "error" in ready:
            self.kill()
            raise Failed(ready["error"])

    def is_fresh(self) -> bool:
        """Whether the process runs and is not about to end because it was idle."""
        return self._process.poll() is None and time.monotonic() - self._used < _IDLE / 2

    def kill(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def call(self, arguments: Mapping[str, Any], timeout: float) -> Any:
        """One call; raises `Failed`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(arguments).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Failed("the worker process has died") from None
        answer = self._read(timeout)
        self._used = time.monotonic()
        if "error" in answer:
            raise Failed(answer["error"])
        return answer["result"]

    def _read(self, timeout: float) -> dict[str, Any]:
        """One line of the child, within a time."""
        assert self._process.stdout is not None
        end = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                self._process.kill()
                self._process.wait()
                raise Failed(f"takes longer than {timeout:g} s")
            chunk = os.read(self._process.stdout.fileno(), 1 << 16)
            if not chunk:
                raise Failed(f"the worker process has died (status {self._process.wait()})")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _serve(function: str) -> None:
    """The child: read arguments, call the function, write results, until the input ends."""
    from importlib import import_module

    # Results have a channel of their own: libraries print.
    results = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def say(answer: dict[str, Any]) -> None:
        results.write(json.dumps(answer).encode() + b"\n")

    module, _, name = function.partition(":")
    try:
        loaded = import_module(module)
        call = getattr(loaded, name)
        getattr(loaded, "prepare", lambda: None)()
    except Exception as error:
        say({"error": f"{function}: {type(error).__name__}: {error}"})
        return
    say({})
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read_lines, args=(lines,), daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=_IDLE)
        except queue.Empty:
            os._exit(0)
        try:
            answer = {"result": call(json.loads(line))}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        say(answer)


def _read_lines(lines: queue.SimpleQueue[bytes]) -> None:
    """Pass on the input; end the whole process, whatever it is doing, when the parent is gone."""
    for line in sys.stdin.buffer:
        lines.put(line)
    os._exit(0)


if __name__ == "__main__":
    _serve(sys.argv[1])
