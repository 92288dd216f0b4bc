"""Direct access: the pre-request function, as PostgREST calls it, and its switch."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import jwt
import psycopg
import pytest

from audiencelab_sdk.local import _migrate as migrate
from audiencelab_sdk.local._postgres import PostgresServer
from audiencelab_sdk.local.rest.app import create_app
from audiencelab_sdk.local.rest.database import Settings
from audiencelab_sdk.local.rest.server import BackgroundServer
from tests.database._attempts import SECRET
from tests.database._sql import ANON, EVERYTHING, SERVICE_ROLE, Actor, Database, Tenant, api_key
from tests.database.conftest import make_database
from tests.database.test_migrations import (
    DIRECT_ACCESS,
    OLD_ROLLBACK,
    apply_all,
    rollback_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

ENABLE = "select api_keys_direct.enable()"
DISABLE = "select api_keys_direct.disable()"
OURS = "api_keys_direct.pre_request"
numbers = count()


@contextmanager
def request(
    db: Database, headers: dict[str, str] | str | None, actor: Actor = ANON
) -> Iterator[psycopg.Connection[Any]]:
    """Open a transaction as PostgREST does, after the pre-request function was called."""
    with db.acting(actor) as connection:
        if headers is not None:
            text = headers if isinstance(headers, str) else json.dumps(headers)
            connection.execute("select set_config('request.headers', %s, true)", [text])
        connection.execute("select api_keys_direct.pre_request()")
        yield connection


def identity(connection: psycopg.Connection[Any]) -> tuple[str, Any, str]:
    """The role, the claims and the statement timeout of the statements that follow."""
    row = connection.execute(
        "select current_user, current_setting('request.jwt.claims', true),"
        " current_setting('statement_timeout')"
    ).fetchone()
    assert row
    return row[0], json.loads(row[1]), row[2]


def refusal(db: Database, headers: dict[str, str], actor: Actor = ANON) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught, request(db, headers, actor):
        pass
    return caught.value


def settings(db: Database) -> list[dict[str, Any]]:
    """The pre-request functions that are set for PostgREST in this database, and in all."""
    return db.admin(
        "select setdatabase <> 0 as here, setting from pg_db_role_setting"
        " cross join unnest(setconfig) as setting"
        " where setrole = 'authenticator'::regrole and setting like 'pgrst.%%'"
        " and setdatabase in (0, (select oid from pg_database where datname = current_database()))"
        " order by 1"
    )


def test_a_request_with_a_key_runs_as_the_key(db: Database, tenant: Tenant) -> None:
    key = db.create_key(tenant, [EVERYTHING])
    segment = db.create_segment(tenant)
    db.create_segment(db.add_tenant())
    with request(db, {"x-api-key": key["key"], "accept": "*/*"}) as connection:
        role, claims, timeout = identity(connection)
        assert (role, timeout) == ("api_key", "8s")
        assert claims == {"role": "api_key", "sub": str(key["id"])}
        assert connection.execute("select id from public.segments").fetchall() == [(segment,)]
        scope = connection.execute("select public.has_scope('segment', '*', 'read')").fetchone()
        assert scope == (True,)


@pytest.mark.parametrize(
    "headers",
    [
        None,
        "",
        {},
        {"accept": "*/*"},
        {"x_api_key": "sk_x", "xx-api-key": "sk_x", "x-api-key2": "sk_x"},
        {"accept": "x-api-key"},
        {"accept": '"x-api-key": "sk_x"'},
        '{"accept": "\\u0000"}',
    ],
)
@pytest.mark.parametrize("actor", [ANON, SERVICE_ROLE, Actor("authenticated", uuid4())])
def test_a_request_without_a_key_keeps_its_identity(
    db: Database, headers: dict[str, str] | str | None, actor: Actor
) -> None:
    with db.acting(actor) as connection:
        before = identity(connection)
    with request(db, headers, actor) as connection:
        assert identity(connection) == before


def test_keys_that_cannot_be_used_are_refused_with_the_same_error(
    db: Database, tenant: Tenant
) -> None:
    past = datetime(2020, 1, 1, tzinfo=UTC)
    texts = [
        *("", " ", "sk_", "sk_" + "x" * 46, "x" * 100_000, "' or true --", "null", "é"),
        db.create_key(tenant, is_active=False)["key"],
        db.create_key(tenant, disabled_at=past)["key"],
        db.create_key(tenant, expires_at=past)["key"],
        db.create_key(tenant, allowed_ips=["0.0.0.0/0"])["key"],
        db.create_key(tenant)["key"] + " ",
        db.create_key(tenant)["key"].lower(),
    ]
    for text in texts:
        error = refusal(db, {"x-api-key": text})
        assert error.sqlstate == "PT401"
        assert error.diag.message_primary == "Invalid API key"
        assert (error.diag.message_detail, error.diag.message_hint) == (None, None)


def test_a_key_that_is_hashed_with_bcrypt_works_after_its_first_verification(
    db: Database, tenant: Tenant
) -> None:
    key = db.create_key(tenant)
    db.admin(
        "update api_keys_private.api_keys"
        " set key_hash = extensions.crypt(%s, extensions.gen_salt('bf', 4)) where id = %s",
        "sk_old" + key["id"].hex,
        key["id"],
    )
    db.admin(
        "update api_keys_private.api_keys set key_prefix = 'sk_old' || left(%s, 1) where id = %s",
        key["id"].hex,
        key["id"],
    )
    headers = {"x-api-key": "sk_old" + key["id"].hex}
    assert refusal(db, headers).sqlstate == "PT401"
    assert db.verify(headers["x-api-key"])["valid"] is True
    with request(db, headers) as connection:
        assert identity(connection)[0] == "api_key"


def test_a_key_beside_a_token_is_refused(db: Database, tenant: Tenant) -> None:
    key = db.create_key(tenant, [EVERYTHING])
    for actor in (SERVICE_ROLE, tenant.member, api_key(key["id"])):
        for text in (key["key"], "sk_wrong"):
            error = refusal(db, {"x-api-key": text}, actor)
            assert error.sqlstate == "PT400"
            assert "both an API key and a token" in str(error.diag.message_primary)


def test_messages_have_one_line_because_they_become_reason_phrases(db: Database) -> None:
    for headers, actor in (
        ({"x-api-key": "a\r\nSet-Cookie: b"}, ANON),
        ({"x-api-key": "\n"}, ANON),
        ({"x-api-key": "a\nb"}, SERVICE_ROLE),
    ):
        message = str(refusal(db, headers, actor).diag.message_primary)
        assert message.isprintable()


def test_it_reads_only(db: Database, tenant: Tenant) -> None:
    """PostgREST calls it in read-only transactions, too."""
    key = db.create_key(tenant)
    with psycopg.connect(migrate.as_role(db.admin_url, "authenticator")) as connection:
        connection.read_only = True
        connection.execute("set local role anon")
        headers = json.dumps({"x-api-key": key["key"]})
        connection.execute("select set_config('request.headers', %s, true)", [headers])
        connection.execute("select api_keys_direct.pre_request()")
        assert identity(connection)[0] == "api_key"


def test_nothing_remains_for_the_next_request_on_the_connection(
    db: Database, tenant: Tenant
) -> None:
    key = db.create_key(tenant)
    with psycopg.connect(migrate.as_role(db.admin_url, "authenticator")) as connection:
        before = connection.execute("select current_user, current_setting('statement_timeout')")
        row = before.fetchone()
        for text in (key["key"], "sk_wrong"):
            connection.rollback()
            connection.execute("set local role anon")
            headers = json.dumps({"x-api-key": text})
            connection.execute("select set_config('request.headers', %s, true)", [headers])
            try:
                connection.execute("select api_keys_direct.pre_request()")
                connection.commit()
            except psycopg.Error:
                connection.rollback()
            after = connection.execute("select current_user, current_setting('statement_timeout')")
            assert after.fetchone() == row
            claims = connection.execute("select current_setting('request.jwt.claims', true)")
            assert claims.fetchone() in {(None,), ("",)}


def test_a_role_that_the_project_added_can_still_make_requests(fresh: Database) -> None:
    apply_all(fresh)
    role = f"analyst_{next(numbers)}"
    fresh.admin(f"create role {role}; grant {role} to authenticator")
    with request(fresh, {}, Actor(role)) as connection:
        assert identity(connection)[0] == role


def test_only_anon_can_look_up_keys_and_only_the_owner_can_switch(db: Database) -> None:
    for role in ("authenticated", "service_role", "api_key"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            db.rows(Actor(role), "select api_keys_direct.find_api_key('sk_x')")
    for role in ("anon", "authenticated", "service_role", "api_key"):
        for call in (ENABLE, DISABLE, "select api_keys_direct.configured_function()"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                db.rows(Actor(role), call)


def test_enabling_and_disabling_can_be_repeated(fresh: Database) -> None:
    apply_all(fresh)
    assert settings(fresh) == []
    for _ in range(2):
        fresh.apply(ENABLE)
        assert settings(fresh) == [{"here": True, "setting": f"pgrst.db_pre_request={OURS}"}]
    apply_all(fresh, [DIRECT_ACCESS])
    assert settings(fresh) != []
    for _ in range(2):
        fresh.apply(DISABLE)
        assert settings(fresh) == []


def test_both_make_postgrest_reload_its_configuration(fresh: Database) -> None:
    apply_all(fresh)
    with psycopg.connect(fresh.admin_url, autocommit=True) as listener:
        listener.execute("listen pgrst")
        for call in (ENABLE, DISABLE):
            fresh.apply(call)
            payloads = [note.payload for note in listener.notifies(timeout=5, stop_after=1)]
            assert payloads == ["reload config"]


def test_another_pre_request_function_stays(bare_server: PostgresServer) -> None:
    db = make_database(bare_server, "taken")
    for scope in ("", "in database taken"):
        db.admin(f"alter role authenticator {scope} set pgrst.db_pre_request = 'public.gate'")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as refused:
            db.apply(ENABLE)
        diagnosis = refused.value.diag
        assert diagnosis.message_primary == (
            "direct access was not enabled, because public.gate is already the pre-request function"
        )
        assert f"perform {OURS}();" in str(diagnosis.message_hint)
        before = settings(db)
        db.apply(DISABLE)
        assert settings(db) == before
    # An empty setting for the database switches the function of the role off.
    db.admin("alter role authenticator in database taken set pgrst.db_pre_request = ''")
    db.apply(ENABLE)
    assert settings(db)[-1] == {"here": True, "setting": f"pgrst.db_pre_request={OURS}"}


def test_a_setting_for_all_databases_is_taken_back_too(bare_server: PostgresServer) -> None:
    db = make_database(bare_server, "both")
    db.admin(f"alter role authenticator set pgrst.db_pre_request = '{OURS}'")
    db.apply(ENABLE)
    assert len(settings(db)) == 2
    db.apply(DISABLE)
    assert settings(db) == []


def test_a_missing_privilege_is_named_with_the_remedy(bare_server: PostgresServer) -> None:
    db = make_database(bare_server, "bare")
    db.admin("revoke set on parameter pgrst.db_pre_request from postgres")
    with pytest.raises(psycopg.errors.InsufficientPrivilege) as refused:
        db.apply(ENABLE)
    diagnosis = refused.value.diag
    assert "permission denied to set parameter" in str(diagnosis.message_primary)
    remedy = str(diagnosis.message_hint)
    assert remedy == (
        "As a superuser, run: grant set on parameter pgrst.db_pre_request to postgres"
    )
    assert settings(db) == []
    db.admin(remedy.partition("run: ")[2])
    db.apply(ENABLE)
    assert settings(db) != []


def test_a_role_that_may_not_alter_the_authenticator(bare_server: PostgresServer) -> None:
    db = make_database(bare_server, "unadministered")
    db.admin("revoke admin option for authenticator from postgres")
    (version,) = db.admin("select current_setting('server_version_num')::integer as number")
    if version["number"] >= 160000:
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as refused:
            db.apply(ENABLE)
        remedy = str(refused.value.diag.message_hint)
        assert remedy == ("As a superuser, run: grant authenticator to postgres with admin option")
        db.admin(remedy.partition("run: ")[2])
    db.apply(ENABLE)
    assert settings(db) != []


def test_requests_without_a_key_pass_after_the_old_rollback(
    fresh: Database, tenant: Tenant
) -> None:
    apply_all(fresh)
    fresh.apply(ENABLE)
    fresh.apply(OLD_ROLLBACK)
    for actor in (ANON, SERVICE_ROLE, tenant.member, api_key(uuid4())):
        with request(fresh, {"accept": "*/*"}, actor) as connection:
            assert identity(connection)[0] == actor.role
    assert refusal(fresh, {"x-api-key": "sk_x"}).sqlstate == "42P01"
    apply_all(fresh)
    key = fresh.create_key(fresh.add_tenant())
    with request(fresh, {"x-api-key": key["key"]}) as connection:
        assert identity(connection)[0] == "api_key"


def test_the_rollback_disables_direct_access_before_it_drops_the_functions(
    fresh: Database,
) -> None:
    apply_all(fresh)
    fresh.apply(ENABLE)
    with psycopg.connect(fresh.admin_url, autocommit=True) as listener:
        listener.execute("listen pgrst")
        fresh.apply(rollback_of(DIRECT_ACCESS))
        payloads = [note.payload for note in listener.notifies(timeout=5, stop_after=2)]
    assert payloads == ["reload config", "reload schema"]
    assert settings(fresh) == []
    assert fresh.admin("select to_regnamespace('api_keys_direct') as made") == [{"made": None}]


@contextmanager
def served(db: Database) -> Iterator[httpx.Client]:
    """The REST API of a database."""
    url = migrate.as_role(db.admin_url, "authenticator")
    server = BackgroundServer(create_app(Settings(db_url=url, jwt_secret=SECRET)))
    with httpx.Client(base_url=f"http://127.0.0.1:{server.start()}") as client:
        yield client
    server.stop()


def authorization(tenant: Tenant) -> dict[str, str]:
    claims = {"role": "authenticated", "sub": str(tenant.user_id), "exp": int(time.time()) + 600}
    return {"Authorization": f"Bearer {jwt.encode(claims, SECRET, algorithm='HS256')}"}


@pytest.mark.parametrize("rollback", [OLD_ROLLBACK, rollback_of(DIRECT_ACCESS)], ids=["old", "own"])
def test_requests_without_a_key_pass_during_a_rollback(fresh: Database, rollback: str) -> None:
    apply_all(fresh)
    fresh.apply(ENABLE)
    tenant = fresh.add_tenant()
    key = fresh.create_key(tenant, [EVERYTHING])
    with served(fresh) as api, ThreadPoolExecutor(1) as pool:
        by_key = api.post("/rpc/get_api_key_account_id", headers={"x-api-key": key["key"]})
        assert by_key.json() == str(tenant.account_id)
        running = pool.submit(fresh.apply, rollback)
        statuses = set()
        seen = 0
        while not running.done() or seen < 20:
            seen += running.done()
            response = api.get("/accounts_memberships", headers=authorization(tenant))
            statuses.add(response.status_code)
        running.result()
    assert statuses == {200}


def test_the_rollback_names_a_function_that_calls_ours(fresh: Database) -> None:
    apply_all(fresh)
    fresh.apply(
        "create function public.gate() returns void language plpgsql as"
        " 'begin perform api_keys_direct.pre_request(); end'"
    )
    with pytest.raises(
        psycopg.errors.ObjectNotInPrerequisiteState, match=r"public\.gate\(\) first"
    ):
        fresh.apply(rollback_of(DIRECT_ACCESS))
    fresh.apply("drop function public.gate()")
    fresh.apply(rollback_of(DIRECT_ACCESS))


def test_another_function_can_call_ours(fresh: Database) -> None:
    apply_all(fresh)
    fresh.apply(
        "create schema gate; grant usage on schema gate to public;"
        "create function gate.check() returns void language plpgsql as"
        f" 'begin perform {OURS}(); end';"
        "grant execute on function gate.check() to public"
    )
    key = fresh.create_key(fresh.add_tenant())
    with fresh.acting(ANON) as connection:
        headers = json.dumps({"x-api-key": key["key"]})
        connection.execute("select set_config('request.headers', %s, true)", [headers])
        connection.execute("select gate.check()")
        assert identity(connection)[0] == "api_key"
