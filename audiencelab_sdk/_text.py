"""Texts that PostgreSQL cannot store, and texts that must not be shown as they are."""

import re

# NUL, and the lone surrogates that bytes which are no UTF-8 become in paths and headers.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
# Controls could forge lines of a log, move a terminal's cursor or reverse the direction of text.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]+")
_LONGEST_SHOWN = 2_000


def shown(text: str) -> str:
    """`text` from a server or another user as errors show it: cut, and without controls."""
    cleaned = _CONTROLS.sub(" ", text)
    return cleaned if len(cleaned) <= _LONGEST_SHOWN else f"{cleaned[:_LONGEST_SHOWN]}…"


def storable(text: str) -> str:
    """`text` with U+FFFD in place of each character that PostgreSQL cannot store."""
    return _UNSTORABLE.sub("\ufffd", text)


def is_storable(text: str) -> bool:
    """Whether PostgreSQL can store `text` as it is."""
    return _UNSTORABLE.search(text) is None
