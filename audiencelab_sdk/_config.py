"""The settings of a client: read, checked, and with the secrets kept out of sight."""

import inspect
import math
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from urllib.parse import urlsplit

from pydantic import SecretStr

from audiencelab_sdk._secrets import header_secret
from audiencelab_sdk.errors import ConfigurationError, InsecureURLWarning

_KEY_VARIABLES = ("SUPABASE_KEY", "SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY")
_warned_hosts: set[str] = set()
_EXAMPLE = "such as https://abcdefgh.supabase.co (in the dashboard: Project Settings, API)"


@dataclass(frozen=True)
class Settings:
    """What a client was configured with.

    Attributes:
        url: The project's URL, without ``/rest/v1``.
        key: The project's key, which every request carries.
        token: Gives the token to act with; asked before every request, for it may change.
        timeout: Seconds to wait for a connection, for a write, and for each read.
        max_retries: How often to repeat a request.
    """

    url: str
    key: SecretStr
    token: Callable[[], SecretStr]
    timeout: float
    max_retries: int

    @classmethod
    def checked(
        cls,
        url: str,
        key: str | SecretStr,
        access_token: str | SecretStr | None,
        timeout: float,
        max_retries: int,
        *,
        allow_http: bool,
    ) -> "Settings":
        """Settings made of what the user gave; ConfigurationError for what cannot work."""
        checked_key = header_secret("key", key)
        token = checked_key if access_token is None else header_secret("access_token", access_token)
        checked_url = _checked_url(url)
        if not allow_http:
            _warn_of_clear_text(checked_url)
        return cls(
            url=checked_url,
            key=checked_key,
            token=lambda: token,
            timeout=_checked_timeout(timeout),
            max_retries=_checked_max_retries(max_retries),
        )

    def with_access_token(self, access_token: SecretStr) -> "Settings":
        """The same settings with another identity."""
        return replace(self, token=lambda: access_token)

    def with_options(self, timeout: float | None, max_retries: int | None) -> "Settings":
        """The same settings with those of the options that are not None."""
        return replace(
            self,
            timeout=self.timeout if timeout is None else _checked_timeout(timeout),
            max_retries=self.max_retries
            if max_retries is None
            else _checked_max_retries(max_retries),
        )


def environment(variables: Mapping[str, str] = os.environ) -> tuple[str, SecretStr]:
    """The URL and the key that the environment names.

    Raises:
        ConfigurationError: A variable is missing; the message names every one that is.
    """
    url = variables.get("SUPABASE_URL", "")
    key = SecretStr(next(filter(None, map(variables.get, _KEY_VARIABLES)), ""))
    missing: list[str] = []
    if not url:
        missing.append("SUPABASE_URL")
    if not key:
        missing.append(f"{_KEY_VARIABLES[0]} (or {' or '.join(_KEY_VARIABLES[1:])})")
    if missing:
        raise ConfigurationError(f"set the environment variable {' and '.join(missing)}")
    return url, key


def _checked_url(url: object) -> str:
    # No message quotes the URL: what was given by mistake may be a password or a key.
    import httpx  # noqa: PLC0415 - see _client

    if not isinstance(url, str):
        raise ConfigurationError(f"url must be a str, {_EXAMPLE}, not {type(url).__name__}")
    scheme, separator, rest = url.strip().partition("://")
    scheme = scheme.lower()
    if separator and scheme in {"postgres", "postgresql"}:
        raise ConfigurationError(
            f"url is the address of a database; give the project's API URL, {_EXAMPLE}"
        )
    if not separator or scheme not in {"http", "https"}:
        raise ConfigurationError(f"url must begin with https:// or http://, {_EXAMPLE}")
    url = f"{scheme}://{rest}"
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0 and url.isprintable() and " " not in url
        # As the socket and httpx will read it.
        usable = usable and bool(str(parts.hostname).encode("idna")) and bool(httpx.URL(url).host)
    except (ValueError, httpx.InvalidURL):
        # A port that is no number, half an IPv6 address, a part of the name that is too long.
        usable = False
    else:
        usable = usable and not (parts.username or parts.password or parts.query or parts.fragment)
    if not usable:
        raise ConfigurationError(
            f"url must be a host with an optional port and path and nothing more, {_EXAMPLE}"
        )
    return url.rstrip("/").removesuffix("/rest/v1")


def _warn_of_clear_text(url: str) -> None:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https" or _is_loopback(host) or host in _warned_hosts:
        return
    _warned_hosts.add(host)
    # The first frame outside of this package is the caller's.
    level, frame = 1, inspect.currentframe()
    while frame and frame.f_globals["__name__"].startswith(f"{__package__}."):
        level, frame = level + 1, frame.f_back
    warnings.warn(
        f"the project's key and all access tokens are sent to {host} in clear text: "
        "use https://, or pass allow_http=True",
        InsecureURLWarning,
        stacklevel=level,
    )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _checked_timeout(timeout: object) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise ConfigurationError(
            f"timeout must be a number of seconds, not {type(timeout).__name__}"
        )
    if not (math.isfinite(timeout) and timeout > 0):
        raise ConfigurationError(f"timeout must be more than 0 seconds and finite, not {timeout}")
    return float(timeout)


def _checked_max_retries(max_retries: object) -> int:
    if isinstance(max_retries, bool) or not isinstance(max_retries, int):
        raise ConfigurationError(f"max_retries must be an int, not {type(max_retries).__name__}")
    if not 0 <= max_retries <= 100:
        raise ConfigurationError(f"max_retries must be from 0 to 100, not {max_retries}")
    return max_retries
