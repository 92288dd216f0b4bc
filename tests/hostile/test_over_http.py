"""Attacks over HTTP with the token of a user, the token of a key, or a forged token."""

from __future__ import annotations

import hmac
import json
import time
from itertools import islice
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm
from jwt.utils import base64url_encode

from audiencelab_sdk import (
    AudienceLab,
    AuthenticationError,
    NotFoundError,
    PermissionDeniedError,
)

if TYPE_CHECKING:
    import httpx

    from tests.e2e._project import Project, Tenant

SEGMENT = {"name": "n", "source_type": "audience", "source_id": "1"}


@pytest.fixture
def tenant(project: Project) -> Tenant:
    return project.add_tenant()


@pytest.fixture
def stranger(project: Project) -> Tenant:
    return project.add_tenant()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def as_member(project: Project, tenant: Tenant) -> dict[str, str]:
    return bearer(project.access_token(tenant.user_id))


def new_job(tenant: Tenant, **columns: Any) -> dict[str, Any]:
    return {
        "account_id": str(tenant.account_id),
        "audience_id": str(uuid4()),
        "enrichment_type": "email",
        "created_by": str(tenant.user_id),
        **columns,
    }


def test_to_make_the_operators_list_endless(
    project: Project, rest: httpx.Client, backend: AudienceLab, tenant: Tenant
) -> None:
    times = ["infinity", "9999-12-31T23:59:59.999999Z"] * 5
    ids = [UUID(int=number) for number in range(2**127, 2**127 + 10)]
    jobs = [
        new_job(tenant, id=str(job_id), created_at=created_at)
        for job_id, created_at in zip(ids, times, strict=True)
    ]
    response = rest.post("/enrichment_tracking", json=jobs, headers=as_member(project, tenant))
    assert response.status_code == 201
    try:
        listed = backend.enrichment.list(account_id=tenant.account_id, page_size=2)
        assert sorted(job.id for job in islice(listed, 100)) == ids
    finally:
        project.sql("delete from public.enrichment_tracking where id = any(%s)", ids)


@pytest.mark.parametrize(
    "metadata", ["[" * 250 + "]" * 250, "[1e5000]", f"[{'9' * 6000}]", f'["{"x" * 8_000_000}"]']
)
def test_to_break_every_page_of_the_operator(
    project: Project, rest: httpx.Client, tenant: Tenant, metadata: str
) -> None:
    job = new_job(tenant)
    text = "{" + ", ".join(f'"{name}": "{value}"' for name, value in job.items())
    response = rest.post(
        "/enrichment_tracking",
        content=f'{text}, "metadata": {metadata}}}',
        headers=as_member(project, tenant) | {"Content-Type": "application/json"},
    )
    assert response.status_code == 400
    assert response.json()["code"] == "23514"
    assert "enrichment_tracking_metadata_limit is exceeded" in response.json()["message"]


def test_to_learn_how_much_others_have(
    project: Project, rest: httpx.Client, tenant: Tenant, stranger: Tenant
) -> None:
    project.sql(
        "insert into public.segments (account_id, name, source_type, source_id, created_by)"
        " select %s, 'n', 'audience', '1', %s from generate_series(1, 50)",
        *(tenant.account_id, tenant.user_id),
    )
    response = rest.get(
        "/segments",
        params={"account_id": f"eq.{tenant.account_id}"},
        headers=as_member(project, stranger) | {"Prefer": "count=exact"},
    )
    assert response.json() == []
    assert response.headers["Content-Range"] == "*/0"


@pytest.mark.parametrize("resolution", ["merge-duplicates", "ignore-duplicates"])
def test_to_overwrite_a_strangers_segment_by_its_id(
    project: Project, rest: httpx.Client, tenant: Tenant, stranger: Tenant, resolution: str
) -> None:
    headers = {"Prefer": "return=representation"}
    (segment,) = rest.post(
        "/segments",
        json=SEGMENT | {"account_id": str(tenant.account_id), "created_by": str(tenant.user_id)},
        headers=as_member(project, tenant) | headers,
    ).json()
    mine = {"account_id": str(stranger.account_id), "created_by": str(stranger.user_id)}
    response = rest.post(
        "/segments",
        json=SEGMENT | mine | {"id": segment["id"], "name": "mine"},
        headers=as_member(project, stranger)
        | {"Prefer": f"return=representation, resolution={resolution}"},
    )
    assert response.status_code == 403 or response.json() == []
    (row,) = project.sql(
        "select name, account_id from public.segments where id = %s", segment["id"]
    )
    assert row == {"name": "n", "account_id": tenant.account_id}


