"""Texts that PostgreSQL cannot store, and texts that must not be shown."""

import re

from pydantic import SecretStr

# NUL, and the lone surrogates that bytes which are no UTF-8 become in paths and headers.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def storable(text: str) -> str:
    """`text` with U+FFFD in place of each character that PostgreSQL cannot store."""
    return _UNSTORABLE.sub("\ufffd", text)


def is_storable(text: str) -> bool:
    """Whether PostgreSQL can store `text` as it is."""
    return _UNSTORABLE.search(text) is None


def hidden(value: str | SecretStr) -> SecretStr:
    """`value` as a SecretStr, unchecked: for the frames that hold it until it is checked.

    Reporters of errors may show the local variables of every frame.
    """
    return SecretStr(value) if isinstance(value, str) else value
