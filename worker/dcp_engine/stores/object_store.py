"""S3, Google Cloud Storage and Azure Blob Storage, through obstore.

Creating is `If-None-Match: *` (`ifGenerationMatch=0` on Google), replacing and removing are `If-Match` with the ETag.
Each is tried out, once per bucket and process. Where the store ignores or refuses one, a look comes before the write:
what two savers do at the same instant is then left to chance, the result says `BestEffort`, and a warning says why.

A file goes up in one request, or in parts in parallel; a failed upload is aborted. Reads are ranged and never cached.

What may be sent twice is tried again here (see `retry`), and not by obstore, which takes a store that throttles for one
that fails. It does so for the parts of an upload alone, whose requests nobody else sees: by time, however it failed.
"""

import logging
import re
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from itertools import chain
from typing import Any, Final
from urllib.parse import quote

from obstore import exceptions

from dcp_engine.errors import InvalidOption, RefusedSignature, StaleVersion, StorageUnavailable
from dcp_engine.stores import guarded_obstore as obstore
from dcp_engine.stores import http_range
from dcp_engine.stores.conditional import ConditionalRequests, version_of
from dcp_engine.stores.options import ObstoreOptions, place_of, protocol_of
from dcp_engine.stores.pages import Pages
from dcp_engine.stores.protocol import ATOMIC, BEST_EFFORT, Blob, Buffer, Entry, Guarded, begun, copied
from dcp_engine.stores.retry import retried, throttled
from dcp_engine.translate import translate

LOG = logging.getLogger("dcp_engine")
_PIECE: Final = 64 << 10
"""Bytes of an answer that are handed on together."""
_FILE_SIZE: Final = 32 << 20
"""Bytes that travel in one request, which spares the two that begin and end an upload in parts, and the store the work
of putting the parts together."""
_KEEP_REPLACED: Final = timedelta(hours=1)

_BEYOND: Final = re.compile(r"\b416 Range Not Satisfiable|InvalidRange")
"""How stores say that a range begins behind the object's end."""
_NO_RANGE: Final = re.compile(rf"{_BEYOND.pattern}|non-partial response|CONTENT_RANGE")
"""How they answer if the object is empty; some send all of it, some a range that can't be."""

_PLACES: Final = ("endpoint", "base_url", "account_name")
"""Options that make of one bucket's name another bucket."""

_TRIED: Final = 4
"""Objects whose signed URLs were all refused, before none is signed any more."""

_NOTE: Final = "dcpcrc32c"
"""Metadata of an object: the CRC-32C that its writer had for it. Azure takes letters and digits alone."""

_guards: dict[tuple[str, ...], str] = {}


