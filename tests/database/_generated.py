"""Helpers for files that `make sql` generates in part."""

from __future__ import annotations

from collections.abc import Iterable


def values(rows: Iterable[str], indent: int) -> str:
    """The rows of a VALUES list."""
    return ",\n".join(f"{' ' * indent}({row})" for row in rows)


def replaced(text: str, begin: str, end: str, part: str) -> str:
    """Replace the text between two markers, each of which must occur exactly once."""
    before, after_begin = text.split(begin)
    _, after = after_begin.split(end)
    return before + begin + part + end + after


def literal(text: str) -> str:
    """An SQL string constant."""
    return "'" + text.replace("'", "''") + "'"
