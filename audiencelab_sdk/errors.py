"""All errors that the SDK raises.

    AudienceLabError
    ├── ConfigurationError (also ValueError)
    ├── InvalidArgumentError (also ValueError)
    │   └── InvalidCursorError
    ├── ClientClosedError
    ├── APIConnectionError
    │   └── APITimeoutError
    ├── UnexpectedResponseError
    ├── UsageLogError
    ├── AuthenticationOverloadedError
    ├── EnrichmentFailedError
    ├── EnrichmentTimeoutError
    ├── EnrichmentRecordError
    ├── EnrichmentChunkError
    └── APIStatusError
        ├── AuthenticationError      401
        ├── PermissionDeniedError    403
        ├── NotFoundError            404
        ├── ConflictError            409
        ├── RateLimitError           429
        ├── InvalidRequestError      any other 4xx
        ├── SchemaError              500
        └── ServerError              5xx

A client that would send its key unencrypted emits an InsecureURLWarning.

Errors are safe to log: none contains a key, a token or a request body.
"""

from typing import TYPE_CHECKING

from audiencelab_sdk._text import shown

# The models import this module, because an `Outcome` has an error.
if TYPE_CHECKING:
    from audiencelab_sdk.models.enrichment import EnrichmentJob


class InsecureURLWarning(UserWarning):
    """A client sends its key and tokens unencrypted, over ``http://`` to another machine."""


class AudienceLabError(Exception):
    """Base class of all errors that the SDK raises."""


class ConfigurationError(AudienceLabError, ValueError):
    """A setting is missing or invalid, or an optional package is not installed."""


class InvalidArgumentError(AudienceLabError, ValueError):
    """An argument is invalid. No request was sent."""


class InvalidCursorError(InvalidArgumentError):
    """A cursor is damaged, or belongs to another list. A web API answers it with 400."""


class ClientClosedError(AudienceLabError):
    """The client or the recorder is closed, or the client was derived from one that is closed."""


class APIConnectionError(AudienceLabError):
    """No response arrived: the server cannot be reached, or the connection broke.

    Attributes:
        request_sent: Whether the server may have received the request and carried it out.
    """

    def __init__(self, message: str, *, request_sent: bool = True) -> None:
        super().__init__(message)
        self.request_sent = request_sent


class APITimeoutError(APIConnectionError):
    """No response arrived within the client's timeout."""


class UnexpectedResponseError(AudienceLabError):
    """The response reports success, but its body has an unexpected format."""


class UsageLogError(AudienceLabError):
    """The database could not write an entry of the usage log.

    Attributes:
        message: The database's error message.
        code: The SQLSTATE, such as 23503 for an API key that does not exist. None if unknown.
    """

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message, code)
        self.message = message
        self.code = code

    def __str__(self) -> str:
        return f"{self.message} (SQLSTATE {self.code})" if self.code else self.message


class AuthenticationOverloadedError(AudienceLabError):
    """An authenticator does not look up the key now, because there were too many unknown keys.

    A web API answers it with 503 and ``Retry-After``, never with 401: the key may be valid.

    Attributes:
        retry_after: Seconds to wait before a retry.
    """

    def __init__(self, retry_after: float) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"too many unknown API keys are being looked up: retry in {self.retry_after:.1f} s"


class EnrichmentFailedError(AudienceLabError):
    """The enrichment job that `wait` polled has failed.

    Attributes:
        job: The failed job. ``job.error`` is the reason, if there is one.
    """

    def __init__(self, job: "EnrichmentJob") -> None:
        super().__init__(job)
        self.job = job

    def __str__(self) -> str:
        reason = shown(self.job.error or "no reason is stored")
        return f"enrichment job {self.job.id} failed: {reason}"


class EnrichmentTimeoutError(AudienceLabError):
    """The enrichment job did not end within the timeout of `wait`.

    Attributes:
        job: The job as it was last read.
        timeout: The timeout in seconds.
    """

    def __init__(self, job: "EnrichmentJob", timeout: float) -> None:
        super().__init__(job, timeout)
        self.job = job
        self.timeout = timeout

    def __str__(self) -> str:
        job = self.job
        progress = (
            f", with {job.processed_records} of {job.total_records} records processed"
            if job.total_records
            else ""
        )
        return (
            f"enrichment job {job.id} is still {job.status} after {self.timeout:g} s{progress}: "
            "wait again, or pass a longer timeout"
        )


