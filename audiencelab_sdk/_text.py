"""Texts that PostgreSQL cannot store, and texts that are not safe to print."""

import re

# NUL and lone surrogates. The latter stand for bytes of paths and headers that are not UTF-8.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
# Control characters could forge log lines, move a terminal's cursor or reverse text.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]+")
_LONGEST_SHOWN = 2_000


def shown(text: str) -> str:
    """Return untrusted text for an error message: truncated, and without control characters."""
    cleaned = _CONTROLS.sub(" ", text)
    return cleaned if len(cleaned) <= _LONGEST_SHOWN else f"{cleaned[:_LONGEST_SHOWN]}…"


def storable(text: str) -> str:
    """Return `text` with U+FFFD instead of each character that PostgreSQL cannot store."""
    return _UNSTORABLE.sub("\ufffd", text)


def is_storable(text: str) -> bool:
    """Return whether PostgreSQL can store `text` unchanged."""
    return _UNSTORABLE.search(text) is None
