"""Operations driven by hand: the requests they yield, and the responses they are sent."""

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
    """Returns the operation itself, for a test to drive by hand."""

    def __init__(self) -> None:
        super().__init__(API, Reports(), max_retries=0)

    def __call__(self, _: str, operation: Operation[Any]) -> Any:
        return operation


api_keys: Any = ApiKeys(Undriven(), lambda: None)
segments: Any = Segments(Undriven(), lambda: USER)
enrichment: Any = Enrichment(Undriven(), lambda: USER)
segments_of_nobody: Any = Segments(Undriven(), lambda: None)
enrichment_of_nobody: Any = Enrichment(Undriven(), lambda: None)


def unfetched(method: Any, *args: Any, **kwargs: Any) -> Any:
    """Return the Listing behind a method that returns pages."""
    return method.__wrapped__(method.__self__, *args, **kwargs)


def success(data: Any) -> Response:
    """Return a successful response with this JSON."""
    return response(json.dumps(data))


def response(body: str) -> Response:
    """Return a successful response with this body."""
    return Response("POST", "/rest/v1/rows", 200, body.encode(), "application/json")


def sent(call: Request) -> tuple[str, dict[str, str], Any]:
    """The path, query and body of the request that a call makes."""
    request: Any = call.build(API).request
    return str(request.path.path), dict(request.params), request.json


def answered(steps: Operation[Any], data: Any) -> Any:
    """What an operation of one call returns for an answer."""
    next(steps)
    with pytest.raises(StopIteration) as stop:
        steps.send(success(data))
    return stop.value.value


def drive(steps: Operation[Any], *answers: Any) -> tuple[list[Any], Any]:
    """The requests made, and the result, when each is answered in turn: by data or an error."""
    requests = [next(steps)]
    for answer in answers:
        data = answer(sent(requests[-1])[2]) if callable(answer) else answer
        try:
            if isinstance(data, Exception):
                requests.append(steps.throw(data))
            else:
                requests.append(steps.send(success(data)))
        except StopIteration as stop:
            return [sent(request) for request in requests], stop.value
    raise AssertionError("more requests than answers")
