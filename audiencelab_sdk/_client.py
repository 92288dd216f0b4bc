"""The clients."""

from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self
from uuid import UUID

from pydantic import SecretStr

from audiencelab_sdk._config import Settings, environment
from audiencelab_sdk._http._drivers import AsyncDriver, Driver
from audiencelab_sdk._resources.api_keys import ApiKeys
from audiencelab_sdk._resources.enrichment import Enrichment
from audiencelab_sdk._resources.segments import Segments
from audiencelab_sdk._secrets import header_secret, hidden
from audiencelab_sdk._supabase import supabase_settings
from audiencelab_sdk._tokens import api_key_token, user_of

# httpx and postgrest-py take longer to import than the SDK itself, so that waits for the first
# client.
if TYPE_CHECKING:
    import supabase

    from audiencelab_sdk._http._pools import AsyncPool, Pool

_FIVE_MINUTES = timedelta(minutes=5)


class AudienceLab:
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
        timeout: Seconds to wait to connect, to send, or for a part of the answer to come.
        max_retries: How often to repeat a request that failed for a moment, if that is safe.
        allow_http: Whether to send the key and tokens over ``http://`` to another machine without
            an InsecureURLWarning.

    Attributes:
        api_keys: The API keys of accounts.
        segments: The audience segments of accounts.
        enrichment: The enrichment jobs of accounts.

    Raises:
        ConfigurationError: One of them is missing or cannot be used.
    """

    api_keys: ApiKeys[Driver]
    segments: Segments[Driver]
    enrichment: Enrichment[Driver]

    def __init__(
        self,
        url: str,
        key: str | SecretStr,
        *,
        access_token: str | SecretStr | None = None,
        timeout: float = 10.0,
        max_retries: int = 2,
        allow_http: bool = False,
    ) -> None:
        key, access_token = hidden(key), access_token and hidden(access_token)
        self._connect(
            Settings.checked(url, key, access_token, timeout, max_retries, allow_http=allow_http)
        )

    @classmethod
    def from_env(
        cls,
        *,
        access_token: str | SecretStr | None = None,
        timeout: float = 10.0,
        max_retries: int = 2,
        allow_http: bool = False,
    ) -> Self:
        """A client of the project that the environment names.

        Reads ``SUPABASE_URL`` and ``SUPABASE_KEY``, else ``SUPABASE_SECRET_KEY``, else
        ``SUPABASE_SERVICE_ROLE_KEY``. The other arguments are the constructor's.

        Raises:
            ConfigurationError: A variable is missing; the message names every one that is.
        """
        access_token = access_token and hidden(access_token)
        url, key = environment()
        return cls(
            url,
            key,
            access_token=access_token,
            timeout=timeout,
            max_retries=max_retries,
            allow_http=allow_http,
        )

    @classmethod
    def from_supabase(
        cls,
        supabase_client: "supabase.Client",
        *,
        timeout: float = 10.0,
        max_retries: int = 2,
        allow_http: bool = False,
    ) -> Self:
        """A client of the project that a supabase-py client is of, acting as its user.

        Each request carries the access token that the session of `supabase_client` has at that
        moment, the new one after a refresh, and the key when nobody is signed in. (A token that
        only its `postgrest.auth` was given is not seen: use `as_user` for it.) ::

            client = AudienceLab.from_supabase(supabase_client)
            supabase_client.auth.sign_in_with_password({"email": email, "password": password})
            created = client.api_keys.create(account_id, "CI")  # as that user

        Args:
            supabase_client: A synchronous client of supabase-py. It stays as it is.
            timeout: Seconds to wait to connect, to send, or for a part of the answer to come.
            max_retries: How often to repeat a request that failed for a moment, if that is safe.
            allow_http: As for the constructor.

        Returns:
            A client with connections of its own, to be closed.

        Raises:
            ConfigurationError: It is no such client, or a setting cannot be used.
        """
        settings = supabase_settings(
            supabase_client,
            asynchronous=False,
            timeout=timeout,
            max_retries=max_retries,
            allow_http=allow_http,
        )
        client = object.__new__(cls)
        client._connect(settings)
        return client

    @property
    def url(self) -> str:
        """The project's API URL."""
        return self._settings.url

    def as_user(self, access_token: str | SecretStr) -> Self:
        """A client that acts as a user, under row level security, over the same connections.

        Args:
            access_token: The user's JWT, from Supabase Auth.

        Returns:
            A new client; this one stays as it is. The connections are this one's to close.

        Raises:
            ConfigurationError: The token is empty or cannot be one.
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
        """A client that acts as an API key, over the same connections.

        It holds a token that is made here and expires: keep the client no longer than that.

        Args:
            api_key_id: The key's id, such as `verify` gave it.
            jwt_secret: The secret that the project's tokens are signed with (HS256).
            expires_in: How long the token is valid.

        Returns:
            A new client; this one stays as it is. The connections are this one's to close.

        Raises:
            InvalidArgumentError: The id is no UUID, the secret has less than 32 bytes, or the
                time is not positive or longer than ten years.
        """
        jwt_secret = hidden(jwt_secret)
        token = api_key_token(api_key_id, jwt_secret, expires_in)
        return self._derive(self._settings.with_access_token(token))

    def with_options(self, *, timeout: float | None = None, max_retries: int | None = None) -> Self:
        """A client with another timeout or number of retries, over the same connections.

        What is left out, or None, stays as it is here::

            client.with_options(timeout=60).api_keys.list(account_id)

        Args:
            timeout: Seconds to wait to connect, to send, or for a part of the answer to come.
            max_retries: How often to repeat a request that failed for a moment, if that is safe.

        Returns:
            A new client with the same identity; this one stays as it is. The connections are
            this one's to close.

        Raises:
            ConfigurationError: One of them cannot be used.
        """
        return self._derive(self._settings.with_options(timeout, max_retries))

    def close(self) -> None:
        """Close the connections; calls on this client or one derived from it then raise.

        On a derived client (`as_user`, `as_api_key`, `with_options`) it does nothing: the
        connections are not its own.
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

    def __repr__(self) -> str:
        return _shown(self)

    def _connect(self, settings: Settings, pool: "Pool | None" = None) -> None:
        from audiencelab_sdk._http._pools import Pool, postgrest  # noqa: PLC0415 - see above

        self._settings = settings
        self._owns_pool = pool is None
        self._pool = Pool() if pool is None else pool
        api = postgrest(settings, self._pool)
        driver = Driver(api, settings.max_retries)

        def user_id() -> UUID | None:
            return user_of(settings.token())

        self.api_keys = ApiKeys(driver, user_id)
        self.segments = Segments(driver, user_id)
        self.enrichment = Enrichment(driver, user_id)

    def _derive(self, settings: Settings) -> Self:
        client = object.__new__(type(self))
        client._connect(settings, self._pool)
        return client


