"""Copies within one bucket of S3, which the store makes by itself: no byte passes through here.

obstore's copy does not tell the checksum that the store answers with, so botocore asks. Where that is not installed, or
the store refuses, there is none, and whoever wants a copy has the bytes pass through.
"""

import base64
import logging
from collections.abc import Mapping
from typing import Any, Final, Self

from dcp_engine.stores import botocore_s3, options
from dcp_engine.stores.protocol import Store

LOG: Final = logging.getLogger("dcp_engine")
LARGEST: Final = 5 << 30
"""Bytes of the largest object that S3 copies in one request."""


class ServerCopy:
    """Copies files of one checkpoint's folder to another folder of the same bucket. Any thread may call it."""

    def __init__(self, client: Any, source: str, destination: str, given: Mapping[str, Any]) -> None:  # noqa: ANN401
        self._client = client
        self._bucket, self._from = options.place_of(source)
        _, self._to = options.place_of(destination)
        self._more: dict[str, Any] = {}
        if "server_side_encryption" in given:
            self._more["ServerSideEncryption"] = given["server_side_encryption"]
        if "sse_kms_key_id" in given:
            self._more["SSEKMSKeyId"] = given["sse_kms_key_id"]
        if given.get("requester_pays"):
            self._more["RequestPayer"] = "requester"

    @classmethod
    def between(cls, source: Store, destination: Store, given: Mapping[str, Any]) -> Self | None:
        """Return what copies from one to the other, or None where a store can't.

        Args:
            source: What is copied.
            destination: Where it goes.
            given: The options by which both are reached.
        """
        if options.protocol_of(destination.url) != "s3" or _bucket(source) != _bucket(destination):
            return None
        try:
            client = botocore_s3.client(given)
        except ImportError:
            return None
        return cls(client, source.url, destination.url, given)

    def copy(self, path: str) -> tuple[bool, int | None]:
        """Have the store copy one file.

        Returns:
            Whether it did, and the CRC-32C of what it wrote, if it says so.
        """
        try:
            answer = self._client.copy_object(
                Bucket=self._bucket,
                Key=_key(self._to, path),
                CopySource={"Bucket": self._bucket, "Key": _key(self._from, path)},
                ChecksumAlgorithm="CRC32C",
                MetadataDirective="REPLACE",  # a note of who wrote the source says nothing of this object
                **self._more,
            )
        except Exception as error:  # noqa: BLE001 - who has the bytes pass through finds out what is wrong
            LOG.info("%s: the store did not copy it by itself: %s", path, error)
            return False, None
        return True, _crc32c(answer.get("CopyObjectResult", {}))

    def checksum(self, path: str) -> int | None:
        """Return the CRC-32C that the store has of a file at the destination, if it says so."""
        try:
            key = _key(self._to, path)
            return _crc32c(self._client.head_object(Bucket=self._bucket, Key=key, ChecksumMode="ENABLED"))
        except Exception as error:  # noqa: BLE001 - the file is copied again
            LOG.info("%s: the store did not tell its checksum: %s", path, error)
            return None


def _crc32c(answer: Mapping[str, Any]) -> int | None:
    """Return the checksum of a whole object; some stores answer with a digest of the parts' digests."""
    if answer.get("ChecksumType", "FULL_OBJECT") != "FULL_OBJECT":
        return None
    try:
        digits = base64.b64decode(answer.get("ChecksumCRC32C", ""), validate=True)
    except ValueError:  # with a number of parts behind it
        return None
    return int.from_bytes(digits, "big") if digits else None


def _bucket(store: Store) -> object:
    return getattr(store, "bucket", None)


def _key(folder: str, path: str) -> str:
    return f"{folder}/{path}" if folder else path
