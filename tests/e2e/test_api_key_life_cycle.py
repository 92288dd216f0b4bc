"""An API key's life over HTTP: authenticate, change, disable, rotate, log, count and audit."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audiencelab_sdk import (
    AudienceLab,
    ConflictError,
    CreatedApiKey,
    RejectedApiKey,
    RejectionCode,
    Scope,
    UsageEvent,
)

if TYPE_CHECKING:
    from tests.e2e._project import Project, Tenant
    from tests.e2e.conftest import Client

READ = Scope(entity_type="segment", entity_id="*", action="read")


def test_a_key_is_authenticated_with_what_it_may_do(
    tenant: Tenant, member: Client, backend: Client
) -> None:
    created = member.call("create", tenant.account_id, "crm", scopes=[READ])
    caller = backend.call("authenticate", created.key)
    assert caller
    assert (caller.api_key_id, caller.account_id) == (created.id, tenant.account_id)
    assert caller.allows("segment", "7", "read")
    assert not caller.allows("segment", "7", "write")


def test_a_rejected_key_has_its_reason(
    member: Client, backend: Client, created: CreatedApiKey
) -> None:
    def code() -> object:
        found = backend.call("authenticate", created.key, "192.0.2.1")
        return found.code if isinstance(found, RejectedApiKey) else "valid"

    assert code() == "valid"
    member.call("disable", created.id)
    assert code() is RejectionCode.DISABLED
    assert not backend.call("verify", created.key)
    member.call("enable", created.id)
    assert code() == "valid"
    member.call("update", created.id, allowed_ips=["198.51.100.0/24"])
    assert code() is RejectionCode.IP_NOT_ALLOWED
    assert backend.call("authenticate", created.key, "::ffff:198.51.100.7")
    member.call("update", created.id, allowed_ips=None)
    assert code() == "valid"
    member.call("revoke", created.id)
    assert code() is RejectionCode.REVOKED


def test_an_update_changes_only_what_is_passed(member: Client, created: CreatedApiKey) -> None:
    before = member.call("get", created.id)
    soon = datetime.now(UTC) + timedelta(days=1)
    changes = {"metadata": {"team": "crm"}, "allowed_ips": ["2001:db8::/32"], "expires_at": soon}
    changed = member.call("update", created.id, **changes)
    assert changed.metadata == {"team": "crm"}
    assert changed.allowed_ips == (ip_network("2001:db8::/32"),)
    assert changed.expires_at == soon
    assert (changed.name, changed.scopes) == (before.name, before.scopes)
    assert member.call("update", created.id, expires_at=None).expires_at is None
    assert member.call("get", created.id).metadata == {"team": "crm"}


def test_rotation_keeps_the_old_key_for_the_overlap(
    member: Client, backend: Client, created: CreatedApiKey
) -> None:
    new = member.call("rotate", created.id, overlap=timedelta(hours=1))
    assert new.name == created.name
    old = member.call("get", created.id)
    assert old.successor_id == new.id
    assert old.expires_at
    assert old.expires_at <= datetime.now(UTC) + timedelta(hours=1)
    assert backend.call("verify", created.key)
    assert backend.call("verify", new.key)
    with pytest.raises(ConflictError, match=str(new.id)):
        member.call("rotate", created.id)
    at_once = member.call("rotate", new.id, overlap=timedelta(0))
    assert not backend.call("verify", new.key)
    assert backend.call("verify", at_once.key)


def test_a_back_office_issues_and_audits_keys(tenant: Tenant, backend: Client) -> None:
    issued = backend.call(
        "issue", tenant.account_id, "by the back office", created_by=tenant.user_id
    )
    backend.call("update", issued.id, name="renamed")
    backend.call("revoke", issued.id)
    page = backend.call("events", tenant.account_id, api_key_id=issued.id)
    assert [event.event for event in page.items] == ["revoke", "update", "create"]
    assert {event.actor_type for event in page.items} == {"service"}


def test_requests_are_logged_once_and_counted(
    tenant: Tenant, backend: Client, member: Client, created: CreatedApiKey
) -> None:
    used: dict[str, Any] = {"api_key_id": created.id, "endpoint": "/", "method": "GET"}
    events = [
        UsageEvent(**used, status_code=status, log_id=uuid4())
        for status in (200, 201, 304, 400, 404, 500)
    ]
    for _ in range(2):  # as after a lost response
        assert all(backend.call("log_usage_batch", events))
    logged = member.call("log", tenant.account_id, api_key_id=created.id, page_size=4)
    assert len(logged.items) == 4
    rest = member.call("log", tenant.account_id, api_key_id=created.id, cursor=logged.cursor)
    assert {each.id for each in (*logged.items, *rest.items)} == {event.log_id for event in events}
    now = datetime.now(UTC)
    counts = member.call(
        "usage", tenant.account_id, start=now - timedelta(hours=1), end=now + timedelta(hours=1)
    )
    # They may have been logged in the last moment of a day and the first of the next.
    assert {count.api_key_id for count in counts} == {created.id}
    assert sum(count.requests for count in counts) == 6
    assert sum(count.errors for count in counts) == 3


VALUES = st.sampled_from(
    ["segment", "enrichment", "read", "write", "7", "*", 7, 1.5, True, None, ""]
)
SCOPES: st.SearchStrategy[Any] = st.lists(
    st.dictionaries(st.sampled_from(["entity_type", "entity_id", "action", "note"]), VALUES)
    | st.sampled_from([None, 7, "*", [], [[]]]),
    max_size=4,
) | st.sampled_from([None, {}, "*", 7])
ASKED = st.sampled_from(["segment", "enrichment", "read", "write", "7", "1.5", "true", "*"])


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(scopes=SCOPES, asked=st.tuples(ASKED, ASKED, ASKED))
def test_allows_decides_as_the_database_does(
    project: Project, tenant: Tenant, scopes: Any, asked: tuple[str, str, str]
) -> None:
    with AudienceLab(project.url, project.service_role_key) as client:
        text = f"sk_{uuid4().hex}"
        (row,) = project.sql(
            "insert into api_keys_private.api_keys"
            " (account_id, name, key_prefix, key_hash, created_by, scopes)"
            " values (%s, 'n', left(%s, 7), encode(sha256(%s::bytea), 'hex'), %s, %s) returning id",
            *(tenant.account_id, text, text, tenant.user_id, json.dumps(scopes)),
        )
        caller = client.api_keys.authenticate(text)
        assert caller
        key = client.as_api_key(row["id"], jwt_secret=project.jwt_secret)
        assert caller.allows(*asked) is key.api_keys.has_scope(*asked)
