"""A Checkpoint that tells of a save which a training made by itself, as tables: what it becomes, and by whose word."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import pytest

from dcp_contract.checkpoint_info import CheckpointInfo, Origin
from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.parsing import parse
from dcp_operator.api.naming import REPORTED_LABEL
from dcp_operator.controllers.checkpoint.actions import CheckpointDecision
from dcp_operator.controllers.target.decide import decide_target
from dcp_operator.controllers.target.observed import ConnectedAgent, ObservedTarget, TargetPod
from dcp_operator.controllers.target.reported import save_of
from report_scenes import agent, failed, own
from scenes import NOW, at, manifest
from series_scenes import PREFIX
from target_cases import TARGETED

URL: Final = f"{PREFIX}/step-5"


def decided(
    *agents: ConnectedAgent,
    save: str = save_of(own(5)),
    url: str = URL,
    status: Mapping[str, Any] | None = None,
    now: float = 0,
    **spec: Any,
) -> CheckpointDecision:
    changes = {**TARGETED, "spec.storage": {"url": url}, "metadata.labels": {REPORTED_LABEL: save}}
    changes |= {f"spec.{name}": value for name, value in spec.items()}
    pods = [TargetPod(name="rank0", uid="u0")]
    return decide_target(parse(manifest(changes)), ObservedTarget(pods=pods, agents=agents), status, at(now))


def message(decision: CheckpointDecision) -> str:
    found: str = next(each["message"] for each in decision.status["conditions"] if each["type"] == "Ready")
    return found


def test_it_becomes_what_the_agent_reports() -> None:
    found = decided(agent(own(5)))
    status = found.status
    assert (status["phase"], status["reason"], found.wake_at) == ("Succeeded", "Saved", None)
    assert (status["checkpoint"]["url"], status["checkpoint"]["step"], status["size"]) == (URL, 5, "2.0 KiB")
    assert (status["blockedSeconds"], status["durationSeconds"], status["ranks"]) == (0.25, 2, "2")
    assert status["target"] == {"name": "Job train", "group": "g1", "pod": "rank0", "podUid": "u0", "world": 2}
    assert message(found) == (
        "Saved step 5: 2.0 KiB in 2 files, saved by 2 ranks. It took 2s. Training stood still for 0.25 s. "
        "The training made it by itself."
    )
    # It stays so, whatever is heard then.
    for later in ((), (agent(failed(5)),)):
        assert decided(*later, status=status, now=9000).status == status


@pytest.mark.parametrize(
    ("reason", "phase"), [(Reason.STORAGE_FULL, "Failed"), (Reason.OVERWRITE_CONFLICT, "Conflict")]
)
def test_a_save_that_failed_has_failed(reason: Reason, phase: str) -> None:
    found = decided(agent(failed(5, reason)), save=save_of(failed(5)))
    assert (found.status["phase"], found.status["reason"]) == (phase, reason)
    assert found.status["failure"]["pod"] == "rank0"
    assert "spec.runId" not in message(found), "nothing can be asked once more"


@pytest.mark.adversary
@pytest.mark.parametrize(
    "agents",
    [
        pytest.param((), id="nobody"),
        pytest.param((agent(),), id="no report"),
        pytest.param((agent(own(6)),), id="of another save"),
        pytest.param((agent(own(5), labels={}),), id="from a pod that is none of the target"),
        pytest.param((agent(own(5).model_copy(update={"requested": True})),), id="of a request"),
    ],
)
def test_without_that_very_report_it_waits_and_asks_nobody(agents: tuple[ConnectedAgent, ...]) -> None:
    found = decided(*agents)
    assert (found.status["phase"], found.wake_at) == ("Pending", NOW + timedelta(seconds=10))
    assert "group" not in found.status["target"], "nobody is asked"
    assert message(found) == "No agent of Job train reports this save now."
    # It does not wait for ever, should the series not delete it.
    late = decided(*agents, status=found.status, now=3601)
    assert (late.status["phase"], late.status["reason"]) == ("Failed", "DeadlineExceeded")


@pytest.mark.adversary
def test_a_report_of_another_place_is_no_success() -> None:
    found = decided(agent(own(5)), url=f"{PREFIX}/step-6")
    assert (found.status["phase"], found.status["reason"]) == ("Failed", "TargetRefused")


@pytest.mark.adversary
def test_a_label_that_is_added_to_a_request_takes_no_answer_away() -> None:
    asked = {"runId": "", "phase": "Running", "target": {"name": "Job train", "group": "g1", "podUid": "u0"}}
    found = decided(agent(own(5)), status=asked)
    assert found.status["phase"] == "Running"


def test_a_path_is_the_same_place_with_or_without_its_protocol() -> None:
    found = decided(agent(own(5, "/mnt/run/step-5")), url="file:///mnt/run/step-5")
    assert (found.status["phase"], found.status["checkpoint"]["url"]) == ("Succeeded", "file:///mnt/run/step-5")


@pytest.mark.adversary
def test_names_of_other_namespaces_are_not_repeated() -> None:
    theirs = CheckpointInfo(url=URL, save_id="0" * 32, origin=Origin(namespace="secret", name="x", uid="u"))
    ended = own(5, checkpoint=theirs)
    found = decided(agent(ended), save=save_of(ended))
    assert found.status["phase"] == "Succeeded"
    assert "secret" not in str(found.status)


def test_while_it_waits_a_suspended_one_stays_suspended_and_a_report_counts() -> None:
    found = decided(suspend=True)
    assert found.status["phase"] == "Suspended"
    assert decided(agent(own(5)), suspend=True, status=found.status).status["phase"] == "Succeeded"
