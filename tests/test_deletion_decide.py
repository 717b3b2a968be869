"""What a deleted Checkpoint's data come to: what is removed, how a failure is said, and when it is given up."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from dcp_contract.operations import DeleteFields
from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.parsing import parse
from dcp_operator.api.checkpoint.status import Phase, Status
from dcp_operator.api.problems import SpecError
from dcp_operator.controllers.decision import Event
from dcp_operator.controllers.deletion.decide import (
    DeletionDecision,
    DropRemoval,
    End,
    LetGo,
    StartRemoval,
    decide_deletion,
    wait_for_removal,
)
from dcp_operator.controllers.deletion.removal import DataRemoval
from dcp_operator.controllers.deletion.saved import to_remove
from scenes import NOW, UID, URL, at, attempt, checkpoint, manifest, observed, stamp

SAVE = "a" * 32
BY_ID, BY_UID = DeleteFields(save_id=SAVE), DeleteFields(saved_by=UID)
DELETE = {"spec.deletionPolicy": "Delete"}
SAVED = {"phase": "Succeeded", "reason": "Saved", "attempts": 1, "checkpoint": {"url": URL, "saveId": SAVE}}
ADOPTED = SAVED | {"reason": "AlreadySaved"}
LIVE, DEAD = attempt(), attempt(finished=NOW)
NEXT = attempt(run_id="2")
STOCK = {**SAVED, "checkpoint": {"url": URL}}
GIVEN_UP = {"phase": "Failed", "reason": "StorageUnavailable", "attempts": 3}
CONFLICT = {"phase": "Conflict", "reason": "OverwriteConflict", "attempts": 1}
LOAD = {"spec.operation": "Load"}
TRAINING = {"spec.workload": None, "spec.workers": None, "spec.target": {"kind": "Job", "name": "train"}}


@pytest.mark.parametrize(
    ("changes", "status", "attempts", "expected"),
    [
        pytest.param({}, SAVED, [], BY_ID, id="what its status names"),
        pytest.param({}, SAVED, [DEAD], BY_ID, id="whose Job has ended"),
        pytest.param({}, SAVED, [LIVE], BY_ID, id="whose pods have yet to end"),
        pytest.param({}, SAVED, [DEAD, NEXT], BY_UID, id="while a run that no status tells of may replace it"),
        pytest.param({}, CONFLICT, [NEXT], BY_UID, id="likewise after a conflict"),
        pytest.param({}, ADOPTED, [], None, id="adopted"),
        pytest.param({}, ADOPTED, [NEXT], BY_UID, id="adopted, and what a run under way may save"),
        pytest.param(
            {}, ADOPTED | {"phase": "Running"}, [LIVE], BY_UID, id="about to adopt: of its own there is nothing"
        ),
        pytest.param({}, STOCK, [], BY_UID, id="a status without an id"),
        pytest.param({}, {}, [], None, id="never begun"),
        pytest.param({}, {}, [DEAD], BY_UID, id="an attempt of which no status tells"),
        pytest.param({}, {"phase": "Running", "attempts": 1}, [], BY_UID, id="an attempt that was stopped"),
        pytest.param({}, {"phase": "Pending", "retries": {"lastEnded": 1}}, [], BY_UID, id="between two attempts"),
        pytest.param({}, GIVEN_UP, [], BY_UID, id="a failure, after which a commit may stand"),
        pytest.param({}, CONFLICT, [], None, id="somebody else's stands there"),
        pytest.param({}, CONFLICT | {"runGeneration": 2}, [], BY_UID, id="perhaps its own, of an earlier run"),
        pytest.param({}, {"phase": "Pending", "runGeneration": 2}, [], BY_UID, id="a second run, not begun"),
        pytest.param({"spec.deletionPolicy": "Retain"}, SAVED, [LIVE], None, id="Retain"),
        pytest.param(LOAD, SAVED, [], None, id="a Load saves nothing"),
    ],
)
def test_what_goes_with_an_object(changes: Any, status: Any, attempts: Any, expected: DeleteFields | None) -> None:
    of = checkpoint({**DELETE, **changes})
    assert to_remove(of, Status.read(status), observed(*attempts)) == expected


def test_what_a_training_saves_stays() -> None:
    """Its credentials are its own, so that nobody else could remove it."""
    with pytest.raises(SpecError, match=r"spec\.deletionPolicy: the training of spec.target has its own; drop"):
        parse(manifest({**DELETE, **TRAINING}))


def removal(**fields: Any) -> DataRemoval:
    given: dict[str, Any] = {"name": "save-1000-delete-1", "uid": "uid-d", "by_id": True, "message": "said"}
    return DataRemoval(**given | fields)


def over(phase: Phase = Phase.FAILED, reason: Reason = Reason.STORAGE_DENIED, seconds: float = 5, **more: Any) -> Any:
    return removal(phase=phase, reason=reason, ended=at(seconds), **more)


DONE = over(Phase.SUCCEEDED, Reason.DELETED)
WAITS = removal(reason=Reason.URL_IN_USE)


def decided(
    found: DataRemoval | None = None,
    fields: DeleteFields | None = BY_ID,
    now: datetime = NOW,
    status: Any = SAVED,
    **timeouts: int,
) -> DeletionDecision:
    of = checkpoint({**DELETE, "spec.timeouts": {"deletionSeconds": 600, **timeouts}})
    return decide_deletion(of, Status.read(status), fields, found, NOW, now)


@pytest.mark.parametrize(
    ("found", "fields", "seconds", "actions", "reason", "said"),
    [
        pytest.param(None, None, 0, [End.NOTHING], "", "", id="nothing to remove"),
        pytest.param(removal(), None, 0, ["drop", End.NOTHING], "", "", id="the policy is Retain by now"),
        pytest.param(None, BY_ID, 0, [BY_ID], "RemovingData", "is removed first", id="it is begun"),
        pytest.param(removal(), BY_ID, 1, [], "RemovingData", "said", id="it is under way"),
        pytest.param(WAITS, BY_ID, 1, [], "UrlInUse", "said", id="somebody reads it"),
        pytest.param(DONE, BY_ID, 9, [End.REMOVED], "DataRemoved", f"saved at {URL} is removed.", id="removed"),
        pytest.param(DONE, BY_ID, 999, [End.REMOVED], "DataRemoved", "is removed.", id="removed in the last moment"),
        pytest.param(
            over(reason=Reason.SAVE_MISMATCH),
            BY_ID,
            9,
            [End.REMOVED],
            "DataReplaced",
            "said",
            id="another one's by now",
        ),
        pytest.param(over(), BY_ID, 6, [], "StorageDenied", "can't be removed: said. It is tried", id="denied"),
        pytest.param(over(), BY_ID, 15, ["drop"], "StorageDenied", "can't be removed", id="tried again"),
        pytest.param(over(deleting=True), BY_ID, 15, [], "RemovingData", "said", id="the failed one is going"),
        pytest.param(over(), BY_ID, 600, [End.KEPT], "DataKept", "within 10m00s: said", id="denied for too long"),
        pytest.param(WAITS, BY_ID, 600, [End.KEPT, "drop"], "DataKept", f"{URL} stay", id="read for too long"),
        pytest.param(None, BY_ID, 600, [End.KEPT], "DataKept", "within 10m00s.", id="no operator ran until then"),
        pytest.param(over(by_id=False), BY_UID, 6, [End.KEPT], "DataKept", "not known to have saved", id="no look"),
    ],
)
def test_a_deletion_goes_on(
    found: DataRemoval | None, fields: DeleteFields | None, seconds: float, actions: Any, reason: str, said: str
) -> None:
    decision = decided(found, fields, at(seconds))
    assert [short(each) for each in decision.actions] == actions
    events = [*decision.events, *(each.event for each in decision.actions if isinstance(each, LetGo) and each.event)]
    assert [each.reason for each in events] == [reason] * bool(reason)
    assert all(said in each.message for each in events)
    ends = any(isinstance(each, LetGo) for each in decision.actions)
    assert (decision.wake_at is None) is ends, "only what goes is not looked at again"


def short(action: object) -> object:
    match action:
        case StartRemoval():
            return action.fields
        case DropRemoval():
            return "drop"
        case LetGo():
            return action.end
    return action


def condition(decision: DeletionDecision) -> Any:
    return next((each for each in decision.status["conditions"] if each["type"] == "Deleting"), None)


def test_the_status_says_how_it_stands_beside_what_it_said_before() -> None:
    decision = decided(over())
    assert decision.status["phase"] == "Succeeded"
    assert decision.status["checkpoint"]["saveId"] == SAVE
    found = condition(decision)
    assert (found["status"], found["reason"]) == ("True", "StorageDenied")
    assert "until 2026-11-24 08:10:00Z; then the Checkpoint goes and the data stay" in found["message"]
    (event,) = decision.events
    assert event == Event(type="Warning", reason="StorageDenied", message=found["message"])
    again = decided(over(), now=at(7), status=decision.status)
    assert (again.status, again.events) == (decision.status, ()), "nothing new is written or said"


def test_a_warning_of_the_removal_is_told_where_the_object_is_gone() -> None:
    """A bucket that keeps versions."""
    (action,) = decided(replace(DONE, warnings=("s3://bucket keeps versions",))).actions
    assert isinstance(action, LetGo)
    assert action.event is not None
    assert action.event.message == f"What was saved at {URL} is removed. s3://bucket keeps versions."


def test_pauses_between_deletes_double_up_to_five_minutes() -> None:
    def pause(ended: float) -> float:
        found = decided(over(seconds=ended), now=at(ended), deletionSeconds=9000).wake_at
        assert found is not None
        return (found - at(ended)).total_seconds()

    assert [pause(each) for each in (1, 10, 20, 40, 400, 4000)] == [10, 10, 20, 40, 300, 300]


def test_a_delete_that_can_not_be_created_is_waited_for_until_the_deadline() -> None:
    of = checkpoint({**DELETE, "spec.timeouts": {"deletionSeconds": 20}})
    decision = wait_for_removal(of, Status.read(SAVED), "exceeded quota", NOW, at(15))
    assert (decision.actions, decision.wake_at) == ((), at(20))
    assert condition(decision)["reason"] == "Forbidden"
    assert "can't be created: exceeded quota. It is tried again." in condition(decision)["message"]


def test_a_removal_is_read_off_its_body() -> None:
    failure = {"reason": "StorageUnavailable", "message": "no answer"}
    conditions = [{"type": "Ready", "status": "False", "reason": "Pending", "message": "waits"}]
    metadata = {"name": "d", "uid": "u", "deletionTimestamp": stamp(0)}
    spec = {"operation": "Delete", "delete": {"saveId": SAVE}}
    status = {"phase": "Pending", "failure": failure, "conditions": conditions}
    found = DataRemoval.of({"metadata": metadata, "spec": spec, "status": status})
    assert (found.by_id, found.reason, found.deleting, found.ended) == (True, Reason.STORAGE_UNAVAILABLE, True, None)
    assert not DataRemoval.of({"metadata": metadata, "spec": {"delete": {"savedBy": "u"}}}).by_id
