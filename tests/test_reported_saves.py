"""A save that a training made by itself, from its report to the Checkpoint of a series: reconciles, channel and agent.

The API server is in memory, the channel is real, the agent is a model. The operator is ended at every request.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dcp_contract.training import EndedSave
from dcp_operator.api.json_types import Body
from dcp_operator.api.naming import REPORTED_LABEL, SERIES_LABEL, report_name
from dcp_operator.controllers.series.adoption import LOST
from dcp_operator.controllers.target.reported import save_of
from dcp_operator.kube.client.api import CHECKPOINTS, SERIES, RefusedError
from fake_api import seen
from report_rig import KEY, LABELS, Api, Operator, operating, told
from report_scenes import ADOPTS
from series_scenes import SERIES_UID, series_manifest
from series_world import OperatorEndedError
from training_model import PREFIX, Store, Training


def refused_save(api: Api) -> Body:
    found: Body = (api.objects[SERIES.path("team", "nightly")].get("status") or {}).get("refusedSave") or {}
    return found


def run(test: Callable[[Api, str], Awaitable[None]], changes: dict[str, Any] | None = None) -> None:
    async def go() -> None:
        async with asyncio.timeout(60):
            api = Api()
            api.add(SERIES, series_manifest({**ADOPTS, "metadata.creationTimestamp": None, **(changes or {})}))
            await test(api, api.run_pod("rank0", labels=LABELS))

    asyncio.run(go())


async def speak(operator: Operator, bearer: str, training: Training, times: int = 1) -> None:
    """Have the agent post, and the operator work, some times."""
    agent = operator.agent(bearer)
    for _ in range(times):
        training.obey((await agent.post(training.state)).orders)
        await operator.work()
    await agent.close()


def the_one(api: Api, ended: EndedSave) -> Body:
    """Return the Checkpoint that tells of a save; there is no other one."""
    (found,) = told(api)
    assert found["metadata"]["name"] == report_name("nightly", ended.step, save_of(ended))
    return found


def test_a_save_becomes_a_checkpoint_and_then_the_agent_forgets_it() -> None:
    async def test(api: Api, bearer: str) -> None:
        training = Training(Store(), step=4)
        ended = training.save_itself()
        async with operating(api) as operator:
            assert operator.hub.namespaces == ["team"], "the certificates come without any Checkpoint"
            await speak(operator, bearer, training)
            assert training.ended, "the outcome is not written yet"
            await speak(operator, bearer, training, 2)
        assert training.ended == {}
        found = the_one(api, ended)
        assert found["metadata"]["labels"][SERIES_LABEL] == "nightly"
        status = found["status"]
        assert (status["phase"], status["reason"], status["size"], status["blockedSeconds"]) == (
            "Succeeded",
            "Saved",
            "64 B",
            0.5,
        )
        assert ended.checkpoint
        assert (status["checkpoint"]["saveId"], status["checkpoint"]["step"]) == (ended.checkpoint.save_id, 5)
        assert (status["durationSeconds"], status["ranks"], status["target"]["pod"]) == (1, "2", "rank0")
        assert status["conditions"][0]["message"].endswith("The training made it by itself.")
        latest = api.objects[SERIES.path("team", "nightly")]["status"]["latest"]
        assert (latest["url"], latest["step"]) == (f"{PREFIX}/step-5", 5)
        assert training.store.saves == [], "nothing was asked of the training"
        # A Load of the latest gets there with the credentials of the series.
        source = operator.checkpoints.series.latest("team", "nightly").source
        assert source
        assert (source.url, source.credentials_secret) == (f"{PREFIX}/step-5", "s3")

    run(test)


@pytest.mark.adversary
@pytest.mark.parametrize("answered", [True, False], ids=["heard", "unheard"])
@pytest.mark.parametrize("requests", range(6))
def test_an_operator_that_is_killed_at_any_request_ends_with_one_checkpoint(requests: int, *, answered: bool) -> None:
    async def test(api: Api, bearer: str) -> None:
        training = Training(Store(), step=4)
        ended = training.save_itself()
        async with operating(api) as operator:
            agent = operator.agent(bearer)
            training.obey((await agent.post(training.state)).orders)
            api.dies_after(requests, answered=answered)
            with suppress(OperatorEndedError):
                for _ in range(3):
                    await operator.work()
            api.lives()
            await agent.close()
        async with operating(api) as operator:
            await speak(operator, bearer, training, 4)
        assert the_one(api, ended)["status"]["phase"] == "Succeeded"
        assert training.ended == {}

    run(test)


@pytest.mark.adversary
@pytest.mark.parametrize("worked", range(4))
def test_an_agent_that_dies_leaves_no_checkpoint_that_waits_for_ever(worked: int) -> None:
    """Killed at each point of its report. What was not heard of in full is told of by nobody, and is on the store."""

    async def test(api: Api, bearer: str) -> None:
        training = Training(Store(), step=4)
        training.save_itself()
        async with operating(api) as operator:
            agent = operator.agent(bearer)
            await agent.post(training.state)
            seen(api, operator.series)
            if worked > 0:
                await operator.series(KEY)
            if worked > 1:
                await operator.work()
            if worked > 2:
                training.obey((await agent.post(training.state)).orders)
            await agent.close()
        api.end_pod("rank0")
        async with operating(api) as operator:
            await operator.work()
        assert [each.get("status", {}).get("phase") for each in told(api)] == [
            *([] if worked == 0 else ["Pending"] if worked == 1 else ["Succeeded"])
        ]
        async with operating(api, LOST + timedelta(seconds=1)) as operator:
            await operator.work()
        assert [each["status"]["phase"] for each in told(api)] == (["Succeeded"] if worked > 1 else [])

    run(test)


@pytest.mark.adversary
def test_a_foreign_url_is_refused_once_and_the_agent_goes_on() -> None:
    async def test(api: Api, bearer: str) -> None:
        training = Training(Store(), step=4)
        for _ in range(3):
            training.save_itself(f"{PREFIX}-of-others")
        own = training.save_itself()
        state = training.state.model_copy(update={"also": [f"{PREFIX}-of-others"]})
        async with operating(api) as operator:
            agent = operator.agent(bearer)
            api.writes()
            for _ in range(3):
                orders = (await agent.post(state)).orders
                training.obey(orders)
                state = state.model_copy(update={"ended": list(training.ended.values())})
                await operator.work()
            assert training.ended == {}
            assert the_one(api, own)["status"]["phase"] == "Succeeded"
            assert "outside of spec.storage.url" in refused_save(api)["message"]
            said = [each for each in operator.series.recorder._waiting._queue if each[1].reason == "SaveRefused"]  # type: ignore[attr-defined] # what no worker has posted
            assert len(said) == 1
            await agent.close()

    run(test)


@pytest.mark.adversary
@pytest.mark.parametrize("labels", [{}, {"batch.kubernetes.io/job-name": "other"}], ids=["no label", "another Job"])
def test_a_pod_that_is_none_of_the_target_is_not_believed(labels: dict[str, str]) -> None:
    async def test(api: Api, _: str) -> None:
        training = Training(Store(), step=4)
        training.save_itself()
        async with operating(api) as operator:
            await speak(operator, api.run_pod("other", labels=labels), training, 2)
        assert told(api) == []
        assert training.ended == {}, "no series takes it"

    run(test)


@pytest.mark.adversary
@pytest.mark.parametrize("controlled", [True, False])
@pytest.mark.parametrize("save", ["0" * 32, "", "x"])
def test_a_checkpoint_by_hand_that_claims_a_report_has_no_success(save: str, *, controlled: bool) -> None:
    """Nor does it ask the training for a save, or stand in the way of a run."""

    async def test(api: Api, bearer: str) -> None:
        owner = {"apiVersion": "dcp-operator.io/v1alpha1", "kind": "CheckpointSeries", "name": "nightly"}
        metadata = {
            "name": "nightly-step-9-00000000",
            "namespace": "team",
            "uid": "uid-forged",
            "labels": {REPORTED_LABEL: save},
            "ownerReferences": [owner | {"uid": SERIES_UID, "controller": controlled}],
        }
        spec = {"operation": "Save", "target": {"kind": "Job", "name": "train"}, "storage": {"url": f"{PREFIX}/step-9"}}
        api.add(CHECKPOINTS, {"metadata": metadata, "spec": spec})
        training = Training(Store(), step=4)
        training.save_itself()
        async with operating(api) as operator:
            await speak(operator, bearer, training, 3)
            runs = operator.series.observed(KEY, api.objects[SERIES.path("team", "nightly")])
            assert bool(runs.active) == (controlled and not save)
        forged = api.objects[CHECKPOINTS.path("team", "nightly-step-9-00000000")]
        if save:
            assert forged["status"]["phase"] == "Pending"
            assert training.taken == {}
        else:
            assert forged["status"]["phase"] == "Running", "without a label it is a request like any other"

    run(test)


def test_a_creation_that_is_refused_comes_again_and_the_save_is_not_lost() -> None:
    async def test(api: Api, bearer: str) -> None:
        training = Training(Store(), step=4)
        ended = training.save_itself()
        refusal = RefusedError("exceeded quota: none", 403)
        object.__setattr__(
            api, "refuse", lambda each: refusal if each.method == "POST" and each.path.endswith("checkpoints") else None
        )
        async with operating(api) as operator:
            await speak(operator, bearer, training, 3)
            assert (told(api), len(training.ended)) == ([], 1)
            # However often the agent comes, the API server is not asked again at once.
            object.__setattr__(api, "refuse", lambda _: None)
            await speak(operator, bearer, training, 3)
            assert (told(api), len(training.ended)) == ([], 1)
            operator.series.context.now = lambda: datetime.now(UTC) + timedelta(seconds=31)
            await speak(operator, bearer, training, 3)
        assert the_one(api, ended)["status"]["phase"] == "Succeeded"
        assert training.ended == {}

    run(test)


def test_a_series_that_goes_frees_its_agents() -> None:
    async def test(api: Api, bearer: str) -> None:
        training = Training(Store(), step=4)
        training.save_itself()
        refusal = RefusedError("exceeded quota: none", 403)
        object.__setattr__(
            api, "refuse", lambda each: refusal if each.method == "POST" and each.path.endswith("checkpoints") else None
        )
        async with operating(api) as operator:
            agent = operator.agent(bearer)
            await agent.post(training.state)
            await operator.work()
            held = asyncio.create_task(agent.post(training.state.model_copy(update={"hold_seconds": 25})))
            await asyncio.sleep(0)
            del api.objects[SERIES.path("team", "nightly")]
            seen(api, operator.series)
            training.obey((await asyncio.wait_for(held, 10)).orders)
            assert training.ended == {}
            await agent.close()

    run(test)
