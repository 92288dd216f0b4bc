"""The outcome of each item of a batch."""

from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from audiencelab_sdk.errors import AudienceLabError

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """The outcome of one item of a batch: a value or an error. It is truthy for a value.

    A batch returns one outcome per item, in the order of the items. `enrichment.run` yields them as
    they come::

        for outcome in client.segments.create_many(account_id, segments):
            if outcome.error:
                print(outcome.index, outcome.error)

    Attributes:
        index: The item's index in the batch, from 0.
        value: What a call for this item alone returns. None if the item failed.
        error: What a call for this item alone raises. None if the item succeeded.
    """

    index: int
    value: T | None = None
    error: AudienceLabError | None = None

    def __init__(
        self, index: int, value: T | None = None, error: AudienceLabError | None = None
    ) -> None:
        # `run` creates millions of outcomes. The constructor of a frozen dataclass takes twice as
        # long.
        fields = self.__dict__
        fields["index"] = index
        fields["value"] = value
        fields["error"] = error

    def __bool__(self) -> bool:
        return self.error is None

    def unwrap(self) -> T:
        """Return the value.

        Raises:
            AudienceLabError: The item's error, if it failed.
        """
        if self.error is not None:
            raise self.error
        return cast("T", self.value)
