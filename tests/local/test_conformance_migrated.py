"""The recorded responses of a PostgREST server on the migrated schema, in their order.

They are about the pre-request function, settings of roles, raised errors, estimated counts,
functions and preferences. Of PostgREST's own errors the status and the code have to be the same,
not the wording; PostgreSQL's errors have to be the same throughout. Left out are recorded responses
that differ from run to run, and requests to which PostgREST did not respond.
"""

import base64
import hashlib
import hmac
import http.client
import json
import logging
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from audiencelab_sdk.local import _migrate
from audiencelab_sdk.local._postgres import PostgresServer
from audiencelab_sdk.local.rest.app import create_app
from audiencelab_sdk.local.rest.database import Settings
from audiencelab_sdk.local.rest.server import BackgroundServer
from tests._waiting import wait_until

FOLDER = Path(__file__).parent / "conformance"
RECORDED: list[dict[str, Any]] = json.loads((FOLDER / "recorded_migrated.json").read_text())
CASES = [
    case for case in RECORDED if not case.get("volatile") and case["answer"]["status"] is not None
]

# Cases whose response differs, and why.
UNMATCHED = {
    "rpc/setof/GET/embed accounts": "other tables cannot be embedded",
    "rpc/setof/POST/embed accounts": "other tables cannot be embedded",
    "plan/enabled/pre-request raises": "the plan is not a media type here (pgrst.db_plan_enabled)",
    "token/role_number": "a role that is not a string is refused before PostgreSQL sees it",
}
# Cases that were recorded before a migration changed the schema.
MIGRATED: dict[str, dict[str, Any]] = {
    # The role api_key may update segments now, but its policies hide this one.
    "pre/key/PATCH segments: no grant, token of authenticated beside": {
        "status": 204,
        "headers": {"content-range": "*/*"},
        "body": None,
    }
}
# Nobody may choose these values of a new segment any more.
GENERATED = {"created_at", "updated_at"}

COMPARED = (
    "content-type", "content-range", "content-location", "location", "preference-applied",
    "www-authenticate", "allow", "retry-after", "x-before", "x-mark",
)  # fmt: skip

SECRET = "super-secret-jwt-token-with-at-least-32-characters-long"
FAR_FUTURE = 4102444800
ADA, GRACE = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
KEY = "cccccccc-cccc-4ccc-8ccc-ccccccccccc1"


