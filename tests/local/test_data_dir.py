"""The option `data_dir`: which data persists, and which folders are rejected."""

import os
import signal
from pathlib import Path

import psycopg
import pytest

from audiencelab_sdk.local import LocalStack, PostgresStartError
from audiencelab_sdk.local._migrate import migration_files
from audiencelab_sdk.local._postgres import PostgresServer
from tests._waiting import wait_until


def refusal(folder: Path) -> str:
    with pytest.raises(PostgresStartError) as caught:
        PostgresServer(data_dir=folder).start()
    return str(caught.value)


def test_data_and_password_persist(folder: Path) -> None:
    place = folder / "new" / "folder"
    with PostgresServer(data_dir=place) as server:
        password = server.admin_url.split(":")[2].split("@")[0]
        with psycopg.connect(server.admin_url) as connection:
            assert connection.execute("show fsync").fetchone() == ("on",)
            connection.execute("create table note as select 1 as n")
    assert {path.name for path in place.iterdir()} == {"data", "password"}
    assert (place / "password").stat().st_mode & 0o077 == 0
    with PostgresServer(data_dir=place) as server:
        assert password in server.admin_url
        with psycopg.connect(server.admin_url) as connection:
            assert connection.execute("select n from note").fetchall() == [(1,)]


def test_the_seed_is_applied_once_and_new_migrations_at_the_next_start(folder: Path) -> None:
    with LocalStack(data_dir=folder) as stack, psycopg.connect(stack.db_url) as connection:
        connection.execute("delete from auth.users where email = 'grace@example.com'")
        connection.execute(
            "delete from supabase_migrations.schema_migrations where version = "
            "(select max(version) from supabase_migrations.schema_migrations)"
        )
    with LocalStack(data_dir=folder) as stack, psycopg.connect(stack.db_url) as connection:
        emails = connection.execute("select email from auth.users").fetchall()
        assert emails == [("ada@example.com",)]
        recorded = connection.execute(
            "select count(*) from supabase_migrations.schema_migrations"
        ).fetchone()
        assert recorded == (len(migration_files()),)


def pre_request(stack: LocalStack) -> str:
    """The pre-request function of the REST API."""
    with psycopg.connect(stack.db_url) as connection:
        row = connection.execute("select api_keys_direct.configured_function()").fetchone()
    assert row
    return str(row[0])


def test_direct_access_is_enabled_once(folder: Path) -> None:
    with LocalStack(data_dir=folder) as stack:
        assert pre_request(stack) == "api_keys_direct.pre_request"
        with psycopg.connect(stack.db_url) as connection:
            connection.execute("select api_keys_direct.disable()")
    with LocalStack(data_dir=folder) as stack:
        assert pre_request(stack) == ""


def test_another_pre_request_function_stays(folder: Path) -> None:
    with LocalStack(data_dir=folder) as stack, psycopg.connect(stack.db_url) as connection:
        connection.execute("alter role authenticator set pgrst.db_pre_request = 'public.gate'")
        connection.execute("select api_keys_direct.disable()")
        connection.execute(
            "delete from supabase_migrations.schema_migrations where name = 'direct_access'"
        )
    with LocalStack(data_dir=folder) as stack:
        assert pre_request(stack) == "public.gate"


def test_a_stack_starts_after_the_rollback_of_direct_access(folder: Path) -> None:
    (file,) = (file for file in migration_files() if file.name.endswith("direct_access.sql"))
    with (
        LocalStack(data_dir=folder) as stack,
        psycopg.connect(stack.db_url, autocommit=True) as connection,
    ):
        connection.execute((file.parents[1] / "rollback" / file.name).read_bytes())
    with LocalStack(data_dir=folder) as stack, psycopg.connect(stack.db_url) as connection:
        found = connection.execute("select to_regnamespace('api_keys_direct')").fetchone()
    assert found == (None,)


def test_a_folder_in_use(folder: Path) -> None:
    with PostgresServer(data_dir=folder):
        assert refusal(folder) == f"{folder} is in use by another stack."


def test_a_folder_that_an_orphaned_server_uses(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The killed keeper leaves its temporary folder behind.
    monkeypatch.setenv("TMPDIR", str(folder))
    place = folder / "place"
    server = PostgresServer(data_dir=place)
    server.start()
    postmaster = int((place / "data" / "postmaster.pid").read_text().splitlines()[0])
    try:
        assert server._keeper is not None
        assert server._keeper._process is not None
        server._keeper._process.kill()
        server.stop()
        assert refusal(place) == f"{place} is in use by another PostgreSQL server."
    finally:
        os.kill(postmaster, signal.SIGINT)
    wait_until(lambda: not (place / "data" / "postmaster.pid").exists())


def test_after_a_crash(folder: Path) -> None:
    server = PostgresServer(data_dir=folder)
    server.start()
    pid_file = folder / "data" / "postmaster.pid"
    left_behind = pid_file.read_bytes()
    server.stop()
    pid_file.write_bytes(left_behind)
    if os.geteuid() == 0:
        owner = (folder / "data").stat()
        os.chown(pid_file, owner.st_uid, owner.st_gid)
    with PostgresServer(data_dir=folder) as again, psycopg.connect(again.admin_url):
        pass


def test_other_files_are_left_unchanged(folder: Path) -> None:
    (folder / "thesis.txt").write_text("the only copy")
    assert "is not empty and does not hold the data of a stack" in refusal(folder)
    assert (folder / "thesis.txt").read_text() == "the only copy"
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]
    assert "is not a folder" in refusal(folder / "thesis.txt")


def test_data_of_another_version(folder: Path) -> None:
    with PostgresServer(data_dir=folder):
        pass
    (folder / "data" / "PG_VERSION").write_text("16\n")
    said = refusal(folder)
    assert said.startswith(f"{folder} holds data of PostgreSQL 16, but ")
    assert "\n" not in said
    assert (folder / "data" / "PG_VERSION").read_text() == "16\n"
    (folder / "data" / "PG_VERSION").write_text("17\n")


def test_a_cluster_that_cannot_be_made_leaves_an_empty_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = folder / "bin"
    programs.mkdir()
    for name, script in {
        "postgres": "echo 'postgres (PostgreSQL) 17.1'",
        "initdb": "echo no locale today; exit 1",
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("AUDIENCELAB_POSTGRES_BIN", str(programs))
    assert "no locale today" in refusal(folder / "new")
    assert list((folder / "new").iterdir()) == []


def test_root_needs_a_folder_that_another_user_can_reach(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root has to step down to another user")
    folder.chmod(0o700)
    assert "Use a folder that every user can reach" in refusal(folder / "new")
    assert list((folder / "new").iterdir()) == []
