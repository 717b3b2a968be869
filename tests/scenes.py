"""Checkpoints, attempts and pods for tests of the control plane, told in few words."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.reasons import Reason
from dcp_contract.report import RankFailure, Report
from dcp_operator.api.checkpoint.parsing import parse
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.checkpoint.status import Status
from dcp_operator.api.problems import SpecError
from dcp_operator.api.site import LOCAL
from dcp_operator.controllers.checkpoint.actions import CheckpointDecision, CreateAttempt, DeleteAttempt
from dcp_operator.controllers.checkpoint.decide import decide
from dcp_operator.controllers.checkpoint.inputs import Inputs
from dcp_operator.controllers.checkpoint.observed import Attempt, Observed, Pod
from dcp_operator.controllers.checkpoint.refused_spec import refuse_spec
from dcp_operator.controllers.checkpoint.url_conflicts import UrlClaim

NOW = datetime(2026, 11, 24, 8, 0, 0, tzinfo=UTC)
UID = "67649f17-63b8-4886-af6e-54d25698fc75"
URL = "s3://bucket/run/step-1000"

MANIFEST: dict[str, Any] = {
    "apiVersion": "dcp-operator.io/v1alpha1",
    "kind": "Checkpoint",
    "metadata": {"name": "save-1000", "namespace": "team", "uid": UID, "creationTimestamp": "2026-11-24T08:00:00Z"},
    "spec": {
        "operation": "Save",
        "storage": {"url": URL},
        "workload": {"entrypoint": "my_pkg.train:Workload"},
        "workers": {"numNodes": 2},
    },
}


def manifest(changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the manifest with dotted fields set; None removes one."""
    body = copy.deepcopy(MANIFEST)
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        at = body
        for part in parents:
            at = at.setdefault(part, {})
        if value is None:
            at.pop(last, None)
        else:
            at[last] = copy.deepcopy(value)
    return body


def checkpoint(changes: Mapping[str, Any] | None = None) -> Checkpoint:
    return parse(manifest(changes), site=LOCAL)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def stamp(seconds: float) -> str:
    """Return a time as the API server writes it."""
    return f"{at(seconds):%Y-%m-%dT%H:%M:%SZ}"


def running(index: int = 0, **fields: Any) -> Pod:
    return replace(Pod(index=index, name=f"pod-{index}", node=f"node-{index}", phase="Running", started=NOW), **fields)


def pending(index: int = 0, **fields: Any) -> Pod:
    """Return a pod whose worker container does not run yet."""
    return running(index, **{"phase": "Pending", "started": None} | fields)


def ended(index: int = 0, report: Report | None = None, **fields: Any) -> Pod:
    """Return a pod that ended; it failed unless its Report has a result or says nothing bad."""
    code = 0 if report is not None and report.result is not None else 1
    pod = running(
        index,
        phase="Failed" if code else "Succeeded",
        exit_code=code,
        finished=NOW,
        report=report,
    )
    return replace(pod, **fields)


def attempt(*pods: Pod, number: int = 1, of: Checkpoint | None = None, **fields: Any) -> Attempt:
    of = of or checkpoint()
    made = Attempt(
        job_name=of.job_name(number),
        attempt=number,
        created=NOW,
        started=NOW,
        nodes=max(len(pods), 1),
        run_id=of.spec.run_id,
        pods=pods,
    )
    return replace(made, **fields)


def observed(*attempts: Attempt) -> Observed:
    return Observed(attempts=attempts)


def saved(**fields: Any) -> Report:
    info = CheckpointInfo(
        url=URL, save_id="s1", step=1000, bytes=438_304_768, files=4, tensors=7, world_size=2, conflict_guard="Atomic"
    )
    return Report(result=Reason.SAVED, checkpoint=info, bytes_moved=438_304_768, seconds=2.0, **fields)


def failed(reason: Reason = Reason.RANK_FAILED, rank: int | None = 0, time: float = 1.0, **fields: Any) -> Report:
    failure = RankFailure(rank=rank, reason=reason, message=f"{reason} here", time=time, **fields)
    return Report(failures=[failure], failed_rank_count=1)


def decided(
    *attempts: Attempt,
    of: Checkpoint | None = None,
    status: Mapping[str, Any] | None = None,
    now: datetime = NOW,
    rivals: tuple[UrlClaim, ...] = (),
) -> CheckpointDecision:
    return decide(of or checkpoint(), observed(*attempts), status, now, rivals)


def inputs(
    *attempts: Attempt,
    of: Checkpoint | None = None,
    status: Status | None = None,
    now: datetime = NOW,
    **fields: Any,
) -> Inputs:
    """Return what one check is given: these attempts, and a status in which the ended ones are recorded."""
    return Inputs(checkpoint=of or checkpoint(), attempts=attempts, status=status or Status(), now=now, **fields)


def refused(
    *attempts: Attempt,
    problem: str = "spec.operation: is not one of its values; write 'Save'",
    status: Mapping[str, Any] | None = None,
    generation: int = 2,
    run_id: str = "",
    now: datetime = NOW,
) -> CheckpointDecision:
    """Return the decision on a spec that can't be parsed."""
    error = SpecError([problem])
    return refuse_spec(
        error, generation=generation, run_id=run_id, observed=observed(*attempts), status=status, now=now
    )


def phase(decision: CheckpointDecision) -> tuple[str, str | None]:
    return decision.status["phase"], decision.status.get("reason")


def message(decision: CheckpointDecision) -> str:
    return str(next(each["message"] for each in decision.status["conditions"] if each["type"] == "Ready"))


def true(decision: CheckpointDecision) -> set[str]:
    return {each["type"] for each in decision.status["conditions"] if each["status"] == "True"}


def created(decision: CheckpointDecision) -> list[tuple[int, bool]]:
    return [(each.attempt, each.task.probe) for each in decision.actions if isinstance(each, CreateAttempt)]


def deleted(decision: CheckpointDecision) -> list[int]:
    return [each.attempt for each in decision.actions if isinstance(each, DeleteAttempt)]


SAVED_PODS: tuple[Pod, ...] = (ended(0, saved()), ended(1, Report()))
"""The pods of an attempt that has committed a Save, and whose ranks have all ended."""
STARTED: Mapping[str, Any] = decided().status
RUNNING: Mapping[str, Any] = decided(attempt(running(0), running(1)), status=STARTED).status


def after_first_attempt(*pods: Any, of: Checkpoint | None = None, **fields: Any) -> CheckpointDecision:
    """Return the decision on the first attempt's end."""
    return decided(attempt(*pods, of=of, **fields), of=of, status=RUNNING)
