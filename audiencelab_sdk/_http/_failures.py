"""The typed error for a request without an HTTP response."""

import socket
import ssl

import anyio
import httpx

from audiencelab_sdk._text import shown
from audiencelab_sdk.errors import (
    APIConnectionError,
    APITimeoutError,
    AudienceLabError,
    UnexpectedResponseError,
)

# What httpx, and what lies below it, raises. Others pass: a signal handler may raise one.
FAILURES = (
    httpx.HTTPError,
    httpx.InvalidURL,
    httpx.StreamError,
    OSError,
    ValueError,
    LookupError,
    RuntimeError,
    anyio.BrokenResourceError,
    anyio.BusyResourceError,
    anyio.ClosedResourceError,
    ExceptionGroup,
)
_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.LocalProtocolError,
    httpx.UnsupportedProtocol,
)
# The first that fits counts.
_ADVICE: tuple[tuple[type[Exception], str], ...] = (
    (httpx.PoolTimeout, "all connections were busy, so make fewer calls at a time"),
    (httpx.ConnectTimeout, "is the URL right, and does a firewall let this machine reach it?"),
    (
        httpx.TimeoutException,
        "it may have been executed; client.with_options(timeout=...) waits longer",
    ),
    (httpx.ProxyError, "proxy=, HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names the proxy"),
    (httpx.LocalProtocolError, "the request is not valid HTTP: look at headers="),
    (
        socket.gaierror,
        "the host name is not known here: is the URL right, and the project not paused?",
    ),
    (
        ssl.SSLCertVerificationError,
        "for a private certificate authority pass verify=ssl.create_default_context(cafile=...)",
    ),
    (ssl.SSLError, "the server does not speak TLS: should the URL begin with http://?"),
    (httpx.ConnectError, "is the URL right, and is the server running?"),
    (Exception, "the connection broke, and the request may have been executed"),
)


def connection_error(request: httpx.Request, error: Exception) -> AudienceLabError:
    """Return the error that says what `error` means for `request`, and what to do."""
    url = request.url
    # Of a request that httpx refuses, the text may quote a header.
    text = "" if isinstance(error, httpx.LocalProtocolError) else shown(str(error))
    reason = ": ".join(part for part in (type(error).__name__, text) if part)
    what = f"{request.method} {url.path}"
    where = f"{url.scheme}://{url.netloc.decode('ascii')}"
    if isinstance(error, httpx.DecodingError):
        return UnexpectedResponseError(
            f"{what}: the response from {where} cannot be decompressed ({reason}): "
            "does a proxy on the way damage responses?"
        )
    is_late = isinstance(error, httpx.TimeoutException)
    message = f"{what}: no response from {where}{' in time' if is_late else ''} ({reason})"
    return (APITimeoutError if is_late else APIConnectionError)(
        f"{message}: {_advice(error)}", request_sent=not isinstance(error, _NEVER_SENT)
    )


def _advice(error: Exception) -> str:
    if isinstance(error, httpx.RemoteProtocolError) and "illegal" in str(error):
        return "the server does not speak HTTP: should the URL begin with https://?"
    # Only where no connection came about do the causes tell more: a broken one may end in TLS.
    causes = _causes(error) if isinstance(error, httpx.ConnectError) else [error]
    return next(
        advice for kind, advice in _ADVICE if any(isinstance(cause, kind) for cause in causes)
    )


def _causes(error: BaseException) -> list[BaseException]:
    """Return `error` and the chain of its causes, which may end in a ring."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    return causes
