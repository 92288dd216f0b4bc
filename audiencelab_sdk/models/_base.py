"""What all models share."""

from pydantic import BaseModel


class Model(BaseModel, frozen=True, extra="allow", hide_input_in_errors=True):
    """Immutable; a column that a newer database adds is kept; errors do not quote values."""
