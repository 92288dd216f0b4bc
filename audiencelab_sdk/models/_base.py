"""The base class of all models."""

from pydantic import BaseModel


class Model(BaseModel, frozen=True, extra="allow", hide_input_in_errors=True, cache_strings="keys"):
    """Base class of all models. Instances are immutable and keep the columns of newer databases.

    Validation errors quote no values, and pydantic caches only the keys of JSON objects: the values
    rarely repeat, and some are secret.
    """
