"""Run a function in a child process with a time limit. The limit works in every thread of every kind of worker.

Signals cannot enforce the limit: only the main thread receives them, workers of clusters run tasks in other threads,
and compiled code does not react to signals. Each calling thread therefore has one child process. The child is kept
between calls because importing a potential takes seconds. Parent and child exchange lines of JSON. A child that exceeds
the limit is killed, and the next call starts a new child. When the parent dies, the child's input ends, and the child
exits at once.
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
"""Seconds that a child may take to start, or to prepare a call; a busy machine needs long."""

_IDLE = 300.0
"""Seconds without a call after which a child exits. Without this limit, children of cluster workers would remain."""

_local = threading.local()
_children: weakref.WeakSet[_Child] = weakref.WeakSet()


class Failed(Exception):
    """The function raised an exception or was too slow, or its process died. The message says which."""


def run(function: str, arguments: Mapping[str, Any], timeout: float) -> Any:
    """Call a function in this thread's child process.

    Args:
        function: ``module:name`` of a function with one argument. If the module has a function ``prepare``, the child
            calls it with the same argument before.
        arguments: the argument of the function; it must be possible to write it as JSON.
        timeout: seconds of wall-clock time for the call. The time to start a child and to prepare does not count.

    Returns:
        the return value of the function, converted to JSON and back.

    Raises:
        Failed: if the function raises an exception or takes too long, or if its process dies.
    """
    child: _Child | None = getattr(_local, "child", None)
    if child is None or not child.is_fresh() or child.function != function:
        stop()
        child = _local.child = _Child(function)
        _children.add(child)
    try:
        child.call("prepare", arguments, _START_TIMEOUT)
        return child.call("work", arguments, timeout)
    except Failed:
        if not child.is_fresh():
            stop()
        raise


def attempt(function: str, task: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """Call `run` for a task. A failure does not raise an exception but gives a result with a ``reason``.

    This function is in this module because each worker imports the module, and it imports little.

    Args:
        function: ``module:name`` of a function that returns a mapping.
        task: the argument of the function, with an ``id``.
        timeout: seconds of wall-clock time for the call.

    Returns:
        the return value of the function. After a failure: ``id``, ``reason``, ``seconds`` (None) and
        ``gave_up_after``, which is ``timeout``.
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
        # These variables set the number of threads of torch. One is enough because each core has its own crystal.
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        environment = os.environ | one_thread
        # The child can then import the same modules as the parent, even if the parent's sys.path was changed.
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
        """Whether the process is running and will not exit soon because it was idle."""
        return self._process.poll() is None and time.monotonic() - self._used < _IDLE / 2

    def kill(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def call(self, what: str, arguments: Mapping[str, Any], timeout: float) -> Any:
        """Call ``prepare`` or the function (``work``) once; raises `Failed` if the call fails."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([what, arguments]).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Failed("the worker process has died") from None
        answer = self._read(timeout)
        self._used = time.monotonic()
        if "error" in answer:
            raise Failed(answer["error"])
        return answer["result"]

    def _read(self, timeout: float) -> dict[str, Any]:
        """Read one line from the child; raises `Failed` after ``timeout`` seconds."""
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
    """Main loop of the child: read arguments, call the function and write the result, until the input ends."""
    from importlib import import_module

    # Libraries may print. Their output goes to standard error, so that it does not mix with the results.
    results = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def say(answer: dict[str, Any]) -> None:
        results.write(json.dumps(answer).encode() + b"\n")

    module, _, name = function.partition(":")
    try:
        loaded = import_module(module)
        functions = {"work": getattr(loaded, name), "prepare": getattr(loaded, "prepare", lambda _: None)}
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
            what, arguments = json.loads(line)
            answer = {"result": functions[what](arguments)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        say(answer)


def _read_lines(lines: queue.SimpleQueue[bytes]) -> None:
    """Put input lines into a queue. The input ends when the parent has gone; then end the whole process at once."""
    for line in sys.stdin.buffer:
        lines.put(line)
    os._exit(0)


if __name__ == "__main__":
    _serve(sys.argv[1])
