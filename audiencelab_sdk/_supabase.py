"""Build settings from a supabase-py client."""

from dataclasses import replace
from typing import Unpack

from pydantic import SecretStr

from audiencelab_sdk._http._settings import Options, Settings
from audiencelab_sdk._secrets import access_token_secret, may_be_jwt
from audiencelab_sdk.errors import ConfigurationError


def supabase_settings(
    supabase_client: object,
    *,
    asynchronous: bool,
    **options: Unpack[Options],
) -> Settings:
    """Return settings with the URL and key of a supabase-py client, and its session's token.

    Raises:
        ConfigurationError: `supabase_client` is not the right kind of client, or a setting is
            invalid.
    """
    # Imported here, because it takes longer to import than this whole package.
    from supabase import AsyncClient, Client  # noqa: PLC0415

    expected, other = (AsyncClient, Client) if asynchronous else (Client, AsyncClient)
    if isinstance(supabase_client, other):
        client_class = "AudienceLab" if asynchronous else "AsyncAudienceLab"
        raise ConfigurationError(
            f"supabase_client is a supabase.{other.__name__}: "
            f"pass it to {client_class}.from_supabase"
        )
    if not isinstance(supabase_client, expected):
        create = "await supabase.create_async_client" if asynchronous else "supabase.create_client"
        raise ConfigurationError(
            f"supabase_client must be a supabase.{expected.__name__}, "
            f"not {type(supabase_client).__name__}: create one with {create}(...)"
        )

    def token() -> SecretStr | None:
        # The header of supabase-py's own requests: the session's current access token, or the key
        # if nobody is signed in.
        current = SecretStr(
            supabase_client.options.headers.get("Authorization", "").removeprefix("Bearer ")
        )
        if current == settings.key and not may_be_jwt(current):
            return None
        return access_token_secret(current)

    settings = Settings.checked(
        str(supabase_client.supabase_url),
        supabase_client.supabase_key,
        None,
        **options,
    )
    return replace(settings, current_token=token)
