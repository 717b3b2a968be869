"""A Load and a Verify of the latest of a series: looked up once, written down first, and the same for all attempts."""

import asyncio
from typing import Any

import pytest

from dcp_operator.api.checkpoint.parsing import parse
from dcp_operator.api.checkpoint.status import ReadSource, Status
from dcp_operator.api.naming import GROUP, REPORTED_LABEL
from dcp_operator.api.problems import SpecError
from dcp_operator.api.site import CLUSTER, LOCAL
from dcp_operator.controllers.checkpoint.latest import with_source
from dcp_operator.controllers.series.runs import SeriesRun
from dcp_operator.kube.client.api import CHECKPOINTS, JOBS, SERIES, UnavailableError
from dcp_operator.kube.loop.checkpoint import CheckpointReconciler
from dcp_operator.kube.loop.queue import RetryLaterError
from fake_api import FakeApi, checkpoints, seen, status
from named_store_scenes import PREFIX as STORE_PREFIX
from named_store_scenes import put_store
from report_scenes import ADOPTS, own, report
from scenes import NOW, manifest, stamp
from series_scenes import PREFIX, SERIES_UID, decided, hours, run, series, series_manifest
from series_world import save_id

LATEST = {"latestOf": {"series": "nightly"}}
LOAD = {"metadata.name": "load", "metadata.uid": "uid-load", "spec.operation": "Load", "spec.storage": LATEST}
KEY = CHECKPOINTS.key("team", "load")
OWNER = {
    "apiVersion": f"{GROUP}/v1alpha1",
    "kind": "CheckpointSeries",
    "name": "nightly",
    "uid": SERIES_UID,
    "controller": True,
}


def saved(api: FakeApi, hour: float, **storage: Any) -> str:
    """Add a run of the series that has saved; return its URL."""
    name = run(hour).name
    url = f"s3://bucket/run/{name}"
    body = manifest({"metadata.name": name, "metadata.uid": f"uid-{name}", "spec.storage": {"url": url, **storage}})
    body["metadata"]["ownerReferences"] = [OWNER]
    done = {"phase": "Succeeded", "reason": "Saved", "completionTime": f"{hours(hour + 0.5):%Y-%m-%dT%H:%M:%SZ}"}
    api.add(CHECKPOINTS, body | {"status": {**done, "checkpoint": {"url": url, "saveId": f"id-{hour}", "step": 7}}})
    return url


async def work(api: FakeApi, reconciler: CheckpointReconciler | None = None) -> CheckpointReconciler:
    """Let an operator look at the Load once; a new one, unless one is given."""
    reconciler = reconciler or checkpoints(api, now=lambda: NOW)
    seen(api, reconciler)
    await reconciler(KEY)
    return reconciler


def task_url(api: FakeApi) -> list[str]:
    jobs = [each for each in api.objects.values() if each["kind"] == "Job"]
    return [str(each["spec"]["template"]["spec"]["containers"][0]["env"]) for each in jobs]


def test_it_waits_for_the_series_then_for_its_first_checkpoint_then_reads_it() -> None:
    async def scenario() -> None:
        api = FakeApi()
        api.add(CHECKPOINTS, manifest(LOAD))
        reconciler = await work(api)
        assert (status(api, KEY)["phase"], status(api, KEY)["reason"]) == ("Pending", "SeriesNotFound")
        api.add(SERIES, series_manifest())
        await work(api, reconciler)
        assert status(api, KEY)["reason"] == "NothingSaved"
        url = saved(api, 1)
        # Written down first, created then: each time by an operator that has only just begun.
        await work(api)
        assert (status(api, KEY)["source"]["url"], api.names(JOBS)) == (url, [])
        newer = saved(api, 2)
        await work(api)
        (task,) = task_url(api)
        assert url in task
        assert newer not in task
        assert status(api, KEY)["source"] == {
            "series": "nightly",
            "name": run(1).name,
            "url": url,
            "saveId": "id-1",
            "step": 7,
        }

    asyncio.run(scenario())


def test_it_is_woken_by_what_it_waits_for() -> None:
    async def scenario() -> None:
        api, woken = FakeApi(), list[object]()
        api.add(CHECKPOINTS, manifest(LOAD))
        reconciler = await work(api)
        reconciler.series.wake = woken.append
        for add in (lambda: api.add(SERIES, series_manifest()), lambda: saved(api, 1)):
            woken.clear()
            add()
            seen(api, reconciler)
            assert KEY in woken
        await work(api, reconciler)
        woken.clear()
        saved(api, 2)
        seen(api, reconciler)
        assert KEY not in woken, "what was looked up stays"

    asyncio.run(scenario())