@pytest.mark.parametrize(
    "function", ["set_config", "pg_sleep", "caller_id", "apply_table", "generate_api_key", "crypt"]
)
def test_to_call_what_is_not_his_to_call(
    project: Project, rest: httpx.Client, tenant: Tenant, function: str
) -> None:
    member = as_member(project, tenant)
    assert rest.post(f"/rpc/{function}", json={}, headers=member).status_code == 404
    for schema in ("audiencelab_private", "api_keys_private", "pg_catalog", "auth"):
        response = rest.post(
            f"/rpc/{function}", json={}, headers=member | {"Content-Profile": schema}
        )
        assert response.status_code == 406


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("id", "eq.1);drop table segments;--"),
        ("name;drop table segments", "eq.1"),
        ("or", "(id.eq.1,account_id.not.is.null)"),
        ("select", "*,api_keys(*)"),
        ("select", "name::regclass"),
        ("order", "name;select 1"),
        ("limit", "-1"),
        ("account_id", "not.is.null"),
    ],
)
def test_to_see_more_by_the_query_of_a_url(
    project: Project,
    rest: httpx.Client,
    tenant: Tenant,
    stranger: Tenant,
    parameter: str,
    value: str,
) -> None:
    row = {"account_id": str(tenant.account_id), "created_by": str(tenant.user_id)}
    rest.post("/segments", json=SEGMENT | row, headers=as_member(project, tenant))
    response = rest.get(
        "/segments", params={parameter: value}, headers=as_member(project, stranger)
    )
    assert response.status_code >= 400 or response.json() == []
    (still,) = project.sql(
        "select count(*) from public.segments where account_id = %s", tenant.account_id
    )
    assert still["count"] == 1


@pytest.mark.parametrize("role", ["service_role", "postgres", "supabase_admin", "authenticator"])
@pytest.mark.parametrize("algorithm", ["none", "HS256"])
def test_to_be_somebody_by_a_token_of_his_own(
    project: Project, rest: httpx.Client, role: str, algorithm: str
) -> None:
    claims = {"role": role, "sub": str(uuid4()), "exp": int(time.time()) + 600}
    secret = "" if algorithm == "none" else "a-secret-that-the-attacker-made-up-himself"
    token = jwt.encode(claims, secret, algorithm=algorithm)
    assert rest.get("/segments", headers=bearer(token)).status_code == 401


def test_to_use_a_token_for_ever(project: Project, rest: httpx.Client, tenant: Tenant) -> None:
    claims = {"role": "authenticated", "sub": str(tenant.user_id), "exp": int(time.time()) - 60}
    token = jwt.encode(claims, project.jwt_secret, algorithm="HS256")
    assert rest.get("/segments", headers=bearer(token)).status_code == 401


def test_to_sign_with_what_everybody_may_read_of_a_signing_key(
    project: Project, rest: httpx.Client
) -> None:
    """A public key as the secret of HS256, a key within the token, and no signature."""
    if not project.signing_keys:
        pytest.skip("the project's signing keys are not in the environment")
    claims = {"role": "service_role"}

    def status(token: str) -> int:
        return rest.get("/segments?limit=1", headers=bearer(token)).status_code

    for key in map(jwt.PyJWK.from_json, project.signing_keys):
        own = ec.generate_private_key(ec.SECP256R1())
        header = {"kid": key.key_id, "jwk": ECAlgorithm.to_jwk(own.public_key(), as_dict=True)}
        public = key.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        assert status(jwt.encode(claims, own, algorithm="ES256", headers=header)) == 401
        for ids in ({}, {"kid": key.key_id}):
            signed = f"{encoded({'alg': 'HS256', **ids})}.{encoded(claims)}"
            mac = base64url_encode(hmac.digest(public, signed.encode(), "sha256")).decode()
            assert status(f"{signed}.{mac}") == 401
            assert status(f"{encoded({'alg': 'none', **ids})}.{encoded(claims)}.") == 401
            genuine = jwt.encode(claims, key.key, algorithm=key.algorithm_name, headers=ids)
            assert status(genuine) == 200


def encoded(value: dict[str, Any]) -> str:
    return base64url_encode(json.dumps(value).encode()).decode()


