"""What became of each item of a batch."""

from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from audiencelab_sdk.errors import AudienceLabError

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What became of one item of a batch: a value, or the error in its place. True for a value.

    Outcomes come in the order of the items, one for each::

        for outcome in client.segments.create_many(account_id, segments):
            if outcome.error:
                print(outcome.index, outcome.error)

    Attributes:
        index: The item's place in the batch, from 0.
        value: What the call for this item alone would have returned; None when it failed.
        error: What that call would have raised; None when it did not fail.
    """

    index: int
    value: T | None = None
    error: AudienceLabError | None = None

    def __bool__(self) -> bool:
        return self.error is None

    def unwrap(self) -> T:
        """The value.

        Raises:
            AudienceLabError: The item's error, when it failed.
        """
        if self.error is not None:
            raise self.error
        return cast("T", self.value)
