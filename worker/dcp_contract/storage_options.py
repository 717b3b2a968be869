"""Neutral names of storage options and of the keys of a credentials Secret, per protocol.

An option has one name in two spellings: snake_case where Python takes it (`storage_options` of the engine), camelCase
in a Checkpoint's spec, as every field of a Kubernetes object has it. `engine_options` goes from the second to the
first.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from pydantic.alias_generators import to_camel


class StorageOption(NamedTuple):
    """One option of `storage.options`: its type, what it does, and the values it takes where these are few."""

    kind: type[str] | type[int] | type[float] | type[bool]
    doc: str
    choices: tuple[str, ...] = ()
    zero: bool = False
    """Whether a number of seconds may be none."""


_KEPT: Final = {
    "keep_replaced": StorageOption(
        float,
        "Seconds for which the data of a replaced checkpoint are kept for those who read them. Default 3600 on object "
        "stores, 0 on file systems.",
        zero=True,
    ),
}
_NETWORK: Final = {
    **_KEPT,
    "endpoint_url": StorageOption(str, "Address of the store where it is not the provider's own, with http or https."),
    "ca_bundle": StorageOption(str, "Path in the worker of the PEM file with the authorities to trust."),
    "proxy_url": StorageOption(str, "HTTP proxy for every request to the store."),
    "connect_timeout": StorageOption(float, "Seconds to wait for a connection. Default 10."),
    "read_timeout": StorageOption(
        float, "Seconds to wait for the next bytes of an answer. Default 30 where a load reads data, else 120."
    ),
    "max_attempts": StorageOption(int, "Tries of one request in all, the first one included. Default 6."),
    "anon": StorageOption(bool, "Send requests without credentials."),
}
_AZURE: Final = {
    **_NETWORK,
    "account_name": StorageOption(str, "Storage account, where neither the URL nor the Secret names it."),
}
STORAGE_OPTIONS: Final[Mapping[str, Mapping[str, StorageOption]]] = {
    "s3": {
        **_NETWORK,
        "region": StorageOption(str, "Region of the bucket, such as eu-central-1. Default AWS_REGION, else us-east-1."),
        "addressing_style": StorageOption(
            str,
            "Where the bucket's name goes: in the path or in the host name. auto, the default, means path with an "
            "endpointUrl, else virtual.",
            ("auto", "path", "virtual"),
        ),
        "requester_pays": StorageOption(bool, "Accept the cost of requests to a requester-pays bucket."),
        "server_side_encryption": StorageOption(str, "Encryption at rest that writes ask for.", ("AES256", "aws:kms")),
        "sse_kms_key_id": StorageOption(str, "Name or ARN of the KMS key, where writes ask for aws:kms."),
        "upload_checksum": StorageOption(
            str,
            "Digest by which the store checks what is sent to it; none for a store that knows none. Default crc64nvme.",
            ("crc64nvme", "sha256", "none"),
        ),
    },
    "gs": {**_NETWORK, "project": StorageOption(str, "Project that requests are billed to.")},
    "az": _AZURE,
    "abfs": _AZURE,
    "file": _KEPT,
    "memory": _KEPT,
}
"""Neutral names of the non-secret storage options, per protocol; the engine translates them to each library's own."""
SPEC_OPTIONS: Final[Mapping[str, Mapping[str, StorageOption]]] = {
    protocol: {to_camel(name): option for name, option in options.items()}
    for protocol, options in STORAGE_OPTIONS.items()
}
"""The same, as a spec spells them."""
SPEC_NAMES: Final = {name: to_camel(name) for options in STORAGE_OPTIONS.values() for name in options}
"""How a spec spells each of the engine's names."""
_ENGINE_NAMES: Final = {spelt: name for name, spelt in SPEC_NAMES.items()}


def engine_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a spec by the engine's names; a name that neither knows stays as it is."""
    return {_ENGINE_NAMES.get(name, name): value for name, value in options.items()}


_AZURE_KEYS: Final = (
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_KEY",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_TENANT_ID",
)
CREDENTIAL_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    "gs": ("GOOGLE_SERVICE_ACCOUNT_KEY",),
    "az": _AZURE_KEYS,
    "abfs": _AZURE_KEYS,
    "file": (),
    "memory": (),
}
"""Keys that a credentials Secret may hold, per protocol; each becomes an environment variable of the ranks."""
