"""PostgreSQL, as `_keeper_process.py` runs it; standard library only."""

import contextlib
import fcntl
import locale
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

OLDEST_VERSION = 15
NOT_NEEDED_TO_RUN = shutil.ignore_patterns("*.a", "pgxs", "pkgconfig", "doc", "man", "include")


class StartError(RuntimeError):
    """PostgreSQL cannot be started; the message gives the reason."""


class Program:
    """One PostgreSQL cluster, in a temporary folder or in a data folder.

    A data folder holds `data`, the cluster, and `password`, the superuser's password. The password
    is written last, so a folder without it holds no complete cluster.

    Args:
        bin_dir: The folder with `initdb` and `postgres`.
        password: The password of the superuser `supabase_admin`, if the cluster is new.
        settings: Settings as in postgresql.conf.
        data_dir: The data folder, or None for a temporary cluster.
    """

    name = "PostgreSQL"
    start_timeout = 60.0
    stop_signals: Sequence[tuple[signal.Signals, float]] = (
        (signal.SIGINT, 10.0),  # fast shutdown
        (signal.SIGQUIT, 5.0),  # immediate shutdown
        (signal.SIGKILL, 5.0),
    )

    def __init__(
        self, bin_dir: str, password: str, settings: dict[str, str], data_dir: str | None = None
    ) -> None:
        self._bin_dir = Path(bin_dir)
        self._password = password
        self._settings = settings
        self._data_dir = Path(data_dir) if data_dir else None
        self._data = Path()
        self._version = ""
        self._folder: Path | None = None
        self._user: pwd.struct_passwd | None = None

    def prepare(self) -> None:
        """Find or create the cluster.

        Raises:
            StartError: The data folder, the temporary folder or the programs cannot be used.
        """
        if os.geteuid() == 0:
            self._user = _unprivileged_user(self._data_dir)
        folder = self._make_folder()
        self._bin_dir = self._usable_programs(folder)
        if self._data_dir is None:
            self._data = folder / "data"
            self._create_cluster(folder)
        else:
            self._data = self._data_dir / "data"
            self._open_data_dir(folder, self._data_dir)

    def launch(self, port: int, output: IO[bytes]) -> "subprocess.Popen[Any]":
        """Start `postgres` on the port."""
        settings = self._settings | {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",
        }
        arguments = [part for pair in settings.items() for part in ("-c", "=".join(pair))]
        return subprocess.Popen(  # noqa: S603 - no shell, our own arguments
            [self._bin_dir / "postgres", "-D", self._data, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=self._environment(),
            **self._identity(),
        )

    def is_ready(self, _port: int, pid: int) -> bool:
        """Return whether the server accepts connections.

        The eighth line of `postmaster.pid` is the status. The first line is the process id, which
        tells this server's file from one that a crash left behind.
        """
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def explain(self, output: str) -> str | None:
        """Return the error message for a data folder that another server uses."""
        if 'lock file "postmaster.pid" already exists' in output:
            return f"{self._data_dir} is in use by another PostgreSQL server."
        return None

    def clean_up(self) -> None:
        """Delete the temporary folder."""
        if self._folder is not None:
            _delete(self._folder)

    def _make_folder(self) -> Path:
        # TMPDIR may be closed to all users but root.
        for parent in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 - mkdtemp is safe there
            self._folder = folder = Path(tempfile.mkdtemp(prefix="audiencelab-", dir=parent))
            self._give_to_user(folder)
            if self._is_writable(folder):
                return folder
            folder.rmdir()
            self._folder = None
        raise StartError(
            "PostgreSQL does not run as root, and the user who runs it instead can write to "
            f"neither {tempfile.gettempdir()} nor /tmp. Set TMPDIR to a folder that every user "
            "can reach."
        )

    def _usable_programs(self, folder: Path) -> Path:
        """Return the programs' folder, or a copy of it that the user can read."""
        bin_dir = self._bin_dir
        try:
            version = self._run(bin_dir / "postgres", "--version")
        except PermissionError:
            if self._user is None:
                raise
            installation = folder / "postgresql"
            shutil.copytree(bin_dir.parent, installation, symlinks=True, ignore=NOT_NEEDED_TO_RUN)
            self._give_to_user(installation)
            bin_dir = installation / bin_dir.name
            version = self._run(bin_dir / "postgres", "--version")
        found = re.search(r"\(PostgreSQL\) (\d+)", version.stdout)
        if version.returncode or found is None:
            raise StartError(f"{bin_dir / 'postgres'} does not run:\n{version.stdout.strip()}")
        self._version = found[1]
        if int(self._version) < OLDEST_VERSION:
            raise StartError(
                f"{bin_dir} holds PostgreSQL {self._version}; {OLDEST_VERSION} or later is needed."
            )
        return bin_dir

    def _open_data_dir(self, folder: Path, data_dir: Path) -> None:
        """Lock the data folder and create a cluster in it if it is empty."""
        if _claim(data_dir):
            version = (self._data / "PG_VERSION").read_text().strip()
            if version != self._version:
                raise StartError(
                    f"{data_dir} holds data of PostgreSQL {version}, but {self._bin_dir} is "
                    f"PostgreSQL {self._version}. Use another folder, or set "
                    f"AUDIENCELAB_POSTGRES_BIN to the programs of PostgreSQL {version}."
                )
            self._require_writable(self._data)
            return
        try:
            self._create_cluster(folder)
            password = data_dir / "password.new"
            password.touch(mode=0o600)
            password.write_text(self._password)
            password.rename(data_dir / "password")
        except BaseException:
            shutil.rmtree(self._data, ignore_errors=True)
            raise

    def _create_cluster(self, folder: Path) -> None:
        self._data.mkdir(mode=0o700)
        self._give_to_user(self._data)
        self._require_writable(self._data)
        password_file = folder / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self._password)
        self._give_to_user(password_file)
        result = self._run(
            self._bin_dir / "initdb",
            f"--pgdata={self._data}",
            "--username=supabase_admin",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale-provider=libc",
            f"--locale={_utf8_locale()}",
            "--no-instructions",
            "--no-sync",
        )
        password_file.unlink()
        if result.returncode:
            raise StartError(f"initdb failed:\n{result.stdout.strip()}")

    def _give_to_user(self, tree: Path) -> None:
        if self._user is not None:
            for path in (tree, *tree.rglob("*")):
                os.chown(path, self._user.pw_uid, self._user.pw_gid, follow_symlinks=False)

    def _require_writable(self, folder: Path) -> None:
        if self._user is not None and not self._is_writable(folder):
            raise StartError(
                f"PostgreSQL does not run as root, and the user {self._user.pw_name!r} cannot "
                f"write to {folder}. Use a folder that every user can reach."
            )

    def _is_writable(self, folder: Path) -> bool:
        """Return whether the user who runs PostgreSQL can write to the folder."""
        if self._user is None:
            return True
        try:
            check = self._run("/bin/sh", "-c", 'test -w "$0"', str(folder))
        except OSError as error:
            raise StartError(
                "PostgreSQL does not run as root, and this process cannot switch to the user "
                f"{self._user.pw_name!r}: {error}"
            ) from error
        return check.returncode == 0

    def _run(self, *command: str | Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(  # noqa: S603 - no shell, our own arguments
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",  # the user may not have access to the current one
            env=self._environment(),
            text=True,
            errors="replace",
            check=False,
            **self._identity(),
        )

    def _identity(self) -> dict[str, Any]:
        if self._user is None:
            return {}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}

    def _environment(self) -> dict[str, str]:
        # Inherits nothing: PGDATA, PGPORT or the caller's locale would change the result.
        environment = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
        icu_data = self._bin_dir.parent / "share" / "icu"  # musl builds ship their own
        return environment | ({"ICU_DATA": str(icu_data)} if icu_data.is_dir() else {})


