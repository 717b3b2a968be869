"""What a decision about an eviction looks at: the pod, and the Saves that were made before disruptions."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Self

from dcp_operator.api.bodies import time_of
from dcp_operator.api.checkpoint.status import Phase, Status
from dcp_operator.api.json_types import ReadBody
from dcp_operator.api.naming import EVICTED_POD_ANNOTATION
from dcp_operator.controllers.checkpoint.runs import run_id_of

_RUNNING: Final = "Running"


@dataclass(frozen=True, kw_only=True)
class EvictedPod:
    """The pod that somebody wants to evict."""

    name: str
    uid: str
    created: datetime
    labels: dict[str, str] = field(default_factory=dict)
    runs: bool = True
    """Whether there is a training in it to save. One that is being deleted is told so, and saves by itself."""

    @classmethod
    def of(cls, body: ReadBody) -> Self:
        """Return the pod of a body."""
        metadata = body["metadata"]
        phase = (body.get("status") or {}).get("phase")
        return cls(
            name=metadata["name"],
            uid=metadata["uid"],
            created=time_of(metadata["creationTimestamp"]),
            labels=dict(metadata.get("labels") or {}),
            runs=phase == _RUNNING and not metadata.get("deletionTimestamp"),
        )


@dataclass(frozen=True, kw_only=True)
class Disruption:
    """The Save of a series before a disruption."""

    name: str
    begun: datetime
    """When it was created: at the first eviction, by the API server's clock."""
    ended: datetime | None = None
    """When its result was known; None while it is not finished."""
    state: str = ""
    """How far it is, in few words."""
    first_pod: str = ""
    """Uid of the pod whose eviction began it."""

    @classmethod
    def of(cls, body: ReadBody) -> Self:
        """Return what a Checkpoint's body shows."""
        metadata, status = body["metadata"], Status.read(body.get("status"))
        over = status.phase.terminal and status.run_id == run_id_of(body.get("spec"))
        return cls(
            name=metadata["name"],
            begun=time_of(metadata["creationTimestamp"]),
            ended=status.completion_time if over else None,
            state=_state(status),
            first_pod=str((metadata.get("annotations") or {}).get(EVICTED_POD_ANNOTATION, "")),
        )


def _state(status: Status) -> str:
    reason = f" ({status.reason})" if status.reason is not None and status.phase is not Phase.SUCCEEDED else ""
    progress = status.progress
    percent = f", {progress.percent} %" if progress is not None else ""
    return f"{status.phase}{reason}{percent}"
