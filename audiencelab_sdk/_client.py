"""The clients."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar
from uuid import UUID

from pydantic import SecretStr

from audiencelab_sdk._http._drivers import AsyncDriver, Driver, NotCopied
from audiencelab_sdk._http._resource import D, mark_coroutine_functions
from audiencelab_sdk._http._settings import (
    OnResponse,
    Settings,
    api_key_of_environment,
    environment,
)
from audiencelab_sdk._resources.api_keys import ApiKeys
from audiencelab_sdk._resources.enrichment import Enrichment
from audiencelab_sdk._resources.segments import Segments
from audiencelab_sdk._secrets import access_token_secret, hidden, hidden_values
from audiencelab_sdk._signing_keys import SigningKey, checked_signing_key, hidden_key
from audiencelab_sdk._supabase import supabase_settings
from audiencelab_sdk._tokens import ApiKeyTokens, creator_of

# httpx, postgrest-py and ssl take longer to import than the SDK itself, so the first client imports
# them.
if TYPE_CHECKING:
    import ssl

    import supabase

    from audiencelab_sdk._http._pools import AsyncPool, Pool

SupabaseClient = TypeVar("SupabaseClient", "supabase.Client", "supabase.AsyncClient")

_FIVE_MINUTES = timedelta(minutes=5)


class _Client(NotCopied, ABC, Generic[D, SupabaseClient]):
    """What performs no I/O: settings and identities."""

    _is_async: ClassVar[bool]
    api_keys: ApiKeys[D]
    segments: Segments[D]
    enrichment: Enrichment[D]
    _pool: Any

    def __init__(
        self,
        url: str,
        key: str | SecretStr,
        *,
        access_token: str | SecretStr | None = None,
        api_key: str | SecretStr | None = None,
        timeout: float = 10.0,
        max_retries: int = 2,
        allow_http: bool = False,
        proxy: str | SecretStr | None = None,
        verify: "ssl.SSLContext | None" = None,
        headers: Mapping[str, str | SecretStr] | None = None,
        on_response: OnResponse | None = None,
    ) -> None:
        key, access_token = hidden(key), access_token and hidden(access_token)
        api_key = api_key if api_key is None else hidden(api_key)
        proxy, headers = proxy and hidden(proxy), hidden_values(headers)
        settings = Settings.checked(
            url,
            key,
            access_token,
            api_key,
            timeout=timeout,
            max_retries=max_retries,
            allow_http=allow_http,
            proxy=proxy,
            verify=verify,
            headers=headers,
            on_response=on_response,
        )
        self._connect(settings)

    @classmethod
    def from_env(
        cls,
        *,
        access_token: str | SecretStr | None = None,
        api_key: str | SecretStr | None = None,
        timeout: float = 10.0,
        max_retries: int = 2,
        allow_http: bool = False,
        proxy: str | SecretStr | None = None,
        verify: "ssl.SSLContext | None" = None,
        headers: Mapping[str, str | SecretStr] | None = None,
        on_response: OnResponse | None = None,
    ) -> Self:
        """Create a client of the project that the environment names.

        Reads ``SUPABASE_URL`` and ``SUPABASE_KEY``, else ``SUPABASE_SECRET_KEY``, else
        ``SUPABASE_SERVICE_ROLE_KEY``. Each may hold a key of any form: ``sb_publishable_…``,
        ``sb_secret_…``, or a JWT (anon or service_role). The arguments are the constructor's.

        If ``AUDIENCELAB_API_KEY`` is set, and neither `access_token` nor `api_key` is passed, the
        client acts as this API key. With an API key, the key of the project is
        ``SUPABASE_PUBLISHABLE_KEY``, else ``SUPABASE_ANON_KEY``, else ``SUPABASE_KEY``.

        Raises:
            ConfigurationError: A variable is missing. The message names all that are.
        """
        access_token = access_token and hidden(access_token)
        api_key = api_key if api_key is None else hidden(api_key)
        proxy, headers = proxy and hidden(proxy), hidden_values(headers)
        if access_token is None and api_key is None:
            api_key = api_key_of_environment()
        url, key = environment(with_api_key=api_key is not None)
        return cls(
            url,
            key,
            access_token=access_token,
            api_key=api_key,
            timeout=timeout,
            max_retries=max_retries,
            allow_http=allow_http,
            proxy=proxy,
            verify=verify,
            headers=headers,
            on_response=on_response,
        )

    @classmethod
    def from_supabase(
        cls,
        supabase_client: SupabaseClient,
        *,
        timeout: float = 10.0,
        max_retries: int = 2,
        allow_http: bool = False,
        proxy: str | SecretStr | None = None,
        verify: "ssl.SSLContext | None" = None,
        headers: Mapping[str, str | SecretStr] | None = None,
        on_response: OnResponse | None = None,
    ) -> Self:
        """Create a client of a supabase-py client's project that acts as its user.

        Each request carries the key and, if somebody is signed in, the session's current access
        token. (A token that was only set by `supabase_client.postgrest.auth` is not seen: use
        `as_user` for it.) ::

            client = AudienceLab.from_supabase(supabase_client)
            supabase_client.auth.sign_in_with_password({"email": email, "password": password})
            created = client.api_keys.create(account_id, "CI")  # as that user

        Args:
            supabase_client: A synchronous client of supabase-py for AudienceLab, an asynchronous
                one, which runs on asyncio only, for AsyncAudienceLab. It is left unchanged.
            timeout: As for the constructor.
            max_retries: As for the constructor.
            allow_http: As for the constructor.
            proxy: As for the constructor.
            verify: As for the constructor.
            headers: As for the constructor.
            on_response: As for the constructor.

        Returns:
            A client with connections of its own. Close it.

        Raises:
            ConfigurationError: `supabase_client` is another object, or a setting is invalid.
        """
        proxy, headers = proxy and hidden(proxy), hidden_values(headers)
        settings = supabase_settings(
            supabase_client,
            asynchronous=cls._is_async,
            timeout=timeout,
            max_retries=max_retries,
            allow_http=allow_http,
            proxy=proxy,
            verify=verify,
            headers=headers,
            on_response=on_response,
        )
        return cls._from_settings(settings)

    @property
    def url(self) -> str:
        """The project's API URL."""
        return self._settings.url

    def as_user(self, access_token: str | SecretStr) -> Self:
        """Return a client that acts as a user, under row level security.

        Args:
            access_token: The user's JWT, from Supabase Auth.

        Returns:
            A new client on the same connections, which remain this client's to close. This client
            is unchanged.

        Raises:
            ConfigurationError: The token is empty, malformed, or a key of the project.
        """
        access_token = hidden(access_token)
        token = access_token_secret(access_token)
        return self._derive(self._settings.with_access_token(token))

    def as_api_key(
        self,
        api_key_id: UUID | str,
        *,
        jwt_secret: str | SecretStr | None = None,
        signing_key: Mapping[str, Any] | str | SecretStr | None = None,
        kid: str | None = None,
        expires_in: timedelta = _FIVE_MINUTES,
    ) -> Self:
        """Return a client that acts as an API key.

        The client signs tokens for itself, with the project's shared secret or with one of its
        private keys. It signs another one before a token expires, so it may be kept. ::

            caller = client.as_api_key(verification.api_key_id, signing_key=private_jwk)

        Args:
            api_key_id: The key's id, as `verify` returns it.
            jwt_secret: The project's shared secret (HS256), of at least 32 bytes.
            signing_key: A private key of the project: a JWK, as a mapping or its JSON text, or a
                PEM. It is an EC key on the curve P-256 (ES256), or an RSA key of at least 2048 bits
                (RS256).
            kid: The id of `signing_key`, by which the project selects the key that verifies a
                token. Required with a PEM and with a JWK that has no `kid` of its own.
            expires_in: The lifetime of each token, at most ten years. A token that somebody copies
                works as long.

        Returns:
            A new client on the same connections, which remain this client's to close. This client
            is unchanged.

        Raises:
            InvalidArgumentError: The id is not a UUID, none or both of `jwt_secret` and
                `signing_key` are given, the key cannot sign or has no id, or the lifetime is not
                positive or longer than ten years.
        """
        jwt_secret, signing_key = hidden_key(jwt_secret), hidden_key(signing_key)
        key = checked_signing_key(jwt_secret, signing_key, kid)
        return self._signing_with(key, api_key_id, expires_in)

    def _signing_with(
        self, key: SigningKey, api_key_id: UUID | str, expires_in: timedelta = _FIVE_MINUTES
    ) -> Self:
        """Return what `as_api_key` returns, with a key that is read already."""
        tokens = ApiKeyTokens(api_key_id, key, expires_in)
        return self._derive(self._settings.with_current_token(tokens))

    def with_options(self, *, timeout: float | None = None, max_retries: int | None = None) -> Self:
        """Return a client with another timeout or number of retries.

        Omitted options are unchanged::

            slow = client.with_options(timeout=60)

        Args:
            timeout: Seconds to wait for a connection, for a write, and for each read. A response
                that arrives in several parts may take longer.
            max_retries: How often to retry a transient error, where that is safe.

        Returns:
            A new client with the same identity on the same connections, which remain this client's
            to close. This client is unchanged.

        Raises:
            ConfigurationError: An option is invalid.
        """
        return self._derive(self._settings.with_options(timeout, max_retries))

    def __repr__(self) -> str:
        # An error reporter may show a client whose settings were refused, and which has none.
        settings: Settings | None = vars(self).get("_settings")
        return f"{type(self).__name__}({settings.url!r})" if settings else type(self).__name__

    @abstractmethod
    def _connect(self, settings: Settings, pool: Any = None) -> None:
        """Use `pool`, or a new one if it is None, with these settings."""

    def _use(self, driver: D, settings: Settings) -> None:
        def creator() -> Mapping[str, str] | None:
            # The database stores the user who created the API key.
            return {} if settings.api_key else creator_of(settings.bearer_token())

        self._settings = settings
        self.api_keys = ApiKeys(driver, creator)
        self.segments = Segments(driver, creator)
        self.enrichment = Enrichment(driver, creator)

    @classmethod
    def _from_settings(cls, settings: Settings, pool: Any = None) -> Self:
        client = object.__new__(cls)
        client._connect(settings, pool)
        return client

    def _derive(self, settings: Settings) -> Self:
        return self._from_settings(settings, self._pool)


