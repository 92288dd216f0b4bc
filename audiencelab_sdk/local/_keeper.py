"""The process that owns one other program; run by path, standard library only.

The first line on its stdin is the order, a JSON object: `command` (a list) and `environment`.
It runs the program until its stdin ends, which it does in whatever way the process at the other
end of the pipe ends. If the program ends first, the end of its output goes to stdout.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from typing import Any, NoReturn

PATIENCE = 5.0  # seconds between asking the program to end and ending it
TAIL = 2000  # bytes of its output that are shown


def run(command: list[str], environment: dict[str, str]) -> bytes:
    """Run the program until it or stdin ends, and return the end of its output."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(  # noqa: S603 - no shell, our own client's command
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        try:
            threading.Thread(target=_end_with_stdin, args=[process], daemon=True).start()
            process.wait()
        finally:
            _end(process)
        output.seek(max(output.tell() - TAIL, 0))
        return output.read()


def _end_with_stdin(process: subprocess.Popen[Any]) -> None:
    # The descriptor, because a thread that waits in sys.stdin's lock stops Python from ending.
    while os.read(sys.stdin.fileno(), 1):
        pass
    _end(process)


def _end(process: subprocess.Popen[Any]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)


def _leave(_number: int, _frame: object) -> NoReturn:
    raise SystemExit


def main() -> None:
    """Read the order, run the program, and show what it said if it ended by itself."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    order = json.loads(_first_line())
    try:
        said = run(order["command"], order["environment"])
    except OSError as error:
        said = str(error).encode()
    with contextlib.suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), said)


def _first_line() -> bytes:
    line = bytearray()
    while (byte := os.read(sys.stdin.fileno(), 1)) not in {b"", b"\n"}:
        line += byte
    return bytes(line)


if __name__ == "__main__":
    main()
