"""A Save that an eviction waits for: where any other Save would wait for the training, it ends."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

import pytest

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.reasons import Reason
from dcp_contract.training import Resumed, SaveStage, TakenRequest
from dcp_operator.controllers.target.choice import CONNECTING
from dcp_operator.controllers.target.decide import decide_target
from dcp_operator.controllers.target.observed import ConnectedAgent, TargetPod
from dcp_operator.kube.channel.hub import Hub
from dcp_operator.kube.channel.targets import TargetReader
from dcp_operator.kube.client.api import ObjectKey
from dcp_operator.kube.view.adopting_series import AdoptingSeries
from dcp_operator.kube.view.cache import Cache
from dcp_operator.kube.view.series_runs import SeriesRuns
from dcp_operator.kube.view.targeted_saves import TargetedSaves
from scenes import at
from test_target import ORIGIN, PODS, URL, agent, decided, save, taken

if TYPE_CHECKING:
    from dcp_operator.kube.client.reads import Reads

BEFORE_DISRUPTION: Final = {"metadata.labels": {"dcp-operator.io/disruption": "true"}}


@pytest.mark.parametrize(
    ("agents", "pods", "served", "reason"),
    [
        pytest.param([], (), True, Reason.TARGET_NOT_FOUND, id="no pod"),
        pytest.param([], PODS, True, Reason.TARGET_NOT_LISTENING, id="silent"),
        pytest.param([agent(uid="other")], PODS, True, Reason.TARGET_NOT_LISTENING, id="another's agent"),
        pytest.param([agent(), agent("g2", "rank1", "u1")], PODS, True, Reason.TARGET_AMBIGUOUS, id="two"),
        pytest.param([], PODS, False, Reason.NOT_ENABLED, id="no channel"),
    ],
)
def test_a_save_that_an_eviction_waits_for_waits_for_nobody(
    agents: list[ConnectedAgent], pods: Sequence[TargetPod], *, served: bool, reason: Reason
) -> None:
    found = decided(*agents, pods=pods, served=served, of=save(BEFORE_DISRUPTION), served_since=at(-61))
    assert (found.status["phase"], found.status["reason"]) == ("Failed", reason)


def test_an_eviction_waits_for_agents_that_may_come_and_for_a_training_that_ends() -> None:
    of = save(BEFORE_DISRUPTION)
    early = decided(of=of, served_since=at(-59))
    assert (early.status["phase"], early.status["reason"]) == ("Pending", "TargetNotListening")
    ending = decided(agent(ends=True), of=of, served_since=at(-500))
    assert (ending.status["phase"], ending.status["reason"]) == ("Pending", "TargetNotListening")
    # One that is there is asked, as by any other Save.
    assert decided(agent(), of=of).status["phase"] == "Running"


def test_a_replica_that_stops_answering_does_not_conclude_that_nobody_listens() -> None:
    """It forgets the agents while a decision is under way: the replica that takes over hears them."""
    cache, woken = Cache(), list[ObjectKey]()
    hub = Hub(TargetedSaves(cache), AdoptingSeries(cache, SeriesRuns(woken.append)), woken.append)
    hub.since = datetime.now(UTC) - 2 * CONNECTING

    class Stops:
        async def running_pods(self, namespace: str, selector: str) -> list[dict[str, Any]]:
            hub.close()
            return [{"name": each.name, "uid": each.uid} for each in PODS]

    of = save(BEFORE_DISRUPTION)
    assert of.spec.target is not None
    observed = asyncio.run(TargetReader(cast("Reads", Stops()), hub).of("team", of.spec.target))
    found = decide_target(of, observed, {}, datetime.now(UTC))
    assert (found.status["phase"], found.status["reason"]) == ("Pending", "TargetNotListening")


def test_what_stands_on_the_store_is_not_saved_again_before_a_disruption() -> None:
    of, newest = save(BEFORE_DISRUPTION), CheckpointInfo(url=URL, save_id="s1", step=7)
    # The step that the agent named is as old as its last word: it is asked.
    asked = decided(agent(), of=of, newest=newest).status
    assert asked["phase"] == "Running"
    waiting = agent(requests=[taken()])
    found = decided(waiting, of=of, newest=newest, status=asked)
    assert (found.status["phase"], found.status["reason"]) == ("Succeeded", Reason.SAVED)
    assert (found.status["checkpoint"]["url"], found.status["checkpoint"]["saveId"]) == (URL, "s1")
    assert "has ended no step since" in found.status["warnings"][0]
    resumed = agent(requests=[taken()], resumed_from=Resumed(url=URL, step=7, origin=ORIGIN))
    assert decided(resumed, of=of, status=asked).status["checkpoint"]["url"] == URL


@pytest.mark.parametrize(
    ("request_", "step", "changes"),
    [
        pytest.param(taken(), 6, BEFORE_DISRUPTION, id="another step"),
        pytest.param(taken(step=8), 7, BEFORE_DISRUPTION, id="the ranks have agreed"),
        pytest.param(taken(SaveStage.SAVING, step=8), 7, BEFORE_DISRUPTION, id="saving"),
        pytest.param(taken(), 7, {}, id="somebody asks for it"),
    ],
)
def test_what_is_new_or_asked_for_is_saved(request_: TakenRequest, step: int, changes: dict[str, Any]) -> None:
    of, newest = save(changes), CheckpointInfo(url=URL, save_id="s1", step=step)
    asked = decided(agent(), of=of).status
    found = decided(agent(requests=[request_]), of=of, newest=newest, status=asked)
    assert found.status["phase"] == "Running"
