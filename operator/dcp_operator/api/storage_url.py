"""What a storage URL and its options may say: protocols, hosts that are never a store, and the option vocabulary."""

import difflib
import ipaddress
import posixpath
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import SplitResult, urlsplit

from dcp_contract.sections import Storage
from dcp_contract.storage_options import SPEC_NAMES, SPEC_OPTIONS, StorageOption

DEFAULT_PROTOCOLS: Final = ("s3", "gs", "az", "abfs", "file")

ADDRESS_OPTIONS: Final = ("endpointUrl", "proxyUrl")
_SECRET_WORDS: Final = re.compile(r"key|secret|token|passw|credential|(^|_)sas(_|$)|auth", re.IGNORECASE)
METADATA_HOSTS: Final = {"metadata", "metadata.google.internal", "instance-data", "instance-data.ec2.internal"}
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

METADATA_NETWORKS: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(network)
    for network in (
        "169.254.0.0/16",  # link-local: every large cloud, and the agents of ECS and EKS
        "100.100.100.200/32",  # Alibaba Cloud
        "168.63.129.16/32",  # Azure's host agent
        "fe80::/10",  # link-local
        "fd00:ec2::254/128",  # EC2
        "fd00:ec2::23/128",  # EKS Pod Identity
        "fd20:ce::254/128",  # Google Cloud
    )
)
"""Where clouds hand out the identity of a node or of a pod: no store is there."""
_TRANSLATED: Final = (
    ("64:ff9b::", 96),  # RFC 6052: NAT64
    ("2002::", 16),  # RFC 3056: 6to4
    ("::ffff:0:0:0", 96),  # RFC 7915: SIIT
    ("::", 96),  # RFC 4291: IPv4-compatible
)
"""Prefixes of IPv6 addresses behind which an IPv4 address stands, each with its length. One that is mapped
(::ffff:0:0/96) is read as the IPv4 address that it is."""


def _translations(network: Network) -> tuple[ipaddress.IPv6Network, ...]:
    """Return the IPv6 networks by which an IPv4 network is reached."""
    if isinstance(network, ipaddress.IPv6Network):
        return ()
    return tuple(
        ipaddress.IPv6Network(
            (
                int(ipaddress.IPv6Address(prefix)) | int(network.network_address) << (96 - length),
                length + network.prefixlen,
            )
        )
        for prefix, length in _TRANSLATED
    )


FORBIDDEN_NETWORKS: Final[tuple[Network, ...]] = (
    *METADATA_NETWORKS,
    *(each for network in METADATA_NETWORKS for each in _translations(network)),
    ipaddress.ip_network("64:ff9b:1::/48"),  # RFC 8215: a site's own NAT64, with the address where it likes
    ipaddress.ip_network("2001::/32"),  # RFC 4380: Teredo, with the address in disguise
)
"""Where no store is: those, however they are spelt, and what can't be told from them."""
_PLAIN_HOST: Final = re.compile(r"[A-Za-z0-9._-]+")
_ALIASES: Final = {"abfs": "az"}
_ALMOST: Final = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "abfss": "abfs", "wasb": "az", "local": "file"}
_KIND_NAMES: Final = {str: "a string", int: "a whole number", float: "a number of seconds", bool: "true or false"}


def protocol(url: str) -> str:
    """Return the URL's protocol, or an empty string where it has none."""
    head, separator, _ = url.partition("://")
    return head if separator else ""


def normal(url: str) -> str:
    """Return a URL without what may be spelt in two ways: two that name one place are one text."""
    name, _, path = url.partition("://")
    return f"{_ALIASES.get(name, name)}://{posixpath.normpath(f'/{path}').strip('/')}"


def without_store(url: str) -> str:
    """Return a URL as `normal` does, without what its options may say in its place: two of one text may be one place.

    For those who would rather take two places for one than one for two.
    """
    name, _, path = normal(url).partition("://")
    container, slash, rest = path.partition("/")
    return f"{name}://{container.partition('@')[0] if name == 'az' else container}{slash}{rest}"


def below(prefix: str, url: str) -> bool:
    """Return whether a URL lies below a prefix."""
    return normal(url).startswith(f"{normal(prefix)}/")


