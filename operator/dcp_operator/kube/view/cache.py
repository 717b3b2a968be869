"""What the watches have delivered, kept small: the Checkpoints, and the Jobs and Pods of each.

A label says whose an object may be, `ownership` whether it is: anybody may write labels. What only claims to be an
attempt is kept apart by that alone, since a resync would take what is left out for a watch that has fallen behind.

Two sources feed it: the watches, and the answers to our own writes, which arrive first. A body that is older than the
one that is here is ignored, so that a late watch event never takes a reconcile back in time; what was deleted stays
deleted, however late an answer about it comes. But a watch by label tells of an object that loses the label as of one
that is deleted, so what is newer than that undoes it. Finished Checkpoints and Jobs are packed: ten thousand of them
have to fit beside the few that are live. A Pod is read when it comes, and only what decisions need of it is kept.
"""

import json
import logging
import zlib
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, NamedTuple

from dcp_operator.api.bounds import WRITABLE, deeper, head, larger
from dcp_operator.api.checkpoint.status import Status
from dcp_operator.api.json_types import Body
from dcp_operator.api.naming import GROUP, KUEUE, UID_LABEL
from dcp_operator.controllers.checkpoint.pods import Pod, pod_of
from dcp_operator.controllers.checkpoint.runs import has_begun, run_id_of
from dcp_operator.kube.client.api import CHECKPOINTS, JOBS, PODS, Resource
from dcp_operator.kube.client.ownership import Membership, controller, is_attempt

logger = logging.getLogger(__name__)

TOMBSTONES: Final = 20_000
"""How many deleted uids are remembered: far more than there can be answers on their way."""


class ObjectKey(NamedTuple):
    """Which Checkpoint: what the work queue holds."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Packed(NamedTuple):
    """A body at rest."""

    uid: str
    version: int
    data: bytes
    seen: bool
    """Of a Checkpoint, whether its status is about its present spec."""


class Worker(NamedTuple):
    """A Pod, read once when its body came: an attempt may have thousands, and each one's news asks for them all."""

    uid: str
    version: int
    membership: Membership | None
    job: str
    pod: Pod


Entry = Body | Packed | Worker
Owner = tuple[str, str]
"""Namespace and uid of the Checkpoint that an object's label names."""


@dataclass(frozen=True)
class Attempts:
    """The Jobs and Pods of one Checkpoint, by name."""

    jobs: dict[str, Body | Packed] = field(default_factory=dict)
    pods: dict[str, Worker] = field(default_factory=dict)
    ended: Counter[str] = field(default_factory=Counter)
    """How many pods have ended, by the uid of their Job."""

    def put_pod(self, name: str, worker: Worker) -> None:
        """Keep a pod in place of the one of its name."""
        self.drop_pod(name)
        self.pods[name] = worker
        self._count(worker, 1)

    def drop_pod(self, name: str) -> None:
        """Forget a pod if it is here."""
        worker = self.pods.pop(name, None)
        if worker is not None:
            self._count(worker, -1)

    def _count(self, worker: Worker, change: int) -> None:
        if worker.membership is not None and worker.pod.ended:
            self.ended[worker.membership.job_uid] += change


