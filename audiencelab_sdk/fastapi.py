"""API keys for applications of FastAPI. Needs the extra ``fastapi``."""

try:
    from audiencelab_sdk._asgi._fastapi import ApiKeyAuth
except ModuleNotFoundError as _error:
    # Any other missing module is a bug, not a missing extra.
    if (_error.name or "").partition(".")[0] not in {"fastapi", "starlette"}:
        raise
    raise ImportError(
        "audiencelab_sdk.fastapi needs the package fastapi: pip install 'audiencelab-sdk[fastapi]'",
        name=_error.name,
    ) from _error

from audiencelab_sdk._asgi._caller import Caller
from audiencelab_sdk._asgi._errors import install_error_handlers
from audiencelab_sdk._asgi._problems import Problem

__all__ = ["ApiKeyAuth", "Caller", "Problem", "install_error_handlers"]