@pytest.mark.adversary
def test_what_it_reads_is_kept_from_the_moment_that_it_looked() -> None:
    """A retention that decides while the status is on its way leaves it; what has ended keeps nothing."""

    async def scenario() -> None:
        api = FakeApi()
        api.add(SERIES, series_manifest())
        url = saved(api, 1)
        api.add(CHECKPOINTS, manifest(LOAD))
        reconciler = checkpoints(api, now=lambda: NOW)
        seen(api, reconciler)
        object.__setattr__(api, "refuse", lambda request: UnavailableError("away") if request.method == "PUT" else None)
        with pytest.raises(RetryLaterError):
            await reconciler(KEY)
        assert reconciler.series.of("team", SERIES_UID).readers == {url: ("load",)}
        object.__setattr__(api, "refuse", lambda _: None)
        done = {"phase": "Failed", "reason": "InvalidSpec", "completionTime": "2026-11-24T08:00:00Z"}
        api.add(CHECKPOINTS, manifest(LOAD) | {"status": done})
        await work(api, reconciler)
        assert reconciler.series.of("team", SERIES_UID).readers == {url: ()}

    asyncio.run(scenario())


def test_another_run_looks_anew() -> None:
    async def scenario() -> None:
        api = FakeApi()
        api.add(SERIES, series_manifest())
        saved(api, 1)
        old = ReadSource(series="nightly", name="x", url="s3://bucket/run/old").to_dict()
        finished = {"phase": "Succeeded", "reason": "Loaded", "completionTime": "2026-11-24T08:00:00Z", "source": old}
        api.add(CHECKPOINTS, manifest({**LOAD, "spec.runId": "2"}) | {"status": finished})
        await work(api)
        assert status(api, KEY)["source"]["name"] == run(1).name

    asyncio.run(scenario())


def test_how_it_was_saved_is_how_it_is_read_unless_the_spec_says_otherwise() -> None:
    source = ReadSource(
        series="nightly",
        name="n",
        url="s3://bucket/run/1",
        options={"region": "eu", "endpointUrl": "https://a.example"},
        credentials_secret="writer",
        ca_secret="ca",
    )
    found = with_source(parse(manifest(LOAD)), Status(source=source)).spec.storage
    assert found.url == "s3://bucket/run/1"
    assert found.options == {"region": "eu", "endpointUrl": "https://a.example"}
    assert found.credentials_secret_ref is not None
    assert found.ca_secret_ref is not None
    assert (found.credentials_secret_ref.name, found.ca_secret_ref.name) == ("writer", "ca")
    own = {**LOAD, "spec.storage": {**LATEST, "options": {"region": "us"}, "credentialsSecretRef": {"name": "reader"}}}
    found = with_source(parse(manifest(own)), Status(source=source)).spec.storage
    assert found.options == {"region": "us", "endpointUrl": "https://a.example"}
    assert found.credentials_secret_ref is not None
    assert found.credentials_secret_ref.name == "reader"


@pytest.mark.adversary
def test_what_is_wrong_with_what_was_found_is_said() -> None:
    """A path of a volume that the Load does not mount; an option that the store does not have."""

    async def scenario() -> None:
        api = FakeApi()
        api.add(SERIES, series_manifest())
        saved(api, 1)
        storage = {**LATEST, "options": {"accountName": "x"}}
        api.add(CHECKPOINTS, manifest({**LOAD, "spec.storage": storage}))
        await work(api)
        assert (status(api, KEY)["phase"], status(api, KEY)["reason"]) == ("Failed", "InvalidSpec")
        assert "spec.storage.options.accountName: is not an option of this protocol" in str(status(api, KEY))
        assert api.names(JOBS) == []

    asyncio.run(scenario())


