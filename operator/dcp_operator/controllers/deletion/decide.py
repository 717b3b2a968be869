"""What to do for a deleted Checkpoint whose data go with it: a pure function of what it saved, its Delete and the time.

The data are removed by a Delete, a Checkpoint that the deleted one controls: so the removal takes turns with whoever
works on the URL, is tried again after a failure that may pass, and shows how it stands. The finalizer goes when the
Delete is done, or when the time is over: nothing outside of the cluster keeps an object for ever.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from dcp_contract.operations import DeleteFields
from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.checkpoint.status import Condition, Status
from dcp_operator.api.checkpoint.text import human_duration, sentence
from dcp_operator.controllers.decision import Decision, Event
from dcp_operator.controllers.deletion.removal import DataRemoval
from dcp_operator.controllers.deletion.saved import has_adopted

DELETING: Final = "Deleting"
"""The condition that says how the removal stands."""
_REMOVING: Final = "RemovingData"
_SHORTEST_PAUSE: Final = timedelta(seconds=10)
_LONGEST_PAUSE: Final = timedelta(seconds=300)
_TURN: Final = timedelta(seconds=5)
_QUOTED: Final = 512
_EVENT_LIMIT: Final = 1000


class End(StrEnum):
    """What became of the data when the finalizer went; as the metric has it."""

    NOTHING = "nothing"
    """Nothing was saved, or the policy is Retain by now."""
    REMOVED = "removed"
    KEPT = "kept"
    """They could not be removed in time."""
    NAMESPACE = "namespace"
    """The namespace is being deleted: no pod can be made there."""


@dataclass(frozen=True, kw_only=True)
class StartRemoval:
    """Create the Delete of what was saved."""

    fields: DeleteFields


@dataclass(frozen=True, kw_only=True)
class DropRemoval:
    """Delete a Delete: one that has failed, so that another one follows, or one that is to end."""

    name: str
    uid: str


@dataclass(frozen=True, kw_only=True)
class LetGo:
    """Say what became of the data, then take the finalizer off."""

    end: End
    event: Event | None = None


DeletionAction = StartRemoval | DropRemoval | LetGo
DeletionDecision = Decision[DeletionAction]


def decide_deletion(
    checkpoint: Checkpoint,
    status: Status,
    fields: DeleteFields | None,
    removal: DataRemoval | None,
    deleted: datetime,
    now: datetime,
) -> DeletionDecision:
    """Return what to do, the status to write, and when to decide again.

    Args:
        checkpoint: The deleted object.
        status: Its status as it stands in the cluster.
        fields: What has to be removed, as `to_remove` says.
        removal: The Delete, if there is one.
        deleted: When the object was deleted.
        now: The time.
    """
    if fields is None:
        return _over(status, removal, End.NOTHING, _adopted(checkpoint) if has_adopted(status) else None)
    if removal is not None and removal.done:
        return _over(status, None, End.REMOVED, _removed(checkpoint, removal))
    if now >= _deadline(checkpoint, deleted):
        return _over(status, removal, End.KEPT, _kept(checkpoint, removal))
    return _going_on(checkpoint, status, fields, removal, deleted, now)


def _going_on(
    checkpoint: Checkpoint,
    status: Status,
    fields: DeleteFields,
    removal: DataRemoval | None,
    deleted: datetime,
    now: datetime,
) -> DeletionDecision:
    """Return the decision while there is time and something to remove."""
    deadline = _deadline(checkpoint, deleted)
    if checkpoint.store is not None and checkpoint.store.read_only and (removal is None or not removal.runs):
        # A Delete that has yet to begin names the URL, so nothing but this keeps it from the store.
        waits = removal is not None and not (removal.failed or removal.deleting)
        drop = [DropRemoval(name=removal.name, uid=removal.uid)] if removal is not None and waits else []
        message = _read_only(checkpoint, deadline)
        return _said(checkpoint, status, Reason.STORE_READ_ONLY.value, message, now, deadline, *drop)
    if removal is None:
        message = f"What it saved at {checkpoint.spec.storage.url} is removed first."
        return _said(checkpoint, status, _REMOVING, message, now, deadline, StartRemoval(fields=fields))
    if not removal.failed or removal.deleting:
        reason = removal.reason.value if removal.reason is not None and not removal.deleting else _REMOVING
        message = f"Delete {removal.name} removes what it saved. {removal.message}"
        return _said(checkpoint, status, reason, message, now, deadline)
    if not removal.by_id:
        # Nobody knows that it saved anything at all.
        return _over(status, None, End.KEPT, _unknown(checkpoint, removal))
    return _again(checkpoint, status, removal, deleted, now)


def _again(
    checkpoint: Checkpoint, status: Status, removal: DataRemoval, deleted: datetime, now: datetime
) -> DeletionDecision:
    """Return the decision on a Delete that has failed: after a pause another one follows. Pauses double."""
    ended = removal.ended or now
    due = ended + min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, ended - deleted))
    deadline = _deadline(checkpoint, deleted)
    reason = removal.reason.value if removal.reason is not None else removal.phase.value
    message = (
        f"What it saved at {checkpoint.spec.storage.url} can't be removed: {sentence(removal.message[:_QUOTED])} "
        f"It is tried again until {deadline:%Y-%m-%d %H:%M:%SZ}; then the Checkpoint goes and the data stay."
    )
    actions = (DropRemoval(name=removal.name, uid=removal.uid),) if now >= due else ()
    return _said(checkpoint, status, reason, message, now, min(due, deadline) if now < due else deadline, *actions)


def _read_only(checkpoint: Checkpoint, deadline: datetime) -> str:
    store = checkpoint.store.name if checkpoint.store is not None else ""
    return (
        f"What it saved at {checkpoint.spec.storage.url} is not removed: store {store} is ReadOnly. Write accessMode: "
        "ReadWrite there, or deletionPolicy: Retain here; else the Checkpoint goes at "
        f"{deadline:%Y-%m-%d %H:%M:%SZ} and the data stay."
    )


def wait_for_removal(
    checkpoint: Checkpoint, status: Status, refusal: str, deleted: datetime, now: datetime
) -> DeletionDecision:
    """Return the decision where the API server refuses to create the Delete: it is tried again until the deadline."""
    deadline = _deadline(checkpoint, deleted)
    message = f"The Delete of what it saved can't be created: {sentence(refusal[:_QUOTED])} It is tried again."
    wake = min(deadline, now + min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, now - deleted)))
    return _said(checkpoint, status, Reason.FORBIDDEN.value, message, now, wake)


def wait_for_others(checkpoint: Checkpoint, status: Status, deleted: datetime, now: datetime) -> DeletionDecision:
    """Return the decision where as many Deletes are under way as may be at once: a look now and then."""
    message = (
        f"What it saved at {checkpoint.spec.storage.url} is removed after that of others, which were deleted before."
    )
    deadline = _deadline(checkpoint, deleted)
    return _said(checkpoint, status, _REMOVING, message, now, min(deadline, now + _TURN))


def _deadline(checkpoint: Checkpoint, deleted: datetime) -> datetime:
    return deleted + timedelta(seconds=checkpoint.spec.timeouts.deletion_seconds)


def _adopted(checkpoint: Checkpoint) -> Event:
    url = checkpoint.spec.storage.url
    said = f"The checkpoint at {url} was adopted, and not saved by this Checkpoint: its data stay."
    return Event(type="Normal", reason="DataKept", message=said)


def _removed(checkpoint: Checkpoint, removal: DataRemoval) -> Event:
    url = checkpoint.spec.storage.url
    if removal.reason is Reason.SAVE_MISMATCH:
        said = f"Nothing of this Checkpoint stood at {url} any more: {removal.message}"
        return Event(type="Normal", reason="DataReplaced", message=said[:_EVENT_LIMIT])
    said = " ".join((f"What was saved at {url} is removed.", *map(sentence, removal.warnings)))
    return Event(type="Normal", reason="DataRemoved", message=said[:_EVENT_LIMIT])


def _kept(checkpoint: Checkpoint, removal: DataRemoval | None) -> Event:
    seconds = checkpoint.spec.timeouts.deletion_seconds
    why = f": {removal.message[:_QUOTED]}" if removal is not None and removal.message else "."
    if removal is None and checkpoint.store is not None and checkpoint.store.read_only:
        why = f": store {checkpoint.store.name} is ReadOnly."
    said = (
        f"The data at {checkpoint.spec.storage.url} stay: they were not removed within {human_duration(seconds)}{why}"
    )
    return Event(type="Warning", reason="DataKept", message=said)


def _unknown(checkpoint: Checkpoint, removal: DataRemoval) -> Event:
    said = (
        f"It is not known to have saved anything. What may stand at {checkpoint.spec.storage.url} stays, since a look "
        f"failed: {removal.message[:_QUOTED]}"
    )
    return Event(type="Warning", reason="DataKept", message=said)


def _over(status: Status, removal: DataRemoval | None, end: End, event: Event | None = None) -> DeletionDecision:
    """Return the decision that ends it.

    A Delete that is to remove nothing any more is stopped first. One whose time is over is stopped last: what is said
    of it is the same if that is said once more.
    """
    stop = [DropRemoval(name=removal.name, uid=removal.uid)] if removal is not None and removal.ended is None else []
    last = LetGo(end=end, event=event)
    return DeletionDecision(actions=(last, *stop) if event is not None else (*stop, last), status=status.to_dict())


def _said(
    checkpoint: Checkpoint,
    status: Status,
    reason: str,
    message: str,
    now: datetime,
    wake_at: datetime,
    *actions: DeletionAction,
) -> DeletionDecision:
    """Return a decision whose status says how the removal stands; an event tells of each other reason."""
    before = next((each for each in status.conditions if each.type == DELETING), None)
    condition = Condition(
        type=DELETING,
        status="True",
        reason=reason,
        message=message[:1800].strip(),
        last_transition_time=before.last_transition_time if before is not None else now.replace(microsecond=0),
        observed_generation=checkpoint.generation,
    )
    others = tuple(each for each in status.conditions if each.type != DELETING)
    made = DeletionDecision(
        actions=actions,
        status=status.with_changes(conditions=(*others, condition)).to_dict(),
        wake_at=wake_at,
    )
    if before is not None and before.reason == reason:
        return made
    event = Event(
        type="Normal" if reason == _REMOVING else "Warning", reason=reason, message=condition.message[:_EVENT_LIMIT]
    )
    return replace(made, events=(event,))
