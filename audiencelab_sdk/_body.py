"""The value in an HTTP answer whose status is a success."""

from typing import TYPE_CHECKING

from pydantic_core import from_json

from audiencelab_sdk.errors import UnexpectedResponseError

if TYPE_CHECKING:
    import httpx
    from postgrest import APIResponse


def read_answer(response: "httpx.Response") -> "APIResponse":
    """The value that `response`, which has been read, carries; an empty list for an empty body.

    postgrest-py would hand on what it cannot parse as if it were a JSON string.

    Raises:
        UnexpectedResponseError: The body is no JSON.
    """
    from postgrest import APIResponse  # noqa: PLC0415 - see _client

    if not response.content:
        return APIResponse.model_construct(data=[])
    try:
        # The keys alone: values are many and rarely the same, and a cache keeps them alive.
        data = from_json(response.content, cache_strings="keys")
        return APIResponse.model_construct(data=data)
    except ValueError:
        request = response.request
        what = f"{request.method} {request.url.path} answered {response.status_code} with"
        kind = response.headers.get("Content-Type", "no content type")
    if "json" in kind:
        advice = "broken JSON: a proxy on the way may cut answers off"
    else:
        advice = "something other than JSON: does the URL lead to the project's API, and no proxy "
        advice += "or login page in its place?"
    raise UnexpectedResponseError(f"{what} {advice} ({kind}, {len(response.content)} bytes)")