class AsyncAudienceLab:
    """Like :class:`AudienceLab`, awaited, on asyncio and trio alike.

    It may be shared between tasks, threads and processes: each event loop of each process has
    connections of its own, which are closed when the loop ends. Close it, or use it as a context
    manager::

        async with AsyncAudienceLab(url, service_role_key) as client:
            verification = await client.api_keys.verify(text)
    """

    api_keys: ApiKeys[AsyncDriver]
    segments: Segments[AsyncDriver]
    enrichment: Enrichment[AsyncDriver]

    def __init__(
        self,
        url: str,
        key: str | SecretStr,
        *,
        access_token: str | SecretStr | None = None,
        timeout: float = 10.0,
        max_retries: int = 2,
        allow_http: bool = False,
    ) -> None:
        key, access_token = hidden(key), access_token and hidden(access_token)
        self._connect(
            Settings.checked(url, key, access_token, timeout, max_retries, allow_http=allow_http)
        )

    @classmethod
    def from_env(
        cls,
        *,
        access_token: str | SecretStr | None = None,
        timeout: float = 10.0,
        max_retries: int = 2,
        allow_http: bool = False,
    ) -> Self:
        """Like :meth:`AudienceLab.from_env`."""
        access_token = access_token and hidden(access_token)
        url, key = environment()
        return cls(
            url,
            key,
            access_token=access_token,
            timeout=timeout,
            max_retries=max_retries,
            allow_http=allow_http,
        )

    @classmethod
    def from_supabase(
        cls,
        supabase_client: "supabase.AsyncClient",
        *,
        timeout: float = 10.0,
        max_retries: int = 2,
        allow_http: bool = False,
    ) -> Self:
        """Like :meth:`AudienceLab.from_supabase`.

        supabase-py itself runs on asyncio only.
        """
        settings = supabase_settings(
            supabase_client,
            asynchronous=True,
            timeout=timeout,
            max_retries=max_retries,
            allow_http=allow_http,
        )
        client = object.__new__(cls)
        client._connect(settings)
        return client

    @property
    def url(self) -> str:
        """The project's API URL."""
        return self._settings.url

    def as_user(self, access_token: str | SecretStr) -> Self:
        """Like :meth:`AudienceLab.as_user`."""
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
        """Like :meth:`AudienceLab.as_api_key`."""
        jwt_secret = hidden(jwt_secret)
        token = api_key_token(api_key_id, jwt_secret, expires_in)
        return self._derive(self._settings.with_access_token(token))

    def with_options(self, *, timeout: float | None = None, max_retries: int | None = None) -> Self:
        """Like :meth:`AudienceLab.with_options`."""
        return self._derive(self._settings.with_options(timeout, max_retries))

    async def aclose(self) -> None:
        """Like :meth:`AudienceLab.close`, awaited."""
        if self._owns_pool:
            await self._pool.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return _shown(self)

    def _connect(self, settings: Settings, pool: "AsyncPool | None" = None) -> None:
        from audiencelab_sdk._http._pools import AsyncPool, async_postgrest  # noqa: PLC0415 - see above

        self._settings = settings
        self._owns_pool = pool is None
        self._pool = AsyncPool() if pool is None else pool
        api = async_postgrest(settings, self._pool)
        driver = AsyncDriver(api, settings.max_retries)

        def user_id() -> UUID | None:
            return user_of(settings.token())

        self.api_keys = ApiKeys(driver, user_id)
        self.segments = Segments(driver, user_id)
        self.enrichment = Enrichment(driver, user_id)

    def _derive(self, settings: Settings) -> Self:
        client = object.__new__(type(self))
        client._connect(settings, self._pool)
        return client


def _shown(client: AudienceLab | AsyncAudienceLab) -> str:
    # A reporter of errors may show one whose settings were refused, and which has none.
    settings: Settings | None = vars(client).get("_settings")
    return f"{type(client).__name__}({settings.url!r})" if settings else type(client).__name__
