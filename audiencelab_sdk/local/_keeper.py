"""Keep a program running as long as this process, and no longer.

`Keeper` runs `_keeper_process.py` as a separate process and holds the other end of its stdin.
The pipe closes when this process ends, even if it is killed. The keeper process then stops the
program and cleans up after it.
"""

import contextlib
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_KEEPER_PROCESS = Path(__file__).with_name("_keeper_process.py")


class KeeperError(RuntimeError):
    """The program did not start; the message gives the reason."""


class Keeper:
    """A program that runs until `stop`, or until this process ends.

    Args:
        name: The program's name in error messages.
        file: The Python file that defines the class `Program`.
        options: The arguments of that class, as JSON values.
    """

    def __init__(self, name: str, file: Path, options: Mapping[str, object]) -> None:
        self._name = name
        self._order = {"file": str(file), "options": options}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, port: int = 0) -> int:
        """Start the program and return its port as soon as it is ready.

        Raises:
            KeeperError: The program did not start.
        """
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-I", "-S", str(_KEEPER_PROCESS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            start_new_session=True,  # Ctrl-C in a terminal must not reach the program directly
        )
        _running.add(self)
        try:
            return self._instruct(self._process, port)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the program and wait until it has ended. Does nothing if it is not running."""
        process, self._process = self._process, None
        if process is not None:
            _running.discard(self)
            _close_pipes(process)
            process.wait()

    def disown(self) -> None:
        """Close a forked child's copy of the pipe, which would keep the program running."""
        process, self._process = self._process, None
        if process is not None:
            _close_pipes(process)
            process.returncode = 0  # the parent process waits for it

    def _instruct(self, process: "subprocess.Popen[bytes]", port: int) -> int:
        line = instruct(process, self._order | {"port": port})
        if not line:
            raise KeeperError(
                f"The process that runs {self._name} exited before {self._name} was ready "
                f"(exit status {process.wait()})."
            )
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise KeeperError(reply["error"])
        return int(reply["port"])


def instruct(process: "subprocess.Popen[bytes]", order: Mapping[str, object]) -> bytes:
    """Send an order to a keeper process and return its reply, which is empty if it exited."""
    assert process.stdin is not None  # noqa: S101 - a pipe
    assert process.stdout is not None  # noqa: S101 - a pipe
    with contextlib.suppress(BrokenPipeError):  # it exited, so its reply is empty
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
    return process.stdout.readline()


def _close_pipes(process: "subprocess.Popen[bytes]") -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


_running: weakref.WeakSet[Keeper] = weakref.WeakSet()


def _disown_all() -> None:
    for keeper in list(_running):
        keeper.disown()
    _running.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_all)
