"""What all models share."""

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """Immutable; a column that a newer database adds is kept; errors do not quote values."""

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)
