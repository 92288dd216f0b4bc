"""The process that owns one embedded PostgreSQL server; run by path, standard library only.

`PostgresServer` starts it with two pipes. The first line on its stdin is the order, a JSON object:
`bin` (the folder of the programs), `port` (0 for a free one), `password` (of a new cluster's
superuser `supabase_admin`), `settings` (name to value) and `data_dir` (where the data stays, or
null). It answers with one line of JSON on its stdout, `{"port": 5433, "password": "..."}` or
`{"error": "..."}`, and then waits for the end of its stdin.

However the process that holds the other end of that pipe comes to its end, killed outright
included, the pipe closes: PostgreSQL is stopped and its temporary folder deleted, in this one
place.
"""

import contextlib
import fcntl
import json
import locale
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

HOST = "127.0.0.1"
OLDEST_VERSION = 15
PORT_ATTEMPTS = 5
START_TIMEOUT = 60.0
STOP_SIGNALS = (  # fast shutdown, immediate shutdown, and the last resort; seconds to wait for each
    (signal.SIGINT, 10.0),
    (signal.SIGQUIT, 5.0),
    (signal.SIGKILL, 5.0),
)
NOT_NEEDED_TO_RUN = shutil.ignore_patterns("*.a", "pgxs", "pkgconfig", "doc", "man", "include")


class StartError(Exception):
    """PostgreSQL cannot be started; the text says why."""


