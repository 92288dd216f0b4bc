"""Every error that the SDK raises.

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

A client that would send its key in clear text warns with an InsecureURLWarning.

No error holds a key, a token or the body of a request, so each may be logged as it is.
"""

from typing import TYPE_CHECKING

from audiencelab_sdk._text import shown

# `models.Outcome` holds an error, so the models cannot be imported here.
if TYPE_CHECKING:
    from audiencelab_sdk.models.enrichment import EnrichmentJob

_EXPIRY_ADVICE = "The access token has expired, is damaged, or was signed for another project."
_SCHEMA_ADVICE = (
    "The API does not know this table, column or function: apply the AudienceLab migrations to "
    "the database (supabase db push) or, where they are, let the API reload its schema "
    "(notify pgrst, 'reload schema')."
)
_ADVICE = {
    "PGRST202": _SCHEMA_ADVICE,
    "PGRST204": _SCHEMA_ADVICE,
    "PGRST205": _SCHEMA_ADVICE,
    "PGRST301": _EXPIRY_ADVICE,
    "PGRST303": _EXPIRY_ADVICE,
}


class InsecureURLWarning(UserWarning):
    """A client sends its key and tokens over ``http://`` to another machine, in clear text."""


class AudienceLabError(Exception):
    """Base class of every error that the SDK raises."""


class ConfigurationError(AudienceLabError, ValueError):
    """A setting of the client (URL, key, token, timeout, retries) is missing or unusable."""


class InvalidArgumentError(AudienceLabError, ValueError):
    """An argument was refused before any request was sent."""


class ClientClosedError(AudienceLabError):
    """The client, or the one whose connections it shares, has been closed."""


class APIConnectionError(AudienceLabError):
    """No response arrived: the server could not be reached, or the connection broke.

    Attributes:
        request_sent: Whether the request may have reached the server, so that what it asked for
            may have been done.
    """

    def __init__(self, message: str, *, request_sent: bool = True) -> None:
        super().__init__(message)
        self.request_sent = request_sent


class APITimeoutError(APIConnectionError):
    """No response arrived within the client's timeout."""


class UnexpectedResponseError(AudienceLabError):
    """The server reported success with a body that cannot be understood."""


class UsageLogError(AudienceLabError):
    """The database could not write a line of the usage log.

    Attributes:
        message: What the database said.
        code: The SQLSTATE, such as 23503 for an API key that does not exist.
    """

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message, code)
        self.message = message
        self.code = code

    def __str__(self) -> str:
        return f"{self.message} (SQLSTATE {self.code})" if self.code else self.message


class EnrichmentFailedError(AudienceLabError):
    """The enrichment job that was waited for has failed.

    Attributes:
        job: The job; ``job.error`` is what is known of the reason.
    """

    def __init__(self, job: "EnrichmentJob") -> None:
        super().__init__(job)
        self.job = job

    def __str__(self) -> str:
        reason = shown(self.job.error or "no reason was given")
        return f"enrichment job {self.job.id} failed: {reason}"


class EnrichmentTimeoutError(AudienceLabError):
    """The enrichment job had not ended when the time to wait for it was over.

    Attributes:
        job: The job as it was then.
        timeout: The time that was allowed, in seconds.
    """

    def __init__(self, job: "EnrichmentJob", timeout: float) -> None:
        super().__init__(job, timeout)
        self.job = job
        self.timeout = timeout

    def __str__(self) -> str:
        return (
            f"enrichment job {self.job.id} is still {self.job.status} after {self.timeout:g} s: "
            f"{self.job.processed_records} of {self.job.total_records} records are processed"
        )


class APIStatusError(AudienceLabError):
    """The response has an HTTP status that is not a success.

    Attributes:
        status: The HTTP status.
        code: The SQLSTATE or PostgREST's code, such as 42501 or PGRST202.
        message: What the server said.
        details: More from the server; it may quote rows, so it is no part of ``str(error)``.
        hint: The server's advice.
        request_id: The request's name in the logs of Supabase or of a proxy.
        retry_after: Seconds that the server asked to wait, if it said so.
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
    """The caller is known and may not do this (403)."""


class NotFoundError(APIStatusError):
    """There is no such row, table or function (404, and 406 with code PGRST116)."""


class ConflictError(APIStatusError):
    """The request contradicts what is stored, such as a duplicate (409)."""


class InvalidRequestError(APIStatusError):
    """The server refused the request as it stands (any other 4xx)."""


class RateLimitError(APIStatusError):
    """Too many requests (429)."""


class ServerError(APIStatusError):
    """The server or the database failed (5xx)."""
