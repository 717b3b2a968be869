"""The time of the newest checkpoint, written where schedulers look: on the object that a training is.

That object is somebody else's. So the operator needs a permission of its own for it, which an admission policy bounds
to the one annotation (`manifests/components/last-checkpoint-time`). Without it this says so once, and rests.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Final, NamedTuple

from dcp_operator.api.bodies import time_of
from dcp_operator.api.checkpoint.target import TargetKind
from dcp_operator.api.json_types import Body
from dcp_operator.api.naming import LAST_CHECKPOINT_ANNOTATION
from dcp_operator.controllers.target.last_checkpoint import annotation_due, next_write
from dcp_operator.kube.client.api import (
    JOB_SETS,
    JOBS,
    PODS,
    PYTORCH_JOBS,
    TRAIN_JOBS,
    ApiError,
    ConflictError,
    GoneError,
    RefusedError,
    Resource,
    UnavailableError,
)
from dcp_operator.kube.client.cluster import Cluster
from dcp_operator.kube.client.ownership import Owner, controlled, controller
from dcp_operator.kube.view.last_checkpoints import LastCheckpoints, LastCommit

logger = logging.getLogger(__name__)

PAUSE: Final = 5.0
"""Seconds between two rounds."""
_AGAIN: Final = timedelta(seconds=10)
"""After which a write is tried again that was in the way of another one, or had no answer."""
_REMEMBERED: Final = 5_000
_HIGHEST: Final = 4
"""Owners above one another, at most: a TrainJob has a JobSet, which has Jobs, which have pods."""
_OF_KIND: Final = {
    TargetKind.JOB: JOBS,
    TargetKind.JOB_SET: JOB_SETS,
    TargetKind.TRAIN_JOB: TRAIN_JOBS,
    TargetKind.PYTORCH_JOB: PYTORCH_JOBS,
}


class TrainingObject(NamedTuple):
    """An object that trains, or whose pods do."""

    resource: Resource
    body: Body


@dataclass
class Announcer:
    """Writes the annotation.

    Args:
        cluster: Where.
        commits: What is to be written.
        now: The clock.
    """

    cluster: Cluster
    commits: LastCheckpoints
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    _written: OrderedDict[str, datetime] = field(default_factory=OrderedDict, init=False)
    """By the object's uid, when it was written last."""
    _forbidden: set[str] = field(default_factory=set, init=False)
    """The resources of which it was said that they may not be written."""

    async def forever(self) -> None:
        """Write again and again."""
        while True:
            try:
                await self.announce()
            except Exception:
                logger.exception("the times of newest checkpoints can't be written now")
            await asyncio.sleep(PAUSE)

    async def announce(self) -> None:
        """Write what is due now. What is in the way is tried again later, or not at all."""
        for commit in self.commits.take(self.now()):
            try:
                later = await self._announce(commit)
            except GoneError:
                continue
            except (ConflictError, UnavailableError):
                later = self.now() + _AGAIN
            except ApiError as error:
                self._say(commit, error)
                continue
            if later is not None:
                self.commits.put(commit, later)

    async def _announce(self, commit: LastCommit) -> datetime | None:
        """Write one; return when to try again, None where that is not needed."""
        found = await self._topmost(commit)
        if found is None:
            return None
        metadata, now = found.body["metadata"], self.now()
        stands = (metadata.get("annotations") or {}).get(LAST_CHECKPOINT_ANNOTATION)
        created = time_of(metadata["creationTimestamp"])
        value = annotation_due(commit.committed, commit.ended, created, stands)
        if value is None or metadata.get("deletionTimestamp"):
            return None
        due = next_write(self._written.get(metadata["uid"]), now)
        if due > now:
            return due
        await self.cluster.annotate(found.resource, found.body, {LAST_CHECKPOINT_ANNOTATION: value})
        self._written[metadata["uid"]] = now
        self._written.move_to_end(metadata["uid"])
        if len(self._written) > _REMEMBERED:
            self._written.popitem(last=False)
        return None

    async def _topmost(self, commit: LastCommit) -> TrainingObject | None:
        """Return the topmost object that a training is; None where its pod is gone, or is nobody's."""
        kind = commit.target.kind
        if kind is not None:
            name = str(commit.target.name)
            found = TrainingObject(_OF_KIND[kind], await self.cluster.get(_OF_KIND[kind], commit.namespace, name))
        else:
            found = TrainingObject(PODS, await self.cluster.get(PODS, commit.namespace, commit.pod))
            if found.body["metadata"]["uid"] != commit.pod_uid:
                return None
        for _ in range(_HIGHEST):
            reference = controller(found.body)
            resource = next((each for each in _OF_KIND.values() if _refers(found.body, reference, each)), None)
            if resource is None:
                break
            owner = await self.cluster.get(resource, commit.namespace, str(reference["name"]))
            if owner["metadata"]["uid"] != reference["uid"]:
                return None
            found = TrainingObject(resource, owner)
        return None if found.resource is PODS else found

    def _say(self, commit: LastCommit, error: ApiError) -> None:
        """Say once what is forbidden, and each time what else is refused."""
        where = f"{commit.namespace}, {commit.target}"
        if not isinstance(error, RefusedError) or error.status != HTTPStatus.FORBIDDEN:
            logger.warning("%s: the time of its newest checkpoint is not written: %s", where, error)
        elif str(commit.target.kind) not in self._forbidden:
            self._forbidden.add(str(commit.target.kind))
            logger.warning(
                "%s: the time of its newest checkpoint is not written for schedulers: the operator may not (component "
                "last-checkpoint-time). It is said once. %s",
                where,
                error,
            )


def _refers(body: Body, reference: object, resource: Resource) -> bool:
    if not isinstance(reference, dict) or not reference.get("uid"):
        return False
    return controlled(body, Owner(resource, str(reference.get("name", "")), str(reference["uid"])))
