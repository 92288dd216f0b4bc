"""The argument of the callback `on_response`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from audiencelab_sdk.errors import AudienceLabError


@dataclass(frozen=True, slots=True)
class RequestAttempt:
    """One attempt of a request, for logs and metrics. It has no key, token, query or body.

    Attributes:
        call: The method that was called, such as ``api_keys.verify``.
        method: The HTTP method.
        path: The path of the URL, such as ``/rest/v1/rpc/verify_api_key``.
        status: The HTTP status. None if no response arrived.
        request_id: The request's id in the logs of Supabase or of a proxy.
        attempt: The number of the attempt, from 1.
        duration: The seconds that the attempt took, including the wait for a free connection.
        error: The class of the error that the attempt raised. None if it succeeded.
    """

    call: str
    method: str
    path: str
    status: int | None
    request_id: str | None
    attempt: int
    duration: float
    error: "type[AudienceLabError] | None"
