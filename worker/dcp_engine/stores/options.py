"""The neutral storage options of the contract, translated to each library's own names in one place.

Secrets are no options: they come from the environment under the provider's own names (`AWS_SECRET_ACCESS_KEY`, ...),
as does `AWS_CA_BUNDLE` for the authorities to trust.
"""

import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from dcp_contract.storage_options import CREDENTIAL_KEYS, STORAGE_OPTIONS
from dcp_engine.errors import InvalidOption
from dcp_engine.stores import addresses
from dcp_engine.stores.http_range import Network
from dcp_engine.stores.retry import LONGEST_PAUSE_SECONDS, PATIENCE_SECONDS, TRIES

OBJECT_PROTOCOLS: Final = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"})
_PROTOCOLS: Final = OBJECT_PROTOCOLS | {"file", "memory"}
_CANONICAL: Final = {"s3a": "s3", "gcs": "gs", "abfss": "abfs", "": "file", "local": "file"}

_CONFIG: Final = {
    "endpoint_url": {"s3": "endpoint", "gs": "base_url", "az": "endpoint", "abfs": "endpoint"},
    "anon": {"s3": "skip_signature", "gs": "skip_signature", "az": "skip_signature", "abfs": "skip_signature"},
    "region": {"s3": "region"},
    "requester_pays": {"s3": "request_payer"},
    "server_side_encryption": {"s3": "server_side_encryption"},
    "sse_kms_key_id": {"s3": "sse_kms_key_id"},
    "account_name": {"az": "account_name", "abfs": "account_name"},
}
"""Our option -> protocol -> obstore's configuration key."""


_CONNECT_SECONDS: Final = 10.0
_READ_SECONDS: Final = 30.0
_ANSWER_SECONDS: Final = 120.0
"""For an upload, whose requests share the line: eight of 32 MiB get through in that time at 2.5 MB/s."""
_PART_SECONDS: Final = 5.0
"""For each try that `max_attempts` allows, where tries can't be counted."""
_AS_TIME_ALLOWS: Final = 1000
"""Tries of which the time ends before the number."""
_BACKOFF: Final = {
    "init_backoff": timedelta(milliseconds=200),
    "max_backoff": timedelta(seconds=LONGEST_PAUSE_SECONDS),
    "base": 2,
}
_ENDPOINTS: Final = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
    "abfs": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
"""Environment variables with the store's address that obstore reads."""


@dataclass(frozen=True)
class ObstoreOptions:
    """What `obstore.store.from_url` takes."""

    config: dict[str, Any] = field(default_factory=dict)
    client: dict[str, Any] = field(default_factory=dict)
    retry: dict[str, Any] = field(default_factory=dict)
    """For the parts of an upload: as often as the time allows."""
    no_retry: dict[str, Any] = field(default_factory=dict)
    """For all other requests, which `retry.retried` repeats."""
    network: Network = field(default_factory=lambda: Network(_CONNECT_SECONDS, _READ_SECONDS))
    attempts: int = TRIES
    anonymous: bool = False
    proxied: bool = False


def protocol_of(url: str) -> str:
    """Return the URL's protocol in its canonical spelling; a path without one is `file`."""
    if "::" in url:
        raise InvalidOption(f"{url}: chained URLs are not supported; give the store's own URL")
    if not url:
        raise InvalidOption("the URL is empty; write protocol://bucket/path, or a path")
    protocol, there, _ = url.partition("://")
    word, colon, rest = url.partition(":")
    if colon and not there and word.lower() in _PROTOCOLS:
        # As `pathlib.Path` makes of a URL, which would be a folder of that name here.
        raise InvalidOption(f"{url}: has not two slashes after its protocol; write {word}://{rest.lstrip('/')}")
    protocol = protocol.lower() if there else ""
    return _CANONICAL.get(protocol, protocol)


def place_of(url: str) -> tuple[str, str]:
    """Return a URL's bucket (or host) and the path in it, both as they stand: fsspec knows no escapes either."""
    protocol, _, rest = url.partition("://")
    bucket, _, path = rest.partition("/")
    path = path.rstrip("/")
    # Some libraries resolve or drop these, others don't: one URL would be two places.
    if path and not {"", ".", ".."}.isdisjoint(path.split("/")):
        resolved = f"{protocol}://{bucket}{posixpath.normpath('/' + path.lstrip('/'))}"
        raise InvalidOption(f"url: {url} has a segment '.', '..' or an empty one; write {resolved}")
    return bucket, path


def check(protocol: str, options: Mapping[str, Any]) -> None:
    """Refuse options that the protocol does not know; other fsspec protocols take what their library takes."""
    known = STORAGE_OPTIONS.get(protocol)
    if known is None:
        return
    for name in options:
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise InvalidOption(f"storage option {name!r} is not known for {protocol}. Known: {listed}.")


