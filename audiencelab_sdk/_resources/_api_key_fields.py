"""Arguments about an API key, converted to what the database functions take."""

from collections.abc import Callable, Mapping
from functools import partial
from ipaddress import ip_address, ip_network
from typing import Any

from audiencelab_sdk._arguments import (
    checked_future,
    checked_items,
    checked_object,
    checked_sequence,
    checked_text,
)
from audiencelab_sdk._limits import (
    LONGEST_ITEM,
    LONGEST_NAME,
    MOST_METADATA_BYTES,
    MOST_NETWORKS,
    MOST_SCOPES,
)
from audiencelab_sdk.errors import InvalidArgumentError
from audiencelab_sdk.models import Scope


def fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Check arguments and return the values to send, by the names of the arguments."""
    return {name: _SENT[name](name, value) for name, value in given.items()}


def address(value: Any) -> str | None:
    """Return the address of a client as text.

    Raises:
        InvalidArgumentError: It is not an IP address.
    """
    if value is None:
        return None
    try:
        # PostgreSQL's type has no zone.
        return str(ip_address(str(value).partition("%")[0]))
    except ValueError:
        pass
    raise InvalidArgumentError("ip must be an IP address, such as 192.0.2.1 or 2001:db8::1")


def _scopes(name: str, value: Any) -> list[dict[str, Any]]:
    items = checked_items(name, value, Scope)
    if len(items) > MOST_SCOPES:
        raise InvalidArgumentError(
            f"{name} has {len(items):,} items; at most {MOST_SCOPES} are allowed"
        )
    for index, scope in enumerate(items):
        for field in Scope.model_fields:
            checked_text(f"{name}[{index}].{field}", getattr(scope, field), longest=LONGEST_ITEM)
    return [scope.model_dump() for scope in items]


def _expiry(name: str, value: Any) -> str | None:
    return None if value is None else checked_future(name, value).isoformat()


def _networks(name: str, value: Any) -> list[str] | None:
    if value is None:
        return None
    items = checked_sequence(name, value)
    if not 1 <= len(items) <= MOST_NETWORKS:
        raise InvalidArgumentError(
            f"{name} must have 1 to {MOST_NETWORKS} networks, or be None, which allows all"
        )
    return [_network(f"{name}[{index}]", item) for index, item in enumerate(items)]


def _network(name: str, value: Any) -> str:
    try:
        return str(ip_network(str(value)))
    except ValueError as error:
        reason = "has host bits set" if "host bits" in str(error) else "is not a network"
    raise InvalidArgumentError(f"{name} {reason}; a network is such as 192.0.2.0/24 or 2001:db8::1")


_SENT: dict[str, Callable[[str, Any], Any]] = {
    "name": partial(checked_text, longest=LONGEST_NAME),
    "scopes": _scopes,
    "expires_at": _expiry,
    "metadata": partial(checked_object, most_bytes=MOST_METADATA_BYTES),
    "allowed_ips": _networks,
}
