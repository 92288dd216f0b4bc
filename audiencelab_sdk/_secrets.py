"""Wrap keys and tokens in SecretStr, because error reporters may show local variables."""

from collections.abc import Mapping
from typing import Any, cast

from pydantic import SecretBytes, SecretStr

from audiencelab_sdk.errors import ConfigurationError, InvalidArgumentError

# A publishable key is `sb_publishable_…`, a secret one `sb_secret_…`. Older keys, anon and
# service_role, are JWTs.
_NO_JWT = "sb_"


def hidden(value: str | SecretStr) -> SecretStr:
    """Return a secret as a SecretStr without checking it, and bytes, which are refused, hidden too.

    Called first, so that no frame of a traceback holds the plain text.
    """
    given = cast("Any", value)
    if isinstance(given, bytes | bytearray):
        return cast("SecretStr", SecretBytes(bytes(given)))
    return SecretStr(value) if isinstance(value, str) else value


def hidden_values(headers: Any) -> Any:
    """Return a mapping with its values as SecretStr, without checking it; others as they are."""
    if not isinstance(headers, Mapping):
        return headers
    return {name: hidden(value) for name, value in cast("Any", headers).items()}


def checked_secret(name: str, value: Any) -> SecretStr:
    """Return a secret as a SecretStr.

    Raises:
        InvalidArgumentError: The value is not a text.
    """
    if not isinstance(value, str | SecretStr):
        raise InvalidArgumentError(f"{name} must be a str or SecretStr, not {_kind(value)}")
    return hidden(value)


def header_secret(name: str, value: object) -> SecretStr:
    """Return a secret for an HTTP header as a SecretStr, without surrounding whitespace.

    Raises:
        ConfigurationError: The value is not a text, is empty or cannot be sent in a header.
    """
    if not isinstance(value, str | SecretStr):
        raise ConfigurationError(f"{name} must be a str or SecretStr, not {_kind(value)}")
    value = SecretStr(hidden(value).get_secret_value().strip())
    if not value:
        raise ConfigurationError(f"{name} is empty")
    if not may_be_header(value) or " " in value.get_secret_value():
        raise ConfigurationError(
            f"{name} contains whitespace or characters that are not printable ASCII: "
            "copy it again, without other text"
        )
    return value


def access_token_secret(value: object) -> SecretStr:
    """Return an access token as a SecretStr, without surrounding whitespace.

    Raises:
        ConfigurationError: The value is not a text, is empty, cannot be sent in a header, or is an
            API key or a key of the project.
    """
    token = header_secret("access_token", value)
    if is_api_key(token):
        raise ConfigurationError(
            "access_token is an API key (sk_...): pass it as api_key to the client"
        )
    if not may_be_jwt(token):
        raise ConfigurationError(
            "access_token is a key of the project, which is no JWT: pass the key as `key`, and as "
            "the access token the JWT of a user"
        )
    return token


def may_be_jwt(value: SecretStr) -> bool:
    """Return whether a key or a token may be a JWT, which a key of the newer form is not."""
    return not value.get_secret_value().startswith(_NO_JWT)


def is_api_key(value: SecretStr) -> bool:
    """Return whether a text begins as an API key does, and no JWT and no key of a project."""
    return value.get_secret_value().startswith("sk_")


def is_secret_key(key: SecretStr) -> bool:
    """Return whether a key of the newer form is a secret one."""
    return key.get_secret_value().startswith("sb_secret_")


def may_be_header(value: SecretStr) -> bool:
    """Return whether an HTTP header may have this value."""
    text = value.get_secret_value()
    return text.isascii() and text.isprintable() and text == text.strip()


def _kind(value: object) -> str:
    return "bytes" if isinstance(value, SecretBytes) else type(value).__name__
