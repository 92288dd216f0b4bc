"""The typed error that a request becomes when no HTTP answer came."""

import socket
import ssl
from collections.abc import Iterator

import httpx

from audiencelab_sdk.errors import (
    APIConnectionError,
    APITimeoutError,
    AudienceLabError,
    UnexpectedResponseError,
)

_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


def connection_error(request: httpx.Request, error: httpx.RequestError) -> AudienceLabError:
    """The error that says what `error` means for `request`, and what to do."""
    url = request.url
    reason = ": ".join(text for text in (type(error).__name__, str(error)) if text)
    what = f"{request.method} {url.path}"
    where = f"{url.scheme}://{url.netloc.decode('ascii')}"
    if isinstance(error, httpx.DecodingError):
        return UnexpectedResponseError(
            f"{what}: {where} answered in a broken encoding ({reason}): "
            "a proxy on the way may damage answers"
        )
    late = isinstance(error, httpx.TimeoutException)
    message = f"{what}: no answer from {where}{' in time' if late else ''} ({reason})"
    return (APITimeoutError if late else APIConnectionError)(
        f"{message}: {_advice(error)}", request_sent=not isinstance(error, _NEVER_SENT)
    )


def _advice(error: httpx.RequestError) -> str:
    if isinstance(error, httpx.PoolTimeout):
        return "all connections were busy, so make fewer calls at a time"
    if isinstance(error, httpx.ConnectTimeout):
        return "is the URL right, and does a firewall let this machine reach it?"
    if isinstance(error, httpx.TimeoutException):
        return "it may still be carried out; client.with_options(timeout=...) waits longer"
    if isinstance(error, httpx.ProxyError):
        return "the proxy is the one that HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names"
    if isinstance(error, httpx.ConnectError):
        return _connect_advice(error)
    return "the connection broke, and the request may have been carried out"


def _connect_advice(error: httpx.ConnectError) -> str:
    causes = list(_causes(error))
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return "the host name is not known here: is the URL right, and is the project not paused?"
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return "its certificate is not trusted: SSL_CERT_FILE names those that are"
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return "it does not speak TLS there: should the URL begin with http://?"
    return "is the URL right, and does the server run?"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error`, the one that it was raised from, and so on."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