@dataclass
class Cache:
    """The operator's view of the cluster.

    Args:
        now: The clock, by which a pod's times are bounded.
    """

    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    _checkpoints: dict[ObjectKey, Body | Packed] = field(default_factory=dict)
    _attempts: dict[Owner, Attempts] = field(default_factory=lambda: defaultdict(Attempts))
    _keys: dict[Owner, ObjectKey] = field(default_factory=dict)
    _owners: dict[tuple[str, str, str], Owner] = field(default_factory=dict)
    _deleted: OrderedDict[str, int] = field(default_factory=OrderedDict)
    """By uid, the version as of which it is gone."""
    _confirmed: set[str] = field(default_factory=set)
    _strangers: set[str] = field(default_factory=set)

    def put(self, resource: Resource, body: Body) -> ObjectKey | None:
        """Take in a body; return the Checkpoint to look at again, None where there is nothing new or nobody's."""
        metadata = body["metadata"]
        uid: str = metadata["uid"]
        if self.is_deleted(uid, int(metadata["resourceVersion"])):
            return None
        self._deleted.pop(uid, None)
        if resource is CHECKPOINTS:
            key = ObjectKey(metadata["namespace"], metadata["name"])
            if not _newer(self._checkpoints.get(key), body):
                return None
            self._checkpoints[key] = _rest(resource, slim(resource, body))
            self._keys[key.namespace, uid] = key
            return key
        label = (metadata.get("labels") or {}).get(UID_LABEL)
        if label is None:
            return None
        owner = (metadata["namespace"], label)
        self._relabelled(resource, metadata["namespace"], metadata["name"], owner)
        shelf = self._shelf(resource, owner)
        if not _newer(shelf.get(metadata["name"]), body):
            return None
        if resource is PODS:
            attempts = self._attempts[owner]
            attempts.put_pod(metadata["name"], _worker(body, attempts.pods.get(metadata["name"]), self.now()))
        else:
            self._attempts[owner].jobs[metadata["name"]] = _rest(resource, slim(resource, body))
        self._owners[resource.kind, metadata["namespace"], metadata["name"]] = owner
        return self._keys.get(owner)

    def remove(
        self, resource: Resource, namespace: str, name: str, uid: str, version: int | None = None
    ) -> ObjectKey | None:
        """Forget an object that is gone; return the Checkpoint to look at again.

        The last state of a pod is kept for as long as its Job is there: it holds the Report, or shows that somebody
        deleted the pod while it ran.

        Args:
            resource: The kind.
            namespace: Where it was.
            name: What it was called.
            uid: Its uid.
            version: As of which a watch tells so: it may be back later. None for what can't be read by its name.
        """
        self._deleted[uid] = _FOR_EVER if version is None else version
        while len(self._deleted) > TOMBSTONES:
            self._deleted.popitem(last=False)
        if resource is CHECKPOINTS:
            key = ObjectKey(namespace, name)
            self._keys.pop((namespace, uid), None)
            if _uid(self._checkpoints.get(key)) != uid:
                return None
            del self._checkpoints[key]
            return key
        owner = self._owners.get((resource.kind, namespace, name))
        if owner is None or _uid(self._shelf(resource, owner).get(name)) != uid:
            return None
        del self._owners[resource.kind, namespace, name]
        attempts = self._attempts[owner]
        if resource is JOBS:
            self._confirmed.discard(uid)
            self._strangers.discard(uid)
            del attempts.jobs[name]
            self._drop_pods(attempts, namespace)
        elif attempts.pods[name].job not in attempts.jobs:
            attempts.drop_pod(name)
        if not attempts.jobs and not attempts.pods:
            del self._attempts[owner]
        return self._keys.get(owner)

    def checkpoint(self, key: ObjectKey) -> Body | None:
        """Return the Checkpoint's body; not to be changed."""
        entry = self._checkpoints.get(key)
        return None if entry is None else _unpack(entry)

    def at_rest(self, key: ObjectKey) -> bool:
        """Return whether a Checkpoint is finished, and nothing was asked of it since."""
        entry = self._checkpoints.get(key)
        return isinstance(entry, Packed) and entry.seen

    def attempts(self, key: ObjectKey, uid: str) -> tuple[list[Body], list[Pod]]:
        """Return the bodies of the Checkpoint's Jobs, not to be changed, and the Pods of these.

        The Pods of a Job that is gone are among them: they run on until the kubelet has stopped them.
        """
        found = self._attempts.get((key.namespace, uid))
        if found is None:
            return [], []
        jobs = self._jobs(found, key, uid)
        uids = {job["metadata"]["name"]: job["metadata"]["uid"] for job in jobs}
        said = {worker.membership for worker in found.pods.values()}
        known = {each for each in said if each is not None and each.holds(key.name, uid, uids.get(each.job))}
        return jobs, [worker.pod for worker in found.pods.values() if worker.membership in known]

    def _jobs(self, found: Attempts, key: ObjectKey, uid: str) -> list[Body]:
        return [job for job in map(_unpack, found.jobs.values()) if self._is_attempt(job, key, uid)]

    def pods(self, key: ObjectKey) -> int:
        """Return how many pods of a Checkpoint are here."""
        entry = self._checkpoints.get(key)
        found = self._attempts.get((key.namespace, _uid(entry) or ""))
        return len(found.pods) if found is not None else 0

    def unconfirmed(self, key: ObjectKey, uid: str) -> list[Body]:
        """Return the Checkpoint's Jobs that have ended while some of their pods are not known to have."""
        found = self._attempts.get((key.namespace, uid))
        if found is None:
            return []
        return [
            job
            for job in self._jobs(found, key, uid)
            if _has_ended(JOBS, job["status"])
            and job["metadata"]["uid"] not in self._confirmed
            and found.ended[job["metadata"]["uid"]] < job["spec"].get("parallelism", 1)
        ]

    def confirm(self, job: Body) -> None:
        """Note that the pods of a Job that has ended were read past the watch."""
        self._confirmed.add(job["metadata"]["uid"])

    def version(self, resource: Resource, namespace: str, name: str, uid: str) -> int:
        """Return the version of an object that is here, or as of which it is gone; 0 where neither is known."""
        if uid in self._deleted:
            return self._deleted[uid]
        entry: Entry | None
        if resource is CHECKPOINTS:
            entry = self._checkpoints.get(ObjectKey(namespace, name))
        else:
            owner = self._owners.get((resource.kind, namespace, name))
            entry = self._shelf(resource, owner).get(name) if owner is not None else None
        return _version(entry) if _uid(entry) == uid else 0

    def is_deleted(self, uid: str, version: int = 0) -> bool:
        """Return whether an object was here and is known to be gone, also as of that version."""
        return self._deleted.get(uid, -1) >= version

    def known(self, resource: Resource) -> Iterator[tuple[str, str, str, int]]:
        """Yield (namespace, name, uid, version) of every object of a kind that is here, as of now."""
        entries: list[tuple[str, str, Entry]]
        if resource is CHECKPOINTS:
            entries = [(key.namespace, key.name, entry) for key, entry in self._checkpoints.items()]
        else:
            entries = [
                (namespace, name, self._shelf(resource, owner)[name])
                for (kind, namespace, name), owner in self._owners.items()
                if kind == resource.kind
            ]
        for namespace, name, entry in entries:
            yield namespace, name, _uid(entry) or "", _version(entry)

    def checkpoints(self) -> list[ObjectKey]:
        """Return every Checkpoint that is here."""
        return list(self._checkpoints)

    def count(self, resource: Resource) -> int:
        """Return how many objects of a kind are here."""
        if resource is CHECKPOINTS:
            return len(self._checkpoints)
        return sum(kind == resource.kind for kind, _, _ in self._owners)

    def _is_attempt(self, job: Body, key: ObjectKey, uid: str) -> bool:
        """Return whether a Job with the Checkpoint's label is an attempt of it; say once of one that is not."""
        if is_attempt(job, key.name, uid):
            return True
        stranger = job["metadata"]
        if stranger["uid"] not in self._strangers:
            self._strangers.add(stranger["uid"])
            logger.warning("%s: Job %s is labelled as an attempt, but is none; it is ignored", key, stranger["name"])
        return False

    def _relabelled(self, resource: Resource, namespace: str, name: str, owner: Owner) -> None:
        """Take an object from the Checkpoint that its label named before."""
        before = self._owners.get((resource.kind, namespace, name), owner)
        if before != owner:
            attempts = self._attempts[before]
            if resource is PODS:
                attempts.drop_pod(name)
            else:
                attempts.jobs.pop(name, None)
            if not attempts.jobs and not attempts.pods:
                del self._attempts[before]

    def _drop_pods(self, attempts: Attempts, namespace: str) -> None:
        """Forget the pods that are gone and whose Job is gone as well."""
        for name in [each for each in attempts.pods if (PODS.kind, namespace, each) not in self._owners]:
            if attempts.pods[name].job not in attempts.jobs:
                attempts.drop_pod(name)

    def _shelf(self, resource: Resource, owner: Owner) -> Mapping[str, Entry]:
        attempts = self._attempts[owner]
        return attempts.jobs if resource is JOBS else attempts.pods