def kept(options: dict[str, Any]) -> timedelta | None:
    """Take `keep_replaced` out of the options, which no library knows."""
    if "keep_replaced" not in options:
        return None
    value = options.pop("keep_replaced")
    try:
        found = timedelta(seconds=value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidOption(f"storage option keep_replaced: {error}") from error
    if found < timedelta(0):
        raise InvalidOption(f"storage option keep_replaced: {value} is less than nothing")
    return found


def for_obstore(protocol: str, options: Mapping[str, Any]) -> ObstoreOptions:
    """Translate to obstore. Every request gets a connect and a read timeout."""
    _check_environment(protocol, options)
    config = {
        names[protocol]: options[name] for name, names in _CONFIG.items() if name in options and protocol in names
    }
    if protocol == "s3":
        config["virtual_hosted_style_request"] = _virtual_hosted(options)
        config.setdefault("region", os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1")
        # The signature covers no payload: sha256 of every part would cost more than the wire. The store compares a
        # checksum, without which a byte may turn on its way, and some keep the half of a request that broke off.
        config["unsigned_payload"] = True
        if (checksum := options.get("upload_checksum", "crc64nvme")) != "none":
            config["checksum_algorithm"] = checksum
    attempts = int(options.get("max_attempts", TRIES))
    # obstore, which alone can send a part again, can't tell throttled tries from others: their time is limited.
    patience = min(PATIENCE_SECONDS, attempts * _PART_SECONDS) if "max_attempts" in options else PATIENCE_SECONDS
    return ObstoreOptions(
        config=config,
        client=_client(options),
        network=Network(
            float(options.get("connect_timeout", _CONNECT_SECONDS)),
            float(options.get("read_timeout", _READ_SECONDS)),
            options.get("ca_bundle") or os.environ.get("AWS_CA_BUNDLE"),
        ),
        attempts=max(1, attempts),
        anonymous=bool(options.get("anon", False)),
        # A signed URL carries no header that says who pays.
        proxied="proxy_url" in options or "project" in options,
        retry={
            "max_retries": _AS_TIME_ALLOWS,
            "retry_timeout": timedelta(seconds=max(1, patience)),
            "backoff": _BACKOFF,
        },
        no_retry={"max_retries": 0, "retry_timeout": timedelta(seconds=PATIENCE_SECONDS), "backoff": _BACKOFF},
    )


def _check_environment(protocol: str, options: Mapping[str, Any]) -> None:
    """Refuse what obstore would stop over in a panic, and say where it stands."""
    for where, value, fault in _faults(protocol, options):
        if fault:
            # A secret is refused without its value.
            raise InvalidOption(f"{where}: {value!r} {fault}" if value else f"{where} {fault}")


def _faults(protocol: str, options: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Give where a value stands, the value, and what is wrong with it."""
    for where, address in _given("endpoint_url", options, _ENDPOINTS[protocol]):
        yield where, address, addresses.address_fault(address)
    for where, address in _given("proxy_url", options):
        yield where, address, addresses.address_fault(address, proxy=True)
    if protocol == "s3":
        for where, region in _given("region", options, ("AWS_REGION", "AWS_DEFAULT_REGION")):
            yield where, region, addresses.region_fault(region) if region else ""
    for name in CREDENTIAL_KEYS[protocol]:
        if name.startswith(("AWS_", "AZURE_")):  # Google's is JSON, of several lines
            yield f"environment variable {name}", "", addresses.key_fault(os.environ.get(name, ""))


def _given(option: str, options: Mapping[str, Any], variables: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Give the places that set an option, with what they set: the option itself, else the environment."""
    if option in options:
        yield f"storage option {option}", str(options[option])
        return
    for name in variables:
        if name in os.environ:
            yield f"environment variable {name}", os.environ[name]


def for_botocore(options: Mapping[str, Any]) -> dict[str, Any]:
    """Translate to botocore's `create_client`, for the little that obstore can't do."""
    from botocore import UNSIGNED  # noqa: PLC0415 - seldom needed
    from botocore.config import Config  # noqa: PLC0415

    style = "virtual" if _virtual_hosted(options) else "path"
    config = Config(
        s3={"addressing_style": style},
        connect_timeout=float(options.get("connect_timeout", _CONNECT_SECONDS)),
        read_timeout=float(options.get("read_timeout", _READ_SECONDS)),
        retries={"total_max_attempts": int(options.get("max_attempts", TRIES)), "mode": "standard"},
        proxies={"http": options["proxy_url"], "https": options["proxy_url"]} if "proxy_url" in options else None,
        signature_version=UNSIGNED if options.get("anon") else None,
    )
    return {
        "config": config,
        "region_name": options.get("region"),
        "endpoint_url": _endpoint(options) or None,
        "verify": options.get("ca_bundle"),
    }


def _virtual_hosted(options: Mapping[str, Any]) -> bool:
    style = options.get("addressing_style", "auto")
    return bool(style == "virtual" or (style == "auto" and not _endpoint(options)))


def _endpoint(options: Mapping[str, Any]) -> str:
    from_env = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    return str(options.get("endpoint_url") or from_env)


def _client(options: Mapping[str, Any]) -> dict[str, Any]:
    client: dict[str, Any] = {
        "connect_timeout": timedelta(seconds=float(options.get("connect_timeout", _CONNECT_SECONDS))),
        # Counts from the first byte of a part that goes out to the first byte of the answer; the whole has no limit.
        "read_timeout": timedelta(seconds=float(options.get("read_timeout", _ANSWER_SECONDS))),
        "timeout": timedelta(days=1),
        "user_agent": "dcp-operator",
    }
    if urlsplit(_endpoint(options)).scheme == "http":
        client["allow_http"] = True
    if "project" in options:
        client["default_headers"] = {"x-goog-user-project": str(options["project"])}
    if "proxy_url" in options:
        client["proxy_url"] = options["proxy_url"]
    bundle = options.get("ca_bundle") or os.environ.get("AWS_CA_BUNDLE")
    if bundle:
        try:
            client["root_certificate"] = Path(bundle).read_bytes()
        except OSError as error:
            raise InvalidOption(f"ca_bundle: {error}") from error
    return client
