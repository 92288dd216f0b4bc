"""Keys and tokens, kept out of sight: error reporters may show the variables of every frame."""

from typing import Any

from pydantic import SecretStr

from audiencelab_sdk.errors import ConfigurationError, InvalidArgumentError


def hidden(value: str | SecretStr) -> SecretStr:
    """Return `value` as a SecretStr, unchecked, for the frames that hold it until it is checked."""
    return SecretStr(value) if isinstance(value, str) else value


def checked_secret(name: str, value: Any) -> SecretStr:
    """Return `value`, a text, as a SecretStr."""
    if not isinstance(value, str | SecretStr):
        raise InvalidArgumentError(f"{name} must be a str or SecretStr, not {type(value).__name__}")
    return hidden(value)


def header_secret(name: str, value: object) -> SecretStr:
    """Return `value`, a text that fits in an HTTP header, as a SecretStr."""
    if not isinstance(value, str | SecretStr):
        raise ConfigurationError(f"{name} must be a str or SecretStr, not {type(value).__name__}")
    value = SecretStr(hidden(value).get_secret_value().strip())
    if not value:
        raise ConfigurationError(f"{name} is empty")
    if not fits_in_a_header(value.get_secret_value()):
        raise ConfigurationError(
            f"{name} contains a blank, a line break or a character that no {name} has: "
            "was it copied whole, and nothing else with it?"
        )
    return value


def fits_in_a_header(text: str, *, blanks: bool = False) -> bool:
    """Whether an HTTP header may have this value."""
    return text.isascii() and text.isprintable() and (blanks or " " not in text)
