"""Start and stop a PostgREST, where the machine has one."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, get_args

import httpx

from audiencelab_sdk.local._errors import (
    LocalStackError,
    PostgrestNotFoundError,
    PostgrestStartError,
)
from audiencelab_sdk.local._supervisor import free_port
from audiencelab_sdk.local.rest.database import Settings

RestChoice = Literal["embedded", "postgrest"]

_START_TIMEOUT = 30.0
_PORT_ATTEMPTS = 5


def find_postgrest(choice: RestChoice | None) -> Path | None:
    """The program to run, or None for the REST application of this package.

    Args:
        choice: Which of the two is wanted; None for the program where there is one.

    Raises:
        LocalStackError: The choice is none of these.
        PostgrestNotFoundError: There is none, or `AUDIENCELAB_POSTGREST_BIN` names no program.
    """
    if choice not in {None, *get_args(RestChoice)}:
        raise LocalStackError(f"rest is 'embedded' or 'postgrest', and not {choice!r}.")
    if choice == "embedded":
        return None
    named = os.environ.get("AUDIENCELAB_POSTGREST_BIN")
    found = shutil.which(named or "postgrest")
    if found:
        return Path(found).absolute()
    if named:
        raise PostgrestNotFoundError(
            f"AUDIENCELAB_POSTGREST_BIN names {named}, which is not a program."
        )
    if choice == "postgrest":
        raise PostgrestNotFoundError(
            "There is no program postgrest on the PATH. Install PostgREST, or let "
            "AUDIENCELAB_POSTGREST_BIN name its program."
        )
    return None


class PostgrestServer:
    """A PostgREST on a free port of 127.0.0.1; it ends with the `with` block or this process.

    Args:
        program: The program.
        settings: What it serves, and how.

    Raises:
        PostgrestStartError: It did not start; the text ends with its output (from `start`).
    """

    def __init__(self, program: Path, settings: Settings) -> None:
        self._program = program
        self._settings = settings
        self._keeper: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start the program and return when it answers."""
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            self._port = free_port()
            said = self._launch()
            if said is None:
                return
            # Between the choice of a free port and its use another program may have taken it.
            if "in use" not in said or attempt == _PORT_ATTEMPTS:
                raise PostgrestStartError(f"{self._program} did not start:\n{said.strip()}")

    def stop(self) -> None:
        """Stop the program; nothing happens when it does not run."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.communicate()

    def _launch(self) -> str | None:
        """Start the program; None when it is ready, or what it said before it ended."""
        self._keeper = keeper = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("_keeper.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # a terminal's Ctrl-C is for us
        )
        order = {"command": [str(self._program)], "environment": self._environment()}
        assert keeper.stdin is not None  # noqa: S101 - a pipe
        try:
            keeper.stdin.write(json.dumps(order).encode() + b"\n")
            keeper.stdin.flush()
            return self._wait(keeper)
        except BaseException:
            self.stop()
            raise

    def _wait(self, keeper: subprocess.Popen[bytes]) -> str | None:
        deadline = time.monotonic() + _START_TIMEOUT
        while keeper.poll() is None:
            if self._is_ready():
                return None
            if time.monotonic() > deadline:
                raise PostgrestStartError(
                    f"{self._program} was not ready after {_START_TIMEOUT:.0f} s."
                )
            time.sleep(0.02)
        return keeper.communicate()[0].decode(errors="replace")

    def _is_ready(self) -> bool:
        try:
            # 503 while it still connects to the database and reads the schema.
            return httpx.head(self.url, timeout=5, trust_env=False).status_code != 503
        except httpx.TransportError:
            return False

    def _environment(self) -> dict[str, str]:
        # Settings of another PostgREST are not for this one.
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("PGRST_")
        }
        settings = self._settings
        return inherited | {
            "PGRST_DB_URI": settings.db_url,
            "PGRST_DB_SCHEMAS": ",".join(settings.schemas),
            "PGRST_DB_ANON_ROLE": settings.anonymous_role,
            "PGRST_DB_EXTRA_SEARCH_PATH": ",".join(settings.extra_search_path),
            "PGRST_DB_MAX_ROWS": str(settings.max_rows),
            "PGRST_DB_POOL": str(settings.pool_size),
            "PGRST_JWT_SECRET": settings.jwt_secret,
            "PGRST_LOG_LEVEL": "crit",
            "PGRST_SERVER_HOST": "127.0.0.1",
            "PGRST_SERVER_PORT": str(self._port),
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
