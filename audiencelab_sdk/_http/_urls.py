"""Checks of URLs. No message quotes one: what was passed by mistake may be a password or a key."""

import inspect
import warnings
from ipaddress import ip_address
from urllib.parse import urlsplit

from pydantic import SecretStr

from audiencelab_sdk._secrets import hidden
from audiencelab_sdk.errors import ConfigurationError, InsecureURLWarning

_EXAMPLE = "such as https://abcdefgh.supabase.co (in the dashboard: Project Settings, API)"
_PROXY_EXAMPLE = "such as http://proxy.example.com:3128"
_DASHBOARDS = {"supabase.com", "www.supabase.com", "app.supabase.com", "app.supabase.io"}
_PACKAGE = __name__.partition(".")[0]
_warned_hosts: set[str] = set()


def checked_url(url: object) -> str:
    """Return the project's API URL, without ``/rest/v1``.

    Raises:
        ConfigurationError: It is not a URL of an API.
    """
    if not isinstance(url, str):
        raise ConfigurationError(f"url must be a str, {_EXAMPLE}, not {type(url).__name__}")
    scheme, separator, rest = url.strip().partition("://")
    scheme = scheme.lower()
    if separator and scheme in {"postgres", "postgresql"}:
        raise ConfigurationError(
            f"url is the address of a database; pass the project's API URL, {_EXAMPLE}"
        )
    if not separator or scheme not in {"http", "https"}:
        raise ConfigurationError(f"url must begin with https:// or http://, {_EXAMPLE}")
    url = f"{scheme}://{rest}"
    host = _host(url)
    if host is None:
        raise ConfigurationError(
            f"url must be a host with an optional port and path and nothing more, {_EXAMPLE}"
        )
    if host in _DASHBOARDS:
        raise ConfigurationError(
            f"url is the address of the dashboard; pass the project's API URL, {_EXAMPLE}"
        )
    return url.rstrip("/").removesuffix("/rest/v1")


def _host(url: str) -> str | None:
    """Return the host of a URL of host, port and path; None for other URLs."""
    import httpx  # noqa: PLC0415 - see _client

    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        is_usable = bool(host) and parts.port != 0 and url.isprintable() and " " not in url
        # As the socket and httpx will read it.
        is_usable = is_usable and bool(host.encode("idna")) and bool(httpx.URL(url).host)
    except (ValueError, httpx.InvalidURL):
        # A port that is not a number, half an IPv6 address, a label that is too long.
        return None
    if not is_usable or parts.username or parts.password or parts.query or parts.fragment:
        return None
    return host


def checked_proxy(proxy: object) -> SecretStr:
    """Return the URL of a proxy, which may contain a password.

    Raises:
        ConfigurationError: It is not a URL of a proxy.
    """
    import httpx  # noqa: PLC0415 - see _client

    if not isinstance(proxy, str | SecretStr):
        raise ConfigurationError(
            f"proxy must be a str or SecretStr, {_PROXY_EXAMPLE}, not {type(proxy).__name__}"
        )
    proxy = hidden(proxy)
    try:
        usable = bool(httpx.Proxy(proxy.get_secret_value()).url.host)
    except (ValueError, httpx.InvalidURL):
        usable = False
    if not usable:
        raise ConfigurationError(
            f"proxy must be the URL of an HTTP or SOCKS proxy, {_PROXY_EXAMPLE}"
        )
    return proxy


def warn_of_clear_text(url: str) -> None:
    """Warn once for each host to which the key and tokens are sent in clear text."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https" or _is_loopback(host) or host in _warned_hosts:
        return
    # The first frame outside of this package is the caller's.
    level, frame = 1, inspect.currentframe()
    while frame and frame.f_globals["__name__"].startswith(f"{_PACKAGE}."):
        level, frame = level + 1, frame.f_back
    warnings.warn(
        f"the project's key and all access tokens are sent to {host} in clear text: "
        "use https://, or pass allow_http=True",
        InsecureURLWarning,
        stacklevel=level,
    )
    _warned_hosts.add(host)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
