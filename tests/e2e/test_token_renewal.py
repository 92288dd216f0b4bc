"""A client that acts as an API key works on after its first token has expired."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import jwt
import pytest

from audiencelab_sdk import AuthenticationError, EnrichmentStatus, NewSegment
from audiencelab_sdk.local._postgrest import find_postgrest
from audiencelab_sdk.local.rest import tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from audiencelab_sdk import CreatedApiKey
    from tests.e2e._project import Project, Tenant
    from tests.e2e.conftest import Client

LIFETIME = 3


@pytest.fixture(autouse=True)
def expired_tokens_are_rejected_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    if "SUPABASE_URL" in os.environ or find_postgrest(None):
        pytest.skip("only the REST server of this process can be made to allow no clock skew")
    monkeypatch.setattr(tokens, "LEEWAY", 0)


def test_long_calls_outlive_a_token(
    backend: Client, project: Project, tenant: Tenant, created: CreatedApiKey
) -> None:
    as_key = backend.as_api_key(
        created.id, signing_key=project.signing_keys[0], expires_in=timedelta(seconds=LIFETIME)
    )
    job = as_key.call("enrichment.create", tenant.account_id, uuid4(), "email", total_records=9)
    segments = [NewSegment(name=f"{n}", source_type="audience", source_id="1") for n in range(3)]
    assert all(as_key.call("segments.create_many", tenant.account_id, segments))
    page = as_key.call("segments.list", page_size=1)

    def work(advance: Callable[..., None]) -> None:
        for _ in range(9):
            advance()
            time.sleep(LIFETIME / 6)

    with ThreadPoolExecutor(2) as threads:
        tracked = threads.submit(as_key.track, job.id, work)
        waited = threads.submit(as_key.with_options(timeout=5).call, "enrichment.wait", job.id)
        done = tracked.result(60)
        assert (done.status, done.processed_records) == (EnrichmentStatus.COMPLETED, 9)
        assert waited.result(60).processed_records == 9

    assert page.items[0].id != as_key.next_page(page).items[0].id
    assert as_key.call("account_id") == tenant.account_id


def test_a_token_that_is_not_renewed_expires(
    backend: Client, project: Project, created: CreatedApiKey
) -> None:
    claims = {"role": "api_key", "sub": str(created.id), "exp": int(time.time()) + 2}
    static = backend.as_user(jwt.encode(claims, project.jwt_secret, algorithm="HS256"))
    assert static.call("account_id")
    time.sleep(2.1)
    with pytest.raises(AuthenticationError, match="JWT expired"):
        static.call("account_id")
