"""What `on_response` is called with."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from audiencelab_sdk.errors import AudienceLabError


@dataclass(frozen=True, slots=True)
class RequestAttempt:
    """One attempt of a request, for logs and metrics. It holds no key, token, query or body.

    Attributes:
        call: The method that was called, such as ``api_keys.verify``.
        method: The HTTP method.
        path: The path of the URL, such as ``/rest/v1/rpc/verify_api_key``.
        status: The HTTP status. None if no response arrived.
        request_id: The request's id in the logs of Supabase or of a proxy.
        attempt: The number of the attempt, from 1.
        duration: How long the attempt took, in seconds, waiting for a free connection included.
        error: The class of the error that the attempt became. None for a success.
    """

    call: str
    method: str
    path: str
    status: int | None
    request_id: str | None
    attempt: int
    duration: float
    error: "type[AudienceLabError] | None"
