"""Removing what killed saves, copies and exports left behind. Never done by a save: only its caller knows the ages.

`commit.leftovers` says what may go. What is told of is removed right after the look at it, one checkpoint's URL after
the other: what comes in between is spared by a last look.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from os import PathLike, fspath
from typing import Any, Final

from dcp_contract.sizes import human_bytes
from dcp_engine import pending
from dcp_engine.call_options import check_age
from dcp_engine.commit import leftovers, replaced
from dcp_engine.commit.leftovers import Age, Leftover, LeftoverKind
from dcp_engine.errors import CheckpointCorrupted, InvalidOption
from dcp_engine.stores.opening import open_store
from dcp_engine.stores.protocol import Entry, Store, TellsTime
from dcp_engine.stores.uploads import Upload, Uploads
from dcp_engine.translate import translate

LOG: Final = logging.getLogger("dcp_engine")
MINIMUM_AGE: Final = timedelta(days=1)
_BEGINNINGS: Final = ("data-", "model-")
"""Of the names of files that are uploaded in parts, below a checkpoint's URL."""


@dataclass(frozen=True)
class Cleaned:
    """What a clean-up removed, or would remove."""

    leftovers: tuple[Leftover, ...]
    dry_run: bool
    passed_over: int = 0
    """URLs below the prefix of which nobody can tell what is needed there, or which no URL can name."""

    @property
    def files(self) -> int:
        """How many files and uploads."""
        return sum(len(each.paths) for each in self.leftovers)

    @property
    def bytes(self) -> int:
        """What they take up."""
        return sum(each.bytes for each in self.leftovers)

    def words(self) -> str:
        """Say it in a sentence, whose length does not depend on how much it was."""
        counts = Counter(each.kind for each in self.leftovers)
        sizes: Counter[LeftoverKind] = Counter()
        for each in self.leftovers:
            sizes[each.kind] += each.bytes
        parts = [
            f"{counts[kind]} {kind}{'' if counts[kind] == 1 else 's'}"
            f"{f' ({human_bytes(sizes[kind])})' if sizes[kind] else ''}"
            for kind in LeftoverKind
            if counts[kind]
        ]
        did = "Would remove" if self.dry_run else "Removed"
        over = f"; passed over for damage: {self.passed_over}" if self.passed_over else ""
        return f"{did} {', '.join(parts) or 'nothing'}{over}"


def clean(
    url: str | PathLike[str],
    *,
    storage_options: Mapping[str, Any] | None = None,
    older_than: timedelta = MINIMUM_AGE,
    keep_replaced: timedelta | None = None,
    dry_run: bool = False,
    recursive: bool = False,
) -> list[str]:
    """Remove orphans below a checkpoint's URL and abort its stale uploads. Not collective: one process calls it.

    Call it where nobody has been saving to the URL for `older_than`: a save that takes longer between two of its files
    loses them, and notices before its commit. A background save of this process ends first. The time is the store's: to
    learn it, an empty object is written and removed, and a local folder's time of change becomes now. A dry run takes
    the time from an answer of the store, or this host's where none tells it.

    Uploads are found on S3 only. Azure forgets the parts of one after a week; a Google bucket needs a lifecycle rule.

    Args:
        url: where saves went: an fsspec URL or a path.
        storage_options: options of the store that are no secret, by their neutral names
            (`dcp_contract.storage_options.STORAGE_OPTIONS`). Secrets come from the environment.
        older_than: the age, by the store's clock, from which a file that belongs to no checkpoint goes.
        keep_replaced: how long the data of replaced saves are kept; None: as long as the save said that replaced them.
        dry_run: only say what would go; nothing is written.
        recursive: clean every checkpoint's URL below this one, too. One with a damaged `.metadata` is passed over,
            with a warning.

    Returns:
        The paths below the URL of what went, or would go; that of an empty folder ends with `/`.

    Raises:
        CheckpointCorrupted: nobody can tell what the damaged `.metadata` needs; nothing was removed.
        InvalidOption: an age is none. EngineError: the URL can't be opened, or its store refuses.
    """
    found = cleaned(
        url,
        storage_options=storage_options,
        older_than=older_than,
        keep_replaced=keep_replaced,
        dry_run=dry_run,
        recursive=recursive,
    )
    return sorted({path for each in found.leftovers for path in each.paths})