@pytest.mark.adversary
def test_a_checkpoint_that_is_only_labelled_is_not_read() -> None:
    async def scenario() -> None:
        api = FakeApi()
        api.add(SERIES, series_manifest())
        url = saved(api, 1)
        body = api.objects[CHECKPOINTS.path("team", run(1).name)]
        forged = {key: value for key, value in body["metadata"].items() if key != "ownerReferences"}
        api.add(CHECKPOINTS, body | {"metadata": forged | {"labels": {f"{GROUP}/series": "nightly"}}})
        api.add(CHECKPOINTS, manifest(LOAD))
        await work(api)
        assert status(api, KEY)["reason"] == "NothingSaved"
        assert url not in str(status(api, KEY))

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"spec.storage": {**LATEST, "url": "s3://bucket/x"}}, "spec.storage: has url and latestOf; write one of them"),
        ({"spec.storage": {}}, "spec.storage.url: is missing; write one such as s3://"),
        ({"spec.operation": "Save"}, "spec.storage.latestOf: is for a Load or a Verify, and this is a Save; write url"),
        ({"spec.storage": {"latestOf": {}}}, "spec.storage.latestOf.series: is missing; write series: ..."),
        (
            {"spec.storage": {"latestOf": {"series": "No"}}},
            "spec.storage.latestOf.series: does not have the right form",
        ),
    ],
)
def test_what_is_wrong(changes: dict[str, Any], said: str) -> None:
    assert parse(manifest(LOAD), site=CLUSTER).spec.storage.latest_of is not None
    with pytest.raises(SpecError) as caught:
        parse(manifest({**LOAD, **changes}), site=CLUSTER)
    assert said in str(caught.value)


def test_on_one_machine_there_is_no_series() -> None:
    with pytest.raises(SpecError, match="latestOf: names a series in a cluster; write url"):
        parse(manifest(LOAD), site=LOCAL)


@pytest.mark.parametrize(
    ("steps", "committed", "ended", "latest"),
    [
        pytest.param((9, 10), (None, None), (0, 0), 10, id="two that are told of in one second"),
        pytest.param((9, 10), (-2, -1), (0, -0.5), 10, id="one that was heard of late"),
        pytest.param((9, 10), (-1, -2), (0, 0), 9, id="a training that went back"),
        pytest.param((9, 10), (5, -1), (-0.5, 0), 9, id="a clock that is ahead"),
    ],
)
def test_the_latest_is_what_was_committed_last_whenever_it_is_heard_of(
    steps: tuple[int, int], committed: tuple[float | None, float | None], ended: tuple[float, float], latest: int
) -> None:
    """An operator that was away hears of several saves at once, and of those that it asked for first."""
    there = []
    for step, said, over in zip(steps, committed, ended, strict=True):
        checkpoint = {"url": f"{PREFIX}/step-{step}", "saveId": save_id(f"step-{step}"), "step": step}
        checkpoint |= {"createdTime": stamp(3600 * said)} if said is not None else {}
        status = {"phase": "Succeeded", "runId": "", "completionTime": stamp(3600 * over), "checkpoint": checkpoint}
        metadata = {"name": report(own(step)).name, "uid": f"u{step}", "labels": {REPORTED_LABEL: save_id(str(step))}}
        body = {"metadata": metadata, "spec": {"operation": "Save", "target": {"kind": "Job", "name": "train"}}}
        there.append(SeriesRun.of(body | {"status": status}, "nightly"))
    for runs in (there, there[::-1]):
        assert decided(*runs, of=series(ADOPTS)).status["latest"]["step"] == latest


def test_what_was_saved_in_a_store_is_read_by_the_keys_that_the_store_has_now() -> None:
    """A Secret was renewed under another name after the run had ended: of that nobody looks the store up again."""

    async def scenario() -> None:
        api = FakeApi()
        api.add(SERIES, series_manifest())
        put_store(api, credentialsSecretRef={"name": "keys"})
        url = saved(api, 1)
        at = CHECKPOINTS.path("team", run(1).name)
        path = url.removeprefix("s3://bucket/")
        place = {"name": "bucket", "url": f"{STORE_PREFIX}/{path}", "credentialsSecret": "keys"}
        body = api.objects[at]
        storage = {"store": {"name": "bucket"}, "path": path}
        info = body["status"]["checkpoint"] | {"url": place["url"]}
        in_store = {"spec": body["spec"] | {"storage": storage}}
        api.add(CHECKPOINTS, body | in_store | {"status": body["status"] | {"store": place, "checkpoint": info}})
        reconciler = checkpoints(api, now=lambda: NOW)
        seen(api, reconciler)
        put_store(api, generation=2, credentialsSecretRef={"name": "renewed"})
        api.add(CHECKPOINTS, manifest(LOAD))
        await work(api, reconciler)
        source = status(api, KEY)["source"]
        assert (source["url"], source["series"], source["credentialsSecret"]) == (place["url"], "nightly", "renewed")

    asyncio.run(scenario())
