"""Wrap keys and tokens in SecretStr, because error reporters may show local variables."""

from collections.abc import Mapping
from typing import Any, cast

from pydantic import SecretStr

from audiencelab_sdk.errors import ConfigurationError, InvalidArgumentError


def hidden(value: str | SecretStr) -> SecretStr:
    """Return a secret as a SecretStr without checking it.

    Called first, so that no frame of a traceback holds the plain text.
    """
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
        raise InvalidArgumentError(f"{name} must be a str or SecretStr, not {type(value).__name__}")
    return hidden(value)


def header_secret(name: str, value: object) -> SecretStr:
    """Return a secret for an HTTP header as a SecretStr, without surrounding whitespace.

    Raises:
        ConfigurationError: The value is not a text, is empty or cannot be sent in a header.
    """
    if not isinstance(value, str | SecretStr):
        raise ConfigurationError(f"{name} must be a str or SecretStr, not {type(value).__name__}")
    value = SecretStr(hidden(value).get_secret_value().strip())
    if not value:
        raise ConfigurationError(f"{name} is empty")
    if not may_be_header(value) or " " in value.get_secret_value():
        raise ConfigurationError(
            f"{name} contains whitespace or characters that are not printable ASCII: "
            "copy it again, without other text"
        )
    return value


def may_be_header(value: SecretStr) -> bool:
    """Return whether an HTTP header may have this value."""
    text = value.get_secret_value()
    return text.isascii() and text.isprintable() and text == text.strip()
