"""S3, Google Cloud Storage and Azure Blob Storage, through obstore.

Creating is `If-None-Match: *` (`ifGenerationMatch=0` on Google), replacing is `If-Match` with the ETag. Uploads are
multipart with parts in parallel; a failed one is aborted. Reads are ranged and never cached.
"""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import obstore
from obstore import exceptions
from obstore.store import from_url

from dcp_worker.engine.errors import StaleVersion
from dcp_worker.engine.options import ObstoreOptions
from dcp_worker.engine.store import ATOMIC, BEST_EFFORT, Blob, Buffer, Entry

_CONFLICTS = (exceptions.AlreadyExistsError, exceptions.PreconditionError)


class ObjectStore:
    """A checkpoint's prefix in a bucket; see `Store`."""

    def __init__(self, url: str, options: ObstoreOptions) -> None:
        self.url = url
        self._store: Any = from_url(
            url.rstrip("/"), config=options.config, client_options=options.client, retry_config=options.retry
        )  # type: ignore[call-overload]

    def read(self, path: str, *, tail: int | None = None) -> Blob:
        """GET the object, or its last bytes; the version is its ETag (and generation)."""
        result = obstore.get(self._store, path, options={"range": {"suffix": tail}} if tail else None)
        meta = result.meta
        version = {key: value for key in ("e_tag", "version") if (value := meta.get(key))}
        return Blob(bytes(result.bytes()), version, meta["size"], meta["last_modified"])

    def create(self, path: str, data: bytes) -> None:
        """PUT that the store refuses if the object exists."""
        if self.guard() == BEST_EFFORT and self._exists(path):
            raise FileExistsError(path)
        self._create(path, data)

    def replace(self, path: str, data: bytes, version: Any) -> None:  # noqa: ANN401 - see Store
        """PUT that the store refuses if the ETag is another."""
        try:
            obstore.put(self._store, path, data, mode=version)
        except (*_CONFLICTS, FileNotFoundError) as error:
            raise StaleVersion.of(path) from error

    def write(self, path: str, chunks: Iterable[Buffer], *, part_size: int, parallel: int) -> None:
        """Upload in parts; a file of less than one part goes in one PUT."""
        stream = iter(chunks)
        head: list[Buffer] = []
        size = 0
        for chunk in stream:
            head.append(chunk)
            size += len(chunk)
            if size > part_size:
                break
        else:
            obstore.put(self._store, path, b"".join(head), use_multipart=False)
            return
        # obstore aborts the upload if the iterator or a part fails, so that no part stays and no object appears.
        obstore.put(self._store, path, chain(head, stream), chunk_size=part_size, max_concurrency=parallel)

    def read_range(self, path: str, offset: int, length: int, scratch: memoryview) -> Buffer:
        """GET a range; the bytes stay where the HTTP client put them."""
        del scratch
        try:
            data = memoryview(obstore.get_range(self._store, path, start=offset, length=length))
        except exceptions.BaseError as error:
            if "416" in str(error) or "InvalidRange" in str(error):
                raise EOFError(path) from error
            raise
        if len(data) != length:
            raise EOFError(path)
        return data

    def list(self, prefix: str) -> Iterator[Entry]:
        """LIST below a folder."""
        for page in obstore.list(self._store, prefix, chunk_size=1000):
            for meta in page:
                yield Entry(meta["path"], meta["size"], meta["last_modified"])

    def delete(self, paths: Sequence[str]) -> None:
        """Delete in bulk."""
        if paths:
            try:
                obstore.delete(self._store, paths)
            except FileNotFoundError:
                for path in paths:
                    self._delete_one(path)

    def guard(self) -> str:
        """Return Atomic if the store refuses a second create of one object, which is tried out once."""
        return self._guard

    @cached_property
    def _guard(self) -> str:
        path = f"data-probe-{uuid.uuid4().hex}/probe"
        self._create(path, b"")
        try:
            self._create(path, b"")
        except FileExistsError:
            return ATOMIC
        finally:
            self.delete([path])
        return BEST_EFFORT

    def _create(self, path: str, data: bytes) -> None:
        try:
            obstore.put(self._store, path, data, mode="create")
        except _CONFLICTS as error:
            raise FileExistsError(path) from error

    def _exists(self, path: str) -> bool:
        try:
            obstore.head(self._store, path)
        except FileNotFoundError:
            return False
        return True

    def _delete_one(self, path: str) -> None:
        try:
            obstore.delete(self._store, path)
        except FileNotFoundError:
            return