def _delete(folder: Path) -> None:
    # A server process that is still exiting may write a file meanwhile.
    for _ in range(20):
        with contextlib.suppress(OSError):
            return shutil.rmtree(folder)
        time.sleep(0.1)
    return shutil.rmtree(folder)


def _claim(data_dir: Path) -> bool:
    """Lock the data folder until this process ends, and return whether it holds a cluster.

    Raises:
        StartError: Another stack holds the lock, or the folder holds other files.
    """
    try:
        data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    except FileExistsError:
        raise StartError(f"{data_dir} is not a folder.") from None
    try:
        # The descriptor stays open, because closing it would release the lock.
        fcntl.flock(os.open(data_dir, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StartError(f"{data_dir} is in use by another stack.") from None
    if (data_dir / "password").is_file() and (data_dir / "data" / "PG_VERSION").is_file():
        return True
    if any(data_dir.iterdir()):
        raise StartError(
            f"{data_dir} is not empty and does not hold the data of a stack. "
            "Use an empty folder or one that does not exist yet."
        )
    return False


def _unprivileged_user(data_dir: Path | None) -> pwd.struct_passwd:
    data = data_dir / "data" if data_dir else None
    if data and data.is_dir() and data.stat().st_uid != 0:
        with contextlib.suppress(KeyError):
            return pwd.getpwuid(data.stat().st_uid)
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise StartError(
        "PostgreSQL does not run as root, and there is no user 'postgres' or 'nobody' to run it."
    )


def _utf8_locale() -> str:
    """Return `C.UTF-8`, or `C` on a system without that locale."""
    try:
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    except locale.Error:
        return "C"
    return "C.UTF-8"
