"""Operations without a driver: a test receives their requests and sends the responses."""

import json
from typing import Any

import httpx
import pytest
from postgrest import SyncPostgrestClient

from audiencelab_sdk._http._drivers import Driver
from audiencelab_sdk._http._operation import Operation, Request, Response
from audiencelab_sdk._http._reports import Reports
from audiencelab_sdk._resources.api_keys import ApiKeys
from audiencelab_sdk._resources.enrichment import Enrichment
from audiencelab_sdk._resources.segments import Segments
from tests.unit._samples import USER

# It builds requests and never sends them.
API = SyncPostgrestClient(
    "https://a.test/rest/v1",
    http_client=httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(500))),
)


class Undriven(Driver):
    """Returns each operation instead of running it."""

    def __init__(self) -> None:
        super().__init__(API, Reports(), max_retries=0)

    def __call__(self, _: str, operation: Operation[Any]) -> Any:
        return operation


api_keys: Any = ApiKeys(Undriven(), lambda: None)
segments: Any = Segments(Undriven(), lambda: {"created_by": str(USER)})
enrichment: Any = Enrichment(Undriven(), lambda: {"created_by": str(USER)})
segments_of_nobody: Any = Segments(Undriven(), lambda: None)
enrichment_of_nobody: Any = Enrichment(Undriven(), lambda: None)


def listing_of(method: Any, *args: Any, **kwargs: Any) -> Any:
    """Return the Listing behind a method that returns pages."""
    return method.__wrapped__(method.__self__, *args, **kwargs)


def json_response(data: Any) -> Response:
    """Return a successful response with this JSON."""
    return text_response(json.dumps(data))


def text_response(body: str) -> Response:
    """Return a successful response with this body."""
    return Response("POST", "/rest/v1/rows", 200, body.encode(), "application/json")


def sent(request: Request) -> tuple[str, dict[str, str], Any]:
    """Return the path, the query and the body of a request."""
    built: Any = request.build(API).request
    return str(built.path.path), dict(built.params), built.json


def result_of(operation: Operation[Any], data: Any) -> Any:
    """Return the result of an operation whose only response has this JSON."""
    next(operation)
    with pytest.raises(StopIteration) as stop:
        operation.send(json_response(data))
    return stop.value.value


def drive(operation: Operation[Any], *outcomes: Any) -> tuple[list[Any], Any]:
    """Run an operation to its end, and return its requests and its result.

    Each outcome is an error, the JSON of a response, or a function from the request's body to one
    of them.
    """
    requests = [next(operation)]
    for outcome in outcomes:
        data = outcome(sent(requests[-1])[2]) if callable(outcome) else outcome
        try:
            if isinstance(data, Exception):
                requests.append(operation.throw(data))
            else:
                requests.append(operation.send(json_response(data)))
        except StopIteration as stop:
            return [sent(request) for request in requests], stop.value
    raise AssertionError("more requests than outcomes")
