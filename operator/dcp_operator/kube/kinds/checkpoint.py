"""The Checkpoint as a Kind: its parser, what it owns, and its decisions."""

from datetime import datetime
from typing import Final

from dcp_operator.api.checkpoint.in_store import KEY as IN_STORE
from dcp_operator.api.checkpoint.parsing import parse
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.checkpoint.status import Status
from dcp_operator.api.json_types import ReadBody
from dcp_operator.api.problems import SpecError
from dcp_operator.api.site import Site
from dcp_operator.controllers.checkpoint.actions import Action, CheckpointDecision, DeleteAttempt
from dcp_operator.controllers.checkpoint.decide import decide
from dcp_operator.controllers.checkpoint.jobs import Job, job_of
from dcp_operator.controllers.checkpoint.observed import Observed, observe
from dcp_operator.controllers.checkpoint.pods import Pod, pod_of
from dcp_operator.controllers.checkpoint.refused_spec import refuse_spec
from dcp_operator.controllers.checkpoint.runs import has_begun, run_id_of
from dcp_operator.kube.client.api import CHECKPOINTS, JOBS, NETWORK_POLICIES, PODS, SERVICES
from dcp_operator.kube.kinds.kind import Deletion, Kind, OwnedResource, Values

OWNED_JOBS: Final[OwnedResource[Job]] = OwnedResource(
    resource=JOBS,
    read=lambda body, *_: job_of(body),
    unread=lambda body: Job(name=body["metadata"]["name"], uid=body["metadata"]["uid"]),
)
OWNED_PODS: Final[OwnedResource[Pod]] = OwnedResource(
    resource=PODS,
    read=pod_of,
    unread=lambda body: Pod(index=0, name=body["metadata"]["name"]),
    through=JOBS,
)


def _parse(body: ReadBody, site: Site, begun: bool) -> Checkpoint:  # noqa: FBT001 - as Kind has it
    # The cache keeps no apiVersion and kind: the API server has vouched for them.
    known = {"metadata": body["metadata"], "spec": body.get("spec"), IN_STORE: body.get(IN_STORE)}
    return parse(known, site=site, begun=begun, measured=True)


def _has_begun(body: ReadBody, observed: Observed | None) -> bool:
    return has_begun(Status.read(body.get("status")), run_id_of(body.get("spec")), observed)


def jobs_and_pods(values: Values) -> tuple[list[Job], list[Pod]]:
    """Return a Checkpoint's Jobs, and the Pods of these and of Jobs that are gone."""
    return list(values.get(JOBS.kind, ())), list(values.get(PODS.kind, ()))


def refused(error: SpecError, body: ReadBody, observed: Observed, now: datetime) -> CheckpointDecision:
    """Return what to do for a Checkpoint whose spec can't be parsed."""
    return refuse_spec(
        error,
        generation=body["metadata"].get("generation", 1),
        run_id=run_id_of(body.get("spec")),
        observed=observed,
        status=body.get("status"),
        now=now,
    )


def _deletes(action: Action) -> Deletion | None:
    return Deletion(action.job_name, action.why) if isinstance(action, DeleteAttempt) else None


CHECKPOINT: Final[Kind[Checkpoint, Observed, Action]] = Kind(
    resource=CHECKPOINTS,
    owned=(OWNED_JOBS, OWNED_PODS),
    unwatched=(SERVICES, NETWORK_POLICIES),
    parse=_parse,
    has_begun=_has_begun,
    is_finished=lambda status: "completionTime" in status,
    observe=lambda values: observe(*jobs_and_pods(values)),
    decide=decide,
    refuse=refused,
    deletes=_deletes,
)
