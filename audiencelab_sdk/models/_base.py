"""What all models share."""

from pydantic import BaseModel


class Model(BaseModel, frozen=True, extra="allow", hide_input_in_errors=True, cache_strings="keys"):
    """Immutable; a column that a newer database adds is kept; errors do not quote values.

    Nor does pydantic's cache of the strings in JSON hold any: they are many, rarely the same, and
    some are secret.
    """
