"""The Saves that are asked of running trainings, as their statuses stand in the cluster: an index.

What an agent is told derives from this alone. So the status that names the process group is written before the request
goes out, and a save is acknowledged only after its outcome is written; a new process of the operator says the same.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from dcp_contract.checkpoint_info import Origin
from dcp_contract.operations import IfExists
from dcp_contract.training import SaveRequest, request_id
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.checkpoint.status import Status, TargetRef
from dcp_operator.api.json_types import ReadBody
from dcp_operator.api.problems import SpecError
from dcp_operator.controllers.checkpoint.runs import run_id_of
from dcp_operator.kube.client.api import CHECKPOINTS, ObjectKey
from dcp_operator.kube.view.cache import Cache


class OpenSave(NamedTuple):
    """A Save with a target that is not finished."""

    key: ObjectKey
    created: datetime
    group: str
    """The process group that is asked; empty where none is yet, or where it is not to be asked now."""
    pod_uid: str
    """The pod that speaks for it."""
    request: SaveRequest


@dataclass
class TargetedSaves:
    """Which Saves with a target there are.

    Args:
        cache: Where the Checkpoints are parsed.
        changed: Called with each namespace in which something has changed.
    """

    cache: Cache
    changed: Callable[[str], None] = field(default=lambda _: None)
    _open: dict[str, dict[ObjectKey, OpenSave]] = field(default_factory=lambda: defaultdict(dict), init=False)
    _targeted: dict[str, set[ObjectKey]] = field(default_factory=lambda: defaultdict(set), init=False)
    """Finished ones, too: their namespaces get the operator's certificates."""

    @property
    def namespaces(self) -> list[str]:
        """The namespaces that have a Checkpoint with a target."""
        return sorted(name for name, keys in self._targeted.items() if keys)

    def note(self, key: ObjectKey, body: ReadBody) -> None:
        """Take in a body."""
        if not (body.get("spec") or {}).get("target"):
            self.drop(key)
            return
        self._targeted[key.namespace].add(key)
        before = self._open[key.namespace].pop(key, None)
        save = self._read(key, body)
        if save is not None:
            self._open[key.namespace][key] = save
        # A finished one is news as well: its outcome may be acknowledged now.
        if save != before or save is None:
            self.changed(key.namespace)

    def drop(self, key: ObjectKey) -> None:
        """Forget a Checkpoint that is gone."""
        self._targeted[key.namespace].discard(key)
        if self._open[key.namespace].pop(key, None) is not None:
            self.changed(key.namespace)

    def any_of(self, namespace: str) -> ReadBody | None:
        """Return the body of a Checkpoint with a target, finished or not; None if the namespace has none."""
        return next(filter(None, map(self.cache.served.body, sorted(self._targeted.get(namespace, ())))), None)

    def of(self, namespace: str) -> Iterator[OpenSave]:
        """Yield the open Saves of a namespace."""
        yield from list(self._open.get(namespace, {}).values())

    def requests(self, namespace: str, group: str, pod_uid: str) -> list[SaveRequest]:
        """Return what a process group is asked for by its pod, the oldest first."""
        asked = [each for each in self.of(namespace) if (each.group, each.pod_uid) == (group, pod_uid)]
        return [each.request for each in sorted(asked, key=lambda each: (each.created, each.request.id))]

    def settled(self, namespace: str, request: str) -> bool:
        """Return whether nobody waits for the outcome of a request any more: it is written, or no longer wanted."""
        uid = request.partition("/")[0]
        key = self.cache.key_of(namespace, uid)
        body = self.cache.served.body(key) if key is not None else None
        if key is None or body is None or key.kind != CHECKPOINTS.kind:
            return True
        status, run_id = Status.read(body.get("status")), run_id_of(body.get("spec"))
        wanted = request_id(Origin(uid=uid, run_id=run_id), status.run_generation)
        return status.run_id != run_id or request != wanted or status.completion_time is not None

    def _read(self, key: ObjectKey, body: ReadBody) -> OpenSave | None:
        status = Status.read(body.get("status"))
        run_id = run_id_of(body.get("spec"))
        current = status.run_id == run_id
        if body["metadata"].get("deletionTimestamp") or (current and status.phase.terminal):
            return None
        parsed: Checkpoint | SpecError = self.cache.served.parsed(key)
        if isinstance(parsed, SpecError):
            return None
        asked = status.target if current and status.target is not None and not parsed.spec.suspend else TargetRef()
        request = request_of(parsed, status.run_generation)
        return OpenSave(key, parsed.created, asked.group, asked.pod_uid, request)


def request_of(checkpoint: Checkpoint, run_generation: int) -> SaveRequest:
    """Return what a Checkpoint asks of an agent, in the run that began at a generation."""
    return SaveRequest(
        id=request_id(checkpoint.origin, run_generation),
        url=checkpoint.spec.storage.url or None,
        if_exists=IfExists.REPLACE if checkpoint.spec.of_save.overwrites else IfExists.FAIL,
        origin=checkpoint.origin,
    )
