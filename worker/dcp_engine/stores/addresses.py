"""Whether an address, a region or a key can be what it stands for; the HTTP client would panic over it. Pure."""

import ipaddress
import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

_HOST: Final = re.compile(r"[A-Za-z0-9._-]+")
_HALF_SCHEME: Final = re.compile(r"^(?:https?:)?/*")
_REGION: Final = re.compile(r"[A-Za-z0-9_-]+")
_HTTP: Final = ("http", "https")
_PROXIES: Final = (*_HTTP, "socks5", "socks5h")
_PORTS: Final = range(1, 1 << 16)


def address_fault(address: str, *, proxy: bool = False) -> str:
    """Return what is wrong with the address of a store or a proxy, and what to write; empty if nothing is."""
    schemes = _PROXIES if proxy else _HTTP
    if not address.strip():
        return "is empty; leave it out, or write http://host:port"
    if not address.isascii() or not address.isprintable() or " " in address:
        return "has a space or a character that no address has"
    scheme, there, _ = address.partition("://")
    if not there:
        bare = _HALF_SCHEME.sub("", address)
        return f"has no scheme; write http://{bare} or https://{bare}"
    if scheme.lower() not in schemes:
        return f"has the scheme {scheme!r}; it must be {' or '.join(schemes[:2])}"
    try:
        parts = urlsplit(address)
    except ValueError as error:
        return f"is no address: {error}; an IPv6 address stands in brackets, as in http://[::1]:9000"
    return _host_fault(parts) or _port_fault(parts) or ("" if proxy else _more_fault(parts))


def region_fault(region: str) -> str:
    """Return what is wrong with a region; empty if nothing is."""
    return "" if _REGION.fullmatch(region) else "is no region; write one such as eu-central-1"


def key_fault(key: str) -> str:
    """Return what is wrong with a credential; empty if nothing is. A line break comes from a file that ends in one."""
    if key == key.strip() and key.isprintable():
        return ""
    return "begins or ends with white space, or holds a line break; store it without"


def _host_fault(parts: SplitResult) -> str:
    host = parts.hostname or ""
    bracketed = parts.netloc.rpartition("@")[2].startswith("[")
    if bracketed:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            return "has no IPv6 address in its brackets"
        return ""
    if parts.netloc.rpartition("@")[2].count(":") > 1:
        return "has an IPv6 address without brackets; write http://[::1]:9000"
    if not host:
        return "has no host; write http://host:port"
    return "" if _HOST.fullmatch(host) and ".." not in host else f"has the host {host!r}, which can't be one"


def _port_fault(parts: SplitResult) -> str:
    try:
        port = parts.port
    except ValueError:
        port = 0
    return "" if port is None or port in _PORTS else "has a port that is not between 1 and 65535"


def _more_fault(parts: SplitResult) -> str:
    if parts.username is not None:
        return "holds a user name; credentials come from the environment"
    return "has a query or a fragment; write the address alone" if parts.query or parts.fragment else ""
