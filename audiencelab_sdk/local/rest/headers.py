"""Parse the headers Prefer, Range and Accept."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from audiencelab_sdk.local.rest.errors import ApiError
from audiencelab_sdk.local.rest.query import Shape, Window

# In the order of PostgREST's Preference-Applied header.
_PREFERENCES: dict[str, Collection[str]] = {
    "resolution": {"merge-duplicates", "ignore-duplicates"},
    "missing": {"default", "null"},
    "return": {"representation", "minimal", "headers-only"},
    "count": {"exact", "planned", "estimated"},
    "tx": {"commit", "rollback"},
    "handling": {"strict", "lenient"},
    "timezone": set(),  # see parse_prefer
    "max-affected": set(),
}
_MAX_AFFECTED = re.compile(r"-?\d{1,18}")
_RANGE = re.compile(r"(\d*)-(\d*)")


@dataclass(frozen=True)
class Preferences:
    """The Prefer header: at most one value per preference."""

    chosen: dict[str, str]

    def __getitem__(self, name: str) -> str | None:
        return self.chosen.get(name)

    @property
    def max_affected(self) -> int | None:
        """The maximum number of rows that a write or call may return."""
        limit = self["max-affected"]
        return None if limit is None else int(limit)

    def applied(self, names: Sequence[str]) -> dict[str, str]:
        """Return the Preference-Applied header with those of `names` that the client chose.

        It always has `handling` and `timezone`.
        """
        shown = self.chosen.keys() & {*names, "handling", "timezone"}
        applied = [f"{name}={self.chosen[name]}" for name in _PREFERENCES if name in shown]
        return {"Preference-Applied": ", ".join(applied)} if applied else {}


def parse_prefer(values: Sequence[str], timezones: Collection[str] = ()) -> Preferences:
    """Parse the Prefer headers. Unknown preferences are ignored without `handling=strict`.

    Args:
        values: The values of the headers.
        timezones: The time zones that a client may prefer.

    Raises:
        ApiError: A preference is unknown, with `handling=strict` (PGRST122).
    """
    known = _PREFERENCES | {"timezone": timezones}
    chosen: dict[str, str] = {}
    unknown: list[str] = []
    for preference in ",".join(values).split(","):
        name, equals, value = preference.strip().partition("=")
        if value in known.get(name, ()) or (name == "max-affected" and equals):
            chosen.setdefault(name, value)
        elif name:
            unknown.append(preference.strip())
    strict = chosen.get("handling") == "strict"
    if unknown and strict:
        raise ApiError(
            400,
            "PGRST122",
            "Invalid preferences given with handling=strict",
            details=f"Invalid preferences: {', '.join(unknown)}",
        )
    if not (strict and _MAX_AFFECTED.fullmatch(chosen.get("max-affected", ""))):
        chosen.pop("max-affected", None)
    return Preferences(chosen)


def parse_range(header: str | None, window: Window) -> Window:
    """Restrict a window to a Range header, such as `0-9` or `10-`.

    Raises:
        ApiError: The range ends before it begins (PGRST103).
    """
    found = _RANGE.fullmatch((header or "").strip().removeprefix("items="))
    if found is None or not found[1] or len(found[0]) > 30:
        return window
    first = int(found[1])
    ends = [] if window.limit is None else [window.offset + window.limit]
    if found[2]:
        if int(found[2]) < first:
            raise ApiError(
                416,
                "PGRST103",
                "Requested range not satisfiable",
                details="The lower boundary must be lower than or equal to the upper boundary "
                "in the Range header.",
            )
        ends.append(int(found[2]) + 1)
    offset = max(window.offset, first)
    return Window(offset, max(min(ends) - offset, 0) if ends else None)


@dataclass(frozen=True)
class MediaType:
    """The shape of a response body and its Content-Type."""

    shape: Shape
    name: str
    strip_nulls: bool = False

    @property
    def header(self) -> str:
        """The value of the Content-Type header."""
        stripped = ";nulls=stripped" if self.strip_nulls else ""
        return f"{self.name}{stripped}; charset=utf-8"


JSON = MediaType(Shape.ARRAY, "application/json")
_NAMES: dict[str, tuple[Shape, str]] = {
    "*/*": (Shape.ARRAY, "application/json"),
    "application/*": (Shape.ARRAY, "application/json"),
    "application/json": (Shape.ARRAY, "application/json"),
    "application/vnd.pgrst.array": (Shape.ARRAY, "application/vnd.pgrst.array+json"),
    "application/vnd.pgrst.array+json": (Shape.ARRAY, "application/vnd.pgrst.array+json"),
    "application/vnd.pgrst.object": (Shape.OBJECT, "application/vnd.pgrst.object+json"),
    "application/vnd.pgrst.object+json": (Shape.OBJECT, "application/vnd.pgrst.object+json"),
    "text/*": (Shape.CSV, "text/csv"),
    "text/csv": (Shape.CSV, "text/csv"),
}


# The types of the description at the root.
_DESCRIPTIONS: dict[str, tuple[Shape, str]] = dict.fromkeys(
    ("*/*", "application/*", "application/json", "application/openapi+json"),
    (Shape.ARRAY, "application/openapi+json"),
)


def parse_accept(header: str | None, *, description: bool = False) -> MediaType:
    """Return the best media type that an Accept header allows.

    Args:
        header: The Accept header, or None.
        description: Whether the client wants the description of the API instead of rows.

    Raises:
        ApiError: None of the media types is available (PGRST107).
    """
    if not (header or "").strip():
        return JSON
    names = _DESCRIPTIONS if description else _NAMES
    accepted = sorted((header or "").split(","), key=_quality, reverse=True)
    for entry in accepted:
        name, *parameters = (part.strip().lower() for part in entry.split(";"))
        if name in names:
            shape, content_type = names[name]
            if "nulls=stripped" in parameters and "vnd.pgrst" in content_type:
                return MediaType(shape, content_type, strip_nulls=True)
            return JSON if shape is Shape.ARRAY else MediaType(shape, content_type)
    wanted = ", ".join(entry.strip() for entry in accepted)
    raise ApiError(406, "PGRST107", f"None of these media types are available: {wanted}")


def _quality(entry: str) -> float:
    for parameter in entry.split(";")[1:]:
        name, _, value = parameter.strip().partition("=")
        if name == "q" and re.fullmatch(r"[01](\.\d{0,3})?", value):
            return float(value)
    return 1.0
