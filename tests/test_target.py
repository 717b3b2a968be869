"""A Save of a training that runs already, as tables: which process group is asked, and what becomes of the request."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import pytest

from dcp_contract.checkpoint_info import CheckpointInfo, Origin
from dcp_contract.reasons import Reason
from dcp_contract.report import RankFailure
from dcp_contract.training import AgentState, EndedSave, Resumed, SaveStage, TakenRequest, request_id
from dcp_operator.api.checkpoint.parsing import parse
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.checkpoint.status import Status
from dcp_operator.controllers.checkpoint.actions import CheckpointDecision
from dcp_operator.controllers.target.decide import decide_target
from dcp_operator.controllers.target.observed import ConnectedAgent, ObservedTarget, TargetPod
from scenes import NOW, UID, at, manifest
from target_cases import TARGETED

PODS: Final = (TargetPod(name="rank0", uid="u0"), TargetPod(name="rank1", uid="u1"))
ORIGIN: Final = Origin(namespace="team", name="save-1000", uid=UID)
ID: Final = request_id(ORIGIN)
URL: Final = "s3://bucket/run/step-8"
INFO: Final = CheckpointInfo(
    url=URL, save_id="s1", step=8, bytes=2048, files=2, world_size=2, conflict_guard="Atomic", origin=ORIGIN
)
SAVED: Final = EndedSave(id=ID, step=8, url=URL, seconds=2, blocked_seconds=0.25, checkpoint=INFO)


def save(changes: Mapping[str, Any] | None = None) -> Checkpoint:
    return parse(manifest({**TARGETED, **(changes or {})}))


def agent(group: str = "g1", pod: str = "rank0", uid: str = "u0", **state: Any) -> ConnectedAgent:
    said = AgentState(group=group, world=2, prefix="s3://bucket/run", step=7, **state)
    return ConnectedAgent(pod=pod, pod_uid=uid, state=said, heard=NOW)


def taken(stage: SaveStage = SaveStage.WAITING, id_: str = ID, **fields: Any) -> TakenRequest:
    return TakenRequest(id=id_, stage=stage, **fields)


def decided(
    *agents: ConnectedAgent,
    status: Mapping[str, Any] | None = None,
    of: Checkpoint | None = None,
    pods: Sequence[TargetPod] = PODS,
    now: datetime = NOW,
    served: bool = True,
    **seen: Any,
) -> CheckpointDecision:
    return decide_target(of or save(), ObservedTarget(pods=pods, agents=agents, served=served, **seen), status, now)


def message(decision: CheckpointDecision) -> str:
    found: str = next(each["message"] for each in decision.status["conditions"] if each["type"] == "Ready")
    return found


ASKED: Final = decided(agent()).status


@pytest.mark.parametrize(
    ("agents", "pods", "reason", "says"),
    [
        pytest.param([], (), Reason.TARGET_NOT_FOUND, "No pod of Job train runs.", id="no pod"),
        pytest.param([], PODS, Reason.TARGET_NOT_LISTENING, "Job train without an agent: rank0, rank1.", id="silent"),
        pytest.param([agent(uid="other")], PODS, Reason.TARGET_NOT_LISTENING, "2 pods of", id="another's agent"),
        pytest.param([agent(ends=True)], PODS, Reason.TARGET_NOT_LISTENING, "pod rank0 is ending", id="ending"),
        pytest.param(
            [agent(), agent("g2", "rank1", "u1")], PODS, Reason.TARGET_AMBIGUOUS, "2 trainings: rank0, rank1", id="two"
        ),
        pytest.param(
            [],
            [TargetPod(name=f"p{number}", uid=str(number)) for number in range(9)],
            Reason.TARGET_NOT_LISTENING,
            "9 pods of Job train without an agent: p0, p1, p2 and 6 more.",
            id="many",
        ),
    ],
)
def test_it_waits_for_one_process_group(
    agents: list[ConnectedAgent], pods: Sequence[TargetPod], reason: Reason, says: str
) -> None:
    found = decided(*agents, pods=pods)
    assert (found.status["phase"], found.status["reason"]) == ("Pending", reason)
    assert says in message(found)
    assert found.status["target"] == {"name": "Job train"}
    assert found.wake_at == at(10)
    # It is said once, and looked for again.
    again = decided(*agents, pods=pods, status=found.status, now=at(10))
    assert (again.status, again.events, again.wake_at) == (found.status, (), at(20))


def test_an_operator_without_a_channel_says_so() -> None:
    found = decided(served=False)
    assert (found.status["phase"], found.status["reason"]) == ("Pending", Reason.NOT_ENABLED)


def test_the_group_stands_in_the_status_before_it_is_asked() -> None:
    found = decided(agent(), agent("g9", "elsewhere", "u9"))
    chosen = found.status["target"]
    assert chosen == {"name": "Job train", "group": "g1", "pod": "rank0", "podUid": "u0", "world": 2}
    assert (found.status["phase"], found.status["ranks"], found.status["attempts"]) == ("Running", "2", 1)
    assert message(found) == "The training in pod rank0 is asked to save."


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        pytest.param(taken(), "has taken the request.", id="taken"),
        pytest.param(taken(step=9), "saves at step 9, which its ranks have agreed on.", id="agreed"),
        pytest.param(taken(SaveStage.SAVING, step=9, url=URL), f"saves step 9 to {URL}.", id="saving"),
    ],
)
def test_it_follows_the_request(request_: TakenRequest, says: str) -> None:
    found = decided(agent(requests=[request_]), status=ASKED, now=at(1))
    assert found.status["phase"] == "Running"
    assert message(found) == f"The training in pod rank0 {says}"


def test_a_request_behind_another_says_so() -> None:
    others = [taken(SaveStage.SAVING, "other/", step=9), taken()]
    assert "at another save, which this one follows or shares" in message(decided(agent(requests=others), status=ASKED))


def test_progress_is_written_every_five_seconds() -> None:
    def at_bytes(done: int, now: float, status: Mapping[str, Any]) -> CheckpointDecision:
        request = taken(SaveStage.SAVING, bytes=done, total_bytes=100)
        return decided(agent(requests=[request]), status=status, now=at(now))

    first = at_bytes(10, 0, ASKED)
    assert first.status["progress"]["percent"] == 10
    soon = at_bytes(20, 3, first.status)
    assert (soon.status["progress"]["percent"], soon.wake_at) == (10, at(5))
    assert at_bytes(30, 5, first.status).status["progress"]["percent"] == 30


def test_a_commit_is_a_success_with_all_that_is_known() -> None:
    found = decided(agent(ended=[SAVED]), status=ASKED, now=at(3))
    status = found.status
    assert (status["phase"], status["reason"], found.wake_at) == ("Succeeded", "Saved", None)
    assert (status["checkpoint"]["step"], status["checkpoint"]["url"], status["size"]) == (8, URL, "2.0 KiB")
    assert (status["blockedSeconds"], status["conflictGuard"], status["durationSeconds"]) == (0.25, "Atomic", 3)
    assert message(found) == (
        "Saved step 8: 2.0 KiB in 2 files, saved by 2 ranks. It took 3s. Training stood still for 0.25 s."
    )
    # What is finished stays so, whatever is heard then.
    for agents in ((), (agent(ended=[EndedSave(id=ID)]),), (agent("g2"),)):
        assert decided(*agents, status=status, pods=(), now=at(9000)).status == status


def test_a_save_that_answers_two_says_whose_it_is() -> None:
    theirs = INFO.model_copy(update={"origin": ORIGIN.model_copy(update={"name": "other", "uid": "u9"})})
    ended = SAVED.model_copy(update={"checkpoint": theirs})
    assert message(decided(agent(ended=[ended]), status=ASKED)).endswith("One save answers this Checkpoint and other.")


@pytest.mark.adversary
def test_a_save_of_another_namespace_is_not_named() -> None:
    theirs = INFO.model_copy(update={"origin": Origin(namespace="secret", name="x", uid="u9")})
    found = decided(agent(ended=[SAVED.model_copy(update={"checkpoint": theirs})]), status=ASKED)
    assert "secret" not in str(found.status)


def lost(reason: Reason, text: str = "why", **fields: Any) -> EndedSave:
    return EndedSave(id=ID, failure=RankFailure(reason=reason, message=text, rank=1, **fields))


@pytest.mark.parametrize(
    ("ended", "phase", "reason", "says"),
    [
        pytest.param(lost(Reason.STORAGE_FULL), "Failed", "StorageFull", "why. Free space", id="a rank's failure"),
        pytest.param(lost(Reason.TARGET_REFUSED), "Failed", "TargetRefused", "why. Leave spec", id="refused"),
        pytest.param(
            lost(Reason.OVERWRITE_CONFLICT), "Conflict", "OverwriteConflict", "why. Write another", id="taken"
        ),
        pytest.param(EndedSave(id=ID), "Failed", "RankFailed", "neither what it saved", id="says nothing"),
    ],
)
def test_a_failure_ends_it(ended: EndedSave, phase: str, reason: str, says: str) -> None:
    found = decided(agent(ended=[ended]), status=ASKED, now=at(3))
    assert (found.status["phase"], found.status["reason"], found.wake_at) == (phase, reason, None)
    assert says in message(found)
    assert found.status["failure"]["pod"] == "rank0"


@pytest.mark.adversary
def test_a_save_to_another_url_than_was_asked_for_is_no_success() -> None:
    of = save({"spec.storage": {"url": "s3://bucket/run/mine"}})
    found = decided(agent(ended=[SAVED]), status=ASKED, of=of)
    assert (found.status["phase"], found.status["reason"]) == ("Failed", "TargetRefused")
    assert f"it saved to {URL}, and was asked for s3://bucket/run/mine" in message(found)


@pytest.mark.adversary
@pytest.mark.parametrize(
    "liar",
    [
        pytest.param(agent("g1", "forger", "u9", ended=[SAVED]), id="of another pod"),
        pytest.param(agent("g2", "rank1", "u1", ended=[SAVED]), id="of another group"),
        pytest.param(agent(ended=[SAVED.model_copy(update={"requested": False})]), id="not of a request"),
        pytest.param(agent(ended=[SAVED.model_copy(update={"id": f"{UID}/old"})]), id="of another run"),
    ],
)
def test_only_who_was_asked_answers(liar: ConnectedAgent) -> None:
    agents = [liar] if liar.pod == "rank0" else [liar, agent()]
    assert decided(*agents, status=ASKED).status["phase"] == "Running"


@pytest.mark.adversary
def test_a_run_id_that_comes_again_takes_no_earlier_outcome() -> None:
    """The agent may list it still, and has taken the request of that id once."""

    def of_run(run_id: str, generation: int) -> Checkpoint:
        return save({"spec.runId": run_id, "metadata.generation": generation})

    def request(of: Checkpoint, status: Mapping[str, Any]) -> str:
        written = Status.read(status)
        return request_id(of.origin, written.run_generation)

    first = of_run("a", 1)
    asked = decided(agent(), of=first).status
    ended = SAVED.model_copy(update={"id": request(first, asked)})
    done = decided(agent(ended=[ended]), of=first, status=asked).status
    assert done["phase"] == "Succeeded"
    between = decided(agent(ended=[ended]), of=of_run("b", 2), status=done).status
    again = of_run("a", 3)
    asked = decided(agent(ended=[ended]), of=again, status=between).status
    found = decided(agent(ended=[ended]), of=again, status=asked).status
    assert (found["runId"], found["phase"]) == ("a", "Running")
    assert request(again, found) != ended.id


@pytest.mark.adversary
def test_nobody_answers_before_he_is_asked() -> None:
    found = decided(agent(ended=[SAVED]))
    assert found.status["phase"] == "Running"


@pytest.mark.parametrize(
    ("agents", "pods", "now", "phase", "reason"),
    [
        pytest.param([agent()], PODS, 1, "Running", None, id="not taken yet"),
        pytest.param([agent(ends=True)], PODS, 1, "Failed", "TargetEnded", id="it ended first"),
        pytest.param([agent(ends=True, requests=[taken()])], PODS, 1, "Running", None, id="its last save"),
        pytest.param([], PODS, 1, "Running", None, id="not connected"),
        pytest.param([agent("g2", "rank1", "u1")], PODS, 1, "Running", None, id="another one beside it"),
        pytest.param([], PODS[1:], 1, "Running", None, id="its pod is gone"),
        pytest.param([agent("g2", "new", "u1")], PODS[1:], 1, "Failed", "TargetEnded", id="another one in its place"),
        pytest.param([agent("g2")], PODS, 1, "Failed", "TargetEnded", id="another one in its pod"),
        pytest.param([], (), 1, "Running", None, id="all pods are gone"),
        pytest.param([], (), 3601, "Failed", "DeadlineExceeded", id="too late"),
        pytest.param([agent(requests=[taken()])], PODS, 3601, "Failed", "DeadlineExceeded", id="it took too long"),
        pytest.param([agent(ended=[SAVED])], PODS, 3601, "Succeeded", "Saved", id="committed in time"),
    ],
)
def test_what_becomes_of_a_request(
    agents: list[ConnectedAgent], pods: Sequence[TargetPod], now: float, phase: str, reason: str | None
) -> None:
    found = decided(*agents, pods=pods, status=ASKED, now=at(now))
    assert (found.status["phase"], found.status.get("reason")) == (phase, reason)


def test_pods_that_do_not_come_back_end_it() -> None:
    gone = decided(pods=(), status=ASKED, now=at(5))
    assert gone.status["target"]["goneTime"] == "2026-11-24T08:00:05Z"
    assert decided(pods=(), status=gone.status, now=at(64)).status["phase"] == "Running"
    found = decided(pods=(), status=gone.status, now=at(65))
    assert (found.status["phase"], found.status["reason"]) == ("Failed", "TargetEnded")


@pytest.mark.parametrize(
    ("resumed", "phase"),
    [
        pytest.param(Resumed(url=URL, step=8, origin=ORIGIN), "Succeeded", id="from this save"),
        pytest.param(Resumed(url=URL, step=8), "Failed", id="from a save of its own"),
        pytest.param(Resumed(url=URL, origin=ORIGIN.model_copy(update={"run_id": "x"})), "Failed", id="another run"),
    ],
)
def test_the_next_training_knows_whether_a_lost_request_was_committed(resumed: Resumed, phase: str) -> None:
    found = decided(agent("g2", resumed_from=resumed), status=ASKED)
    assert found.status["phase"] == phase
    if phase == "Succeeded":
        assert (found.status["checkpoint"]["url"], found.status["checkpoint"]["step"]) == (URL, 8)
        assert "resumed from it" in found.status["warnings"][0]


def test_a_training_that_has_yet_to_load_says_nothing_of_it() -> None:
    starting = ConnectedAgent(
        pod="rank0", pod_uid="u0", state=AgentState(group="g2", prefix="s3://bucket/run"), heard=NOW
    )
    assert decided(starting, status=ASKED).status["phase"] == "Running"


def test_while_suspended_it_asks_for_nothing_and_a_commit_counts_all_the_same() -> None:
    of = save({"spec.suspend": True})
    for status in (None, ASKED):
        found = decided(agent(), status=status, of=of)
        assert (found.status["phase"], found.status["reason"]) == ("Suspended", "Suspended")
    assert decided(agent(ended=[SAVED]), status=found.status, of=of).status["phase"] == "Succeeded"
    # Time in which it was suspended does not count.
    later = decided(agent(), status=found.status, now=at(9000))
    assert later.status["phase"] == "Running"
    assert later.status["target"]["group"] == "g1"


def test_another_run_asks_anew() -> None:
    done = decided(agent(ended=[SAVED]), status=ASKED).status
    again = decided(agent(), status=done, of=save({"spec.runId": "again"}), now=at(60))
    assert (again.status["phase"], again.status["runId"]) == ("Running", "again")
    assert "checkpoint" not in again.status


@pytest.mark.adversary
def test_a_target_that_can_not_be_read_is_left_alone() -> None:
    found = decided(agent(), status=ASKED | {"target": "newer"})
    assert found.status == ASKED | {"target": "newer"}
    assert found.events[0].reason == "StatusUnreadable"
