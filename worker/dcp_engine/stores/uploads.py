"""Multipart uploads that were begun and not ended: their parts are stored and paid for, and stand in no listing.

S3 alone has them where they can be found. Azure forgets the parts of one after a week; a Google bucket needs a
lifecycle rule.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from dcp_engine.errors import InvalidOption
from dcp_engine.stores import botocore_s3, options

_NOT_THERE: Final = frozenset({"NoSuchUpload", "404"})


@dataclass(frozen=True)
class Upload:
    """One upload that has not ended."""

    path: str
    """Below the URL."""
    id: str
    bytes: int
    newest: datetime
    """By the store's clock: when its last part came, or it began."""


class Uploads:
    """The uploads below one URL; none where the store is no S3."""

    def __init__(self, url: str, given: Mapping[str, Any]) -> None:
        self._client: Any = None
        if options.protocol_of(url) != "s3":
            return
        self._bucket, path = options.place_of(url)
        self._prefix = f"{path}/" if path else ""
        try:
            self._client = botocore_s3.client(given)  # obstore can't list uploads
        except ImportError as error:
            raise InvalidOption.not_installed("the listing of stale uploads on S3", "fsspec") from error

    def list(self, beginnings: Sequence[str], wanted: Callable[[str], object]) -> list[Upload]:
        """Return the uploads of files whose paths below the URL begin so and are wanted, each with what it has."""
        given = (self._upload(path, said) for path, said in self._begun(beginnings) if wanted(path))
        return [each for each in given if each is not None]

    def paths(self) -> Iterator[str]:
        """Give the paths below the URL of all files that are uploaded, whoever does."""
        return (path for path, _ in self._begun(("",)))

    def _begun(self, beginnings: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Give the path of each upload, and what the listing says of it; a request more would tell of its parts."""
        if self._client is None:
            return
        paginator = self._client.get_paginator("list_multipart_uploads")
        for beginning in beginnings:
            for page in paginator.paginate(Bucket=self._bucket, Prefix=self._prefix + beginning):
                for said in page.get("Uploads", []):
                    yield said["Key"].removeprefix(self._prefix), said

    def abort(self, uploads: Iterable[Upload]) -> None:
        """Give up uploads, with their parts; one that has ended meanwhile is no error."""
        for each in uploads:
            self._asked("abort_multipart_upload", each.path, each.id)

    def _upload(self, path: str, said: Mapping[str, Any]) -> Upload | None:
        size, newest, after = 0, said["Initiated"], 0
        while True:
            page = self._asked("list_parts", path, said["UploadId"], PartNumberMarker=after)
            if page is None:
                return None
            for part in page.get("Parts", []):
                size, newest = size + part["Size"], max(newest, part["LastModified"])
            if not page.get("IsTruncated"):
                return Upload(path, said["UploadId"], size, newest)
            after = page["NextPartNumberMarker"]

    def _asked(self, what: str, path: str, upload_id: str, **more: Any) -> Any:  # noqa: ANN401 - botocore's own
        """Ask something of one upload; None if there is no such upload any more."""
        from botocore.exceptions import ClientError  # noqa: PLC0415

        try:
            return getattr(self._client, what)(Bucket=self._bucket, Key=self._prefix + path, UploadId=upload_id, **more)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in _NOT_THERE:
                return None
            raise
