"""The data of a replaced save are kept for a while, so that its readers can finish. Stock DCP reads `.metadata` once.

A tombstone says how long: `replaced/<save id>.<id of the save that replaced it>`, one line of JSON. The time since then
is counted from the tombstone's own time in the store. The tombstone is written before the commit: otherwise there would
be a moment at which neither `.metadata` nor a tombstone spares the data. If the commit fails, its tombstone says
nothing, since data that `.metadata` names are never removed. A removal writes a tombstone as well (`removal`), which
keeps for no time.

A stock checkpoint has no save id and no folder of its own. Its tombstone names its files, and a file that was written
after the tombstone belongs to another save.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from dcp_engine.errors import CheckpointCorrupted
from dcp_engine.format import layout
from dcp_engine.stores.protocol import Entry, Store

AT_MOST: Final = 2
"""Replaced saves that are kept at one URL, whatever their age."""
_LONGEST: Final = timedelta(days=36_500)
"""Stands for ever. The seconds of a longer time could not be made into a timedelta again."""
_LARGEST: Final = 16 << 20
"""Most bytes of a tombstone. That of a stock checkpoint of half a million files has fewer."""
_STOCK: Final = "stock"
PATH: Final = re.compile(rf"{layout.REPLACED}/([0-9a-f]{{32}}|{_STOCK})\.([0-9a-f]{{32}})")


@dataclass(frozen=True)
class Tombstone:
    """One tombstone of a replaced save."""

    path: str
    save_id: str
    """What was replaced; empty for a stock checkpoint."""
    since: datetime
    keep: timedelta
    files: tuple[str, ...] = ()
    """The data files of a stock checkpoint."""
    noted: str = ""
    """When its writer says that it wrote it: a store's clock shows whole seconds."""


@dataclass(frozen=True)
class Live:
    """What stands at the URL now. Its data are removed by nobody."""

    save_id: str
    """Empty for a stock checkpoint."""


def mark(store: Store, save_id: str, *, by: str, keep: timedelta, files: Iterable[str] = ()) -> None:
    """On rank 0, write the tombstone of the save that is to be replaced; `files` are those of a stock checkpoint."""
    note = {
        "keepSeconds": min(keep, _LONGEST).total_seconds(),
        "time": datetime.now(UTC).isoformat(),
        "files": list(files),
    }
    # `create` leaves no half of a file when its process is killed.
    with suppress(FileExistsError):  # another try of the same commit
        store.create(f"{layout.REPLACED}/{save_id or _STOCK}.{by}", json.dumps(note, separators=(",", ":")).encode())


def unmark(store: Store, by: str) -> None:
    """On rank 0, remove the tombstones that the save `by` wrote before its commit failed."""
    store.delete([entry.path for entry in store.list(layout.REPLACED) if entry.path.endswith(f".{by}")])


def forget(store: Store, save_id: str) -> None:
    """Remove the tombstones of a save that is about to stand at the URL again."""
    store.delete(
        [each.path for each in store.list(layout.REPLACED) if each.path.startswith(f"{layout.REPLACED}/{save_id}.")]
    )


def was_replaced(store: Store, save_id: str) -> bool:
    """Tell whether a save stood at the URL once, and somebody who replaced it keeps it."""
    return any(entry.path.startswith(f"{layout.REPLACED}/{save_id}.") for entry in store.list(layout.REPLACED))


def tombstones(store: Store, entries: Iterable[Entry]) -> list[Tombstone]:
    """Read the tombstones among the files of a listing; what is none of ours is passed over."""
    found = []
    for entry in entries:
        match = PATH.fullmatch(entry.path)
        if match and entry.size <= _LARGEST:
            with suppress(FileNotFoundError):
                save_id = match[1] if match[1] != _STOCK else ""
                if stone := _decode(entry, save_id, store.read(entry.path).data):
                    found.append(stone)
    return found


