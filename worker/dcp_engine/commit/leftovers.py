"""What belongs to no checkpoint below its URL: which of the files there may go, and why. No torch here.

An orphan is a `data-<save id>` folder that `.metadata` does not name, or a small file that a probe or a commit left
behind. A folder goes once the newest file in it is old enough; a save that still writes is younger than that, and one
that was robbed all the same notices before its commit. What was replaced, and is kept for those who read it, goes when
its time is over, however old its files are. The same holds for the shards of exports. All of that is judged by the
clock that dates the files, the store's: this host's may be hours off.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any, Final

from dcp_engine.commit import export_index, replaced
from dcp_engine.format import layout, safetensors
from dcp_engine.stores.protocol import Entry, Store
from dcp_engine.translate import is_missing_file

_DRAFT: Final = re.compile(
    rf"(\.metadata|probe|{re.escape(safetensors.INDEX)}|{replaced.PATH.pattern})\.[0-9a-f]{{32}}\.(tmp|link)"
)
_BESIDE: Final = frozenset({layout.METADATA, safetensors.INDEX})


class LeftoverKind(StrEnum):
    """What a leftover is, in the words of a message; each stands for one of them."""

    ORPHAN = "orphaned save"
    REPLACED = "replaced save"
    EXPORT = "orphaned export"
    DRAFT = "draft"
    FOLDER = "empty folder"
    UPLOAD = "stale upload"


@dataclass(frozen=True)
class Leftover:
    """What goes together, or not at all."""

    kind: LeftoverKind
    name: str
    """Its folder, its export's id or its file: as it is told of, below the URL."""
    paths: tuple[str, ...]
    """In the order in which they are removed."""
    bytes: int = 0
    save_id: str = ""
    """Of a save whose folder it is."""


@dataclass(frozen=True)
class MetadataRead:
    """The `.metadata` that was read; empty where there is none."""

    data: bytes = b""
    version: Any = None

    @property
    def live(self) -> replaced.Live | None:
        """What stands at the URL."""
        if not self.data:
            return None
        trailer, _ = layout.parse_trailer(self.data)
        return replaced.Live(trailer.save_id if trailer else "")

    def needs(self, folder: str) -> bool:
        """Tell whether it names a folder: whatever it says of that, it needs it."""
        return folder.encode() in self.data


def committed(store: Store) -> MetadataRead:
    """Return what `.metadata` says.

    Raises:
        CheckpointCorrupted: Nobody can tell what it named.
    """
    try:
        blob = store.read(layout.METADATA)
    except FileNotFoundError as error:
        if is_missing_file(error):
            return MetadataRead()
        raise
    layout.parse_trailer(blob.data)
    return MetadataRead(blob.data, blob.version)


@dataclass(frozen=True)
class Age:
    """When something is old enough to go."""

    now: datetime
    """The store's time."""
    older_than: timedelta
    keep: timedelta | None
    """How long replaced data stay; None: as long as was said when they were replaced."""

    def is_old(self, modified: datetime | None) -> bool:
        """Tell whether a file of that date is; object stores know seconds only."""
        return modified is not None and self.now - modified >= self.older_than