class AudienceLab(_Client[Driver, "supabase.Client"]):
    """A client of one AudienceLab V3 project, acting as one identity.

    It may be shared between threads, and used before and after a fork: each process has connections
    of its own. Close it, or use it as a context manager::

        with AudienceLab(url, secret_key) as client:
            verification = client.api_keys.verify(text)

    Without an access token or an API key it acts as the role of its key.

    Args:
        url: The project's API URL, such as ``https://abcdefgh.supabase.co``.
        key: A key of the project: publishable (``sb_publishable_…``, or the JWT anon) or secret
            (``sb_secret_…``, or the JWT service_role).
        access_token: The JWT of a user, or of an API key, to act as.
        api_key: The text of an API key to act as, with the publishable key of a project that has
            direct access enabled (``select api_keys_direct.enable()``). Not together with
            `access_token`.
        timeout: Seconds to wait for a connection, for a write, and for each read. A response that
            arrives in several parts may take longer.
        max_retries: How often to retry a transient error, where that is safe.
        allow_http: Whether to send the key and tokens over ``http://`` to another machine without
            an InsecureURLWarning.
        proxy: The URL of an HTTP or SOCKS proxy, such as ``http://proxy.example.com:3128``. None
            means the one that ``HTTPS_PROXY``, ``HTTP_PROXY`` or ``ALL_PROXY`` names, if any.
        verify: How TLS certificates are verified, such as
            ``ssl.create_default_context(cafile="ca.pem")`` for a private certificate authority.
        headers: Further headers of every request, such as those that a gateway asks for.
        on_response: A function to call with a RequestAttempt after each attempt of a request, for
            metrics. What it raises is logged and does not fail the call. AsyncAudienceLab awaits
            what it returns, if that is awaitable. It must not call the client.

    Attributes:
        api_keys: The API keys of accounts.
        segments: The audience segments of accounts.
        enrichment: The enrichment jobs of accounts.

    Raises:
        ConfigurationError: An argument is missing or invalid.
    """

    _is_async = False

    def close(self) -> None:
        """Close the connections. Later calls on this client and those derived from it raise.

        On a derived client (`as_user`, `as_api_key`, `with_options`) it does nothing, because the
        connections belong to the client that it was derived from.
        """
        if self._owns_pool:
            self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _connect(self, settings: Settings, pool: "Pool | None" = None) -> None:
        from audiencelab_sdk._http._pools import Pool, driver  # noqa: PLC0415 - see above

        self._owns_pool = pool is None
        self._pool = Pool(settings) if pool is None else pool
        self._use(driver(settings, self._pool), settings)


class AsyncAudienceLab(_Client[AsyncDriver, "supabase.AsyncClient"]):
    """The asynchronous :class:`AudienceLab`, for asyncio and trio. The arguments are the same.

    It may be shared between tasks, threads and processes: each event loop of each process has
    connections of its own, which are closed when the loop ends. Close it, or use it as a context
    manager::

        async with AsyncAudienceLab(url, secret_key) as client:
            verification = await client.api_keys.verify(text)
    """

    _is_async = True

    async def aclose(self) -> None:
        """Close the connections. Later calls on this client and those derived from it raise.

        On a derived client (`as_user`, `as_api_key`, `with_options`) it does nothing, because the
        connections belong to the client that it was derived from.
        """
        if self._owns_pool:
            await self._pool.aclose()

    async def close(self) -> None:
        """Close the connections, as `aclose` does."""
        await self.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _connect(self, settings: Settings, pool: "AsyncPool | None" = None) -> None:
        from audiencelab_sdk._http._pools import AsyncPool, async_driver  # noqa: PLC0415 - see above

        self._owns_pool = pool is None
        self._pool = AsyncPool(settings) if pool is None else pool
        mark_coroutine_functions()
        self._use(async_driver(settings, self._pool), settings)
