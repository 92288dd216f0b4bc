"""The settings of a client, checked."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, TypeVar, Unpack, cast

from pydantic import SecretStr

from audiencelab_sdk._arguments import checked_int, checked_seconds
from audiencelab_sdk._http._urls import checked_proxy, checked_url, warn_of_clear_text
from audiencelab_sdk._key_format import may_be_api_key
from audiencelab_sdk._secrets import (
    access_token_secret,
    header_secret,
    hidden,
    is_api_key,
    is_secret_key,
    may_be_header,
    may_be_jwt,
)
from audiencelab_sdk._tokens import role_of
from audiencelab_sdk.errors import ConfigurationError, InvalidArgumentError
from audiencelab_sdk.models import RequestAttempt

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")

OnResponse: TypeAlias = Callable[[RequestAttempt], object]
"""A function, for asynchronous clients also a coroutine function, called after each attempt."""

_KEY_VARIABLES = ("SUPABASE_KEY", "SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY")
_PUBLISHABLE_KEY_VARIABLES = ("SUPABASE_PUBLISHABLE_KEY", "SUPABASE_ANON_KEY", "SUPABASE_KEY")
_API_KEY_VARIABLE = "AUDIENCELAB_API_KEY"
API_KEY_HEADER = "x-api-key"
_MOST_RETRIES = 100
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# The SDK, postgrest-py or HTTP itself sets these.
_RESERVED_HEADERS = {
    "accept",
    "accept-encoding",
    "accept-profile",
    "apikey",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-profile",
    "content-type",
    "host",
    "prefer",
    "range",
    "transfer-encoding",
    "x-retry-count",
}


class Options(TypedDict):
    """The optional arguments of a client's constructors; see :class:`Settings`."""

    timeout: float
    max_retries: int
    allow_http: bool
    proxy: str | SecretStr | None
    verify: "ssl.SSLContext | None"
    headers: Mapping[str, str | SecretStr] | None
    on_response: OnResponse | None


@dataclass(frozen=True)
class Settings:
    """The settings of a client.

    Attributes:
        url: The project's URL, without ``/rest/v1``.
        key: The project's key, which every request carries.
        token: The access token; without one the key, if it is a JWT.
        current_token: Returns the current access token in place of `token`. Called before every
            attempt of a request.
        api_key: The API key that the client acts as, sent beside the key.
        timeout: Seconds to wait for a connection, for a write, and for each read.
        max_retries: How often to retry a transient error.
        proxy: The URL of the proxy. None means the one that the environment names, if any.
        verify: How TLS certificates are verified. None means httpx's default.
        headers: Further headers of every request.
        on_response: Called after each attempt of a request.
    """

    url: str
    key: SecretStr
    token: SecretStr | None
    current_token: Callable[[], SecretStr | None] | None
    api_key: SecretStr | None
    timeout: float
    max_retries: int
    proxy: SecretStr | None
    verify: "ssl.SSLContext | None"
    headers: Mapping[str, SecretStr]
    on_response: OnResponse | None

    @classmethod
    def checked(
        cls,
        url: str,
        key: str | SecretStr,
        access_token: str | SecretStr | None,
        api_key: str | SecretStr | None = None,
        **options: Unpack[Options],
    ) -> "Settings":
        """Return the settings made of a caller's arguments.

        Raises:
            ConfigurationError: An argument is invalid.
        """
        checked_key = header_secret("key", key)
        if is_api_key(checked_key):
            raise ConfigurationError(
                "key is an API key (sk_...): pass it as api_key, and the publishable (anon) key of "
                "the project as key"
            )
        token = checked_key if may_be_jwt(checked_key) else None
        if access_token is not None:
            token = access_token_secret(access_token)
        headers = _checked_headers(options["headers"])
        if api_key is not None:
            api_key = _checked_api_key(api_key)
            _require_no_other_identity(checked_key, access_token, headers)
        checked = cls(
            url=checked_url(url),
            key=checked_key,
            token=token,
            current_token=None,
            api_key=api_key,
            timeout=_checked_timeout(options["timeout"]),
            max_retries=_checked_max_retries(options["max_retries"]),
            proxy=None if options["proxy"] is None else checked_proxy(options["proxy"]),
            verify=_checked_verify(options["verify"]),
            headers=headers,
            on_response=_checked_hook(options["on_response"]),
        )
        if not options["allow_http"]:
            warn_of_clear_text(checked.url)
        return checked

    def bearer_token(self) -> SecretStr | None:
        """Return the token to send now; None if the key alone says who the client acts as."""
        return self.current_token() if self.current_token else self.token

    def identity_headers(self) -> dict[str, SecretStr]:
        """Return the headers that say, in the next request, who the client acts as."""
        headers = {"apikey": self.key}
        token = self.bearer_token()
        if token is not None:
            headers["Authorization"] = SecretStr(f"Bearer {token.get_secret_value()}")
        if self.api_key:
            headers[API_KEY_HEADER] = self.api_key
        return headers

    def with_access_token(self, access_token: SecretStr) -> "Settings":
        """Return the same settings with another identity."""
        return replace(self, token=access_token, current_token=None, api_key=None)

    def with_current_token(self, current_token: Callable[[], SecretStr]) -> "Settings":
        """Return the same settings with an identity whose token changes."""
        return replace(self, token=None, current_token=current_token, api_key=None)

    def with_options(self, timeout: float | None, max_retries: int | None) -> "Settings":
        """Return the same settings with those of the options that are not None."""
        return replace(
            self,
            timeout=self.timeout if timeout is None else _checked_timeout(timeout),
            max_retries=self.max_retries
            if max_retries is None
            else _checked_max_retries(max_retries),
        )


