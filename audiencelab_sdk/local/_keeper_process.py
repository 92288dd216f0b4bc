"""Run one program until stdin ends; run by path, standard library only.

The first line on stdin is the order, a JSON object: `file` (a Python file that defines a class
`Program`, and needs only the standard library, too), `options` (the arguments of that class) and
`port` (0 for a free one). The reply is one line of JSON on stdout, `{"port": 5433}` or
`{"error": "..."}`. At the end of stdin, the program is stopped.
"""

import contextlib
import importlib.util
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, NoReturn, Protocol

PORT_ATTEMPTS = 5
OUTPUT_BYTES = 10_000  # of the end of the program's output
OUTPUT_LINES = 15  # of those, in an error message


class StartError(RuntimeError):
    """The program did not start; the message gives the reason."""


class Program(Protocol):
    """A program that listens on a TCP port: the interface of the class that an order names.

    Its methods raise `RuntimeError` or `OSError` with a message for the owner of the keeper.

    Attributes:
        name: The program's name in error messages.
        start_timeout: Seconds within which the program must be ready.
        stop_signals: The signals that stop it, in order, and the seconds to wait after each.
    """

    name: str
    start_timeout: float
    stop_signals: Sequence[tuple[signal.Signals, float]]

    def prepare(self) -> None:
        """Create what the program needs. Called once, before the first launch."""

    def launch(self, port: int, output: IO[bytes], /) -> "subprocess.Popen[Any]":
        """Start the program on the port, with stdout and stderr going to `output`."""
        ...

    def is_ready(self, port: int, pid: int, /) -> bool:
        """Return whether the launched program accepts requests."""
        ...

    def explain(self, output: str, /) -> str | None:
        """Return an error message for a program that exited with this output, if one fits."""

    def clean_up(self) -> None:
        """Delete what `prepare` created. Called once, even if `prepare` failed."""


class Runner:
    """Starts and stops one program.

    Args:
        program: The program.
        pause: Called between two checks whether the program is ready, with the seconds to sleep.
    """

    def __init__(self, program: Program, pause: Callable[[float], None] = time.sleep) -> None:
        self._program = program
        self._pause = pause
        self._process: subprocess.Popen[Any] | None = None

    def start(self, port: int) -> int:
        """Start the program, on a free port if `port` is 0, and return its port when ready.

        Raises:
            StartError: The program exited or was not ready in time.
        """
        self._program.prepare()
        attempt = 1
        while True:
            chosen = port or free_port()
            output = self._launch(chosen)
            if output is None:
                return chosen
            # Another program may have taken the port since it was chosen.
            taken = not port and "address already in use" in output.lower()
            if not taken or attempt == PORT_ATTEMPTS:
                raise StartError(
                    self._program.explain(output)
                    or f"{self._program.name} did not start on port {chosen}:\n{_tail(output)}"
                )
            attempt += 1

    def stop(self) -> None:
        """Stop the program, if it runs, and clean up after it."""
        if self._process is not None:
            for number, patience in self._program.stop_signals:
                if self._process.poll() is not None:
                    break
                self._process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(patience)
        self._program.clean_up()

    def reap(self, *_: object) -> None:
        """Collect the exit status of a program that has exited, so that it leaves no zombie."""
        if self._process is not None:
            self._process.poll()

    def _launch(self, port: int) -> str | None:
        """Start the program and return None when it is ready, or its output if it exits."""
        program = self._program
        with tempfile.TemporaryFile() as output:
            self._process = process = program.launch(port, output)
            deadline = time.monotonic() + program.start_timeout
            while process.poll() is None:
                if program.is_ready(port, process.pid):
                    return None
                if time.monotonic() > deadline:
                    raise StartError(
                        f"{program.name} was not ready after {program.start_timeout:.0f} s:\n"
                        f"{_tail(_read_end(output))}"
                    )
                self._pause(0.01)
            return _read_end(output)


def free_port() -> int:
    """Return a TCP port of the loopback interface that is not in use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _read_end(output: IO[bytes]) -> str:
    size = os.fstat(output.fileno()).st_size
    # The program shares the file's position, which pread does not change.
    return os.pread(output.fileno(), OUTPUT_BYTES, max(size - OUTPUT_BYTES, 0)).decode(
        errors="replace"
    )


def _tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-OUTPUT_LINES:])


def _load(file: str, options: Mapping[str, Any]) -> Program:
    spec = importlib.util.spec_from_file_location("program", file)
    assert spec is not None  # noqa: S101 - the name ends with .py
    assert spec.loader is not None  # noqa: S101 - likewise
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    program: Program = module.Program(**options)
    return program


def _pause(seconds: float) -> None:
    # Nothing follows the order on stdin, so stdin is readable only at its end.
    if select.select([sys.stdin], [], [], seconds)[0]:
        raise SystemExit


def _leave(_number: int, _frame: object) -> NoReturn:
    raise SystemExit


def main() -> None:
    """Read the order, start the program, reply, and stop the program at the end of stdin."""
    endings = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in endings:
        signal.signal(number, _leave)
    order = json.loads(sys.stdin.buffer.readline())
    runner = Runner(_load(order["file"], order["options"]), _pause)
    try:
        try:
            reply: dict[str, object] = {"port": runner.start(order["port"])}
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            reply = {"error": str(error)}
        # If the owner has ended, so has stdin.
        with contextlib.suppress(BrokenPipeError):
            os.write(sys.stdout.fileno(), json.dumps(reply).encode() + b"\n")
        if "port" in reply:
            signal.signal(signal.SIGCHLD, runner.reap)
            sys.stdin.buffer.read()
    finally:
        for number in endings:
            signal.signal(number, signal.SIG_IGN)
        runner.stop()


if __name__ == "__main__":
    main()
