"""The recorded responses of a PostgREST server, in their order, because the requests change data.

Of PostgREST's own errors the status and the code have to be the same, not the wording;
PostgreSQL's errors have to be the same throughout.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

RECORDED = Path(__file__).parent / "conformance" / "recorded.json"
EXCHANGES: list[dict[str, Any]] = json.loads(RECORDED.read_text())
FAR_FUTURE = 4102444800


@pytest.fixture(scope="module")
def api(serve: Callable[[str], Any]) -> Any:
    return serve("")


@pytest.fixture(scope="module")
def tokens(api: Any) -> dict[str, str]:
    user_a = {"sub": "10000000-0000-4000-8000-000000000001", "exp": FAR_FUTURE}
    user_b = {"sub": "10000000-0000-4000-8000-000000000002", "exp": FAR_FUTURE}
    return {
        "a": api.token(**user_a),
        "b": api.token(**user_b),
        "service": api.token("service_role"),
        "expired": api.token(**{**user_a, "exp": 1000000000}),
        "forged": api.token(**user_a, secret="x" * 40),
        "garbage": "not.a.jwt",
    }


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange["name"])
def test_responses_match_postgrest(
    api: Any, tokens: dict[str, str], exchange: dict[str, Any]
) -> None:
    headers = dict(exchange.get("headers", {}))
    if exchange["as"] != "anon":
        headers["Authorization"] = f"Bearer {tokens[exchange['as']]}"
    content = json.dumps(exchange["json"]) if "json" in exchange else exchange.get("raw")
    if content is not None:
        headers.setdefault("Content-Type", "application/json")
    response = api.client.request(
        exchange["method"], exchange["path"], headers=headers, content=content
    )

    recorded = exchange["answer"]
    assert response.status_code == recorded["status"], response.text
    assert comparable(body_of(response)) == comparable(recorded["body"])
    for name in ("content-range", "preference-applied", "location", "www-authenticate"):
        assert response.headers.get(name) == recorded["headers"].get(name), name
    assert media_type(response.headers) == media_type(recorded["headers"])


def body_of(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return response.text or None


def comparable(body: Any) -> Any:
    if isinstance(body, dict) and str(body.get("code", "")).startswith("PGRST"):
        return dict.fromkeys(body) | {"code": body["code"]}
    return body


def media_type(headers: Any) -> str:
    return str(headers.get("content-type", "")).partition(";")[0]
