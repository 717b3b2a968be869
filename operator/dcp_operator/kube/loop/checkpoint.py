"""What a reconcile of a Checkpoint does beyond that of any kind.

It knows more of attempts than the watches show. A refusal of what it creates becomes a decision. A status of which the
API server refuses a part is written without it.
"""

import logging
from dataclasses import dataclass, field, replace
from datetime import datetime
from http import HTTPStatus
from typing import Final

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.in_store import KEY as IN_STORE
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.checkpoint.status import Phase, Status
from dcp_operator.api.json_types import Body
from dcp_operator.api.pod.fields import wrong_types
from dcp_operator.api.pod.refused_job import explained
from dcp_operator.api.problems import SpecError
from dcp_operator.controllers.checkpoint.actions import Action, CheckpointDecision, CreateAttempt
from dcp_operator.controllers.checkpoint.cleanup import deletion
from dcp_operator.controllers.checkpoint.decide import decide
from dcp_operator.controllers.checkpoint.latest import (
    NO_SERIES,
    LatestCheckpoint,
    begins,
    problems_of_source,
    with_source,
)
from dcp_operator.controllers.checkpoint.observed import Observed
from dcp_operator.controllers.checkpoint.refused_creation import wait_for_creation
from dcp_operator.controllers.checkpoint.reporting import minimal, status_refused
from dcp_operator.controllers.checkpoint.runs import has_begun
from dcp_operator.controllers.deletion.decide import DeletionDecision
from dcp_operator.controllers.series.runs import SeriesRun
from dcp_operator.controllers.target.decide import decide_target
from dcp_operator.kube.channel.targets import TargetReader
from dcp_operator.kube.client import metrics
from dcp_operator.kube.client.api import CHECKPOINTS, NameTakenError, ObjectKey, RefusedError
from dcp_operator.kube.kinds.checkpoint import CHECKPOINT, refused
from dcp_operator.kube.kinds.kind import Kind
from dcp_operator.kube.loop.deletions import Deletions
from dcp_operator.kube.loop.reconcile import Reconciler
from dcp_operator.kube.view.attempts import AttemptReader, ProgressReader
from dcp_operator.kube.view.data_removals import DataRemovals
from dcp_operator.kube.view.live_claims import LiveClaims
from dcp_operator.kube.view.series_runs import SeriesRuns
from dcp_operator.objects.job import Builder

logger = logging.getLogger(__name__)

DECORATION: Final = ("warnings", "failedRanks", "progress")
"""Fields that a status can do without."""


