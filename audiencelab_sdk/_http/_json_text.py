"""JSON as text, taken apart without reading it: for values that Python's parsers refuse."""

import re
from json import JSONDecoder

# Strings are skipped whole, so that the rest has structural characters only.
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{},]', re.DOTALL)


def parts(text: str) -> list[str] | None:
    """The texts of the elements of an array, or of the members of an object.

    None if the text is neither, or is cut off. It works at any depth of nesting.
    """
    found: list[str] = []
    depth = start = 0
    for token in _TOKEN.finditer(text):
        character = token[0]
        if character in "[{":
            depth += 1
            if depth == 1:
                if text[: token.start()].strip():
                    return None
                start = token.end()
        elif depth == 0:
            return None
        elif character in "]}":
            depth -= 1
            if depth == 0:
                found.append(text[start : token.start()].strip())
                is_whole = not text[token.end() :].strip()
                return [part for part in found if part] if is_whole else None
        elif character == "," and depth == 1:
            found.append(text[start : token.start()].strip())
            start = token.end()
    return None


def member(text: str, name: str) -> str | None:
    """The text of a member of an object; None if it has none of this name."""
    for part in parts(text) or ():
        try:
            key, end = JSONDecoder().raw_decode(part)
        except ValueError:
            return None
        if key == name:
            return part[end:].strip().removeprefix(":").strip()
    return None
