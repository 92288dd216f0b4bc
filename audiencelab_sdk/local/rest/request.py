"""Parse HTTP requests. Names are not yet looked up in the schema cache."""

import json
from dataclasses import dataclass, field, replace
from typing import cast
from urllib.parse import parse_qsl

from starlette.requests import Request

from audiencelab_sdk.local.rest.body import parse_body
from audiencelab_sdk.local.rest.database import RequestSettings, Settings
from audiencelab_sdk.local.rest.errors import ApiError
from audiencelab_sdk.local.rest.headers import (
    MediaType,
    Preferences,
    parse_accept,
    parse_prefer,
    parse_range,
)
from audiencelab_sdk.local.rest.parse import parse_query
from audiencelab_sdk.local.rest.query import JsonBody, Query
from audiencelab_sdk.local.rest.render import Output
from audiencelab_sdk.local.rest.tokens import Identity
from audiencelab_sdk.local.rest.writes import Resolution, Returning

_LARGEST_BODY = 10 * 1024 * 1024


@dataclass(frozen=True)
class ApiRequest:
    """A parsed request.

    Attributes:
        http: The HTTP request.
        identity: The database role and claims.
        schema: The exposed schema.
        name: The table or function in the path.
        query: The URL's query, with the window restricted to the Range header and `max_rows`.
        preferences: The Prefer header.
        media: The best media type that the Accept header allows.
        content: The body.
    """

    http: Request
    identity: Identity
    schema: str
    name: str
    query: Query
    preferences: Preferences
    media: MediaType
    content: bytes = field(repr=False)

    @property
    def method(self) -> str:
        """The HTTP method."""
        return self.http.method

    @property
    def output(self) -> Output:
        """The format of the response body."""
        counted = self.preferences["count"] in {"exact", "estimated"}
        return Output(self.media.shape, self.media.strip_nulls, counted)

    @property
    def returning(self) -> Returning:
        """What the response to a write includes of the written rows."""
        return cast("Returning", self.preferences["return"] or "minimal")

    @property
    def resolution(self) -> Resolution | None:
        """What an insert does with a row whose key exists."""
        return cast("Resolution | None", self.preferences["resolution"])

    @property
    def use_defaults(self) -> bool:
        """Whether a missing key means the column's default instead of null."""
        return self.preferences["missing"] == "default"

    @property
    def settings(self) -> RequestSettings:
        """The settings of the request's transaction."""
        headers = {key: value for key, value in self.http.headers.items() if key != "cookie"}
        return RequestSettings(
            schema=self.schema,
            role=self.identity.role,
            claims=self.identity.claims,
            method=self.method,
            path=self.http.scope["path"],
            headers=json.dumps(headers),
            cookies=json.dumps(self.http.cookies),
        )

    def body(self, *, if_empty: str = "") -> JsonBody:
        """Return the body as JSON.

        Raises:
            ApiError: The body is not valid (PGRST102).
        """
        content_type = self.http.headers.get("content-type", "")
        return parse_body(self.content, content_type, if_empty=if_empty)


async def read_request(request: Request, identity: Identity, settings: Settings) -> ApiRequest:
    """Parse a request.

    Raises:
        ApiError: The URL's query or a header is not valid, or the body is larger than 10 MB (413).
    """
    path: str = request.scope["path"]
    reads = request.method in {"GET", "HEAD"}
    calls = path.startswith("/rpc/")
    text = request.scope["query_string"].decode(errors="replace")
    pairs = parse_qsl(text, keep_blank_values=True, errors="replace")
    query = parse_query(pairs, with_arguments=calls and reads)
    window = query.window
    if reads:
        window = parse_range(request.headers.get("range"), window)
    if reads or calls:
        most = settings.max_rows
        window = replace(window, limit=min(most if window.limit is None else window.limit, most))
    return ApiRequest(
        http=request,
        identity=identity,
        schema=_schema(request, settings, "accept-profile" if reads else "content-profile"),
        name=request.path_params.get("name", ""),
        query=replace(query, window=window),
        preferences=parse_prefer(request.headers.getlist("prefer")),
        media=parse_accept(request.headers.get("accept")),
        content=await _content(request),
    )


async def _content(request: Request) -> bytes:
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > _LARGEST_BODY:
            raise ApiError(413, "PGRST102", "The request body is larger than 10 MB")
    return bytes(content)


def _schema(request: Request, settings: Settings, header: str) -> str:
    wanted = request.headers.get(header, settings.schemas[0])
    if wanted not in settings.schemas:
        exposed = ", ".join(settings.schemas)
        raise ApiError(
            406,
            "PGRST106",
            f"Invalid schema: {wanted}",
            hint=f"Only the following schemas are exposed: {exposed}",
        )
    return wanted
