"""One Job body as a small frozen value: an attempt without its pods."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from dcp_operator.api.bodies import condition, optional_time, shared
from dcp_operator.api.json_types import ReadBody
from dcp_operator.api.naming import ATTEMPT_LABEL, GENERATION_ANNOTATION, PROBE_LABEL, RUN_LABEL, SPEC_ANNOTATION

if TYPE_CHECKING:
    from collections.abc import Mapping

_DIGEST: Final = 64
"""Characters of one that a status takes."""
_DIGITS: Final = 18
_EPOCH: Final = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """An Indexed Job, as far as decisions read it."""

    name: str
    uid: str = ""
    attempt: int | None = None
    """Of its label; None where the label is no number, which makes the Job no attempt."""
    created: datetime = _EPOCH
    nodes: int = 1
    run_id: str = ""
    probe: bool = False
    suspended: bool = False
    deleting: bool = False
    started: datetime | None = None
    resumed: datetime | None = None
    """When the Job controller last saw that it is suspended no more."""
    ended: bool = False
    """The Job controller called it Complete or Failed."""
    finished: datetime | None = None
    """When it did so."""
    failure: str = ""
    """The Job controller's reason, such as FailedIndexes or DeadlineExceeded."""
    generation: int | None = None
    """Of the Checkpoint, when the Job was made; None where an earlier operator made it."""
    digest: str = ""
    """Of the free-form fields that it was made of; empty where an earlier operator made it."""


def job_of(body: ReadBody) -> Job:
    """Return what a Job body shows."""
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    labels: Mapping[str, str] = metadata.get("labels") or {}
    annotations: Mapping[str, str] = metadata.get("annotations") or {}
    attempt, generation = labels.get(ATTEMPT_LABEL, ""), annotations.get(GENERATION_ANNOTATION, "")[:_DIGITS]
    end = condition(status, "Failed") or condition(status, "Complete") or {}
    return Job(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        attempt=int(attempt) if attempt.isdecimal() else None,
        created=optional_time(metadata.get("creationTimestamp")) or _EPOCH,
        # Somebody may have set parallelism to 0, to pause the Job.
        nodes=max(1, spec.get("completions") or spec.get("parallelism") or 1),
        run_id=shared(labels.get(RUN_LABEL, "")),
        probe=labels.get(PROBE_LABEL) == "true",
        # The Job controller resets startTime and the condition after it has created the pods anew: up to then all that
        # is known of the Job is of before the suspension, whatever its spec says by now.
        suspended=not end and (bool(spec.get("suspend")) or condition(status, "Suspended") is not None),
        deleting=bool(metadata.get("deletionTimestamp")),
        started=optional_time(status.get("startTime")),
        resumed=optional_time((condition(status, "Suspended", "False") or {}).get("lastTransitionTime")),
        ended=bool(end),
        finished=optional_time(end.get("lastTransitionTime")),
        failure=end.get("reason", "") if end.get("type") == "Failed" else "",
        generation=int(generation) if generation.isdecimal() else None,
        digest=shared(annotations.get(SPEC_ANNOTATION, "")[:_DIGEST]),
    )
