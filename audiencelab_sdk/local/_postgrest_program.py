"""PostgREST, as `_keeper_process.py` runs it; standard library only."""

import http.client
import signal
import subprocess
from collections.abc import Sequence
from typing import IO, Any

HOST = "127.0.0.1"


class Program:
    """A PostgREST that listens on loopback.

    Args:
        executable: The path of PostgREST.
        environment: Its environment variables, except host and port.
    """

    start_timeout = 30.0
    stop_signals: Sequence[tuple[signal.Signals, float]] = (
        (signal.SIGTERM, 5.0),
        (signal.SIGKILL, 5.0),
    )

    def __init__(self, executable: str, environment: dict[str, str]) -> None:
        self.name = executable
        self._environment = environment

    def prepare(self) -> None:
        """PostgREST needs nothing prepared."""

    def launch(self, port: int, output: IO[bytes]) -> "subprocess.Popen[Any]":
        """Start PostgREST on the port."""
        address = {"PGRST_SERVER_HOST": HOST, "PGRST_SERVER_PORT": str(port)}
        return subprocess.Popen(  # noqa: S603 - no shell, the executable is the caller's choice
            [self.name],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=self._environment | address,
        )

    def is_ready(self, port: int, _pid: int) -> bool:
        """Return whether PostgREST responds with anything but 503.

        It responds with 503 while it connects to the database and loads the schema cache.
        """
        connection = http.client.HTTPConnection(HOST, port, timeout=5)
        try:
            connection.request("HEAD", "/")
            return connection.getresponse().status != 503
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def explain(self, _output: str) -> None:
        """Leave the error message to the keeper."""

    def clean_up(self) -> None:
        """PostgREST leaves nothing behind."""