class ObjectStore:
    """A checkpoint's prefix in a bucket; see `Store`."""

    def __init__(self, url: str, options: ObstoreOptions) -> None:
        self.url = url
        self.writers = 8
        self.file_size = _FILE_SIZE
        self.keep_replaced = _KEEP_REPLACED
        self.readers = 16
        self.attempts = options.attempts
        protocol = protocol_of(url)  # obstore knows one spelling: gs, not gcs
        bucket, path = place_of(url)
        if "@" in bucket and protocol in {"s3", "gs"}:
            raise InvalidOption(f"url: {url!r} names a user; credentials come from the environment")
        self.bucket = (protocol, bucket, *(str(options.config.get(key, "")) for key in _PLACES))
        place = f"{protocol}://{bucket}/{quote(path)}"
        self._store = _opened(place, options, options.no_retry)
        self._patient = _opened(place, options, options.retry)
        plain = options.proxied or options.anonymous or http_range.proxied()
        self._ready = threading.Lock()
        self._indirect: set[str] = set()
        """Objects whose signed URLs the store refuses."""
        self._direct = None if plain else http_range.RangedGet(self._sign, options.network)
        self._conditional = ConditionalRequests(self._store, url, self.attempts, None if plain else options.network)

    def read(self, path: str, *, tail: int | None = None) -> Blob:
        """GET the object, or its last bytes; the version is its ETag (and generation)."""
        return retried(lambda: self._read(path, tail), self.attempts)

    def _read(self, path: str, tail: int | None) -> Blob:
        try:
            result = self._tail(path, tail) if tail else obstore.get(self._store, path)
        except exceptions.BaseError as error:
            if not _NO_RANGE.search(str(error)):
                raise
            result = obstore.get(self._store, path)  # of what is empty there is no range, not even the end
        meta = result.meta
        return Blob(bytes(result.bytes()), version_of(meta), meta["size"], meta["last_modified"])

    def create(self, path: str, data: bytes) -> None:
        """PUT that the store refuses if the object exists."""
        if self.guard("create") == ATOMIC:
            self._put_once(path, data, lambda: self._conditional.create(path, data))
        elif self._exists(path):
            raise FileExistsError(path)
        else:
            self._put_over(path, data)

    def replace(self, path: str, data: bytes, version: Any) -> None:  # noqa: ANN401 - see Store
        """PUT that the store refuses if the ETag is another."""
        if self.guard("replace") == ATOMIC:
            self._put_once(path, data, lambda: self._conditional.replace(path, data, version))
        elif self._version_of(path) != version:
            raise StaleVersion.of(path)
        else:
            self._put_over(path, data)

    def remove(self, path: str, version: Any) -> None:  # noqa: ANN401 - see Store
        """DELETE that the store refuses if the ETag is another."""
        if self.guard("remove") == ATOMIC:
            retried(lambda: self._conditional.remove(path, version), self.attempts)
        elif self._version_of(path) != version:
            raise StaleVersion.of(path)
        else:
            # Once: a try that arrives late would remove what was saved meanwhile.
            retried(lambda: obstore.delete(self._store, path), self.attempts, on=throttled)

    def write(
        self, path: str, chunks: Iterable[Buffer], *, part_size: int, parallel: int, crc32c: int | None = None
    ) -> None:
        """Upload in parts; a file of less than one part goes in one PUT. The note is metadata of the object."""
        note = None if crc32c is None else {_NOTE: str(crc32c)}
        stream = iter(chunks)
        # Files that are made ready at once only take turns at the interpreter, and all of them begin to travel late.
        with self._ready:
            head, whole = begun(stream, part_size)
        if whole:
            once = partial(obstore.put, self._store, path, use_multipart=False, attributes=note)
            retried(lambda: once(file=iter(head)), self.attempts)
            return
        # obstore aborts the upload if the iterator or a part fails, so that no part stays and no object appears.
        in_parts = partial(obstore.put, self._patient, path, chunk_size=part_size, max_concurrency=parallel)
        in_parts(file=chain(head, stream), attributes=note)

    def write_whole(
        self, path: str, chunks: Iterable[Buffer], *, part_size: int, parallel: int, overwrite: bool
    ) -> str:
        """Upload as `write` does: an object is there once its upload is completed. Large ones take no condition."""
        if overwrite:
            self.write(path, chunks, part_size=part_size, parallel=parallel)
            return ATOMIC
        if self._exists(path):
            raise FileExistsError(path)
        stream = iter(chunks)
        head, whole = begun(stream, part_size)
        if whole:
            self.create(path, b"".join(head))
            return self.guard("create")
        self.write(path, chain(head, stream, self._still_free(path)), part_size=part_size, parallel=parallel)
        return BEST_EFFORT

    def _still_free(self, path: str) -> Iterator[Buffer]:
        """Give nothing; end the upload in which this comes last if the name was taken meanwhile."""
        with ThreadPoolExecutor(1) as pool:  # obstore draws this in a thread of its own, which can't ask anything
            taken = pool.submit(self._exists, path).result()
        if taken:
            raise FileExistsError(path)
        yield from ()

    def noted(self, path: str) -> int | None:
        """GET the last byte, with which the object's metadata come."""
        try:
            result = retried(lambda: self._tail(path, 1), self.attempts)
        except (FileNotFoundError, exceptions.BaseError):
            return None
        note = str(result.attributes.get(_NOTE, ""))
        return int(note) if note.isdecimal() else None

    def fill(self, path: str, offset: int, targets: Iterable[memoryview]) -> Iterator[memoryview]:
        """GET a range straight into the targets; through obstore where requests can't be signed or need a proxy."""
        obstore.refuse_after_fork()
        views = list(targets)
        direct = None if path in self._indirect else self._direct
        if direct:
            try:
                yield from direct.fill(path, offset, views)
            except (exceptions.BaseError, RefusedSignature) as error:
                # A URL can be signed with some credentials only, and may count for less: obstore's own request tells.
                self._give_up_on(path, direct, error)
            else:
                return
        end = offset + sum(map(len, views))
        try:
            result = obstore.get(self._store, path, options={"range": (offset, end)})
        except exceptions.BaseError as error:
            if _BEYOND.search(str(error)):
                raise EOFError(path) from error
            raise
        yield from copied(result.stream(min_chunk_size=_PIECE), views, path)

    def stored(self, path: str, ranges: Sequence[tuple[int, int]]) -> int:
        """Return all of them: an object has no holes."""
        del path
        return sum(stop - start for start, stop in ranges)

    def list(self, prefix: str) -> Iterator[Entry]:
        """LIST below a folder; where it breaks off it goes on behind the last name."""
        pages = Pages(self._store, prefix)
        while page := retried(pages.following, self.attempts):
            for meta in page:
                yield Entry(meta["path"], meta["size"], meta["last_modified"])

    def folders(self) -> Iterator[str]:
        """LIST with a delimiter: one request for a thousand folders."""
        yield from retried(lambda: obstore.folders(self._store), self.attempts)

    def empty_folders(self) -> Iterator[Entry]:
        """There are no folders."""
        return iter(())

    def delete(self, paths: Sequence[str]) -> None:
        """Delete in bulk."""
        if not paths:
            return
        try:
            retried(lambda: obstore.delete(self._store, paths), self.attempts)
        except FileNotFoundError:
            for path in paths:
                self._delete_one(path)

    def remove_root(self) -> None:
        """There are no folders."""

    def now(self) -> datetime:
        """Write an empty object and list it: some stores say more of a date in listings, by which others are judged."""
        path = f"data-probe-{uuid.uuid4().hex}/probe"
        try:
            retried(lambda: obstore.put(self._store, path, b"", mode="overwrite"), self.attempts)
            return max(entry.modified for entry in self.list(path.partition("/")[0]) if entry.modified)
        finally:
            self._conditional.forget(path)

    def told_time(self) -> datetime | None:
        """HEAD: every answer has a date."""
        return self._conditional.told_time()

    def guard(self, write: Guarded) -> str:
        """Return Atomic if the store refuses such a write: tried out once per bucket and process."""
        key = (*self.bucket, write)
        if key not in _guards:
            # The answers are the bucket's: whoever comes second at the same time asks once more, and gets the same.
            found = self._conditional.tried_out(write)
            _guards.update({(*self.bucket, one): guard for one, guard in found.items()})
        return _guards[key]

    def _tail(self, path: str, count: int) -> Any:  # noqa: ANN401 - obstore's own type is not public
        """GET the last bytes; on Azure, which knows no ranges from the end, by two requests for one version."""
        with suppress(exceptions.NotSupportedError):
            return obstore.get(self._store, path, options={"range": {"suffix": count}})
        while True:
            result = obstore.get(self._store, path, options={"range": (0, count)})
            size = result.meta["size"]
            if size <= count:
                return result
            # Replaced in between, it is another object, of another size.
            with suppress(exceptions.PreconditionError):
                same = result.meta["e_tag"]
                return obstore.get(self._store, path, options={"range": (size - count, size), "if_match": same})

    def _give_up_on(self, path: str, direct: http_range.RangedGet, error: Exception) -> None:
        """Read one object through obstore from now on, and all of them if no signed URL was ever good."""
        if not self._indirect:
            LOG.warning("%s: %s is read through obstore, which is slower: %s", self.url, path, translate(error))
        self._indirect.add(path)
        if len(self._indirect) >= _TRIED and not direct.succeeded:
            self._direct = None

    def _sign(self, path: str, seconds: int) -> str:
        return str(obstore.sign(self._store, "GET", path, timedelta(seconds=seconds)))

    def _put_once(self, path: str, data: bytes, put: Callable[[], None]) -> None:
        """Carry out a PUT with a condition, and repeat it where no answer came.

        A try that was not answered may have been carried out all the same. So what ends the tries is read thus:

        1. The store refuses, and the object there is ours: an earlier try was carried out, and the PUT has succeeded.
        2. The store refuses, and the object there is another's: ours may have stood there and been replaced. Its data
           are removed then, so ours is never put again.
        3. No try is answered: the error of the *first* try is raised, since that request may still arrive.
        """
        unanswered: list[Exception] = []

        def attempt() -> None:
            try:
                put()
            except exceptions.BaseError as error:
                if not throttled(error):
                    unanswered.append(error)
                raise

        try:
            retried(attempt, self.attempts)
        except (FileExistsError, StaleVersion) as refusal:
            if not unanswered:
                raise
            if not self._holds(path, data):
                raise unanswered[0] from refusal
        except exceptions.BaseError as last:
            if not unanswered or last is unanswered[0]:
                raise
            raise unanswered[0] from last

    def _holds(self, path: str, data: bytes) -> bool:
        try:
            return self.read(path).data == data
        except Exception:  # noqa: BLE001 - the error of the PUT says more
            return False

    def _put_over(self, path: str, data: bytes) -> None:
        """Write whatever stands there, once: a try that arrives late would bring back what was replaced meanwhile."""
        put = partial(obstore.put, self._store, path, data, mode="overwrite")
        retried(put, self.attempts, on=throttled)

    def _exists(self, path: str) -> bool:
        return self._version_of(path) is not None

    def _version_of(self, path: str) -> dict[str, str] | None:
        try:
            return version_of(retried(lambda: obstore.head(self._store, path), self.attempts))
        except FileNotFoundError:
            return None

    def _delete_one(self, path: str) -> None:
        try:
            retried(lambda: obstore.delete(self._store, path), self.attempts)
        except FileNotFoundError:
            return


def _opened(place: str, options: ObstoreOptions, retry: dict[str, Any]) -> Any:  # noqa: ANN401
    """Open a bucket, for which nothing is asked of it: what fails is what was given."""
    settings: dict[str, Any] = {"config": options.config, "client_options": options.client, "retry_config": retry}
    try:
        return obstore.from_url(place, **settings)
    except exceptions.BaseError as error:
        known = translate(error)
        raise (InvalidOption(known.message) if isinstance(known, StorageUnavailable) else known) from error
