"""API keys in an application of Django, in one file.

gunicorn --chdir examples/recipes django_app:application
"""

import logging
from collections.abc import Callable

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

from audiencelab_sdk import (
    AudienceLab,
    AudienceLabError,
    KeyAuthenticator,
    UsageEvent,
    UsageRecorder,
)

logger = logging.getLogger(__name__)
client = AudienceLab.from_env()
authenticator, recorder = KeyAuthenticator(client), UsageRecorder(client)


def api_keys(get_response: Callable[[HttpRequest], HttpResponse]) -> object:
    """Refuse requests without a valid key, and log all others: a middleware."""

    def handle(request: HttpRequest) -> HttpResponse:
        address = request.META.get("REMOTE_ADDR") or None
        try:
            caller = authenticator.authenticate(request.headers.get("X-API-Key", ""), address)
        except AudienceLabError:
            logger.exception("API keys cannot be checked")
            return HttpResponse("Try again later", status=503, headers={"Retry-After": "1"})
        if not caller:
            return HttpResponse(
                "Invalid API key", status=401, headers={"WWW-Authenticate": "Bearer"}
            )
        request.caller = caller
        response = get_response(request)
        recorder.record(
            UsageEvent(
                api_key_id=caller.api_key_id,
                endpoint=f"/{request.resolver_match.route}"
                if request.resolver_match
                else "unknown",
                method=request.method,
                status_code=response.status_code,
                ip_address=address,
                user_agent=request.headers.get("User-Agent"),
            )
        )
        return response

    return handle


def read_segment(request: HttpRequest, segment_id: str) -> HttpResponse:
    """Answer callers that may read the segment."""
    if not request.caller.allows("segment", segment_id, "read"):
        return HttpResponse("The API key lacks the scope segment:read", status=403)
    return HttpResponse(f"{segment_id} of {request.caller.account_id}")


urlpatterns = [path("v1/segments/<str:segment_id>", read_segment)]
settings.configure(ROOT_URLCONF=__name__, MIDDLEWARE=[f"{__name__}.api_keys"], ALLOWED_HOSTS=["*"])
application = get_wsgi_application()
