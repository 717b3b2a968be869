"""Which Checkpoints are runs of which series, and which wait for one: an index beside the cache.

A Checkpoint belongs to the series that is its controller, by uid: labels are free for anybody to write. When a run
changes, its series is woken, and so are the Checkpoints that wait for the latest of that series. What a live Checkpoint
of the namespace reads stays: by whatever spelling of its URL, and with whatever credentials.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, TypeVar

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.operations import Operation
from dcp_operator.api.json_types import ReadBody
from dcp_operator.api.storage_url import below, without_store
from dcp_operator.controllers.checkpoint.latest import LatestCheckpoint
from dcp_operator.controllers.checkpoint.runs import run_id_of
from dcp_operator.controllers.series.runs import Runs, SeriesRun
from dcp_operator.kube.client.api import SERIES, ObjectKey
from dcp_operator.kube.client.ownership import Owner, controlled, controller

_NOBODY: Final = Owner(SERIES, "", "")
_READING: Final = {each.value for each in Operation if each.traits.reads}
_Place = tuple[str, str]
"""A namespace, and a URL as `without_store` has it."""
_Save = tuple[str, str, str]
"""A namespace, and what `SeriesRun.saved` says."""
KeyT = TypeVar("KeyT")


class _Indexed(NamedTuple):
    owner: Owner
    run: SeriesRun


@dataclass
class SeriesRuns:
    """The runs of every series. It is told of every Checkpoint and of every series.

    Args:
        wake: Called with each object that has to be looked at, since a run has changed.
    """

    wake: Callable[[ObjectKey], None] = field(default=lambda _: None)
    _entries: dict[ObjectKey, _Indexed] = field(default_factory=dict)
    _by_series: dict[str, dict[ObjectKey, SeriesRun]] = field(default_factory=dict)
    """By the uid of the series."""
    _uids: dict[ObjectKey, str] = field(default_factory=dict)
    """Of the series that exist."""
    _training: dict[ObjectKey, ReadBody] = field(default_factory=dict)
    """By series of a training: how one gets to where the training saves."""
    _waits: dict[ObjectKey, ObjectKey] = field(default_factory=dict)
    """By Checkpoint, the series of which it has to read the latest, and has not looked it up."""
    _waiting: dict[ObjectKey, set[ObjectKey]] = field(default_factory=lambda: defaultdict(set))
    _reads: dict[ObjectKey, frozenset[str]] = field(default_factory=dict)
    """By live Checkpoint, the URLs of which it reads what stands there."""
    _readers: dict[_Place, set[ObjectKey]] = field(default_factory=lambda: defaultdict(set))
    _saved: dict[_Place, set[ObjectKey]] = field(default_factory=lambda: defaultdict(set))
    """By URL, the runs that have saved there."""
    _reserved: dict[ObjectKey, str] = field(default_factory=dict)
    """By Checkpoint, the URL that it has looked up and that its status does not tell of yet."""
    _holds: dict[ObjectKey, _Save] = field(default_factory=dict)
    """By Checkpoint, of a series or of none, what it has saved."""
    _holders: dict[_Save, set[ObjectKey]] = field(default_factory=lambda: defaultdict(set))

    def note(self, key: ObjectKey, body: ReadBody) -> None:
        """Take in what the body of a series or of a Checkpoint says."""
        if key.kind != SERIES.kind:
            self._note_run(key, body)
            self._set_held(key, _saved_by(key.namespace, body))
            self._note_wait(key, body)
            self._set_reads(key, self._read_by(key, body))
            return
        spec = body.get("spec") or {}
        self._training[key] = (spec.get("storage") or {}) if _template(spec).get("target") else {}
        if self._uids.get(key) != body["metadata"]["uid"]:
            self._uids[key] = body["metadata"]["uid"]
            self._wake(key)

    def drop(self, key: ObjectKey) -> None:
        """Forget a series or a Checkpoint that is gone."""
        if key.kind == SERIES.kind:
            self._uids.pop(key, None)
            self._training.pop(key, None)
        else:
            self._drop_run(key)
            self._set_held(key, None)
            self._set_wait(key, None)
            self._reserved.pop(key, None)
            self._set_reads(key, frozenset())

    def of(self, namespace: str, uid: str) -> Runs:
        """Return the Checkpoints of a series, and who reads what they have saved."""
        found = [run for key, run in self._by_series.get(uid, {}).items() if key.namespace == namespace]
        readers = {run.url: self._readers_of(namespace, run.url) for run in found if run.committed}
        others = {run.saved: other for run in found if run.committed and (other := self._other(namespace, uid, run))}
        return Runs.of(found, readers, others)

    def reserve(self, key: ObjectKey, url: str) -> None:
        """Note that a Checkpoint is about to read what stands at a URL: its status says so only once it is written."""
        self._reserved[key] = url
        self._set_reads(key, self._reads.get(key, frozenset()) | {without_store(url)})

    def latest(self, namespace: str, name: str) -> LatestCheckpoint:
        """Return what is known of a series and of its newest checkpoint."""
        key = SERIES.key(namespace, name)
        uid, training = self._uids.get(key, ""), self._training.get(key, {})
        run = self.of(namespace, uid).latest
        if run is not None and below(str(training.get("url", "")), run.url):
            # A training has its own credentials: those of the series get there as well.
            run = replace(run, storage=training)
        source = run.source.model_copy(update={"series": name}) if run is not None else None
        return LatestCheckpoint(exists=bool(uid), source=source)

    def newest_of(self, key: ObjectKey) -> CheckpointInfo | None:
        """Return the newest checkpoint of the series that a Checkpoint is of; None where there is none."""
        entry = self._entries.get(key)
        run = self.of(key.namespace, entry.owner.uid).latest if entry is not None else None
        return CheckpointInfo(url=run.url, save_id=run.save_id, step=run.step) if run is not None else None

    def uid_of(self, key: ObjectKey, uid: str) -> str:
        """Return the uid of a Checkpoint that is a run of a series; empty if it is none."""
        run = self._by_series.get(uid, {}).get(key)
        return run.uid if run is not None else ""

    def _other(self, namespace: str, uid: str, run: SeriesRun) -> str:
        """Return a Checkpoint that is none of a series and has saved what a run has; empty if there is none."""
        holders = sorted(self._holders.get((namespace, *run.saved), ()))
        return next((each.name for each in holders if self._keeps(each, uid, run)), "")

    def _keeps(self, holder: ObjectKey, uid: str, run: SeriesRun) -> bool:
        entry = self._entries.get(holder)
        if entry is None or entry.owner.uid == uid:
            return entry is None
        return all(each.condemns != run.saved for each in self._by_series[entry.owner.uid].values())

    def _set_held(self, key: ObjectKey, saved: _Save | None) -> None:
        before = self._holds.pop(key, None)
        if before is not None:
            _discard(self._holders, before, key)
        if saved is not None:
            self._holds[key] = saved
            self._holders[saved].add(key)

    def _read_by(self, key: ObjectKey, body: ReadBody) -> frozenset[str]:
        """Return the URLs of what an unfinished Checkpoint reads."""
        if _is_over(body):
            self._reserved.pop(key, None)
            return frozenset()
        status = body.get("status") or {}
        if "source" in status and status.get("runId", "") == run_id_of(body.get("spec")):
            self._reserved.pop(key, None)
        # A body from before the status with what was looked up may come while that is being written.
        reserved = {without_store(self._reserved[key])} if key in self._reserved else frozenset()
        return _read_by(body) | reserved

    def _note_run(self, key: ObjectKey, body: ReadBody) -> None:
        owner = _owner(body)
        before = self._entries.get(key)
        if before is not None and (before.owner != owner or before.run.uid != body["metadata"]["uid"]):
            self._drop_run(key)
            before = None
        if owner is _NOBODY:
            return
        run = SeriesRun.of(body, owner.name)
        if before is not None and before.run == run:
            return
        if before is not None:
            self._forget_url(key, before.run)
        self._entries[key] = _Indexed(owner, run)
        self._by_series.setdefault(owner.uid, {})[key] = run
        if run.committed:
            self._saved[key.namespace, without_store(run.url)].add(key)
        self._wake(SERIES.key(key.namespace, owner.name))

    def _drop_run(self, key: ObjectKey) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self._forget_url(key, entry.run)
        runs = self._by_series[entry.owner.uid]
        del runs[key]
        if not runs:
            del self._by_series[entry.owner.uid]
        self._wake(SERIES.key(key.namespace, entry.owner.name))

    def _forget_url(self, key: ObjectKey, run: SeriesRun) -> None:
        _discard(self._saved, (key.namespace, without_store(run.url)), key)

    def _readers_of(self, namespace: str, url: str) -> tuple[str, ...]:
        return tuple(sorted(each.name for each in self._readers.get((namespace, without_store(url)), ())))

    def _set_reads(self, key: ObjectKey, urls: frozenset[str]) -> None:
        before = self._reads.pop(key, frozenset())
        if urls:
            self._reads[key] = urls
        for url in before - urls:
            _discard(self._readers, (key.namespace, url), key)
            # What somebody has stopped reading may be removed now.
            for run in self._saved.get((key.namespace, url), ()):
                self.wake(SERIES.key(key.namespace, self._entries[run].owner.name))
        for url in urls - before:
            self._readers[key.namespace, url].add(key)

    def _note_wait(self, key: ObjectKey, body: ReadBody) -> None:
        status = body.get("status") or {}
        wanted = ((body.get("spec") or {}).get("storage") or {}).get("latestOf") or {}
        waits = bool(wanted) and "source" not in status and "completionTime" not in status
        self._set_wait(key, SERIES.key(key.namespace, str(wanted.get("series", ""))) if waits else None)

    def _set_wait(self, key: ObjectKey, series: ObjectKey | None) -> None:
        before = self._waits.pop(key, None)
        if before is not None:
            _discard(self._waiting, before, key)
        if series is not None:
            self._waits[key] = series
            self._waiting[series].add(key)

    def _wake(self, series: ObjectKey) -> None:
        self.wake(series)
        for each in sorted(self._waiting.get(series, ())):
            self.wake(each)


def _is_over(body: ReadBody) -> bool:
    status = body.get("status") or {}
    return "completionTime" in status and status.get("runId", "") == run_id_of(body.get("spec"))


def _read_by(body: ReadBody) -> frozenset[str]:
    """Return the URLs that a Checkpoint tells of: as a Load or a Verify, or to start a Save from."""
    spec, status = body.get("spec") or {}, body.get("status") or {}
    source = ((spec.get("save") or {}).get("from") or {}).get("url")
    reads = (spec.get("storage") or {}).get("url") if spec.get("operation") in _READING else None
    found = (source, reads, (status.get("source") or {}).get("url"))
    return frozenset(without_store(url) for url in found if isinstance(url, str) and url)


def _saved_by(namespace: str, body: ReadBody) -> _Save | None:
    """Return what a Checkpoint has saved, of a series or of none."""
    run = SeriesRun.of(body, "") if _is_over(body) else None
    return (namespace, *run.saved) if run is not None and run.committed and run.save_id and not run.deleting else None


def _template(spec: ReadBody) -> ReadBody:
    found: ReadBody = (spec.get("template") or {}).get("spec") or {}
    return found


def _discard(shelves: dict[KeyT, set[ObjectKey]], at: KeyT, key: ObjectKey) -> None:
    """Take a key off a shelf, and the shelf away with its last one."""
    if at in shelves:
        shelves[at].discard(key)
        if not shelves[at]:
            del shelves[at]


def _owner(body: ReadBody) -> Owner:
    """Return the series that controls a Checkpoint."""
    reference = controller(body)
    owner = Owner(SERIES, str(reference.get("name", "")), str(reference.get("uid", "")))
    return owner if controlled(body, owner) else _NOBODY
