"""Job and Pod bodies as an API server gives them, for tests of what is read off them."""

from typing import Any

from dcp_contract.report import Report
from dcp_operator.api.json_types import Body
from dcp_operator.api.naming import ATTEMPT_LABEL, INDEX_LABEL, JOB_LABEL, RUN_LABEL
from scenes import checkpoint, stamp

JOB = checkpoint().job_name(1)


def job(*conditions: Body, nodes: int = 2, number: int = 1, **fields: Any) -> Body:
    of = checkpoint()
    labels = {ATTEMPT_LABEL: str(number), RUN_LABEL: of.spec.run_id, JOB_LABEL: of.job_name(number)}
    return {
        "metadata": {"name": of.job_name(number), "creationTimestamp": stamp(0), "labels": labels, **fields},
        "spec": {"parallelism": nodes, "suspend": False},
        "status": {"startTime": stamp(0), "conditions": list(conditions)},
    }


def pod(
    index: int = 0,
    worker: Body | None = None,
    *,
    phase: str = "Running",
    others: dict[str, Body] | None = None,
    inits: dict[str, Body] | None = None,
    number: int = 1,
    **status: Any,
) -> Body:
    """Return a pod: the worker container's state, and those of the containers beside and before it."""
    states = {**(others or {}), **({"worker": worker} if worker is not None else {})}
    name = checkpoint().job_name(number)
    return {
        "metadata": {
            "name": f"{name}-{index}-x",
            "creationTimestamp": stamp(0),
            "labels": {JOB_LABEL: name, INDEX_LABEL: str(index)},
        },
        "spec": {"nodeName": f"node-{index}"},
        "status": {
            "phase": phase,
            "startTime": stamp(0),
            "containerStatuses": [{"name": each, "state": state} for each, state in states.items()],
            "initContainerStatuses": [{"name": each, "state": state} for each, state in (inits or {}).items()],
            **status,
        },
    }


def runs(since: float = 1) -> Body:
    return {"running": {"startedAt": stamp(since)}}


def waits(reason: str = "ContainerCreating", message: str = "") -> Body:
    return {"waiting": {"reason": reason, "message": message}}


def ended(report: Report | None = None, *, code: int | None = None, end: float = 15, **state: Any) -> Body:
    """Return the state of a container that ended; it failed unless its Report has a result."""
    if code is None:
        code = 0 if report is not None and report.result is not None else 1
    text = report.encode() if report is not None else ""
    facts = {"startedAt": stamp(1), "finishedAt": stamp(end), "exitCode": code, "message": text}
    return {"terminated": facts | state}
