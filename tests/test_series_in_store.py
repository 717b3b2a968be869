"""A series that saves below a store: its runs name the store, and its retention removes where they have saved."""

import asyncio
from typing import Any

import pytest

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_operator.api.problems import SpecError
from dcp_operator.api.series.parsing import parse
from dcp_operator.api.series.spec import Series
from dcp_operator.api.series.status import SeriesStatus
from dcp_operator.api.store.resolving import StoreState, resolved
from dcp_operator.controllers.series.adoption import Adoption, adopt, heard, is_settled, means_to_remove, removes_for
from dcp_operator.controllers.series.runs import Runs
from dcp_operator.kube.client.api import CHECKPOINTS
from named_store_scenes import PREFIX, put_store
from report_scenes import ADOPTS, agent, own
from scenes import NOW
from series_scenes import hours, series_manifest
from series_world import KEY, World, save_id

IN_STORE = {"spec.storage": {"store": {"name": "bucket"}, "path": "nightly"}}
FIRST = "nightly-20261124-090000"


class NoStores:
    """There is none."""

    def of(self, namespace: str, name: str) -> StoreState | None:
        del namespace, name
        return None


def of_store(changes: dict[str, Any] | None = None) -> Series:
    """Return a series whose store is not there."""
    return parse(resolved(series_manifest({**IN_STORE, **(changes or {})}), NoStores()))


def test_each_run_names_the_store_also_before_it_is_there() -> None:
    async def scenario() -> None:
        world = World(IN_STORE)
        await world.work()
        await world.work(hours(1))
        place = {"store": {"name": "bucket"}, "path": "nightly/20261124-090000"}
        assert world.checkpoint(FIRST)["spec"]["storage"] == place
        assert world.series["spec"]["storage"] == IN_STORE["spec.storage"]
        world.woken.clear()
        put_store(world.api)
        world.hear()
        assert {KEY, CHECKPOINTS.key("team", FIRST)} <= set(world.woken)

    asyncio.run(scenario())


@pytest.mark.parametrize("read_only", [False, True])
def test_a_retention_removes_where_a_run_has_saved_by_the_keys_of_the_store(*, read_only: bool) -> None:
    async def scenario() -> None:
        world = World({**IN_STORE, "spec.retention": {"last": 1}})
        put_store(world.api, credentialsSecretRef={"name": "keys"}, options={"region": "eu"})
        world.hear()
        urls = []
        for hour in (1, 2):
            await world.work(hours(hour))
            world.hear()
            name = max(world.names)
            urls.append(f"{PREFIX}/nightly/{name.removeprefix('nightly-')}")
            place = {"name": "bucket", "url": urls[-1], "options": {"region": "eu"}, "credentialsSecret": "keys"}
            info = CheckpointInfo(url=urls[-1], save_id=save_id(name), step=hour).to_dict()
            world.end(name, "Succeeded", store=place, checkpoint=info)
            world.hear()
        put_store(
            world.api, generation=2, credentialsSecretRef={"name": "renewed"}, options={"region": "eu"},
            accessMode="ReadOnly" if read_only else "ReadWrite",
        )  # fmt: skip
        world.hear()
        await world.work(hours(2.5))
        removals = [each for each in world.names if world.checkpoint(each)["spec"]["operation"] == "Delete"]
        if read_only:
            (kept,) = [each for each in world.status["retention"]["kept"] if each["name"] == FIRST]
            assert (removals, kept["reasons"]) == ([], "store bucket is ReadOnly")
        else:
            (removal,) = removals
            access = {"options": {"region": "eu"}, "credentialsSecretRef": {"name": "renewed"}}
            assert world.checkpoint(removal)["spec"]["storage"] == {"url": urls[0], **access}

    asyncio.run(scenario())


def test_what_a_training_saves_waits_while_nobody_knows_where_that_is() -> None:
    adopts = {**ADOPTS, "spec.retention": {"last": 1}, **IN_STORE}
    found, ended = of_store(adopts), own(100)
    speaks = agent(ended, keeps=True)
    runs = Runs(heard=heard(found, [speaks]))
    assert len(runs.heard) == 1
    assert adopt(found, runs, SeriesStatus(), NOW) == Adoption()
    assert removes_for(found, speaks)
    assert not is_settled(found, runs, SeriesStatus(), speaks, ended, NOW)


def test_no_agent_removes_what_may_be_pinned_while_spec_and_store_are_both_amiss() -> None:
    body = series_manifest({**ADOPTS, "spec.retention": {"last": 1}, **IN_STORE, "spec.every": "nonsense"})
    found, target = resolved(body, NoStores()), of_store({**ADOPTS, **IN_STORE}).spec.template.spec.target
    with pytest.raises(SpecError):
        parse(found)
    assert means_to_remove(found, target, agent())
    assert not means_to_remove(found, target, agent(labels={"app": "another"}))


@pytest.mark.parametrize(
    ("storage", "problem"),
    [
        ({"store": {"name": "a"}, "path": "../b"}, "spec.storage.path: is no path below a store;"),
        ({"store": {"name": "a"}}, "spec.storage.path: is missing;"),
        ({"store": {"name": "a"}, "path": "b", "url": "s3://a/b"}, "spec.storage.url: stands in the store;"),
        ({"options": {}}, "spec.storage.url: is missing; write one such as s3://bucket/run"),
        ({"path": "9" * 497}, "spec.storage.path: "),
    ],
)
def test_what_is_wrong_with_it_is_said_by_field(storage: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError) as found:
        of_store({"spec.storage": storage})
    assert [each for each in found.value.problems if each.startswith(problem)]


def test_a_load_of_a_series_may_name_a_store_too() -> None:
    reads = {"operation": "Verify", "storage": {"store": {"name": "bucket"}, "path": "run/step-1"}}
    found = of_store({"spec.storage": None, "spec.template.spec": reads})
    assert found.spec_of_run(hours(1))["storage"] == reads["storage"]


def test_the_longest_prefix_leaves_room_for_each_run() -> None:
    found = of_store({"spec.storage": {"path": "9" * 496}})
    assert len(found.spec_of_run(hours(1))["storage"]["path"]) == 512


def test_a_store_that_changes_takes_no_run_from_its_series() -> None:
    """What is looked up again comes from the cache, which keeps little of an object."""

    async def scenario() -> None:
        world = World(IN_STORE)
        put_store(world.api)
        world.hear()
        await world.work(hours(1))
        world.hear()
        assert world.names == [FIRST]
        put_store(world.api, generation=2, credentialsSecretRef={"name": "renewed"})
        world.hear()
        (run,) = world.reconciler.runs.of("team", world.series["metadata"]["uid"]).active
        assert (run.name, run.url) == (FIRST, f"{PREFIX}/nightly/20261124-090000")
        await world.work(hours(2))
        # The run of the first hour has not ended, and the policy is Forbid.
        assert world.names == [FIRST]

    asyncio.run(scenario())