_FOR_EVER: Final = 1 << 64
"""Above all versions."""

_METADATA: Final = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)
_READ: Final = (f"{GROUP}/", f"{KUEUE}/")
_UNKEPT: Final = "unkept"
"""Where a kept body says why its spec is not whole."""
DEEP: Final = "deep"
LARGE: Final = "large"


def slim(resource: Resource, body: Body) -> Body:
    """Return the body without what nobody here reads, of which there may be a megabyte.

    That is labels, annotations and owners of other people, managed fields, a Job's template, and a spec that goes
    beyond its bounds.
    """
    metadata = body["metadata"]
    kept: Body = {"metadata": {key: metadata[key] for key in _METADATA if key in metadata}}
    for kind in ("labels", "annotations"):
        if said := metadata.get(kind):
            kept["metadata"][kind] = {key: value for key, value in said.items() if key.startswith(_READ)}
    if owner := controller(body):
        kept["metadata"]["ownerReferences"] = [owner]
    spec, status = body.get("spec") or {}, body.get("status") or {}
    if resource is JOBS:
        spec = {key: value for key, value in spec.items() if key not in {"template", "selector", "podFailurePolicy"}}
        return {**kept, "spec": spec, "status": status}
    if unkept := beyond(body):
        return {**kept, "spec": head(spec), "status": status, _UNKEPT: unkept}
    return {**kept, "spec": spec, "status": status}