def due(
    stones: Iterable[Tombstone], live: Live | None, now: datetime, *, keep: timedelta | None = None
) -> dict[str, list[Tombstone]]:
    """Return save id -> tombstones of what may go: what was kept for as long as was said, and all but the newest two.

    With `keep`, that counts in place of what the tombstones say. What stands at the URL is not among them.
    """
    of: dict[str, list[Tombstone]] = defaultdict(list)
    for stone in stones:
        if live is None or stone.save_id != live.save_id:
            of[stone.save_id].append(stone)
    ours = f".{live.save_id}" if live and live.save_id else None

    def counts(stone: Tombstone) -> tuple[bool, datetime, str]:
        """Order by who replaced it: what stands there now, or the last that says so; others came to nothing."""
        return ours is not None and stone.path.endswith(ours), stone.since, stone.noted

    newest = {save_id: max(group, key=counts) for save_id, group in of.items()}
    ordered = sorted(newest, key=lambda save_id: (newest[save_id].since, newest[save_id].noted), reverse=True)

    def over(last: Tombstone) -> bool:
        return now - last.since >= (last.keep if keep is None else keep)  # no date is made, which may not exist

    return {save_id: of[save_id] for place, save_id in enumerate(ordered) if place >= AT_MOST or over(newest[save_id])}


def doomed(save_id: str, stones: Sequence[Tombstone], entries: Iterable[Entry]) -> list[str]:
    """Return which of the files there are go with a replaced save, its manifest last, then its tombstones.

    A removal cut short is so taken up again, and a save without its manifest told from one that never came that far.
    """
    since = {name: stone.since for stone in sorted(stones, key=lambda stone: stone.since) for name in stone.files}
    folder = f"{layout.data_folder(save_id)}/" if save_id else ""
    paths = [
        entry.path
        for entry in entries
        if (
            entry.path.startswith(folder) and layout.is_own_file(entry.path)
            if save_id
            else entry.path in since and entry.modified is not None and entry.modified <= since[entry.path]
        )
    ]
    paths.sort(key=lambda path: path.endswith("manifest.json"))
    return [*paths, *(stone.path for stone in stones)]


def remove_due(store: Store, live: Live | None, now: datetime) -> None:
    """Remove what was kept for long enough."""
    _remove_groups(store, due(tombstones(store, store.list(layout.REPLACED)), live, now))


def remove_all(store: Store, stones: Iterable[Tombstone]) -> None:
    """Remove what is kept, for however long: nothing stands at the URL any more."""
    of: dict[str, list[Tombstone]] = defaultdict(list)
    for stone in stones:
        of[stone.save_id].append(stone)
    _remove_groups(store, of)


def remove(store: Store, paths: Iterable[str]) -> None:
    """Remove the tombstones after all else: a store removes what it is given together in any order."""
    given = list(paths)
    store.delete([path for path in given if not path.startswith(f"{layout.REPLACED}/")])
    store.delete([path for path in given if path.startswith(f"{layout.REPLACED}/")])


def _remove_groups(store: Store, stones: Mapping[str, Sequence[Tombstone]]) -> None:
    for save_id, group in stones.items():
        entries = store.list(layout.data_folder(save_id)) if save_id else _stock_entries(store, group)
        remove(store, doomed(save_id, group, entries))


def _stock_entries(store: Store, stones: Iterable[Tombstone]) -> list[Entry]:
    entries = []
    for name in sorted({name for stone in stones for name in stone.files}):
        try:
            blob = store.read(name, tail=1)
            entries.append(Entry(name, blob.size, blob.modified))
        except FileNotFoundError:
            continue
        except CheckpointCorrupted:  # a link by now, through which the next stock save would write elsewhere
            entries.append(Entry(name, 0, datetime.min.replace(tzinfo=UTC)))
    return entries


def _decode(entry: Entry, save_id: str, data: bytes) -> Tombstone | None:
    try:
        note = json.loads(data)
        seconds, files = float(note["keepSeconds"]), note["files"]
        since = entry.modified or datetime.fromisoformat(note["time"])
        if not math.isfinite(seconds) or not all(map(layout.is_stock_file, files)):
            return None
        return Tombstone(
            entry.path, save_id, since, timedelta(seconds=seconds), tuple(files), str(note.get("time", ""))
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
