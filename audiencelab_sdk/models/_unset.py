"""The default of arguments for which None is a value."""

from enum import Enum
from typing import Final


class Unset(Enum):
    """The type of :data:`UNSET`."""

    UNSET = "UNSET"

    def __repr__(self) -> str:
        return self.value


UNSET: Final = Unset.UNSET
"""Leaves a column unchanged. It is the default where None is a value, as in `update`."""
