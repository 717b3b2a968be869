"""The worker container in the status of a Pod body: how it runs, what it waits for, how it ended.

A pod may hold other containers: a service mesh's proxy, a log shipper, what a webhook put in. They may outlive the
ranks for ever or die before them, and the pod's phase tells of all of them together. So the end of the ranks is read
off their own container. The phase counts only where that container says nothing: evicted, or never started.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Final, NamedTuple

from dcp_operator.api.bodies import optional_time, time_of
from dcp_operator.api.json_types import ReadBody
from dcp_operator.api.naming import WORKER_CONTAINER

BENIGN: Final = {"", "ContainerCreating", "PodInitializing"}
"""Words of the kubelet for a container that is about to start."""
LOST_SIGHT_OF: Final = "ContainerStatusUnknown"
"""The kubelet's word for a container that ran and that the kubelet can't find any more, after a restart of the node."""


class WorkerStates(NamedTuple):
    """How the worker container runs, waits and ended; one of the three says something, or none does."""

    running: ReadBody
    waiting: ReadBody
    ended: ReadBody


def worker_states(status: ReadBody) -> WorkerStates:
    """Return the states of the worker container in the status of a Pod body."""
    states = [each for each in status.get("containerStatuses") or () if each.get("name") == WORKER_CONTAINER]
    state = (states[0].get("state") or {}) if states else {}
    running, waiting, ended = (state.get(key) or {} for key in ("running", "waiting", "terminated"))
    if not ended and status.get("phase") == "Failed":
        ended = _failed_init(status)
    return WorkerStates(running, waiting, ended)


class Waiting(NamedTuple):
    """What keeps the worker container of a pod from starting."""

    reason: str = ""
    """The kubelet's word for it."""
    message: str = ""
    container: str = ""
    """Which other container it is that waits; empty for the worker itself."""
    holds_up: bool = True
    """Whether the worker can't start before that container does."""


def what_it_waits_for(status: ReadBody, own: ReadBody) -> Waiting:
    """Return what keeps the worker container from starting. Its own trouble counts before that of other containers.

    Init containers, native sidecars among them, start before the worker container and hold it up. Any other container
    that can't start is told of, and holds up nothing.
    """
    mine = Waiting(own.get("reason", ""), own.get("message", ""))
    if mine.reason not in BENIGN:
        return mine
    for kind, what in (("initContainerStatuses", "init container"), ("containerStatuses", "container")):
        for each in status.get(kind) or ():
            waiting = (each.get("state") or {}).get("waiting") or {}
            if each.get("name") != WORKER_CONTAINER and waiting.get("reason", "") not in BENIGN:
                holds_up = kind == "initContainerStatuses"
                return Waiting(waiting["reason"], waiting.get("message", ""), f"{what} {each['name']}", holds_up)
    at_work = [each["name"] for each in status.get("initContainerStatuses") or () if _starting(each)]
    return mine._replace(message=f"init container {at_work[0]} is at work") if at_work and mine.reason else mine


def _starting(init: ReadBody) -> bool:
    """Return whether an init container keeps the worker waiting. A native sidecar does until it has started up."""
    return bool((init.get("state") or {}).get("running")) and not init.get("started")


def _failed_init(status: ReadBody) -> ReadBody:
    """Return how an init container kept the ranks from starting."""
    for each in status.get("initContainerStatuses") or ():
        ended = (each.get("state") or {}).get("terminated") or {}
        if ended.get("exitCode"):
            reason = f"init container {each['name']} ended with exit code {ended['exitCode']}"
            return {"reason": reason, "message": ended.get("message") or ended.get("reason") or ""}
    return {}


def start_time(state: ReadBody, status: ReadBody) -> datetime | None:
    """Return when the container started. If the kubelet can't find it any more, only the pod's own start is known."""
    return optional_time(
        state.get("startedAt") or (status.get("startTime") if state.get("reason") == LOST_SIGHT_OF else "")
    )


def last_change(status: ReadBody, started: datetime | None) -> datetime | None:
    """Return when a pod ended whose containers say nothing of it: it was evicted, or failed when its node was lost."""
    return max(_times(status), default=started)


def _times(status: ReadBody) -> Iterator[datetime]:
    for each in status.get("conditions") or ():
        if each.get("lastTransitionTime"):
            yield time_of(each["lastTransitionTime"])
