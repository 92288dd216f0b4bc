"""The recorded answers of a PostgREST server, one after the other: the requests change data.

Of PostgREST's own errors the status and the code have to be the same, not the wording;
PostgreSQL's errors have to be the same throughout.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import psycopg
import pytest

from audiencelab_sdk.local import _migrate
from audiencelab_sdk.local._postgres import PostgresServer
from audiencelab_sdk.local.rest.app import create_app
from audiencelab_sdk.local.rest.database import Settings
from audiencelab_sdk.local.rest.server import BackgroundServer

FOLDER = Path(__file__).parent / "conformance"
EXCHANGES: list[dict[str, Any]] = json.loads((FOLDER / "recorded.json").read_text())
SECRET = "conformance-secret-that-is-at-least-32-bytes"
FAR_FUTURE = 4102444800


def token(role: str, *, user: int = 1, exp: int = FAR_FUTURE, secret: str = SECRET) -> str:
    claims = {"role": role, "exp": exp}
    if role == "authenticated":
        claims["sub"] = f"10000000-0000-4000-8000-{user:012}"
    return jwt.encode(claims, secret, algorithm="HS256")


TOKENS = {
    "a": token("authenticated", user=1),
    "b": token("authenticated", user=2),
    "service": token("service_role"),
    "expired": token("authenticated", exp=1000000000),
    "forged": token("authenticated", secret="x" * 40),
    "garbage": "not.a.jwt",
}


@pytest.fixture(scope="module")
def client(postgres: PostgresServer) -> Iterator[httpx.Client]:
    url = _migrate.create_database(postgres.admin_url, "conformance")
    _migrate.apply_platform(url)
    with psycopg.connect(url) as connection:
        connection.execute((FOLDER / "fixture.sql").read_bytes())
    settings = Settings(
        db_url=_migrate.as_role(url, "authenticator"), jwt_secret=SECRET, schemas=("api",)
    )
    server = BackgroundServer(create_app(settings))
    port = server.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            yield client
    finally:
        server.stop()


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange["name"])
def test_answers_as_postgrest_does(client: httpx.Client, exchange: dict[str, Any]) -> None:
    headers = dict(exchange.get("headers", {}))
    if exchange["as"] != "anon":
        headers["Authorization"] = f"Bearer {TOKENS[exchange['as']]}"
    content = json.dumps(exchange["json"]) if "json" in exchange else exchange.get("raw")
    if content is not None:
        headers.setdefault("Content-Type", "application/json")
    answer = client.request(exchange["method"], exchange["path"], headers=headers, content=content)

    recorded = exchange["answer"]
    assert answer.status_code == recorded["status"], answer.text
    assert comparable(body_of(answer)) == comparable(recorded["body"])
    for name in ("content-range", "preference-applied", "location", "www-authenticate"):
        assert answer.headers.get(name) == recorded["headers"].get(name), name
    assert media_type(answer.headers) == media_type(recorded["headers"])


def body_of(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return answer.text or None


def comparable(body: Any) -> Any:
    if isinstance(body, dict) and str(body.get("code", "")).startswith("PGRST"):
        return dict.fromkeys(body) | {"code": body["code"]}
    return body


def media_type(headers: Any) -> str:
    return str(headers.get("content-type", "")).partition(";")[0]
