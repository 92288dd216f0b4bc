"""A scanner for the grammar in `parse`."""

import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import NoReturn

from audiencelab_sdk.local.rest.errors import ApiError

_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ARRAY = re.compile(r"\{[^{}]*\}")
_UNQUOTED = re.compile(r"[^,)]*")
_DEEPEST = 100  # nested groups


class Scanner:
    """Reads a string from left to right.

    Args:
        what: What the string is, for error messages.
        text: The string.
    """

    def __init__(self, what: str, text: str) -> None:
        self.text = text
        self.position: int = 0
        self._what = what
        self._depth = 0

    def looking_at(self, pattern: re.Pattern[str]) -> bool:
        """Return whether the pattern comes next."""
        return pattern.match(self.text, self.position) is not None

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Read the pattern if it comes next."""
        found = pattern.match(self.text, self.position)
        if found:
            self.position = found.end()
        return found

    def require(self, pattern: re.Pattern[str], expected: str) -> re.Match[str]:
        """Read the pattern, which must come next."""
        return self.take(pattern) or self.fail(expected)

    def skip(self, token: str) -> bool:
        """Read the token if it comes next."""
        if not self.text.startswith(token, self.position):
            return False
        self.position += len(token)
        return True

    def expect(self, token: str) -> None:
        """Read the token, which must come next."""
        if not self.skip(token):
            self.fail(f'"{token}"')

    def quoted(self) -> str | None:
        """Read a string in double quotes, in which a backslash escapes a quote or backslash."""
        found = self.take(_QUOTED)
        return None if found is None else _ESCAPE.sub(r"\1", found[1])

    def rest(self) -> str:
        """Read the rest of the string."""
        rest, self.position = self.text[self.position :], len(self.text)
        return rest

    def group_value(self) -> str:
        """Read a value in a group: quoted, an array, or up to a comma or parenthesis."""
        return self._delimited(_ARRAY) or self._item()

    def list_items(self) -> tuple[str, ...]:
        """Read the list of `in`, such as `(1,"two, or three")`."""
        self.expect("(")
        if self.skip(")"):
            return ()
        items = [self._item()]
        while self.skip(","):
            items.append(self._item())
        self.expect(")")
        return tuple(items)

    def finish(self) -> None:
        """Require that the whole string has been read."""
        if self.position != len(self.text):
            self.fail("end of input")

    def fail(self, expected: str) -> NoReturn:
        """Report a syntax error.

        Raises:
            ApiError: Always (PGRST100), with the position and what was expected there.
        """
        found = self.text[self.position : self.position + 1]
        unexpected = f'"{found}"' if found else "end of input"
        raise ApiError(
            400,
            "PGRST100",
            f'"failed to parse {self._what} ({self.text})" (line 1, column {self.position + 1})',
            details=f"unexpected {unexpected} expecting {expected}",
        )

    @contextmanager
    def nested(self) -> Generator[None]:
        """Go one level deeper, up to a limit that protects the stack."""
        self._depth += 1
        if self._depth > _DEEPEST:
            self.fail("fewer nested groups")
        yield
        self._depth -= 1

    def _item(self) -> str:
        found = self._delimited(_QUOTED)
        if found is not None:
            return _ESCAPE.sub(r"\1", found[1:-1])
        unquoted = self.take(_UNQUOTED)
        return unquoted[0] if unquoted else ""

    def _delimited(self, pattern: re.Pattern[str]) -> str | None:
        """Read the pattern if it is followed by a comma, a parenthesis or the end."""
        found = pattern.match(self.text, self.position)
        if found is None or self.text[found.end() : found.end() + 1] not in {"", ",", ")"}:
            return None
        self.position = found.end()
        return found[0]
