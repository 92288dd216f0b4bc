"""API keys in an application of Flask.

flask --app examples/recipes/flask_app run
"""

from flask import Flask, Response, g, request

from audiencelab_sdk import (
    AudienceLab,
    AudienceLabError,
    KeyAuthenticator,
    UsageEvent,
    UsageRecorder,
)

client = AudienceLab.from_env()
authenticator, recorder = KeyAuthenticator(client), UsageRecorder(client)
app = Flask(__name__)


@app.before_request
def check_key() -> Response | None:
    """Refuse requests without a valid key."""
    address = request.remote_addr or None  # empty behind a Unix socket
    try:
        g.caller = authenticator.authenticate(request.headers.get("X-API-Key", ""), address)
    except AudienceLabError:
        app.logger.exception("API keys cannot be checked")
        return Response("Try again later", 503, {"Retry-After": "1"})
    return None if g.caller else Response("Invalid API key", 401, {"WWW-Authenticate": "Bearer"})


@app.after_request
def log_usage(response: Response) -> Response:
    """Log requests with a valid key."""
    if g.get("caller"):
        recorder.record(
            UsageEvent(
                api_key_id=g.caller.api_key_id,
                endpoint=request.url_rule.rule if request.url_rule else request.path,
                method=request.method,
                status_code=response.status_code,
                ip_address=request.remote_addr,
                user_agent=request.headers.get("User-Agent"),
            )
        )
    return response


@app.get("/v1/segments/<segment_id>")
def read_segment(segment_id: str) -> Response:
    """Answer callers that may read the segment."""
    if not g.caller.allows("segment", segment_id, "read"):
        return Response("The API key lacks the scope segment:read", 403)
    return Response(f"{segment_id} of {g.caller.account_id}")
