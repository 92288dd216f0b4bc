"""What a request asks for, as values: made by `parse`, turned into SQL by `render`."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class JsonBody:
    """A JSON request body: its text, which PostgreSQL unpacks, and the keys of its object."""

    text: str
    keys: frozenset[str]


@dataclass(frozen=True)
class Call:
    """A call of a function; the arguments come as one JSON body or as texts by name."""

    function: str
    arguments: JsonBody | Mapping[str, str]

    @property
    def names(self) -> frozenset[str]:
        """The names of the arguments that the request gives."""
        if isinstance(self.arguments, JsonBody):
            return self.arguments.keys
        return frozenset(self.arguments)