def token(*, secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """Sign any claims, also those that PyJWT refuses."""
    parts = [json.dumps(part).encode() for part in ({"alg": algorithm, "typ": "JWT"}, claims)]
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    digest = {"HS256": hashlib.sha256, "HS512": hashlib.sha512}.get(algorithm)
    signature = hmac.new(secret.encode(), signed, digest).digest() if digest else b""
    return (signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def user(sub: Any = ADA, **options: Any) -> str:
    return without_sub(sub=sub, **options)


def without_sub(*, role: str = "authenticated", exp: Any = FAR_FUTURE, **options: Any) -> str:
    return token(role=role, exp=exp, **options)


TOKENS = {
    "anon": None,
    "authenticated": user(),
    "grace": user(GRACE),
    "stranger": user("99999999-9999-4999-8999-999999999999"),
    "service": without_sub(role="service_role"),
    "api_key": user(KEY, role="api_key"),
    "expired": user(exp=1000000000),
    "forged": user(secret="x" * 40),
    "garbage": "not.a.jwt",
    "unknown_role": user(role="no_such_role"),
    "norole": token(sub=ADA, exp=FAR_FUTURE),
    "alg_none": without_sub(algorithm="none", role="service_role"),
    "hs512": user(algorithm="HS512"),
    "nbf_future": without_sub(nbf=FAR_FUTURE),
    "iat_future": without_sub(iat=FAR_FUTURE),
    "aud": without_sub(aud="anything"),
    "role_number": token(role=5, exp=FAR_FUTURE),
    "empty_object": token(),
    "exp_string": without_sub(exp=str(FAR_FUTURE)),
    "exp_float": without_sub(exp=FAR_FUTURE + 0.5),
    "sub_number": user(5),
}


class Reloads(logging.Handler):
    """Counts how often the server has loaded its settings and schema cache."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += record.getMessage().endswith("are loaded.")


@dataclass(frozen=True)
class World:
    """A server with one connection, on a migrated database of its own."""

    port: int
    admin: psycopg.Connection
    reloads: Reloads

    def execute(self, sql: str, wait: float = 0) -> None:
        """Run SQL as the superuser, and wait until its notifications have had their effect."""
        notifications = len(set(re.findall(r"notify pgrst[^;]*", sql)))
        expected = self.reloads.count + notifications
        self.admin.execute(sql.encode())
        if notifications:
            wait_until(lambda: self.reloads.count == expected, timeout=10)
        else:
            time.sleep(wait)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    reloads = Reloads()
    logger = logging.getLogger("audiencelab_sdk.local.rest")
    level = logger.level
    # A server of its own, because the settings of roles apply to all of its databases.
    with PostgresServer() as postgres:
        _migrate.apply_platform(postgres.admin_url)
        owner = _migrate.as_role(postgres.admin_url, "postgres")
        _migrate.apply_migrations(owner)
        _migrate.apply_seed_once(owner)
        logger.setLevel(logging.DEBUG)
        logger.addHandler(reloads)
        with psycopg.connect(postgres.admin_url, autocommit=True) as admin:
            admin.execute((FOLDER / "fixture_migrated.sql").read_bytes())
            settings = Settings(
                db_url=_migrate.as_role(postgres.admin_url, "authenticator"),
                jwt_secret=SECRET,
                max_rows=None,
                pool_size=1,
            )
            server = BackgroundServer(create_app(settings))
            port = server.start()
            try:
                # At the start, and when the listener has connected.
                wait_until(lambda: reloads.count == 2, timeout=10)
                yield World(port, admin, reloads)
            finally:
                server.stop()
                logger.removeHandler(reloads)
                logger.setLevel(level)


def respond(world: World, case: dict[str, Any]) -> dict[str, Any]:
    if not case.get("keep"):
        world.execute("select gate.base()")
    if case["setup"]:
        world.execute(case["setup"], case.get("wait", 0))
    try:
        return send(world.port, case)
    finally:
        if case.get("after"):
            world.execute(case["after"])


def send(port: int, case: dict[str, Any]) -> dict[str, Any]:
    given = case["headers"].items() if isinstance(case["headers"], dict) else case["headers"]
    headers = [(name, encoded(text)) for name, text in given]
    if TOKENS[case["as"]]:
        headers.append(("Authorization", f"Bearer {TOKENS[case['as']]}".encode()))
    body = json.dumps(case["json"]) if "json" in case else case.get("raw")
    if body is not None and all(name.lower() != "content-type" for name, _ in headers):
        headers.append(("Content-Type", b"application/json"))
    if body is not None or case["method"] in {"POST", "PATCH", "PUT"}:
        headers.append(("Content-Length", str(len((body or "").encode())).encode()))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=12)
    try:
        connection.putrequest(case["method"], case["path"], skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders(None if body is None else body.encode())
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    received = {name.lower(): value for name, value in response.getheaders()}
    return {"status": response.status, "headers": received, "body": document(content)}


def encoded(text: str) -> bytes:
    kind, _, rest = text.partition(":")
    match kind:
        case "repeat":
            return b"k" * int(rest)
        case "latin1":
            return rest.encode("latin-1")
        case "token":
            return f"Bearer {TOKENS[rest]}".encode()
        case _:
            return text.encode()


def document(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content.decode() or None


def comparable(answer: dict[str, Any], *, generated: bool) -> dict[str, Any]:
    body = answer["body"]
    if isinstance(body, dict) and str(body.get("code", "")).startswith("PGRST"):
        body = {"code": body["code"]}
    elif isinstance(body, dict) and generated:
        body = {name: value for name, value in body.items() if name not in GENERATED}
    headers = {name: answer["headers"].get(name) for name in COMPARED}
    # The challenge quotes the message of the error.
    challenge = headers["www-authenticate"]
    headers["www-authenticate"] = challenge and challenge.partition(" ")[0]
    return {"status": answer["status"], "headers": headers, "body": body}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_responses_match_postgrest(world: World, case: dict[str, Any]) -> None:
    name = case["name"]
    expected: dict[str, Any] = MIGRATED.get(name) or case["answer"]
    generated = name.startswith("rpc/insert/")
    ours = comparable(respond(world, case), generated=generated)
    theirs = comparable(expected, generated=generated)
    if name in UNMATCHED:
        assert ours != theirs, "the response is the same now: remove the case from UNMATCHED"
    else:
        assert ours == theirs


def test_the_exceptions_are_recorded_cases() -> None:
    names = {case["name"] for case in CASES}
    assert UNMATCHED.keys() | MIGRATED.keys() <= names
    assert all(case["answer"] != MIGRATED.get(case["name"]) for case in CASES)