def test_to_take_a_users_rights_with_a_keys_token(
    project: Project, backend: AudienceLab, tenant: Tenant
) -> None:
    """A token of a key with the id of a user, and a token of a user with the id of a key."""
    key = backend.as_user(project.access_token(tenant.user_id)).api_keys.create(
        tenant.account_id, "n"
    )
    as_key = backend.as_api_key(tenant.user_id, jwt_secret=project.jwt_secret)
    assert list(as_key.segments.list()) == []
    assert as_key.api_keys.account_id() is None
    as_user = backend.as_user(project.access_token(key.id))
    assert list(as_user.segments.list()) == []
    with pytest.raises(PermissionDeniedError):
        as_user.api_keys.create(tenant.account_id, "n")


def test_to_stay_in_after_the_account_is_deleted(
    project: Project, backend: AudienceLab, tenant: Tenant
) -> None:
    member = backend.as_user(project.access_token(tenant.user_id))
    key = member.api_keys.create(tenant.account_id, "n")
    project.sql("delete from public.accounts where id = %s", tenant.account_id)
    assert not backend.api_keys.verify(key.key)
    as_key = backend.as_api_key(key.id, jwt_secret=project.jwt_secret)
    assert as_key.api_keys.account_id() is None
    with pytest.raises(PermissionDeniedError):
        member.api_keys.create(tenant.account_id, "n")


def test_to_read_what_was_deleted(
    project: Project, backend: AudienceLab, rest: httpx.Client, tenant: Tenant
) -> None:
    """The policy admits rows that the current transaction changed, and no other deleted rows."""
    member = backend.as_user(project.access_token(tenant.user_id))
    segment = member.segments.create(tenant.account_id, "n", source_type="audience", source_id="1")
    member.segments.delete(segment.id)
    headers = as_member(project, tenant) | {"Prefer": "return=representation"}
    for change in ({"name": "x"}, {"deleted": False}, {"updated_at": "now"}):
        response = rest.patch(
            "/segments", params={"id": f"eq.{segment.id}"}, json=change, headers=headers
        )
        assert response.json() == []
    assert rest.delete("/segments", params={"deleted": "is.true"}, headers=headers).json() == []
    with pytest.raises(NotFoundError):
        member.segments.get(segment.id)


def test_to_restore_or_delete_a_strangers_segment(
    project: Project, backend: AudienceLab, tenant: Tenant, stranger: Tenant
) -> None:
    segment = backend.as_user(project.access_token(tenant.user_id)).segments.create(
        tenant.account_id, "n", source_type="audience", source_id="1"
    )
    thief = backend.as_user(project.access_token(stranger.user_id))
    for call in (thief.segments.delete, thief.segments.restore, thief.segments.get):
        with pytest.raises(NotFoundError):
            call(segment.id)
    assert backend.segments.get(segment.id).deleted is False


def test_to_log_requests_in_the_name_of_somebodys_key(
    project: Project, backend: AudienceLab, tenant: Tenant
) -> None:
    member = backend.as_user(project.access_token(tenant.user_id))
    key = member.api_keys.create(tenant.account_id, "n")
    as_key = backend.as_api_key(key.id, jwt_secret=project.jwt_secret)
    for client in (member, as_key):
        with pytest.raises(PermissionDeniedError):
            client.api_keys.log_usage(key.id, endpoint="/", method="GET")


def test_to_get_a_key_verified_without_the_secret_key(
    project: Project, backend: AudienceLab, tenant: Tenant
) -> None:
    member = backend.as_user(project.access_token(tenant.user_id))
    key = member.api_keys.create(tenant.account_id, "n").key
    with pytest.raises(PermissionDeniedError):
        member.api_keys.verify(key)
    with AudienceLab(project.url, project.anon_key) as anonymous:  # noqa: SIM117
        with pytest.raises(AuthenticationError):
            anonymous.api_keys.verify(key)


def test_to_learn_from_an_error_what_others_store(
    project: Project, backend: AudienceLab, rest: httpx.Client, tenant: Tenant, stranger: Tenant
) -> None:
    """The error for a duplicate id contains the id only."""
    segment = backend.as_user(project.access_token(tenant.user_id)).segments.create(
        tenant.account_id, "their secret name", source_type="audience", source_id="1"
    )
    mine = {"account_id": str(stranger.account_id), "created_by": str(stranger.user_id)}
    response = rest.post(
        "/segments",
        json=SEGMENT | mine | {"id": str(segment.id)},
        headers=as_member(project, stranger),
    )
    assert response.status_code == 409
    assert "their secret name" not in response.text
    assert str(tenant.account_id) not in response.text
