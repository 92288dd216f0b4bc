"""Build settings from a supabase-py client."""

from dataclasses import replace
from typing import Unpack

from pydantic import SecretStr

from audiencelab_sdk._http._settings import Options, Settings
from audiencelab_sdk._secrets import header_secret
from audiencelab_sdk.errors import ConfigurationError


def supabase_settings(
    supabase_client: object,
    *,
    asynchronous: bool,
    **options: Unpack[Options],
) -> Settings:
    """Settings with the URL and the key of `supabase_client`, and the token of its session.

    Raises:
        ConfigurationError: It is no supabase client of the right kind, or a setting is unusable.
    """
    # Imported here: it takes longer than this whole package.
    from supabase import AsyncClient, Client  # noqa: PLC0415

    wanted, other = (AsyncClient, Client) if asynchronous else (Client, AsyncClient)
    if isinstance(supabase_client, other):
        ours = "AudienceLab" if asynchronous else "AsyncAudienceLab"
        raise ConfigurationError(
            f"supabase_client is a supabase.{other.__name__}: give it to {ours}.from_supabase"
        )
    if not isinstance(supabase_client, wanted):
        made = "await supabase.create_async_client" if asynchronous else "supabase.create_client"
        raise ConfigurationError(
            f"supabase_client must be a supabase.{wanted.__name__}, as {made}(...) gives it, "
            f"not {type(supabase_client).__name__}"
        )

    def token() -> SecretStr:
        # Here supabase-py keeps what its own requests carry: the session's token, new after each
        # refresh, and the key where there is no session.
        authorization = supabase_client.options.headers.get("Authorization", "")
        return header_secret("access_token", authorization.removeprefix("Bearer "))

    settings = Settings.checked(
        str(supabase_client.supabase_url),
        supabase_client.supabase_key,
        None,
        **options,
    )
    return replace(settings, token=token)
