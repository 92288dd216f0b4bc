"""Run the pgTAP tests of supabase/tests as `supabase test db` does: as postgres, with the seed."""

from __future__ import annotations

import shutil
from urllib.parse import urlsplit

from audiencelab_sdk.local import _migrate as migrate
from tests.database._tools import ROOT, run, unavailable
from tests.database.conftest import PROGRAMS, make_database, start_server
from tests.database.update_pgtap import PRIVILEGES, privileges_test


def test_the_privileges_are_those_of_the_inventory() -> None:
    assert PRIVILEGES.read_text() == privileges_test(), "run: make sql"


def test_pgtap() -> None:
    programs = PROGRAMS["PostgreSQL 15"]
    if not programs or not programs.is_dir():
        unavailable("PostgreSQL 15 is not installed: apt-get install postgresql-15")
    if not shutil.which("pg_prove"):
        unavailable("there is no pg_prove: apt-get install libtap-parser-sourcehandler-pgtap-perl")
    with start_server(programs) as server:
        db = make_database(server, "pgtap")
        if not db.admin("select name from pg_available_extensions where name = 'pgtap'"):
            unavailable("there is no pgTAP: apt-get install postgresql-15-pgtap")
        db.admin("create extension pgtap with schema extensions")
        url = urlsplit(migrate.as_role(db.admin_url, "postgres"))
        result = run(
            ["pg_prove", "--ext", ".sql", "--recurse", str(ROOT / "supabase" / "tests")],
            environment={
                "PGHOST": url.hostname or "",
                "PGPORT": str(url.port),
                "PGUSER": url.username or "",
                "PGPASSWORD": url.password or "",
                "PGDATABASE": url.path.removeprefix("/"),
            },
        )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Result: PASS" in result.stdout