def beyond(body: Body) -> str:
    """Return in what a Checkpoint's spec goes beyond its bounds, DEEP or LARGE; empty where it is kept whole."""
    if _UNKEPT in body:
        return str(body[_UNKEPT])
    spec, status = body.get("spec") or {}, body.get("status") or {}
    if deeper(spec, WRITABLE):
        return DEEP
    # What has begun is never judged again.
    return LARGE if larger(spec) and not has_begun(Status.read(status), run_id_of(spec)) else ""


def _rest(resource: Resource, body: Body) -> Body | Packed:
    """Return the body packed if it has come to its end: it will hardly be looked at again."""
    return _pack(body) if _has_ended(resource, body["status"]) else body


def _has_ended(resource: Resource, status: Body) -> bool:
    if resource is CHECKPOINTS:
        return "completionTime" in status
    ends = {each["type"] for each in status.get("conditions") or () if each["status"] == "True"}
    return not ends.isdisjoint({"Complete", "Failed"})


def _newer(entry: Entry | None, body: Body) -> bool:
    """Say whether a body is news. Versions grow over all objects of a kind, so also over one name's successive uids."""
    return int(body["metadata"]["resourceVersion"]) > _version(entry)


def _uid(entry: Entry | None) -> str | None:
    if entry is None:
        return None
    if isinstance(entry, Packed | Worker):
        return entry.uid
    uid: str = entry["metadata"]["uid"]
    return uid


def _version(entry: Entry | None) -> int:
    if entry is None:
        return 0
    return entry.version if isinstance(entry, Packed | Worker) else int(entry["metadata"]["resourceVersion"])


def _pack(body: Body) -> Packed:
    metadata = body["metadata"]
    text = json.dumps(body, separators=(",", ":")).encode()
    seen = body["status"].get("observedGeneration") == metadata.get("generation")
    return Packed(metadata["uid"], int(metadata["resourceVersion"]), zlib.compress(text, 1), seen)


def _worker(body: Body, before: Worker | None, now: datetime) -> Worker:
    metadata = body["metadata"]
    same = before is not None and before.uid == metadata["uid"]
    membership = Membership.of(body)
    try:
        pod = pod_of(body, now, before.pod if before is not None and same else None)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        # Anybody may write a pod with our label. It must not keep those of others from being listed or watched.
        logger.warning("pod %s/%s can't be read; it is nobody's", metadata["namespace"], metadata["name"])
        membership, pod = None, Pod(index=0, name=metadata["name"])
    return Worker(metadata["uid"], int(metadata["resourceVersion"]), membership, pod.job, pod)


def _unpack(entry: Body | Packed) -> Body:
    if isinstance(entry, Packed):
        body: Body = json.loads(zlib.decompress(entry.data))
        return body
    return entry
