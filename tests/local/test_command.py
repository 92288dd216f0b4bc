"""`python -m audiencelab_sdk.local`: its output, its end, and its errors."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from audiencelab_sdk.local import LocalStack
from tests._waiting import wait_until

COMMAND = [sys.executable, "-m", "audiencelab_sdk.local"]


@contextmanager
def command(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def refused(*arguments: str, **environment: str) -> str:
    """Return the error line of a command that cannot start."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    return done.stderr


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def data_directory(db_url: str) -> Path:
    with psycopg.connect(db_url) as connection:
        row = connection.execute("show data_directory").fetchone()
    assert row is not None
    return Path(row[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_what_supabase_status_prints(number: signal.Signals) -> None:
    with command() as process:
        lines = "".join(first_line(process) for _ in range(7))
        values: dict[str, str] = dict(re.findall(r'^(\w+)="(.*)"$', lines, re.MULTILINE))
        assert list(values) == [
            *("ANON_KEY", "API_URL", "DB_URL", "JWT_SECRET", "PUBLISHABLE_KEY", "SECRET_KEY"),
            "SERVICE_ROLE_KEY",
        ]
        for key in (values["SERVICE_ROLE_KEY"], values["SECRET_KEY"]):
            response = httpx.get(
                f"{values['API_URL']}/rest/v1/roles?select=name&order=name",
                headers={"apikey": key},
            )
            assert response.json() == [{"name": "member"}, {"name": "owner"}]
        data = data_directory(values["DB_URL"])
        process.send_signal(number)
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert not data.parent.exists()


def test_json_output_a_chosen_port_and_persistent_data(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    place = folder / "new" / "data"
    for start in (1, 2):
        with command("--json", "--port", str(port), "--data-dir", str(place)) as process:
            values = json.loads(first_line(process))
            assert values["API_URL"] == f"http://127.0.0.1:{port}"
            with psycopg.connect(values["DB_URL"]) as connection:
                connection.execute("insert into auth.users (email) values (%s)", (f"{start}@x",))
                users = connection.execute(
                    "select email from auth.users where email like '%@x' order by 1"
                ).fetchall()
            assert len(users) == start
            process.terminate()
            assert process.wait(20) == 0
    assert {path.name for path in place.iterdir()} == {"data", "password"}
    assert (place / "password").stat().st_mode & 0o077 == 0


def test_a_signal_during_startup(folder: Path) -> None:
    with command("--data-dir", str(folder)) as process:
        wait_until((folder / "data").exists)
        process.terminate()
        assert process.wait(20) == 0
        assert process.stdout is not None
        assert process.stdout.read() == ""
    # Initialization has not begun or is complete: the folder can be used again.
    with LocalStack(data_dir=folder):
        pass


def test_a_taken_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused("--port", str(port))
    assert said == f"Port {port} cannot be used: another program listens on it.\n"


def test_no_postgres(tmp_path: Path) -> None:
    said = refused(AUDIENCELAB_POSTGRES_BIN=str(tmp_path))
    assert "does not hold the programs initdb and postgres" in said


def test_no_postgrest(tmp_path: Path) -> None:
    assert "There is no program postgrest on the PATH" in refused("--rest", "postgrest")
    named = str(tmp_path / "nothing")
    assert "is not an executable" in refused(AUDIENCELAB_POSTGREST_BIN=named)


def test_a_folder_that_cannot_be_used(folder: Path) -> None:
    with LocalStack(data_dir=folder):
        assert refused("--data-dir", str(folder)) == f"{folder} is in use by another stack.\n"