def cleaned(
    url: str | PathLike[str],
    *,
    storage_options: Mapping[str, Any] | None = None,
    older_than: timedelta = MINIMUM_AGE,
    keep_replaced: timedelta | None = None,
    dry_run: bool = False,
    recursive: bool = False,
    on_item: Callable[[Leftover], None] | None = None,
) -> Cleaned:
    """Clean up as `clean` does, and say what went with its kinds and sizes; `on_item` is told of each as it goes."""
    try:
        check_age("older_than", older_than)
        check_age("keep_replaced", keep_replaced)
        pending.wait_before(url)
        call = _Call(fspath(url), dict(storage_options or {}), older_than, keep_replaced, dry_run, on_item)
        return call.below() if recursive else Cleaned(tuple(call.at("")), dry_run)
    except Exception as error:
        raise translate(error, url=fspath(url)) from error


@dataclass(frozen=True)
class _Call:
    """One clean-up."""

    url: str
    options: dict[str, Any]
    older_than: timedelta
    keep: timedelta | None
    dry_run: bool
    on_item: Callable[[Leftover], None] | None
    _times: list[datetime] = field(default_factory=list)
    """The store's time, once it is known: that of the begin, by which less is old than by any later one."""

    def below(self) -> Cleaned:
        """Clean each URL below the prefix; what is listed is held by its URL alone."""
        store, uploads = open_store(self.url, self.options), self._uploads("")
        named = (*uploads.paths(), *(each.path for each in store.empty_folders()))
        roots = {root for path in named if (root := leftovers.root_of(path)) is not None}
        roots |= {root for each in store.list("") if (root := leftovers.root_of(each.path)) is not None}
        gone: list[Leftover] = []
        passed_over = 0
        for root in sorted(roots):
            try:
                gone += self.at(root)
            # Of the latter kind are names that no URL has, as `a::b`: whoever may write there chooses them.
            except (CheckpointCorrupted, InvalidOption) as error:
                passed_over += 1
                LOG.warning("%s is passed over: %s", self._url(root), error)
        return Cleaned(tuple(gone), self.dry_run, passed_over)

    def at(self, root: str) -> list[Leftover]:
        """Clean one checkpoint's URL; return what went, by its path below the URL that was asked for."""
        store, uploads = open_store(self._url(root), self.options), self._uploads(root)
        # Before the listing: a file that is whole by then is no upload any more, and is seen there.
        under_way = uploads.list(_BEGINNINGS, leftovers.busy_name)
        entries = [each for each in store.list("") if leftovers.may_matter(each.path)]
        emptied = list(store.empty_folders())
        if not (under_way or entries or emptied):
            return []
        age = Age(self._now(store, [*entries, *emptied]), self.older_than, self.keep)
        busy = {leftovers.busy_name(each.path) for each in under_way if not age.is_old(each.newest)}
        found = leftovers.found(store, entries, age, busy, emptied)
        stale = [each for each in under_way if leftovers.busy_name(each.path) not in busy]
        return [_below(root, each) for each in self._removed(store, found, age, uploads, stale)]

    def _removed(
        self, store: Store, found: Iterable[Leftover], age: Age, uploads: Uploads, stale: Iterable[Upload]
    ) -> Iterator[Leftover]:
        for each in found:
            if self.dry_run or leftovers.still_goes(store, each, age):
                if not self.dry_run:
                    replaced.remove(store, each.paths)
                yield self._told(store, each)
        for upload in stale:
            if not self.dry_run:
                uploads.abort([upload])
            yield self._told(store, Leftover(LeftoverKind.UPLOAD, upload.path, (upload.path,), upload.bytes))

    def _told(self, store: Store, leftover: Leftover) -> Leftover:
        if self.on_item:
            self.on_item(_below(store.url.rstrip("/"), leftover))
        return leftover

    def _now(self, store: Store, entries: Iterable[Entry]) -> datetime:
        """Return the store's time; that of its newest file, which is no later, where nothing may be written."""
        if not self._times:
            try:
                if self.dry_run and isinstance(store, TellsTime):
                    self._times.append(store.told_time() or datetime.now(UTC))
                else:
                    self._times.append(store.now())
            except Exception:  # noqa: BLE001 - the removal, if it comes to one, says what is wrong
                return max((entry.modified for entry in entries if entry.modified), default=datetime.now(UTC))
        return self._times[0]

    def _url(self, root: str) -> str:
        return f"{self.url.rstrip('/')}/{root}" if root else self.url

    def _uploads(self, root: str) -> Uploads:
        return Uploads(self._url(root), self.options)


def _below(root: str, leftover: Leftover) -> Leftover:
    """Return it by its paths below another URL."""
    if not root:
        return leftover
    paths = tuple(f"{root}/{path}" for path in leftover.paths)
    return Leftover(leftover.kind, f"{root}/{leftover.name}", paths, leftover.bytes, leftover.save_id)
