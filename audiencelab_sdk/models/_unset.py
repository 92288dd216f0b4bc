"""The mark of an argument that was not passed, where None means something."""

from enum import Enum
from typing import Final


class Unset(Enum):
    """The type of :data:`UNSET`."""

    UNSET = "UNSET"

    def __repr__(self) -> str:
        return self.value


UNSET: Final = Unset.UNSET
"""Leaves a column as it is: `update` changes what is passed, and None is a value."""