def api_key_of_environment(variables: Mapping[str, str] = os.environ) -> SecretStr | None:
    """Return the API key that the environment names, if any."""
    text = variables.get(_API_KEY_VARIABLE)
    # An empty one is refused later. It may be a secret that is missing, and without an API key the
    # client would act as somebody else.
    return None if text is None else SecretStr(text)


def environment(
    variables: Mapping[str, str] = os.environ, *, with_api_key: bool = False
) -> tuple[str, SecretStr]:
    """Return the URL and the key that the environment names.

    Args:
        variables: The environment.
        with_api_key: Whether the client acts as an API key, which needs the publishable key.

    Raises:
        ConfigurationError: A variable is missing. The message names all that are.
    """
    names = _PUBLISHABLE_KEY_VARIABLES if with_api_key else _KEY_VARIABLES
    url = variables.get("SUPABASE_URL", "")
    key = SecretStr(next(filter(None, map(variables.get, names)), ""))
    del variables  # a traceback may show local variables
    missing: list[str] = []
    if not url:
        missing.append("SUPABASE_URL")
    if not key:
        missing.append(f"{names[0]} (or {' or '.join(names[1:])})")
    if missing:
        plural = "s" if len(missing) > 1 else ""
        raise ConfigurationError(f"set the environment variable{plural} {' and '.join(missing)}")
    return url, key


def _setting(check: Callable[..., T], *arguments: Any) -> T:
    """Return the result of a check. Raises ConfigurationError for InvalidArgumentError."""
    try:
        return check(*arguments)
    except InvalidArgumentError as error:
        message = str(error)
    raise ConfigurationError(message)


def _checked_timeout(timeout: Any) -> float:
    return _setting(checked_seconds, "timeout", timeout)


def _checked_max_retries(max_retries: Any) -> int:
    return _setting(checked_int, "max_retries", max_retries, 0, _MOST_RETRIES)


def _checked_verify(verify: Any) -> "ssl.SSLContext | None":
    import ssl  # noqa: PLC0415 - see _client

    if verify is not None and not isinstance(verify, ssl.SSLContext):
        raise ConfigurationError(
            f"verify must be an ssl.SSLContext, not {type(verify).__name__}: to trust a private "
            "certificate authority, pass ssl.create_default_context(cafile=...)"
        )
    return verify


def _checked_headers(headers: Any) -> dict[str, SecretStr]:
    # No message quotes a value, which may be a secret.
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise ConfigurationError(
            f"headers must be a mapping, such as a dict, not {type(headers).__name__}"
        )
    checked: dict[str, SecretStr] = {}
    for name, value in cast("Mapping[object, object]", headers).items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise ConfigurationError("headers has a name that no HTTP header may have")
        if name.lower() in _RESERVED_HEADERS:
            raise ConfigurationError(f"headers must not contain {name}, which the SDK sets itself")
        if name.lower() in checked:
            raise ConfigurationError(f"headers contains {name} twice, in other cases")
        if not isinstance(value, str | SecretStr) or not may_be_header(hidden(value)):
            raise ConfigurationError(
                f"headers[{name!r}] must be a str or SecretStr of printable ASCII, without "
                "whitespace around it"
            )
        checked[name.lower()] = hidden(value)
    return checked


def _checked_api_key(api_key: str | SecretStr) -> SecretStr:
    checked = header_secret("api_key", api_key)
    if not may_be_api_key(checked.get_secret_value()):
        raise ConfigurationError(
            "api_key does not have the format of an API key (sk_...), or has a typing error"
        )
    return checked


def _require_no_other_identity(
    key: SecretStr, access_token: object, headers: Mapping[str, SecretStr]
) -> None:
    if access_token is not None:
        raise ConfigurationError("pass api_key or access_token, not both")
    if is_secret_key(key) or role_of(key) == "service_role":
        raise ConfigurationError(
            "key is a secret key of the project, which acts without an API key: pass the "
            "publishable (anon) key beside api_key (for from_env: set SUPABASE_PUBLISHABLE_KEY, or "
            "unset AUDIENCELAB_API_KEY)"
        )
    if API_KEY_HEADER in headers:
        raise ConfigurationError(f"headers must not contain {API_KEY_HEADER} beside api_key")


def _checked_hook(hook: Any) -> OnResponse | None:
    if hook is not None and not callable(hook):
        raise ConfigurationError(f"on_response must be callable, not {type(hook).__name__}")
    return cast("OnResponse | None", hook)