def found(
    store: Store, entries: Sequence[Entry], age: Age, busy: AbstractSet[str], emptied: Iterable[Entry]
) -> list[Leftover]:
    """Return what may go of what lies at a checkpoint's URL.

    Args:
        store: Where it lies.
        entries: What lies there, listed before this call: a save that commits in between is spared.
        age: What is old enough.
        busy: Folders and exports to which something is being uploaded.
        emptied: Folders that hold nothing.

    Raises:
        CheckpointCorrupted: Nobody can tell what the damaged `.metadata`, or the damaged index, needs.
    """
    metadata = committed(store)
    # Tombstones come after that: who replaced what stood there before had written one by then.
    stones = replaced.tombstones(store, store.list(layout.REPLACED))
    due = replaced.due(stones, metadata.live, age.now, keep=age.keep)
    kept = {layout.data_folder(stone.save_id) for stone in stones if stone.save_id and stone.save_id not in due}
    sizes = {entry.path: entry.size for entry in entries}
    leftovers = [
        _of(LeftoverKind.ORPHAN if layout.is_save_folder(name) else LeftoverKind.DRAFT, name, paths, sizes)
        for name, paths in _orphans(entries, metadata, age, kept | busy)
    ]
    for save_id, group in due.items():
        folder = layout.data_folder(save_id) if save_id else ""
        if not folder or not (metadata.needs(folder) or folder in busy):
            paths = replaced.doomed(save_id, group, entries)
            leftovers = [each for each in leftovers if each.name != folder]
            leftovers.append(_of(LeftoverKind.REPLACED, folder or "a checkpoint by stock DCP", paths, sizes, save_id))
    leftovers += [_of(LeftoverKind.FOLDER, each.path, [each.path], {}) for each in emptied if age.is_old(each.modified)]
    exports: dict[str, list[str]] = defaultdict(list)
    for path in export_index.orphans(store, entries, age.now, older_than=age.older_than, keep=age.keep):
        exports[str(safetensors.export_of(path))].append(path)
    leftovers += [_of(LeftoverKind.EXPORT, name, paths, sizes) for name, paths in exports.items() if name not in busy]
    return leftovers


def may_matter(path: str) -> bool:
    """Tell whether a file below a checkpoint's URL may be one that `found` looks at: below a prefix most are not."""
    folder, _, rest = path.partition("/")
    if rest:
        return layout.is_own_folder(folder) or folder == layout.REPLACED
    beside = path in _BESIDE or layout.is_stock_file(path) or bool(safetensors.export_of(path))
    return beside or _DRAFT.fullmatch(path) is not None


def still_goes(store: Store, leftover: Leftover, age: Age) -> bool:
    """Look once more, right before the removal: a copy may have taken the folder up, and may have committed it.

    An export that stood still for long, on a host that slept, may have gone on, and have committed.
    """
    if leftover.kind is LeftoverKind.EXPORT:
        return not export_index.names(store, leftover.name)
    if leftover.kind is LeftoverKind.ORPHAN:
        if not all(age.is_old(entry.modified) for entry in store.list(leftover.name)):
            return False
    elif leftover.kind is not LeftoverKind.REPLACED or not leftover.save_id:
        return True
    elif not replaced.was_replaced(store, leftover.save_id):
        return False
    return not committed(store).needs(leftover.name)


def root_of(path: str) -> str | None:
    """Return the URL, below a prefix, of the checkpoint or the export that a file would belong to; None of none."""
    parts = path.split("/")
    for place, name in enumerate(parts[:-1]):
        rest = "/".join(parts[place:])
        if layout.is_own_folder(name) or replaced.PATH.fullmatch(rest) or _DRAFT.fullmatch(rest):
            return "/".join(parts[:place])
    above, name = PurePosixPath(path).parent, parts[-1]
    if name in _BESIDE or _DRAFT.fullmatch(name) or safetensors.export_of(name):
        return "" if str(above) == "." else str(above)
    return None


def busy_name(path: str) -> str:
    """Return the folder, or the export, to which a file is being uploaded; empty for what no save or export writes."""
    return path.partition("/")[0] if layout.is_own_file(path) else safetensors.export_of(path) or ""


def _of(kind: LeftoverKind, name: str, paths: Iterable[str], sizes: dict[str, int], save_id: str = "") -> Leftover:
    given = tuple(dict.fromkeys(paths))
    return Leftover(kind, name, given, sum(sizes.get(path, 0) for path in given), save_id)


def _orphans(
    entries: Sequence[Entry], metadata: MetadataRead, age: Age, spared: AbstractSet[str]
) -> Iterator[tuple[str, list[str]]]:
    folders: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        folder, _, rest = entry.path.partition("/")
        if rest and layout.is_own_folder(folder):
            folders[folder].append(entry)
        elif _DRAFT.fullmatch(entry.path):
            folders[entry.path].append(entry)
    for folder, of_folder in folders.items():
        if folder in spared or metadata.needs(folder) or not all(age.is_old(each.modified) for each in of_folder):
            continue
        # What no save writes stays: whoever put it there may still want it.
        paths = [each.path for each in of_folder if layout.is_own_file(each.path) or _DRAFT.fullmatch(each.path)]
        if paths:
            yield folder, paths
