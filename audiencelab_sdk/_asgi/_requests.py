"""What a request says: its key, its peer and its route."""

from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Any

from pydantic import SecretStr
from starlette.requests import HTTPConnection
from starlette.routing import Mount

_BEARER = b"bearer "
_PREFIX = b"sk_"


def keys_of(connection: HTTPConnection) -> list[SecretStr]:
    """Return the keys of a request, from ``X-API-Key`` and ``Authorization: Bearer sk_…``.

    It must not raise: a traceback could show its local variables, which hold keys.
    """
    keys: list[SecretStr] = []
    for name, value in connection.scope["headers"]:
        if name == b"x-api-key":
            keys.append(SecretStr(value.decode("latin-1")))
        elif name == b"authorization" and value[: len(_BEARER)].lower() == _BEARER:
            token = value[len(_BEARER) :].strip()
            if token.startswith(_PREFIX):  # otherwise it is a token of another kind
                keys.append(SecretStr(token.decode("latin-1")))
    return keys


def peer_of(connection: HTTPConnection) -> str | None:
    """Return the address of the peer, as the server reports it.

    Behind a proxy the server has to be told to trust it, such as uvicorn by ``--proxy-headers``.
    """
    client = connection.scope.get("client")
    return _address(client[0]) if client else None


@lru_cache(maxsize=1024)
def _address(host: str) -> str | None:
    try:
        address = ip_address(host)
    except ValueError:  # such as the path of a Unix socket
        return None
    # A socket for both versions reports an IPv4 address like this.
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return host


def user_agent_of(connection: HTTPConnection) -> str | None:
    """Return the User-Agent header."""
    for name, value in connection.scope["headers"]:
        if name == b"user-agent":
            text: str = value.decode("latin-1")
            return text
    return None


def template_of(scope: Any) -> str:
    """Return the path of a request with the names of the parameters in place of their values.

    The format of the innermost route is known. What comes before it, by mounts and included
    routers, is taken from the path, and its parameters are found by their values.
    """
    path: str = scope["path"]
    parameters: dict[str, Any] = scope.get("path_params") or {}
    route = scope.get("route")
    # The format of a mount covers the whole path, but does not say what is below it.
    route_format: str = "" if isinstance(route, Mount) else getattr(route, "path_format", "")
    in_route = {name for name in parameters if f"{{{name}}}" in route_format}
    count = route_format.count("/")
    if count == path.count("/"):  # nothing comes before it
        return route_format or "/"
    segments = path.split("/")
    count += sum(str(parameters[name]).count("/") for name in in_route)
    prefix = "/".join(segments[: len(segments) - count]) + "/"
    start = 0
    for name in [each for each in parameters if each not in in_route]:
        value, template = f"/{parameters[name]}", f"/{{{name}}}"
        found = prefix.find(f"{value}/", start)
        if found >= 0:
            prefix = prefix[:found] + template + prefix[found + len(value) :]
            start = found + len(template)
    return (prefix[:-1] + route_format) or "/"
