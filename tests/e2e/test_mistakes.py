"""Frequent mistakes: the whole message says what is wrong, and what to do."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from audiencelab_sdk import (
    AudienceLab,
    AudienceLabError,
    AuthenticationError,
    ConfigurationError,
    ConflictError,
    InvalidArgumentError,
    InvalidRequestError,
    NewSegment,
    NotFoundError,
    PermissionDeniedError,
    SchemaError,
    Scope,
    UnexpectedResponseError,
    UsageLogError,
)

if TYPE_CHECKING:
    from tests.e2e._project import Project, Tenant

NOBODY = UUID(int=7)
READ_JOBS = Scope(entity_type="enrichment", entity_id="*", action="read")


class WebApplication(BaseHTTPRequestHandler):
    """A web application that is not a Supabase API."""

    def do_GET(self) -> None:
        self.respond(200, b"<html><title>Welcome</title></html>")

    def do_POST(self) -> None:
        self.respond(405, b"<html><title>405 Not Allowed</title></html>")

    def do_PATCH(self) -> None:
        self.respond(404, b"no such page")

    def respond(self, status: int, body: bytes) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - named so in the base
        """Log nothing."""


@pytest.fixture(scope="module")
def website() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), WebApplication)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


class Clients:
    """Clients of one project, by whom they act as."""

    def __init__(self, project: Project, website: str) -> None:
        self.project = project
        self.website = website
        self.tenant: Tenant = project.add_tenant()
        self.service = AudienceLab(project.url, project.service_role_key, max_retries=0)
        self.anon = AudienceLab(project.url, project.anon_key, max_retries=0)
        self.user = self.anon.as_user(project.access_token(self.tenant.user_id))
        created = self.user.api_keys.create(self.tenant.account_id, "n", scopes=[READ_JOBS])
        self.key = self.service.as_api_key(created.id, jwt_secret=project.jwt_secret)
        self.elsewhere = AudienceLab(website, "key", max_retries=0)
        self.lost = AudienceLab(f"{project.url}/auth/v1", project.service_role_key)
        self.job = self.user.enrichment.create(
            self.tenant.account_id, self.tenant.account_id, "email"
        )

    @property
    def account(self) -> UUID:
        return self.tenant.account_id

    def close(self) -> None:
        for client in (self.service, self.anon, self.elsewhere, self.lost):
            client.close()


@pytest.fixture(scope="module")
def clients(project: Project, website: str) -> Iterator[Clients]:
    clients = Clients(project, website)
    yield clients
    clients.close()


def unwrap(outcomes: list[Any]) -> None:
    outcomes[0].unwrap()


ANONYMOUS = (
    "The publishable (anon) key alone has no access: use the project's secret (service_role) key, "
    "act as a user with client.as_user(...), or pass an API key as api_key=."
)
ONLY_A_USER = "Only a user may do this: call it on client.as_user(...)."
ONLY_THE_SERVICE_ROLE = (
    "Only the service role may do this: use the project's secret (service_role) key."
)
NOT_AS_API_KEY = (
    "An API key may not do this: use the project's secret (service_role) key, or act as a user "
    "with client.as_user(...)."
)
NO_MEMBER = (
    "The account does not exist, the caller is not a member of it, or the API key has no scope for "
    "it."
)
NO_API = "There is no Supabase API here: does the URL lead to the project's API?"

MISTAKES: dict[str, tuple[type[AudienceLabError], str, Callable[[Clients], object]]] = {
    "verifying with the publishable key": (
        AuthenticationError,
        f"permission denied for <what> (HTTP 401, code 42501). {ANONYMOUS}",
        lambda clients: clients.anon.api_keys.verify("sk_aaaaaaaa"),
    ),
    "listing segments with the publishable key": (
        AuthenticationError,
        f"permission denied for <what> (HTTP 401, code 42501). {ANONYMOUS}",
        lambda clients: clients.anon.segments.list(),
    ),
    "verifying as a user": (
        PermissionDeniedError,
        (
            "permission denied for function verify_api_key (HTTP 403, code 42501). "
            "Use the project's secret (service_role) key, or act as an API key with "
            "client.as_api_key(...) or api_key=."
        ),
        lambda clients: clients.user.api_keys.verify("sk_aaaaaaaa"),
    ),
    "logging usage as a user": (
        PermissionDeniedError,
        (
            "permission denied for function log_api_key_usage (HTTP 403, code 42501). "
            f"{ONLY_THE_SERVICE_ROLE}"
        ),
        lambda clients: clients.user.api_keys.log_usage(NOBODY, endpoint="/", method="GET"),
    ),
    "logging usage of a key that does not exist": (
        UsageLogError,
        "the API key does not exist (SQLSTATE 23503)",
        lambda clients: clients.service.api_keys.log_usage(NOBODY, endpoint="/", method="GET"),
    ),
    "creating a key with the secret key": (
        PermissionDeniedError,
        f"permission denied for function create_api_key (HTTP 403, code 42501). {ONLY_A_USER}",
        lambda clients: clients.service.api_keys.create(clients.account, "n"),
    ),
    "creating a segment with the secret key": (
        PermissionDeniedError,
        (
            "permission denied for function create_studio_segment (HTTP 403, code 42501). "
            f"{ONLY_A_USER}"
        ),
        lambda clients: clients.service.segments.create(
            clients.account, "n", source_type="audience", source_id="a"
        ),
    ),
    "creating a key in a foreign account": (
        PermissionDeniedError,
        "the account does not exist, or you are not a member of it (HTTP 403, code 42501)",
        lambda clients: clients.user.api_keys.create(NOBODY, "n"),
    ),
    "creating a job in a foreign account": (
        PermissionDeniedError,
        (
            'new row violates row-level security policy for table "enrichment_tracking" '
            f"(HTTP 403, code 42501). {NO_MEMBER}"
        ),
        lambda clients: clients.user.enrichment.create(NOBODY, NOBODY, "email"),
    ),
    "creating a job for an account that does not exist": (
        ConflictError,
        (
            'insert or update on table "enrichment_tracking" violates foreign key constraint '
            '"enrichment_tracking_account_id_fkey" (HTTP 409, code 23503). '
            "There is no account with this account_id."
        ),
        lambda clients: clients.service.enrichment.create(
            NOBODY, NOBODY, "email", created_by=clients.tenant.user_id
        ),
    ),
    "creating segments for a user who does not exist": (
        ConflictError,
        (
            'insert or update on table "segments" violates foreign key constraint '
            '"segments_created_by_fkey" (HTTP 409, code 23503). '
            "There is no user with this created_by."
        ),
        lambda clients: unwrap(
            clients.service.segments.create_many(
                clients.account,
                [new_segment()],
                created_by=NOBODY,
            )
        ),
    ),
    "a job of an unknown type": (
        InvalidRequestError,
        (
            'new row for relation "enrichment_tracking" violates check constraint '
            '"enrichment_tracking_enrichment_type_check" (HTTP 400, code 23514). '
            "The values of enrichment_type are email, phone, company, social, custom."
        ),
        lambda clients: clients.user.enrichment.create(clients.account, NOBODY, "e-mail"),
    ),
    "a job without its creator": (
        InvalidArgumentError,
        (
            "created_by is missing, and this client acts as no user or API key: pass a user's id, "
            "or call it on client.as_user(...)"
        ),
        lambda clients: clients.service.enrichment.create(clients.account, NOBODY, "email"),
    ),
    "completing a pending job": (
        ConflictError,
        (
            "the enrichment job is pending and cannot become completed (HTTP 409). "
            "Call start or report_progress first."
        ),
        lambda clients: clients.user.enrichment.complete(clients.job.id),
    ),
    "getting a job of another account": (
        NotFoundError,
        (
            "the enrichment job does not exist, or is not visible to this client "
            "(HTTP 406, code PGRST116)"
        ),
        lambda clients: clients.user.enrichment.get(NOBODY),
    ),
    "working on a job with a key that may read it": (
        PermissionDeniedError,
        "this client may read the enrichment job, but not change it (HTTP 403)",
        lambda clients: clients.key.enrichment.start(clients.job.id),
    ),
    "creating a job as an API key without a scope for it": (
        PermissionDeniedError,
        (
            'new row violates row-level security policy for table "enrichment_tracking" '
            f"(HTTP 403, code 42501). {NO_MEMBER}"
        ),
        lambda clients: clients.key.enrichment.create(
            clients.account, NOBODY, "email", created_by=clients.tenant.user_id
        ),
    ),
    "asking for the scopes of a user": (
        PermissionDeniedError,
        (
            "permission denied for function has_scope (HTTP 403, code 42501). "
            "Only an API key may do this: use client.as_api_key(...) or api_key=."
        ),
        lambda clients: clients.user.api_keys.has_scope("segment", "*", "read"),
    ),
    "an access token that is no JWT": (
        AuthenticationError,
        (
            "<what> (HTTP 401, code PGRST301). The access token has expired, is malformed, or was "
            "signed for another project: get a new one."
        ),
        lambda clients: clients.anon.as_user("nonsense").segments.list(),
    ),
    "the text of an API key as an id": (
        InvalidArgumentError,
        "api_key_id must be a UUID, such as 7f3b5a52-8a4f-4d0e-9d0c-2f1f6f0c9a11",
        lambda clients: clients.user.api_keys.revoke("sk_aaaaaaaa"),
    ),
    "the address of the dashboard": (
        ConfigurationError,
        (
            "url is the address of the dashboard; pass the project's API URL, such as "
            "https://abcdefgh.supabase.co (in the dashboard: Project Settings, API)"
        ),
        lambda _: AudienceLab("https://supabase.com/dashboard/project/abcdefgh", "key"),
    ),
    "a POST to another server": (
        SchemaError,
        f"405 Not Allowed (HTTP 405). {NO_API}",
        lambda clients: clients.elsewhere.api_keys.verify("sk_aaaaaaaa"),
    ),
    "a PATCH to another server": (
        SchemaError,
        f"no such page (HTTP 404). {NO_API}",
        lambda clients: clients.elsewhere.segments.update(NOBODY, name="n"),
    ),
    "a GET from another server": (
        UnexpectedResponseError,
        (
            "GET /rest/v1/segments returned 200 with something other than JSON: does the URL lead "
            "to the project's API, and not to a proxy or a login page? (text/html, 35 bytes)"
        ),
        lambda clients: clients.elsewhere.segments.list(),
    ),
    "a URL with the path of another API": (
        SchemaError,
        f"no Route matched with those values (HTTP 404). {NO_API}",
        lambda clients: clients.lost.segments.list(),
    ),
}


def new_segment() -> NewSegment:
    return NewSegment(name="n", source_type="audience", source_id="a")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_message_says_what_is_wrong_and_what_to_do(clients: Clients, mistake: str) -> None:
    error, message, make = MISTAKES[mistake]

    with pytest.raises(AudienceLabError) as caught:
        make(clients)

    assert type(caught.value) is error
    pattern = re.sub(r"<\w+>", ".+", re.escape(message))
    assert re.fullmatch(pattern, str(caught.value)), str(caught.value)


def test_a_missing_migration_is_no_missing_row(project: Project, clients: Clients) -> None:
    project.sql("alter function public.delete_studio_segment(uuid) rename to gone")
    project.sql("notify pgrst, 'reload schema'")
    try:
        with pytest.raises(SchemaError) as caught:
            clients.user.segments.delete(NOBODY)
    finally:
        project.sql("alter function public.gone(uuid) rename to delete_studio_segment")
        project.sql("notify pgrst, 'reload schema'")
    assert caught.value.status == 500
    assert caught.value.http_status == 404
    assert "apply the AudienceLab migrations (supabase db push)" in str(caught.value)