@dataclass
class CheckpointReconciler(Reconciler[Checkpoint, Observed, Action]):
    """Brings Checkpoints in order.

    Args:
        live_claims: Which live Checkpoints there are, by URL.
        series: Which Checkpoints are of which series.
        targets: Looks at the trainings that Saves are asked of.
        builder: Makes the objects of an attempt.
        progress: Reads the logs of running attempts.
    """

    kind: Kind[Checkpoint, Observed, Action] = CHECKPOINT
    live_claims: LiveClaims = field(kw_only=True)
    series: SeriesRuns = field(kw_only=True)
    targets: TargetReader = field(kw_only=True)
    builder: Builder = field(kw_only=True)
    progress: ProgressReader = field(kw_only=True)
    removals: DataRemovals = field(kw_only=True)
    _unheld: dict[ObjectKey, RefusedError] = field(default_factory=dict, init=False)
    """Why Checkpoints have no finalizer whose data are to go with them."""

    def __post_init__(self) -> None:
        """Make what only Checkpoints need."""
        super().__post_init__()
        self._attempts = AttemptReader(self.cluster, self.view, self.progress)
        self._deletions = Deletions(self.context, self.removals, self.delete_watched)

    async def prepare(self, key: ObjectKey, body: Body) -> Body:
        """Put the finalizer on before anything is saved; return the Checkpoint as it stands then."""
        self._unheld.pop(key, None)
        try:
            return await self._deletions.hold(key, body)
        except RefusedError as error:
            logger.warning("%s: no finalizer can be put on it or taken off: %s", key, error)
            self._unheld[key] = error
            return body

    async def decide(self, key: ObjectKey, body: Body) -> tuple[Checkpoint | SpecError, CheckpointDecision]:
        """Return the parsed Checkpoint, or what is wrong with it, and what to do."""
        observed = await self._attempts.of(key, body, self.context.now())
        parsed: Checkpoint | SpecError = self.cache.served.parsed(key, body)
        if isinstance(parsed, SpecError):
            return parsed, self._refuse(body, parsed, observed)
        if parsed.spec.target is not None:
            target = await self.targets.of(key.namespace, parsed.spec.target)
            target = replace(target, newest=self.series.newest_of(key))
            return parsed, decide_target(parsed, target, body.get("status"), self.context.now())
        latest = self._latest(key, parsed)
        status, known = Status.read(body.get("status")), parsed
        parsed = with_source(known, status, latest)
        news = parsed is not known and begins(parsed, status) and not has_begun(status, parsed.spec.run_id)
        if news and (problems := problems_of_source(parsed, self.cache.site)):
            return parsed, self._refuse(body, SpecError(problems), observed)
        if parsed is not known and begins(parsed, status):
            # From now on the retention of the series leaves it, though no status says so yet.
            self.series.reserve(key, parsed.spec.storage.url)
        if parsed is not known:
            # The status that says what it reads may not have come back yet, and the attempt may be created now.
            self.live_claims.note(key, body)
        rivals = self.live_claims.rivals(key, parsed)
        return parsed, decide(parsed, observed, body.get("status"), self.context.now(), rivals, latest)

    def _latest(self, key: ObjectKey, checkpoint: Checkpoint) -> LatestCheckpoint:
        wanted = checkpoint.spec.storage.latest_of
        if wanted is None:
            return NO_SERIES
        latest = self.series.latest(key.namespace, wanted.series)
        run = CHECKPOINTS.key(key.namespace, latest.source.name) if latest.source is not None else None
        body = self.cache.served.body(run) if run is not None else None
        if run is None or body is None or IN_STORE not in body:
            return latest
        # Of what is finished nobody looks the store up again, and its keys may have another name by now.
        saved = SeriesRun.of(self.view.lookup.resolve(run, body), wanted.series)
        return replace(latest, source=saved.source.model_copy(update={"series": wanted.series}))

    async def create(
        self, key: ObjectKey, body: Body, parsed: Checkpoint | SpecError, decision: CheckpointDecision
    ) -> CheckpointDecision:
        """Create the attempt that a decision asks for; return the decision with its Job's uid, or one of a refusal."""
        actions = [action for action in decision.actions if isinstance(action, CreateAttempt)]
        if isinstance(parsed, SpecError) or not actions:
            return decision
        (action,) = actions
        try:
            bodies = self._built(key, parsed, action)
            if key in self._unheld:
                return self._refused(key, body, parsed, decision, self._unheld[key], bodies[-1])
            created = await self.create_all(key, body, bodies)
        except (NameTakenError, RefusedError) as error:
            return self._refused(key, body, parsed, decision, error, bodies[-1])
        except SpecError as error:
            return self._refuse(body, error, self.observed(key, body))
        self.live_claims.begin(key)
        reference = {"name": action.job_name, "uid": created["metadata"]["uid"]}
        return replace(decision, status=decision.status | {"jobRef": reference})

    async def replace_refused(self, body: Body, status: Body, refusal: RefusedError) -> Body:
        """Write as much of a status as the API server takes.

        A status quotes ranks and stores. Whether the outcome is written must not depend on what they said.

        Raises:
            RefusedError: Not even what has to stand there is taken.
        """
        who = f"{body['metadata']['namespace']}/{body['metadata']['name']}"
        bare = {name: value for name, value in status.items() if name not in DECORATION}
        try:
            written = await self.cluster.replace_status(self.kind.resource, body, bare)
        except RefusedError as error:
            event = status_refused(str(error))
            logger.warning("%s: %s", who, event.message)
            self.recorder.record(self.kind.resource, body, event)
            bare = minimal(status)
            written = await self.cluster.replace_status(self.kind.resource, body, bare)
        left_out = ", ".join(name for name in status if name not in bare)
        logger.warning("%s: written without %s, since the status is refused: %s", who, left_out, refusal)
        return written

    def written(self, before: Body, body: Body) -> None:
        """Count a Checkpoint that has just begun to run, or that has ended."""
        count(before, body, self.context.now())

    async def leave(self, key: ObjectKey, body: Body | None) -> float | None:
        """Read no more logs of a Checkpoint that is gone or is being deleted, and end the attempts of the latter.

        A Checkpoint that is being deleted is there for as long as its finalizer is, or somebody else's.
        """
        self.progress.forget(key)
        self._unheld.pop(key, None)
        if body is None:
            return None
        observed = self.observed(key, body)
        for attempt in observed.attempts:
            if attempt.active and not attempt.deleting:
                action = deletion(attempt, "the Checkpoint is being deleted")
                logger.info("%s: deleting %s: %s", key, action.job_name, action.why)
                await self.delete(key, body["metadata"]["uid"], action.job_name)
        return await self._deletions.go_on(key, body, observed, self._write_deletion)

    async def _write_deletion(self, body: Body, decision: DeletionDecision) -> Body:
        return await self._write(body, decision)

    def _built(self, key: ObjectKey, checkpoint: Checkpoint, action: CreateAttempt) -> tuple[Body, ...]:
        try:
            return self.builder.objects(checkpoint, action)
        except Exception as error:
            # Another try would fail likewise: the Job depends on the spec alone.
            logger.exception("%s: no Job can be made of the spec", key)
            what = f"spec.workers.podTemplate: no Job can be made of it ({type(error).__name__})"
            named = list(wrong_types(checkpoint.spec.workers.pod_template))
            raise SpecError(named or [f"{what}; write each value with its own type"]) from error

    def _refused(
        self,
        key: ObjectKey,
        body: Body,
        checkpoint: Checkpoint,
        decision: CheckpointDecision,
        error: NameTakenError | RefusedError,
        job: Body,
    ) -> CheckpointDecision:
        """Return the decision when the API server does not take an attempt's objects, of which `job` is one.

        What is forbidden or taken may be free later, and is tried again; what is invalid stays so, unless an attempt
        of it was accepted before.
        """
        status = body.get("status")
        passing = isinstance(error, NameTakenError) or error.status == HTTPStatus.FORBIDDEN
        if passing or has_begun(Status.read(status), checkpoint.spec.run_id):
            reason = (
                Reason.FORBIDDEN if error.status == HTTPStatus.FORBIDDEN else None if passing else Reason.INVALID_SPEC
            )
            return wait_for_creation(checkpoint, decision, status, str(error), self.context.now(), reason)
        problems = explained(str(error), job, checkpoint.spec.workers.pod_template)
        return self._refuse(body, SpecError(problems), self.observed(key, body))

    def _refuse(self, body: Body, error: SpecError, observed: Observed) -> CheckpointDecision:
        return refused(error, body, observed, self.context.now())


def count(before: Body, written: Body, now: datetime) -> None:
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