def url_problems(field: str, url: str, protocols: tuple[str, ...]) -> Iterator[str]:
    """Yield one line for each thing that is wrong with a checkpoint's URL."""
    if "::" in url:
        yield f"{field}: chained URLs are not accepted; write the address of the store itself, such as s3://bucket/path"
        return
    name = protocol(url)
    if name not in protocols:
        yield _protocol_problem(field, url, name, protocols)
        return
    if re.search(r"[\s?#\\*]", url):
        yield f"{field}: holds a space or one of ? # \\ *; write a plain path of letters, digits, and . _ - / ="
    parts = _split(url)
    if parts is None or ".." in parts.path.split("/"):
        yield f"{field}: is not a plain URL; write protocol://bucket/path without '..'"
        return
    # container@account is how Azure's addresses are written.
    if "@" in parts.netloc and (name not in {"az", "abfs"} or ":" in parts.netloc.rpartition("@")[0]):
        yield f"{field}: holds credentials; write the URL alone and move them to credentialsSecretRef"
    if name == "file" and (parts.netloc or len(parts.path) < len("/x")):
        yield f"{field}: names no absolute path; write file:///path"
    if name not in {"file", "memory"} and not (parts.netloc and parts.path.strip("/")):
        yield f"{field}: names no path in a bucket; write {name}://bucket/path, with a path of its own per checkpoint"


def option_protocols() -> dict[str, tuple[str, ...]]:
    """Return for each option the protocols that know it."""
    names = sorted({name for options in SPEC_OPTIONS.values() for name in options})
    return {name: tuple(each for each, known in SPEC_OPTIONS.items() if name in known) for name in names}


def option_problems(storage: Storage) -> Iterator[str]:
    """Yield one line for each option that is unknown, a secret, of the wrong type, or points at a metadata service."""
    known = SPEC_OPTIONS.get(protocol(storage.url), {})
    for name, value in storage.options.items():
        field = f"spec.storage.options.{name}"
        option = known.get(name)
        if option is None:
            yield _unknown_option(field, name, known)
        elif not _fits(option, value):
            wanted = " or ".join(option.choices) or _KIND_NAMES[option.kind]
            yield f"{field}: has the wrong type or value; write {wanted}"
        elif name in ADDRESS_OPTIONS:
            yield from _address_problems(field, value)


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - the property raises for a port that is no number
    except ValueError:
        return None
    return parts


def _protocol_problem(field: str, url: str, name: str, protocols: tuple[str, ...]) -> str:
    if not name:
        path = url if url.startswith("/") else f"/{url}"
        return f"{field}: has no protocol; write file://{path} for a mounted path, or s3://bucket/path"
    allowed = " ".join(protocols)
    near = _ALMOST.get(name.lower(), name.lower())
    hint = f"{near}://..." if near in protocols else f"a URL of one of: {allowed}"
    return f"{field}: protocol {name[:20]!r} is not allowed ({allowed}); write {hint}"


def _unknown_option(field: str, name: str, known: dict[str, StorageOption] | object) -> str:
    names = sorted(known) if isinstance(known, dict) else []
    if SPEC_NAMES.get(name) in names:
        return f"{field}: is how Python spells it; write {SPEC_NAMES[name]}"
    near = difflib.get_close_matches(name, names, n=1)
    if _SECRET_WORDS.search(name) and not near:
        return f"{field}: looks like a secret, which a spec must not hold; move it to spec.storage.credentialsSecretRef"
    if near:
        return f"{field}: is not an option of this protocol; write {near[0]}"
    listed = ", ".join(names) or "no options at all"
    return f"{field}: is not an option of this protocol; write one of: {listed}"


def _fits(option: StorageOption, value: object) -> bool:
    if option.kind is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return value > 0 or (option.zero and value == 0)
    if option.kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and value > 0
    if option.kind is bool:
        return isinstance(value, bool)
    return isinstance(value, str) and bool(value) and (not option.choices or value in option.choices)


def _address_problems(field: str, value: str) -> Iterator[str]:
    parts = _split(value)
    if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
        yield f"{field}: is not an address; write http://host:port or https://host:port"
        return
    if "@" in parts.netloc:
        yield f"{field}: holds credentials; write the address without them and move them to credentialsSecretRef"
    if ":" not in parts.hostname and not _PLAIN_HOST.fullmatch(parts.hostname):
        # To a resolver letters of other scripts may be ASCII: an address with wide digits is that address.
        yield f"{field}: is not an address; write its host in the letters a-z (xn--... for others), digits, - and dots"
    elif _forbidden_host(parts.hostname):
        yield f"{field}: link-local and metadata addresses are refused; write the address of a store"


def _forbidden_host(host: str) -> bool:
    host = host.rstrip(".").lower()
    if host in METADATA_HOSTS:
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        # 2852039166, 0xa9fea9fe and 169.254.43518 are 169.254.169.254 to a resolver; no store needs such a spelling.
        return re.fullmatch(r"(0x[0-9a-f]+|\d+)(\.(0x[0-9a-f]+|\d+))*", host) is not None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        return True
    return any(address in network for network in FORBIDDEN_NETWORKS)