class Server:
    """One PostgreSQL cluster, in a temporary folder or in one that stays.

    A folder that stays holds `data`, the cluster, and `password`, the superuser's, which is
    written last: without it the folder is not taken for a cluster of ours.

    Args:
        programs: The folder with `initdb` and `postgres`.
        port: The port to listen on, 0 for a free one.
        password: The password of the superuser `supabase_admin`, if the cluster is new.
        settings: Further settings, as in postgresql.conf.
        data_dir: The folder that stays, or None.
    """

    def __init__(
        self,
        programs: Path,
        port: int,
        password: str,
        settings: dict[str, str],
        data_dir: Path | None = None,
    ) -> None:
        self.password = password
        self._programs = programs
        self._port = port
        self._settings = settings
        self._data_dir = data_dir
        self._version = ""
        self._folder: Path | None = None
        self._process: subprocess.Popen[Any] | None = None
        self._user = user = _unprivileged_user(data_dir) if os.geteuid() == 0 else None
        self._identity: dict[str, Any] = (
            {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
        )

    def start(self) -> int:
        """Start the server, on a new cluster if there is none, and return its port when ready.

        Raises:
            StartError: The text says why, with the end of PostgreSQL's own output.
        """
        folder = self._make_folder()
        self._programs = self._usable_programs(folder)
        data = self._find_cluster(folder)
        attempt = 1
        while True:
            port = self._port or free_port()
            if self._launch(folder, data, port):
                return port
            log = _log(folder)
            if 'lock file "postmaster.pid" already exists' in log:
                raise StartError(f"{self._data_dir} is in use by another PostgreSQL server.")
            # Between the choice of a free port and its use another program may have taken it.
            taken = not self._port and "Address already in use" in log
            if not taken or attempt == PORT_ATTEMPTS:
                raise StartError(f"PostgreSQL did not start on port {port}:\n{_tail(log)}")
            attempt += 1

    def stop(self) -> None:
        """Stop the server and delete its temporary folder, if there is one."""
        if self._process is not None:
            for number, patience in STOP_SIGNALS:
                if self._process.poll() is not None:
                    break
                self._process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(patience)
        if self._folder is not None:
            _delete(self._folder)

    def _make_folder(self) -> Path:
        # TMPDIR may lie where only root can go.
        for place in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 - mkdtemp is safe there
            self._folder = folder = Path(tempfile.mkdtemp(prefix="audiencelab-", dir=place))
            self._give_to_user(folder)
            if self._reaches(folder):
                return folder
            folder.rmdir()
            self._folder = None
        raise StartError(
            f"PostgreSQL refuses to run as root, and another user can reach neither "
            f"{tempfile.gettempdir()} nor /tmp. Set TMPDIR to a folder that every user can reach."
        )

    def _find_cluster(self, folder: Path) -> Path:
        """The cluster's folder, made if need be."""
        place = self._data_dir
        if place is None:
            self._create_cluster(folder, folder / "data")
            return folder / "data"
        data = place / "data"
        if _claim(place):
            self.password = (place / "password").read_text()
            version = (data / "PG_VERSION").read_text().strip()
            if version != self._version:
                raise StartError(
                    f"{place} holds data of PostgreSQL {version}, but {self._programs} is "
                    f"PostgreSQL {self._version}. Name another folder, or let "
                    f"AUDIENCELAB_POSTGRES_BIN name the programs of PostgreSQL {version}."
                )
            self._require_reach(data)
            return data
        try:
            self._create_cluster(folder, data)
            password = place / "password.new"
            password.touch(mode=0o600)
            password.write_text(self.password)
            password.rename(place / "password")
        except BaseException:
            shutil.rmtree(data, ignore_errors=True)
            raise
        return data

    def _require_reach(self, data: Path) -> None:
        if self._user is not None and not self._reaches(data):
            raise StartError(
                f"PostgreSQL refuses to run as root, and the user {self._user.pw_name!r} cannot "
                f"write to {data}. Name a folder that every user can reach."
            )

    def _reaches(self, folder: Path) -> bool:
        """Whether the user who runs PostgreSQL can write to the folder."""
        if self._user is None:
            return True
        try:
            check = self._run("/bin/sh", "-c", 'test -w "$0"', str(folder), cwd=Path("/"))
        except OSError as error:
            raise StartError(
                "PostgreSQL refuses to run as root, and this process may not hand over to the "
                f"user {self._user.pw_name!r}: {error}"
            ) from error
        return check.returncode == 0

    def _usable_programs(self, folder: Path) -> Path:
        """The programs' folder, or a copy where the user who runs PostgreSQL can read it."""
        programs = self._programs
        try:
            version = self._run(programs / "postgres", "--version", cwd=folder)
        except PermissionError:
            if self._user is None:
                raise
            installation = folder / "postgresql"
            shutil.copytree(programs.parent, installation, symlinks=True, ignore=NOT_NEEDED_TO_RUN)
            self._give_to_user(installation)
            programs = installation / programs.name
            version = self._run(programs / "postgres", "--version", cwd=folder)
        found = re.search(r"\(PostgreSQL\) (\d+)", version.stdout)
        if version.returncode or found is None:
            raise StartError(f"{programs / 'postgres'} does not run:\n{_tail(version.stdout)}")
        self._version = found[1]
        if int(self._version) < OLDEST_VERSION:
            raise StartError(
                f"{programs} holds PostgreSQL {self._version}; {OLDEST_VERSION} or later is needed."
            )
        return programs

    def _give_to_user(self, tree: Path) -> None:
        if self._user is not None:
            for path in (tree, *tree.rglob("*")):
                os.chown(path, self._user.pw_uid, self._user.pw_gid, follow_symlinks=False)

    def _create_cluster(self, folder: Path, data: Path) -> None:
        data.mkdir(mode=0o700)
        self._give_to_user(data)
        self._require_reach(data)
        password_file = folder / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        self._give_to_user(password_file)
        result = self._run(
            self._programs / "initdb",
            f"--pgdata={data}",
            "--username=supabase_admin",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale-provider=libc",
            f"--locale={_utf8_locale()}",
            "--no-instructions",
            "--no-sync",
            cwd=folder,
        )
        password_file.unlink()
        if result.returncode:
            raise StartError(f"initdb failed:\n{_tail(result.stdout)}")

    def _launch(self, folder: Path, data: Path, port: int) -> bool:
        settings = self._settings | {
            "listen_addresses": HOST,
            "port": str(port),
            "unix_socket_directories": "",
        }
        arguments = [part for pair in settings.items() for part in ("-c", "=".join(pair))]
        with (folder / "postgres.log").open("wb") as log:
            self._process = process = subprocess.Popen(  # noqa: S603 - no shell, our own arguments
                [self._programs / "postgres", "-D", data, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=self._environment(),
                **self._identity,
            )
        deadline = time.monotonic() + START_TIMEOUT
        while process.poll() is None:
            if _is_ready(data / "postmaster.pid", process.pid):
                return True
            if time.monotonic() > deadline:
                raise StartError(
                    f"PostgreSQL was not ready after {START_TIMEOUT:.0f} s:\n{_tail(_log(folder))}"
                )
            time.sleep(0.005)
        return False

    def _run(self, *command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - no shell, our own arguments
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=self._environment(),
            text=True,
            errors="replace",
            check=False,
            **self._identity,
        )

    def _environment(self) -> dict[str, str]:
        # Nothing of the caller's: PGDATA, PGPORT or a foreign locale would change what happens.
        environment = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
        icu_data = self._programs.parent / "share" / "icu"  # musl builds bring their own
        return environment | ({"ICU_DATA": str(icu_data)} if icu_data.is_dir() else {})


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _claim(place: Path) -> bool:
    """Take a folder that stays, for as long as this process lives, and say if it has a cluster.

    Raises:
        StartError: Another stack has it, or it holds something else.
    """
    try:
        place.mkdir(mode=0o711, parents=True, exist_ok=True)
    except FileExistsError:
        raise StartError(f"{place} is not a folder.") from None
    try:
        # Never closed: the lock ends with the process.
        fcntl.flock(os.open(place, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StartError(f"{place} is in use by another stack.") from None
    if (place / "password").is_file() and (place / "data" / "PG_VERSION").is_file():
        return True
    if any(place.iterdir()):
        raise StartError(
            f"{place} is not empty, and what it holds is not the data of a stack. "
            "Name another folder, or a new one."
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
        "PostgreSQL refuses to run as root, and there is neither a user 'postgres' nor 'nobody'."
    )


def _utf8_locale() -> str:
    """`C.UTF-8`, or plain `C` where the system has no such locale."""
    try:
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    except locale.Error:
        return "C"
    return "C.UTF-8"


def _is_ready(pid_file: Path, pid: int) -> bool:
    """Whether the server says, on the eighth line of its pid file, that it takes connections.

    The first line tells whether the file is its own, and not one that a crash has left behind.
    """
    try:
        lines = pid_file.read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _log(folder: Path) -> str:
    return (folder / "postgres.log").read_text(errors="replace")


def _tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-15:])


def _delete(folder: Path) -> None:
    # A process of the cluster that is just ending may still put a file into it.
    for _ in range(20):
        with contextlib.suppress(OSError):
            return shutil.rmtree(folder)
        time.sleep(0.1)
    return shutil.rmtree(folder)


def _leave(_number: int, _frame: object) -> NoReturn:
    raise SystemExit


def main() -> None:
    """Read the order, start the server, report, and stop it when stdin ends."""
    endings = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in endings:
        signal.signal(number, _leave)
    order = json.loads(sys.stdin.buffer.readline())
    server = None
    try:
        try:
            place = order.get("data_dir")
            server = Server(
                Path(order["bin"]),
                order["port"],
                order["password"],
                order["settings"],
                Path(place) if place else None,
            )
            report: dict[str, object] = {"port": server.start(), "password": server.password}
        except (StartError, OSError, subprocess.SubprocessError) as error:
            report = {"error": str(error)}
        # Nobody may be left to read the report; the end of stdin then follows at once.
        with contextlib.suppress(BrokenPipeError):
            os.write(sys.stdout.fileno(), json.dumps(report).encode() + b"\n")
        if "port" in report:
            sys.stdin.buffer.read()
    finally:
        for number in endings:
            signal.signal(number, signal.SIG_IGN)
        if server is not None:
            server.stop()


if __name__ == "__main__":
    main()
