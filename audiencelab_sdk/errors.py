"""All errors that the SDK raises.

    AudienceLabError
    ├── ConfigurationError (also ValueError)
    ├── InvalidArgumentError (also ValueError)
    ├── ClientClosedError
    ├── APIConnectionError
    │   └── APITimeoutError
    ├── UnexpectedResponseError
    ├── UsageLogError
    ├── EnrichmentFailedError
    ├── EnrichmentTimeoutError
    └── APIStatusError
        ├── AuthenticationError      401
        ├── PermissionDeniedError    403
        ├── NotFoundError            404, and 406 with code PGRST116
        ├── ConflictError            409
        ├── RateLimitError           429
        ├── InvalidRequestError      any other 4xx
        └── ServerError              5xx

A client that would send its key unencrypted emits an InsecureURLWarning.

Errors are safe to log: none contains a key, a token or a request body.
"""

from typing import TYPE_CHECKING

from audiencelab_sdk._text import shown

# The models import this module, because an `Outcome` has an error.
if TYPE_CHECKING:
    from audiencelab_sdk.models.enrichment import EnrichmentJob

_JWT_ADVICE = (
    "The access token has expired, is malformed, or was signed for another project: get a new one."
)
_SCHEMA_ADVICE = (
    "The API's schema cache lacks this table, column or function: apply the AudienceLab migrations "
    "(supabase db push), or reload the cache if they are applied (notify pgrst, 'reload schema')."
)
_ADVICE = {
    "PGRST202": _SCHEMA_ADVICE,
    "PGRST204": _SCHEMA_ADVICE,
    "PGRST205": _SCHEMA_ADVICE,
    "PGRST301": _JWT_ADVICE,
    "PGRST303": _JWT_ADVICE,
}


class InsecureURLWarning(UserWarning):
    """A client sends its key and tokens unencrypted, over ``http://`` to another machine."""


class AudienceLabError(Exception):
    """Base class of all errors that the SDK raises."""


class ConfigurationError(AudienceLabError, ValueError):
    """A setting of the client is missing or invalid, or an optional package is not installed."""


class InvalidArgumentError(AudienceLabError, ValueError):
    """An argument is invalid. No request was sent."""


class ClientClosedError(AudienceLabError):
    """The client is closed, or was derived from a client that is closed."""


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


class APIStatusError(AudienceLabError):
    """The HTTP status of the response is not a success.

    Attributes:
        status: The HTTP status.
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
    ) -> None:
        super().__init__(status, code, message, details, hint, request_id)
        self.status = status
        self.code = code
        self.message = message
        self.details = details
        self.hint = hint
        self.request_id = request_id

    def __str__(self) -> str:
        facts = [f"HTTP {self.status}"]
        if self.code:
            facts.append(f"code {self.code}")
        if self.request_id:
            facts.append(f"request id {self.request_id}")
        parts = [f"{self.message} ({', '.join(facts)})", self.hint, _ADVICE.get(self.code or "")]
        return " ".join(part for part in parts if part)


class AuthenticationError(APIStatusError):
    """The server rejects the key or the access token, or the client has only the publishable key.

    The HTTP status is 401.
    """


class PermissionDeniedError(APIStatusError):
    """The caller is authenticated, but lacks the permission (403)."""


class NotFoundError(APIStatusError):
    """The row, table or function does not exist, or is not visible to the caller.

    The HTTP status is 404, or 406 with the code PGRST116.
    """


class ConflictError(APIStatusError):
    """The request conflicts with stored data, for example with an existing row (409)."""


class InvalidRequestError(APIStatusError):
    """The server rejects the request as invalid (any other 4xx)."""


class RateLimitError(APIStatusError):
    """There were too many requests (429)."""


class ServerError(APIStatusError):
    """The server or the database failed (5xx)."""
