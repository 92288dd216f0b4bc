"""What the caller can do about an error of the API, in the terms of the SDK.

PostgreSQL and PostgREST describe roles, policies and constraints, which the caller does not see.
"""

import re
from collections.abc import Callable

from audiencelab_sdk.models import EnrichmentStatus, EnrichmentType, SourceType

_AS_USER = "Only a user may do this: call it on client.as_user(...)."
_AS_SERVICE_ROLE = "Only the service role may do this: use the project's secret (service_role) key."
_AS_API_KEY = "Only an API key may do this: use client.as_api_key(...) or api_key=."
_NOT_AS_API_KEY = (
    "An API key may not do this: use the project's secret (service_role) key, or act as a user "
    "with client.as_user(...)."
)
_CALLERS = {
    "api_key_log": _NOT_AS_API_KEY,
    "api_key_usage": _NOT_AS_API_KEY,
    "authenticate_api_key": _AS_SERVICE_ROLE,
    "create_api_key": _AS_USER,
    "create_studio_segment": _AS_USER,
    "delete_studio_segment": _AS_USER,
    "disable_api_key": _NOT_AS_API_KEY,
    "enable_api_key": _NOT_AS_API_KEY,
    "fail_stale_enrichment_jobs": _AS_SERVICE_ROLE,
    "get_api_key": _NOT_AS_API_KEY,
    "get_api_key_account_id": _AS_API_KEY,
    "has_scope": _AS_API_KEY,
    "issue_api_key": _AS_SERVICE_ROLE,
    "list_api_key_events": _NOT_AS_API_KEY,
    "list_api_keys": _NOT_AS_API_KEY,
    "log_api_key_usage": _AS_SERVICE_ROLE,
    "log_api_key_usage_batch": _AS_SERVICE_ROLE,
    "purge_api_key_logs": _AS_SERVICE_ROLE,
    "reset_enrichment_progress": _AS_SERVICE_ROLE,
    "restore_studio_segment": _AS_USER,
    "revoke_api_key": _NOT_AS_API_KEY,
    "revoke_api_keys_of": _NOT_AS_API_KEY,
    "rotate_api_key": _NOT_AS_API_KEY,
    "update_api_key": _NOT_AS_API_KEY,
    "verify_api_key": (
        "Use the project's secret (service_role) key, or act as an API key with "
        "client.as_api_key(...) or api_key=."
    ),
}
_ANONYMOUS = (
    "The publishable (anon) key alone has no access: use the project's secret (service_role) key, "
    "act as a user with client.as_user(...), or pass an API key as api_key=."
)
_NO_DIRECT_ACCESS = (
    "The project does not accept API keys directly: its operator enables that with "
    "select api_keys_direct.enable()."
)
_INVALID_API_KEY = (
    "The API key is unknown, revoked, disabled or expired, is restricted to addresses, or is an "
    "older one that was not verified yet."
)
_JWT = (
    "The access token has expired, is malformed, or was signed for another project: get a new one."
)
_WRONG_SIGNING_KEY = (
    "The token was signed with a key that the project does not accept: with as_api_key, check "
    "jwt_secret, or signing_key and its kid. Otherwise get a new access token."
)
_SCHEMA = (
    "The API's schema cache lacks this table, column or function: apply the AudienceLab migrations "
    "(supabase db push), or reload the cache if they are applied (notify pgrst, 'reload schema')."
)
_NO_API = "There is no Supabase API here: does the URL lead to the project's API?"
_GATEWAY = (
    "The gateway does not accept the project's key: is it a key of this project, and does no "
    "proxy on the way remove the header apikey?"
)
_NO_MEMBER = (
    "The account does not exist, the caller is not a member of it, or the API key has no scope for "
    "it."
)
_REFERENCED = {"account_id": "account", "created_by": "user"}
_KNOWN = {
    "enrichment_type": EnrichmentType,
    "status": EnrichmentStatus,
    "source_type": SourceType,
}

# The functions that an API key may not call.
_CLOSED_TO_API_KEYS = {"create_api_key"} | {
    name for name, text in _CALLERS.items() if text in {_NOT_AS_API_KEY, _AS_SERVICE_ROLE}
}

_Rule = tuple[int | None, str, str, str | Callable[[re.Match[str]], str | None]]


def _for_function(message: re.Match[str]) -> str | None:
    return _CALLERS.get(message[1])


def _for_function_as_api_key(message: re.Match[str]) -> str:
    return _NOT_AS_API_KEY if message[1] in _CLOSED_TO_API_KEYS else _NO_DIRECT_ACCESS


def _for_reference(message: re.Match[str]) -> str:
    return f"There is no {_REFERENCED[message[1]]} with this {message[1]}."


def _for_value(message: re.Match[str]) -> str:
    return f"The values of {message[1]} are {', '.join(_KNOWN[message[1]])}."


# An HTTP status or None for any, patterns of the code and the message, and the advice. The first
# match applies.
_RULES: tuple[_Rule, ...] = (
    (401, "PT401", "", _INVALID_API_KEY),
    (401, "42501", "", _ANONYMOUS),
    (None, "42501", r"permission denied for function (\w+)", _for_function),
    (None, "42501", r"permission denied for (?:table|view)", _NOT_AS_API_KEY),
    (None, "42501", r"violates row-level security policy", _NO_MEMBER),
    (None, "23503", rf'"\w+?_({"|".join(_REFERENCED)})_fkey"', _for_reference),
    (None, "23514", rf'"\w+?_({"|".join(_KNOWN)})_check"', _for_value),
    (None, "PGRST301", "No suitable key", _WRONG_SIGNING_KEY),
    (None, "PGRST30[13]", "", _JWT),
    (None, "PGRST(?:106|20[245])|42P01|42883|42703", "", _SCHEMA),
    (401, "", "", _GATEWAY),
    (404, "", "", _NO_API),
    (405, "", "", _NO_API),
)

# For requests with an API key in place of a token. Where direct access is off, they run as anon.
_API_KEY_RULES: tuple[_Rule, ...] = (
    (401, "42501", r"permission denied for function (\w+)", _for_function_as_api_key),
    (401, "42501", r"violates row-level security policy", _NO_MEMBER),
    (401, "42501", r"permission denied for (?:schema|table|view)", _NO_DIRECT_ACCESS),
    # The message says it, and _ANONYMOUS is for requests without an API key.
    (401, "42501", "", ""),
)


def advice(status: int, code: str | None, message: str, *, as_api_key: bool = False) -> str | None:
    """Return what the caller can do about an error; None if the message alone says it.

    Args:
        status: The HTTP status.
        code: The SQLSTATE, or PostgREST's code.
        message: The message.
        as_api_key: Whether the request had an API key in place of a token.
    """
    rules = _API_KEY_RULES + _RULES if as_api_key else _RULES
    for rule_status, rule_code, pattern, text in rules:
        if rule_status not in {None, status} or not re.fullmatch(rule_code, code or ""):
            continue
        if match := re.search(pattern, message):
            return text if isinstance(text, str) else text(match)
    return None
