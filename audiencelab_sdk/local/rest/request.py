"""Parse HTTP requests. Names are not yet looked up in the schema cache."""

import functools
import json
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any, cast
from urllib.parse import parse_qsl, quote

from starlette.requests import Request

from audiencelab_sdk.local.rest.body import parse_body
from audiencelab_sdk.local.rest.database import Settings
from audiencelab_sdk.local.rest.errors import ApiError
from audiencelab_sdk.local.rest.headers import (
    MediaType,
    Preferences,
    parse_accept,
    parse_prefer,
    parse_range,
)
from audiencelab_sdk.local.rest.parse import parse_query
from audiencelab_sdk.local.rest.query import JsonBody, Query, Window
from audiencelab_sdk.local.rest.render import Output
from audiencelab_sdk.local.rest.tokens import Identity
from audiencelab_sdk.local.rest.transaction import RequestSettings
from audiencelab_sdk.local.rest.writes import Resolution, Returning

_LARGEST_BODY = 10 * 1024 * 1024


class NotUtf8Error(Exception):
    """A header that is not UTF-8, which PostgREST cannot pass to SQL."""


@dataclass(frozen=True)
class ApiRequest:
    """A parsed request.

    Attributes:
        http: The HTTP request.
        identity: The database role and claims.
        schema: The exposed schema.
        name: The table or function in the path.
        location: The canonical URL, without the host.
        query: The URL's query, with the window restricted to the Range header and `max_rows`.
        preferences: The Prefer header.
        media: The best media type that the Accept header allows.
        content: The body.
    """

    http: Request
    identity: Identity
    schema: str
    name: str
    location: str
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
    def has_window(self) -> bool:
        """Whether the URL restricts the number of rows."""
        return self.query.window != Window()

    @property
    def settings(self) -> RequestSettings:
        """The settings of the request's transaction.

        Raises:
            NotUtf8Error: A header is not UTF-8.
        """
        try:
            # Of several headers with one name, SQL sees the last.
            headers = {name.decode(): value.decode() for name, value in self.http.headers.raw}
            cookies = {_utf8(name): _utf8(value) for name, value in self.http.cookies.items()}
        except UnicodeDecodeError as error:
            raise NotUtf8Error from error
        headers.pop("cookie", None)
        return RequestSettings(
            schema=self.schema,
            role=self.identity.role,
            claims=_compact_claims(self.identity.claims),
            method=self.method,
            path=self.http.scope["raw_path"].decode("latin-1"),
            headers=_compact(headers),
            cookies=_compact(cookies),
            timezone=self.preferences["timezone"],
        )

    def body(self, *, if_empty: str = "") -> JsonBody:
        """Return the body as JSON.

        Raises:
            ApiError: The body is not valid (PGRST102).
        """
        content_type = self.http.headers.get("content-type", "")
        return parse_body(self.content, content_type, if_empty=if_empty)

    def objects(self, if_empty: str = "") -> JsonBody:
        """Return the body as JSON: an object, or an array of objects with the same keys.

        Raises:
            ApiError: The body is not valid, or its keys differ and `columns` is missing (PGRST102).
        """
        body = self.body(if_empty=if_empty)
        if body.is_ragged and self.query.columns is None:
            raise ApiError(400, "PGRST102", "All object keys must match")
        return body


def _compact(document: Any) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


@functools.lru_cache(maxsize=64)
def _compact_claims(claims: str) -> str:
    return _compact(json.loads(claims))


def _utf8(text: str) -> str:
    """Return the text of a header that Starlette has decoded as Latin-1."""
    return text.encode("latin-1").decode()


async def read_request(
    request: Request,
    identity: Identity,
    settings: Settings,
    max_rows: int | None,
    timezones: Collection[str],
) -> ApiRequest:
    """Parse a request.

    Args:
        request: The HTTP request.
        identity: The database role and claims.
        settings: The settings of the server.
        max_rows: The maximum number of rows per response.
        timezones: The time zones that the client may prefer.

    Raises:
        ApiError: The URL's query or a header is not valid, or the body is larger than 10 MB (413).
    """
    path: str = request.scope["path"]
    reads = request.method in {"GET", "HEAD"}
    calls = path.startswith("/rpc/")
    schema = _schema(request, settings, "accept-profile" if reads else "content-profile")
    text = request.scope["query_string"].decode(errors="replace")
    pairs = parse_qsl(text, keep_blank_values=True, errors="replace")
    query = parse_query(pairs, with_arguments=calls and reads)
    window = query.window
    if reads:
        window = parse_range(request.headers.get("range"), window)
    if max_rows is not None and (reads or calls):
        limit = max_rows if window.limit is None else min(window.limit, max_rows)
        window = replace(window, limit=limit)
    return ApiRequest(
        http=request,
        identity=identity,
        schema=schema,
        name=request.path_params.get("name", ""),
        location=_canonical(path, pairs),
        query=replace(query, window=window),
        preferences=parse_prefer(request.headers.getlist("prefer"), timezones),
        media=parse_accept(request.headers.get("accept"), description=path == "/"),
        content=await _content(request),
    )


def _canonical(path: str, pairs: list[tuple[str, str]]) -> str:
    """Return a URL with its query in the order of the names, one parameter for each."""
    values: dict[str, list[str]] = {}
    for name, value in sorted(pairs, key=lambda pair: pair[0]):
        values.setdefault(name, []).append(quote(value, safe=""))
    query = "&".join(f"{quote(name, safe='')}={','.join(texts)}" for name, texts in values.items())
    return quote(path) + (f"?{query}" if query else "")


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
