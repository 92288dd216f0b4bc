"""API keys for applications of Starlette. Needs the extra ``starlette``."""

try:
    from audiencelab_sdk._asgi._auth import ApiKeyAuth
except ModuleNotFoundError as _error:
    # Any other missing module is a bug, not a missing extra.
    if (_error.name or "").partition(".")[0] != "starlette":
        raise
    raise ImportError(
        "audiencelab_sdk.starlette needs the package starlette: "
        "pip install 'audiencelab-sdk[starlette]'",
        name=_error.name,
    ) from _error

from audiencelab_sdk._asgi._backend import ApiKeyBackend, ApiKeyUser
from audiencelab_sdk._asgi._caller import Caller
from audiencelab_sdk._asgi._errors import install_error_handlers
from audiencelab_sdk._asgi._problems import Problem

__all__ = [
    "ApiKeyAuth",
    "ApiKeyBackend",
    "ApiKeyUser",
    "Caller",
    "Problem",
    "install_error_handlers",
]
