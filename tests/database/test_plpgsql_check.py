"""Static analysis of the PL/pgSQL functions, by the extension plpgsql_check.

PostgreSQL checks SQL functions when they are created, and a line of PL/pgSQL when it is executed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.database._inventory import SCHEMAS
from tests.database._tools import unavailable
from tests.database.conftest import PROGRAMS, make_database, start_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.database._sql import Database

# A trigger function is checked once for every table that has the trigger.
FUNCTIONS = f"""
    with functions as (
      select function.oid, coalesce(trigger.tgrelid, 0) as relation
      from pg_proc as function
      join pg_language as language on language.oid = function.prolang
      left join pg_trigger as trigger on trigger.tgfoid = function.oid
      where language.lanname = 'plpgsql'
        and function.pronamespace::regnamespace::text in {SCHEMAS}
    )
"""
FINDINGS = f"""
    {FUNCTIONS}
    select functions.oid::regprocedure::text as function, finding.lineno, finding.level,
           finding.message
    from functions
    cross join lateral plpgsql_check_function_tb(
      functions.oid, functions.relation, all_warnings => true
    ) as finding
    -- The helpers of the migrations execute definitions from the catalogs; no role may call them.
    where finding.level <> 'security' or not exists (
      select from pg_proc
      where pg_proc.oid = functions.oid and pronamespace = 'audiencelab_private'::regnamespace
    )
"""


@pytest.fixture(scope="module")
def checked() -> Iterator[Database]:
    """A migrated database on PostgreSQL 15, for which Debian packages the extension."""
    programs = PROGRAMS["PostgreSQL 15"]
    if not programs or not programs.is_dir():
        unavailable("PostgreSQL 15 is not installed: apt-get install postgresql-15")
    with start_server(programs) as server:
        db = make_database(server, "checked")
        if not db.admin("select name from pg_available_extensions where name = 'plpgsql_check'"):
            unavailable("there is no plpgsql_check: apt-get install postgresql-15-plpgsql-check")
        db.admin("create extension plpgsql_check")
        # In place of pg_cron's, which keep_api_key_logs calls if pg_cron is installed.
        db.admin(
            "create schema cron;"
            "create function cron.schedule(text, text, text) returns bigint"
            " language sql volatile return 1"
        )
        yield db


def test_plpgsql_check_finds_nothing(checked: Database) -> None:
    functions = {
        row["name"]
        for row in checked.admin(f"{FUNCTIONS} select oid::regproc::text as name from functions")
    }
    assert {"verify_api_key", "trigger_set_timestamps"} <= functions
    assert checked.admin(FINDINGS) == []


def test_plpgsql_check_finds_a_mistake(checked: Database) -> None:
    checked.admin(
        "create function public.mistaken() returns void language plpgsql as"
        " $$ begin perform name_of_nothing from public.segments; end $$"
    )
    try:
        (finding,) = checked.admin(FINDINGS)
    finally:
        checked.admin("drop function public.mistaken()")
    assert finding["function"] == "mistaken()"
    assert "name_of_nothing" in finding["message"]
