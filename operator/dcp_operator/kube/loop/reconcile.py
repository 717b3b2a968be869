"""One Checkpoint brought in order: gather, decide, act, write the status once, then say what happened.

Everything here may be cut off at any await and started again from the top: what was created is found again, what was
decided is decided again, and the status write is refused if the object changed in between.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.parsing import SpecError
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.checkpoint.status import Phase, Status
from dcp_operator.api.json_types import Body
from dcp_operator.api.pod.fields import wrong_types
from dcp_operator.api.pod.refused_job import explained
from dcp_operator.controllers.checkpoint.actions import CreateAttempt, Decision, DeleteAttempt
from dcp_operator.controllers.checkpoint.cleanup import deletion
from dcp_operator.controllers.checkpoint.decide import decide
from dcp_operator.controllers.checkpoint.observed import observe
from dcp_operator.controllers.checkpoint.refusal import blocked, refuse
from dcp_operator.controllers.checkpoint.reporting import minimal, status_refused
from dcp_operator.controllers.checkpoint.runs import has_begun, run_id_of
from dcp_operator.kube.client import metrics
from dcp_operator.kube.client.api import (
    CHECKPOINTS,
    JOBS,
    NETWORK_POLICIES,
    OWNED,
    PODS,
    SERVICES,
    ConflictError,
    GoneError,
    NameTakenError,
    RefusedError,
    Resource,
    UnavailableError,
)
from dcp_operator.kube.client.cluster import Cluster
from dcp_operator.kube.client.event_recorder import EventRecorder
from dcp_operator.kube.loop.queue import RetryLaterError
from dcp_operator.kube.view.cache import Cache, ObjectKey
from dcp_operator.kube.view.live_saves import LiveSaves
from dcp_operator.kube.view.pod_creation import PodCreation
from dcp_operator.kube.view.progress import ProgressReader
from dcp_operator.objects.job import Builder

logger = logging.getLogger(__name__)

SOONEST: Final = 0.02
"""Seconds between two reconciles of one Checkpoint, at least."""
MANY_PODS: Final = 100
REST: Final = 0.5
"""Seconds between two reconciles of a Checkpoint with more pods than that: each of them asks for one as it ends."""
DECORATION: Final = ("warnings", "failedRanks", "progress")
"""What a status can do without."""
LATER: Final = 2.0
"""Seconds that a new Job stands in no status, at most, while other Checkpoints wait for theirs."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Reconciler:
    """What the work queue calls.

    Args:
        cluster: Where to write.
        cache: What is known of the cluster.
        live_saves: Which live Saves there are, by URL.
        builder: Makes the objects of an attempt.
        progress: Reads the logs of running attempts.
        recorder: Posts events.
        busy: Says whether other Checkpoints wait.
        now: The clock.
    """

    cluster: Cluster
    cache: Cache
    live_saves: LiveSaves
    builder: Builder
    progress: ProgressReader
    recorder: EventRecorder
    busy: Callable[[], bool] = field(default=lambda: False)
    now: Callable[[], datetime] = field(default=_utc_now)

    def __post_init__(self) -> None:
        self._pod_creation = PodCreation(self.cluster, self.now)

    async def __call__(self, key: ObjectKey) -> float | None:
        """Bring a Checkpoint in order; return the seconds after which to look again.

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
            except RefusedError as error:
                metrics.RECONCILES.labels("refused").inc()
                logger.warning("%s: the API server refuses what is written: %s", key, error)
                raise RetryLaterError(str(error)) from error
            metrics.RECONCILES.labels("done").inc()
            return seconds

    def rest(self, key: ObjectKey) -> float:
        """Return the seconds that a Checkpoint is left in peace after a reconcile, whatever is heard of it."""
        return REST if self.cache.pods(key) > MANY_PODS else 0.0

    async def _reconcile(self, key: ObjectKey) -> float | None:
        body = self.cache.checkpoint(key)
        if body is None or body["metadata"].get("deletionTimestamp"):
            await self._leave(key, body)
            return None
        await self._confirm(key, body)
        decision = await self._decide(key, body)
        try:
            decision = await self._create(key, body, decision)
        except (NameTakenError, RefusedError) as error:
            decision = self._refused(key, body, decision, error)
        except SpecError as error:
            decision = self._refuse(key, body, error)
        else:
            if self.busy() and any(isinstance(action, CreateAttempt) for action in decision.actions):
                # In a burst work starts first and is told afterwards: the next look finds the Job, as after a crash.
                return LATER
        body = await self._write(body, decision)
        for action in decision.actions:
            if isinstance(action, DeleteAttempt):
                await self._delete(key, body, action)
        phase = decision.status.get("phase")
        if phase is not None and Phase(phase).terminal:
            self.live_saves.settle(key)
        if decision.wake_at is None:
            return None
        return max(SOONEST, (decision.wake_at - self.now()).total_seconds())

    async def _confirm(self, key: ObjectKey, body: Body) -> None:
        """Read the pods of a Job that has ended while some of them are not known to have, once.

        The watch of Pods may be behind the watch of Jobs. A Report that is on its way must not be taken for a lost one.
        """
        if "completionTime" in (body.get("status") or {}):
            return
        for job in self.cache.unconfirmed(key, body["metadata"]["uid"]):
            for pod in await self.cluster.pods_of(key.namespace, job["metadata"]["name"]):
                self.ingest(PODS, pod)
            self.cache.confirm(job)

    async def _decide(self, key: ObjectKey, body: Body) -> Decision:
        jobs, pods = self.cache.attempts(key, body["metadata"]["uid"])
        observed = observe(jobs, pods, self.progress.of(key, jobs, pods))
        observed = await self._pod_creation.explained(key.namespace, observed)
        parsed = self.live_saves.parsed(key, body)
        if isinstance(parsed, SpecError):
            return self._refuse(key, body, parsed)
        return decide(parsed, observed, body.get("status"), self.now(), self.live_saves.rivals(key, parsed))

    async def _create(self, key: ObjectKey, body: Body, decision: Decision) -> Decision:
        """Create what the decision asks for, the Job last: where it is, the others are; return it with its uid."""
        for action in decision.actions:
            if not isinstance(action, CreateAttempt):
                continue
            parsed = self.live_saves.parsed(key, body)
            if isinstance(parsed, SpecError):  # pragma: no cover - a refused spec has no attempt to create
                return decision
            *others, job = self._built(key, parsed, action)
            # The two don't need one another.
            made = await asyncio.gather(*(self.cluster.create(each) for each in others))
            try:
                created = await self.cluster.create(job)
            except RefusedError as error:
                # Nothing leads to them without the Job. What is forbidden is tried again, and may be there unseen.
                if error.status != HTTPStatus.FORBIDDEN:
                    await asyncio.gather(*(self._discard(each) for each in made))
                raise
            self.cache.put(JOBS, created)
            self.live_saves.begin(key)
            reference = {"name": action.job_name, "uid": created["metadata"]["uid"]}
            decision = replace(decision, status=decision.status | {"jobRef": reference})
        return decision

    def _built(self, key: ObjectKey, checkpoint: Checkpoint, action: CreateAttempt) -> tuple[Body, ...]:
        try:
            return self.builder.objects(checkpoint, action)
        except Exception as error:
            # To try again would change nothing: what is built depends on the spec alone.
            logger.exception("%s: no Job can be made of the spec", key)
            what = f"spec.workers.podTemplate: no Job can be made of it ({type(error).__name__})"
            named = list(wrong_types(checkpoint.spec.workers.pod_template))
            raise SpecError(named or [f"{what}; write each value with its own type"]) from error

    def _refused(
        self, key: ObjectKey, body: Body, decision: Decision, error: NameTakenError | RefusedError
    ) -> Decision:
        """Return the decision when the API server does not take an attempt's objects.

        What is forbidden or taken may be free later, and is tried again; what is invalid stays so, unless an attempt
        of it was accepted before.
        """
        parsed, status = self.live_saves.parsed(key, body), body.get("status")
        passing = isinstance(error, NameTakenError) or error.status == HTTPStatus.FORBIDDEN
        if not isinstance(parsed, SpecError) and (passing or has_begun(Status.read(status), parsed.spec.run_id)):
            reason = (
                Reason.FORBIDDEN if error.status == HTTPStatus.FORBIDDEN else None if passing else Reason.INVALID_SPEC
            )
            return blocked(parsed, decision, status, str(error), self.now(), reason)
        return self._refuse(key, body, SpecError(self._explained(key, parsed, decision, error)))

    def _explained(
        self, key: ObjectKey, parsed: Checkpoint | SpecError, decision: Decision, error: Exception
    ) -> list[str]:
        """Return what is wrong with the spec, of which the refused objects were made."""
        actions = [action for action in decision.actions if isinstance(action, CreateAttempt)]
        if isinstance(parsed, SpecError) or not actions:  # pragma: no cover - nothing was created then
            return [str(error)]
        return explained(str(error), self._built(key, parsed, actions[0])[-1], parsed.spec.workers.pod_template)

    def _refuse(self, key: ObjectKey, body: Body, error: SpecError) -> Decision:
        return refuse(
            error,
            generation=body["metadata"].get("generation", 1),
            run_id=run_id_of(body.get("spec")),
            observed=observe(*self.cache.attempts(key, body["metadata"]["uid"])),
            status=body.get("status"),
            now=self.now(),
        )

    async def _write(self, body: Body, decision: Decision) -> Body:
        """Write the status if it differs, and post the events only after that: they speak of what is written."""
        before: dict[str, Any] = body.get("status") or {}
        if decision.status == before:
            for event in decision.events:
                # Only what is left alone is told without a write.
                logger.warning("%s/%s: %s", body["metadata"]["namespace"], body["metadata"]["name"], event.message)
                self.recorder.record(body, event)
            return body
        written = {**body, **await self._written(body, decision.status)}
        self.ingest(CHECKPOINTS, written)
        _count(before, written, self.now())
        for event in decision.events:
            self.recorder.record(written, event)
        return written

    async def _written(self, body: Body, status: dict[str, Any]) -> Body:
        """Write a status, or as much of it as the API server takes.

        Words of ranks and of stores are in there. How it ended must not depend on how they spell it.

        Raises:
            RefusedError: Not even what has to stand there is taken.
        """
        who = f"{body['metadata']['namespace']}/{body['metadata']['name']}"
        bare = {name: value for name, value in status.items() if name not in DECORATION}
        needed = minimal(status)
        try:
            return await self.cluster.replace_status(body, status)
        except RefusedError as error:
            refusal = error
        try:
            written = await self.cluster.replace_status(body, bare)
        except RefusedError as error:
            event = status_refused(str(error))
            logger.warning("%s: %s", who, event.message)
            self.recorder.record(body, event)
            written = await self.cluster.replace_status(body, needed)
            bare = needed
        left_out = ", ".join(name for name in status if name not in bare)
        logger.warning("%s: written without %s, since the status is refused: %s", who, left_out, refusal)
        return written

    async def _delete(self, key: ObjectKey, body: Body, action: DeleteAttempt) -> None:
        """Delete an attempt's objects, the Job last: while it is there, the others are looked for."""
        logger.info("%s: deleting Job %s: %s", key, action.job_name, action.why)
        owner = body["metadata"]["uid"]
        others = (SERVICES, NETWORK_POLICIES)
        await asyncio.gather(
            *(self.cluster.delete_owned(each, key.namespace, action.job_name, owner) for each in others)
        )
        jobs, _ = self.cache.attempts(key, body["metadata"]["uid"])
        for job in jobs:
            if job["metadata"]["name"] == action.job_name:
                await self.cluster.delete(JOBS, key.namespace, action.job_name, job["metadata"]["uid"])

    async def _leave(self, key: ObjectKey, body: Body | None) -> None:
        """Follow a Checkpoint no more that is gone, or going.

        Owner references take along what belongs to one that is gone: there is nothing to clean up by hand, so no
        finalizer either. One that is going stays for as long as somebody else's finalizer does: its attempts end now.
        """
        self.progress.forget(key)
        if body is None:
            return
        observed = observe(*self.cache.attempts(key, body["metadata"]["uid"]))
        for attempt in observed.attempts:
            if attempt.active and not attempt.deleting:
                await self._delete(key, body, deletion(attempt, "the Checkpoint is being deleted"))

    async def _discard(self, made: Body) -> None:
        metadata = made["metadata"]
        await self.cluster.delete(OWNED[made["kind"]], metadata["namespace"], metadata["name"], metadata["uid"])

    async def _refresh(self, key: ObjectKey) -> None:
        """Read a Checkpoint past the watch, whose cached body turned out to be old."""
        try:
            self.ingest(CHECKPOINTS, await self.cluster.get(CHECKPOINTS, key.namespace, key.name))
        except GoneError:
            body = self.cache.checkpoint(key)
            if body is not None:
                self.forget(CHECKPOINTS, key.namespace, key.name, body["metadata"]["uid"])
        except UnavailableError as error:
            raise RetryLaterError(str(error), error.retry_after) from error

    def ingest(self, resource: Resource, body: Body) -> ObjectKey | None:
        """Take in a body from wherever it came; return the Checkpoint to look at again."""
        key = self.cache.put(resource, body)
        if key is not None and resource is CHECKPOINTS:
            metrics.PHASES.note(key.namespace, key.name, str((body.get("status") or {}).get("phase") or ""))
            try:
                self.live_saves.note(key, body)
            except Exception:
                # One Checkpoint must not keep the others from being listed, watched or resynced.
                logger.exception("%s: what it claims can't be read", key)
        return key

    def forget(
        self, resource: Resource, namespace: str, name: str, uid: str, version: int | None = None
    ) -> ObjectKey | None:
        """Forget an object that is gone, as `Cache.remove` does; return the Checkpoint to look at again."""
        key = self.cache.remove(resource, namespace, name, uid, version)
        if key is not None and resource is CHECKPOINTS:
            metrics.PHASES.drop(key.namespace, key.name)
            self.live_saves.drop(key)
        return key


def _count(before: dict[str, Any], written: Body, now: datetime) -> None:
    """Count a Checkpoint that has just begun to run, or that has ended."""
    status = written["status"]
    if status.get("phase") == Phase.RUNNING != before.get("phase") and status.get("attempts") == 1:
        seconds = (now - datetime.fromisoformat(status["startTime"])).total_seconds()
        metrics.START_SECONDS.labels(str(written["spec"].get("operation", ""))).observe(max(0.0, seconds))
    if before.get("completionTime") == status.get("completionTime") or not status.get("completionTime"):
        return
    operation = str(written["spec"].get("operation", ""))
    metrics.FINISHED.labels(operation, str(status.get("reason", ""))).inc()
    metrics.SECONDS.labels(operation).observe(status.get("durationSeconds") or 0)
    if status.get("phase") == Phase.SUCCEEDED:
        metrics.BYTES.labels(operation).inc((status.get("checkpoint") or {}).get("bytes") or 0)
