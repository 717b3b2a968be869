"""One object of a kind brought in order: gather, decide, act, write the status once, then say what happened.

Everything here may be cut off at any await and started again from the top: what was created is found again, what was
decided is decided again, and the status write is refused if the object changed in between.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final, Generic

from dcp_operator.api.json_types import Body
from dcp_operator.api.problems import SpecError
from dcp_operator.controllers.decision import Decision
from dcp_operator.kube.client import metrics
from dcp_operator.kube.client.api import (
    ConflictError,
    GoneError,
    NameTakenError,
    ObjectKey,
    RefusedError,
    Resource,
    UnavailableError,
)
from dcp_operator.kube.client.cluster import Cluster
from dcp_operator.kube.client.event_recorder import EventRecorder
from dcp_operator.kube.client.ownership import Owner
from dcp_operator.kube.kinds.kind import ActionT, Kind, ObservedT, ParsedT
from dcp_operator.kube.loop.queue import RetryLaterError
from dcp_operator.kube.view.cache import ClusterView

logger = logging.getLogger(__name__)

SOONEST: Final = 0.02
"""Seconds between two reconciles of one object, at least."""
MANY_OWNED: Final = 100
REST: Final = 0.5
"""Seconds between two reconciles of an object that owns more objects of one kind than that: each of them asks for a
reconcile as it ends."""
LATER: Final = 2.0
"""Under load the status write that follows the creation of objects is delayed by at most this many seconds."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass
class ReconcileContext:
    """What the reconcilers of all kinds share.

    Args:
        cluster: Where to write.
        view: What is known of the cluster.
        recorder: Posts events.
        busy: Says whether other objects wait.
        now: The clock.
        wake: Has an object looked at by the reconciler of its own kind.
    """

    cluster: Cluster
    view: ClusterView
    recorder: EventRecorder
    busy: Callable[[], bool] = field(default=lambda: False)
    now: Callable[[], datetime] = field(default=_utc_now)
    wake: Callable[[ObjectKey], None] = field(default=lambda _: None)


