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
from audiencelab_sdk._http._settings import OnResponse, Settings, environment
from audiencelab_sdk._resources.api_keys import ApiKeys
from audiencelab_sdk._resources.enrichment import Enrichment
from audiencelab_sdk._resources.segments import Segments
from audiencelab_sdk._secrets import header_secret, hidden, hidden_values
from audiencelab_sdk._supabase import supabase_settings
from audiencelab_sdk._tokens import api_key_token, creator_of

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
        timeout: float = 10.0,
        max_retries: int = 2,
        allow_http: bool = False,
        proxy: str | SecretStr | None = None,
        verify: "ssl.SSLContext | None" = None,
        headers: Mapping[str, str | SecretStr] | None = None,
        on_response: OnResponse | None = None,
    ) -> None:
        key, access_token = hidden(key), access_token and hidden(access_token)
        proxy, headers = proxy and hidden(proxy), hidden_values(headers)
        settings = Settings.checked(
            url,
            key,
            access_token,
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
        ``SUPABASE_SERVICE_ROLE_KEY``. The arguments are the constructor's.

        Raises:
            ConfigurationError: A variable is missing. The message names all that are.
        """
        access_token = access_token and hidden(access_token)
        proxy, headers = proxy and hidden(proxy), hidden_values(headers)
        url, key = environment()
        return cls(
            url,
            key,
            access_token=access_token,
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

        Each request carries the session's current access token, or the key if nobody is signed in.
        (A token that was only set by `supabase_client.postgrest.auth` is not seen: use `as_user`
        for it.) ::

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
            ConfigurationError: The token is empty or malformed.
        """
        access_token = hidden(access_token)
        token = header_secret("access_token", access_token)
        return self._derive(self._settings.with_access_token(token))

    def as_api_key(
        self,
        api_key_id: UUID | str,
        *,
        jwt_secret: str | SecretStr,
        expires_in: timedelta = _FIVE_MINUTES,
    ) -> Self:
        """Return a client that acts as an API key.

        The client signs a token for itself, which expires. Do not keep the client longer.

        Args:
            api_key_id: The key's id, as `verify` returns it.
            jwt_secret: The secret that signs the project's tokens (HS256).
            expires_in: The lifetime of the token, at most ten years.

        Returns:
            A new client on the same connections, which remain this client's to close. This client
            is unchanged.

        Raises:
            InvalidArgumentError: The id is not a UUID, the secret is shorter than 32 bytes, or the
                lifetime is not positive or longer than ten years.
        """
        jwt_secret = hidden(jwt_secret)
        token = api_key_token(api_key_id, jwt_secret, expires_in)
        return self._derive(self._settings.with_access_token(token))

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
        def creator_id() -> UUID | None:
            current_token = settings.current_token
            return creator_of(current_token() if current_token else settings.token)

        self._settings = settings
        self.api_keys = ApiKeys(driver, creator_id)
        self.segments = Segments(driver, creator_id)
        self.enrichment = Enrichment(driver, creator_id)

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

        with AudienceLab(url, service_role_key) as client:
            verification = client.api_keys.verify(text)

    Without an access token it acts as the role of its key.

    Args:
        url: The project's API URL, such as ``https://abcdefgh.supabase.co``.
        key: A key of the project: publishable (anon) or secret (service_role).
        access_token: The JWT of a user, or of an API key, to act as.
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

        async with AsyncAudienceLab(url, service_role_key) as client:
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
