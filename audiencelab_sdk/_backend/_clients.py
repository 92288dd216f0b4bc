"""The check of the client that an authenticator or a recorder gets."""

from audiencelab_sdk.errors import ConfigurationError


def refuse(other: type, client: object, *, twin: str) -> None:
    """Refuse a client of the other kind, whose calls have to be awaited, or cannot be.

    Args:
        other: The class that is refused. Stand-ins of tests are not.
        client: The client.
        twin: The class that takes it.

    Raises:
        ConfigurationError: The client is of this class.
    """
    if isinstance(client, other):
        raise ConfigurationError(f"pass an {other.__name__} to {twin}")