@dataclass
class Reconciler(Generic[ParsedT, ObservedT, ActionT]):
    """Brings objects of one kind in order. It suits a kind of pure code; a kind that asks the cluster more derives one.

    Args:
        context: What the reconcilers of all kinds share.
        kind: Which.
    """

    context: ReconcileContext
    kind: Kind[ParsedT, ObservedT, ActionT]

    def __post_init__(self) -> None:
        """Take up what is used all the time."""
        self.cluster, self.view, self.recorder = self.context.cluster, self.context.view, self.context.recorder
        self.cache = self.view.cache

    async def __call__(self, key: ObjectKey) -> float | None:
        """Bring an object in order; return the seconds after which to look again.

        Raises:
            RetryLaterError: The API server was in the way, or refuses what is written.
        """
        with metrics.RECONCILE_SECONDS.time():
            try:
                seconds = await self._reconcile(key)
            except ConflictError as error:
                await self._refresh(key)
                metrics.RECONCILES.labels("conflict").inc()
                logger.debug("%s: decided on an older object, deciding again: %s", key, error)
                return SOONEST
            except GoneError as error:
                metrics.RECONCILES.labels("gone").inc()
                await self._refresh(key)
                raise RetryLaterError(str(error)) from error
            except UnavailableError as error:
                metrics.RECONCILES.labels("unavailable").inc()
                raise RetryLaterError(str(error), error.retry_after) from error
            except (NameTakenError, RefusedError) as error:
                metrics.RECONCILES.labels("refused").inc()
                logger.warning("%s: the API server refuses what is written: %s", key, error)
                raise RetryLaterError(str(error)) from error
            metrics.RECONCILES.labels("done").inc()
            return seconds

    def rest(self, key: ObjectKey) -> float:
        """Return the seconds that an object is left in peace after a reconcile, whatever is heard of it."""
        return REST if self.cache.most_owned(key) > MANY_OWNED else 0.0

    async def _reconcile(self, key: ObjectKey) -> float | None:
        body = self.cache.served.body(key)
        if body is None or body["metadata"].get("deletionTimestamp"):
            return await self.leave(key, body)
        body = await self.prepare(key, body)
        parsed, decision = await self.decide(key, body)
        decision = await self.create(key, body, parsed, decision)
        if self.context.busy() and any(self.kind.deletes(action) is None for action in decision.actions):
            # In a burst the objects of all come before the status of any. The next reconcile finds the objects, as it
            # would after a crash, and writes the status.
            return LATER
        body = await self._write(body, decision)
        for action in decision.actions:
            if deletion := self.kind.deletes(action):
                logger.info("%s: deleting %s: %s", key, deletion.name, deletion.why)
                await self.delete(key, body["metadata"]["uid"], deletion.name)
        if decision.wake_at is None:
            return None
        return max(SOONEST, (decision.wake_at - self.context.now()).total_seconds())

    # What a kind may override.

    async def prepare(self, key: ObjectKey, body: Body) -> Body:
        """Write what has to stand before anything is created; return the object as it stands then."""
        del key
        return body

    async def decide(self, key: ObjectKey, body: Body) -> tuple[ParsedT | SpecError, Decision[ActionT]]:
        """Return the parsed object, or what is wrong with it, and what to do."""
        parsed: ParsedT | SpecError = self.cache.served.parsed(key, body)
        observed = self.observed(key, body)
        if isinstance(parsed, SpecError):
            return parsed, self.kind.refuse(parsed, body, observed, self.context.now())
        return parsed, self.kind.decide(parsed, observed, body.get("status") or {}, self.context.now())

    async def create(
        self, key: ObjectKey, body: Body, parsed: ParsedT | SpecError, decision: Decision[ActionT]
    ) -> Decision[ActionT]:
        """Create what a decision asks for; return what is left of the decision to carry out."""
        if isinstance(parsed, SpecError):
            return decision
        for action in decision.actions:
            if bodies := self.kind.build(parsed, action):
                await self.create_all(key, body, bodies)
        return decision

    async def replace_refused(self, body: Body, status: Body, refusal: RefusedError) -> Body:
        """Write what can be written of a status that the API server refuses; return the object as it stands now."""
        del body, status
        raise refusal

    def written(self, before: Body, body: Body) -> None:
        """Count what has just been written over a status."""

    async def leave(self, key: ObjectKey, body: Body | None) -> float | None:
        """Let go of an object that is gone (then there is no body), or that is being deleted.

        By their owner references, the cluster's garbage collector deletes the objects that belong to it. So there is
        nothing to clean up; a kind with a finalizer has its own. Return the seconds after which to look again.
        """
        del key, body
        return None

    # What is the same for all kinds.

    def observed(self, key: ObjectKey, body: Body) -> ObservedT:
        """Return what the owned objects show."""
        return self.kind.observe(self.cache.owned.of(key, body["metadata"]["uid"]))

    async def create_all(self, key: ObjectKey, body: Body, bodies: Sequence[Body]) -> Body:
        """Create objects, the last one last: where it is, the others are. Return the last one as it was created.

        Raises:
            NameTakenError: A name is held by an object of somebody else.
            RefusedError: The last one is refused.
        """
        owner = Owner(self.kind.resource, key.name, body["metadata"]["uid"])
        *others, last = bodies
        # The others don't need one another.
        made = await asyncio.gather(*(self.cluster.create(self._resource(each), each, owner) for each in others))
        try:
            created = await self.cluster.create(self._resource(last), last, owner)
        except RefusedError as error:
            # Without the last object nobody would find the others. But a creation that is forbidden is tried again.
            if error.status != HTTPStatus.FORBIDDEN:
                await asyncio.gather(*(self._discard(each) for each in made))
            raise
        self.view.ingest(self._resource(last), created)
        return created

    async def delete(self, key: ObjectKey, uid: str, name: str) -> None:
        """Delete what an object owns under a name, the watched objects last: while they are there, it is looked for."""
        owner = Owner(self.kind.resource, key.name, uid)
        unwatched = (self.cluster.delete_owned(each, key.namespace, name, owner) for each in self.kind.unwatched)
        await asyncio.gather(*unwatched)
        for each in self.kind.owned:
            if each.through is None and (its := self.cache.owned.uid_of(key, uid, each.resource, name)):
                await self.delete_watched(each.resource, key.namespace, name, its)

    async def delete_watched(self, resource: Resource, namespace: str, name: str, uid: str) -> None:
        """Delete an object that is watched, and forget it once the API server has.

        What is deleted one after the other is forgotten in that order. A watch may tell of the second one first, or
        never of the first one, as right after the operator's start.
        """
        left = await self.cluster.delete(resource, namespace, name, uid)
        gone = left is None or left["metadata"]["uid"] != uid
        looks = [self.view.forget(resource, namespace, name, uid)] if gone else []
        looks += [self.view.ingest(resource, left)] if left is not None else []
        for each in filter(None, looks):
            # The watch will bring nothing new of it.
            self.context.wake(each)

    async def _write(self, body: Body, decision: Decision[Any]) -> Body:
        """Write the status if it differs, and post the events only after that: they speak of what is written."""
        resource, before = self.kind.resource, body.get("status") or {}
        if decision.status == before:
            for event in decision.events:
                # There are events without a write only where the object is left alone.
                logger.warning("%s/%s: %s", body["metadata"]["namespace"], body["metadata"]["name"], event.message)
                self.recorder.record(resource, body, event)
            return body
        try:
            replaced = await self.cluster.replace_status(resource, body, decision.status)
        except RefusedError as error:
            replaced = await self.replace_refused(body, decision.status, error)
        written = {**body, **replaced}
        self.view.ingest(resource, written)
        self.written(before, written)
        for event in decision.events:
            self.recorder.record(resource, written, event)
        return written

    async def _discard(self, made: Body) -> None:
        metadata = made["metadata"]
        await self.cluster.delete(self._resource(made), metadata["namespace"], metadata["name"], metadata["uid"])

    def _resource(self, body: Body) -> Resource:
        return self.kind.resources[body["kind"]]

    async def _refresh(self, key: ObjectKey) -> None:
        """Read an object directly, since its cached body turned out to be old."""
        resource = self.kind.resource
        try:
            self.view.ingest(resource, await self.cluster.get(resource, key.namespace, key.name))
        except GoneError:
            body = self.cache.served.body(key)
            if body is not None:
                self.view.forget(resource, key.namespace, key.name, body["metadata"]["uid"])
        except UnavailableError as error:
            raise RetryLaterError(str(error), error.retry_after) from error


AnyReconciler = Reconciler[Any, Any, Any]


@dataclass(frozen=True)
class Reconcilers:
    """What the work queue calls: the reconciler of each key's kind.

    Args:
        by_kind: The reconcilers by the kind's name.
    """

    by_kind: Mapping[str, AnyReconciler]

    @classmethod
    def of(cls, context: ReconcileContext, *special: AnyReconciler) -> "Reconcilers":
        """Return those of every kind that is served; the special ones in place of the plain ones of their kinds."""
        kinds = context.view.cache.kinds.served
        plain = {name: Reconciler(context, kind) for name, kind in kinds.items()}
        return cls(plain | {each.kind.resource.kind: each for each in special})

    async def __call__(self, key: ObjectKey) -> float | None:
        """Bring an object in order; return the seconds after which to look again."""
        return await self.by_kind[key.kind](key)

    def rest(self, key: ObjectKey) -> float:
        """Return the seconds that an object is left in peace after a reconcile."""
        return self.by_kind[key.kind].rest(key)