class EnrichmentRecordError(AudienceLabError):
    """The function passed to `run` raised an exception for a record. It is the ``__cause__``.

    The traceback in the worker is a note of the error. An exception of another process that cannot
    be pickled is replaced by one with its type and message as text.

    Attributes:
        index: The index of the record, from 0.
        reason: The type and the message of the exception.
    """

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(index, reason)
        self.index = index
        self.reason = reason

    def __str__(self) -> str:
        return f"record {self.index}: {shown(self.reason)}"


class EnrichmentChunkError(AudienceLabError):
    """The executor passed to `run` did not run a chunk of records. Its error is the ``__cause__``.

    For example, the record made the worker process crash in each attempt, or a value cannot be
    pickled.

    Attributes:
        records: The chunk, such as "records 2000 to 2999". The numbers are indices, from 0.
        attempts: How many times the executor tried.
        reason: The type and the message of the executor's error.
    """

    def __init__(self, records: str, attempts: int, reason: str) -> None:
        super().__init__(records, attempts, reason)
        self.records = records
        self.attempts = attempts
        self.reason = reason

    def __str__(self) -> str:
        times = "1 attempt" if self.attempts == 1 else f"{self.attempts} attempts"
        return f"{self.records} did not run in {times}: {shown(self.reason)}"


class APIStatusError(AudienceLabError):
    """The HTTP status of the response is not a success.

    Attributes:
        status: The HTTP status of the error, which an application may forward: 404 for a row that
            does not exist, 403 for a PermissionDeniedError, 500 for a SchemaError, otherwise
            `http_status`.
        http_status: The HTTP status of the response. PostgREST returns 406 for a row that does not
            exist, 401 for a missing permission of a request without a token, and 404 for a missing
            table.
        code: The SQLSTATE or PostgREST's error code, such as 42501 or PGRST202. None if the
            response has no code.
        message: The server's error message.
        details: Further details from the server. ``str(error)`` omits them, because they may quote
            rows.
        hint: How to fix the error, if known.
        request_id: The request's id in the logs of Supabase or of a proxy.
        retry_after: Seconds to wait before a retry, from the response's Retry-After header.
    """

    retry_after: float | None = None

    def __init__(
        self,
        status: int,
        code: str | None,
        message: str,
        details: str | None = None,
        hint: str | None = None,
        request_id: str | None = None,
        http_status: int | None = None,
    ) -> None:
        super().__init__(status, code, message, details, hint, request_id, http_status)
        self.status = status
        self.code = code
        self.message = message
        self.details = details
        self.hint = hint
        self.request_id = request_id
        self.http_status: int = status if http_status is None else http_status

    def __str__(self) -> str:
        facts = [f"HTTP {self.http_status}"]
        if self.code:
            facts.append(f"code {self.code}")
        if self.request_id:
            facts.append(f"request id {self.request_id}")
        text = f"{self.message} ({', '.join(facts)})"
        return f"{text}. {self.hint}" if self.hint else text


class AuthenticationError(APIStatusError):
    """The server rejects the key or the access token, or the client has only the publishable key.

    The HTTP status is 401.
    """


class PermissionDeniedError(APIStatusError):
    """The caller is authenticated, but lacks the permission (403)."""


class NotFoundError(APIStatusError):
    """The row does not exist, or is not visible to the caller.

    `status` is 404. The HTTP status of the response may be 406.
    """


class ConflictError(APIStatusError):
    """The request conflicts with stored data, for example with an existing row (409)."""


class InvalidRequestError(APIStatusError):
    """The server rejects the request as invalid (any other 4xx)."""


class SchemaError(APIStatusError):
    """The API has no such table, column or function, or there is no API at the URL.

    The migrations are missing, the API has not reloaded its schema, or the URL is wrong. `status`
    is 500, because the caller of an application cannot fix this.
    """


class RateLimitError(APIStatusError):
    """There were too many requests (429)."""


class ServerError(APIStatusError):
    """The server or the database failed (5xx)."""
