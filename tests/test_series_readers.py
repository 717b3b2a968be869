"""What a series knows of those who read or keep what it has saved, whatever comes late or is spelt in another way."""

import asyncio
from typing import Any

import pytest

from dcp_operator.api.naming import API_VERSION
from dcp_operator.kube.client.api import CHECKPOINTS, SERIES, UnavailableError
from dcp_operator.kube.loop.queue import RetryLaterError
from fake_api import FakeApi, checkpoints, seen
from scenes import NOW, manifest
from series_scenes import SERIES_UID, hours, run, series_manifest
from test_series_latest import KEY, LOAD, OWNER, saved


@pytest.mark.adversary
@pytest.mark.parametrize(
    "earlier", [{}, {"runId": "1", "source": {"series": "nightly", "name": "x", "url": "s3://x/y"}}]
)
def test_what_is_looked_up_is_kept_though_the_load_changes_before_its_status_says_so(earlier: dict[str, Any]) -> None:
    async def scenario() -> None:
        api = FakeApi()
        api.add(SERIES, series_manifest())
        url = saved(api, 1)
        api.add(CHECKPOINTS, manifest({**LOAD, "spec.runId": "2"}) | {"status": earlier})
        reconciler = checkpoints(api, now=lambda: NOW)
        seen(api, reconciler)
        object.__setattr__(api, "refuse", lambda request: UnavailableError("away") if request.method == "PUT" else None)
        with pytest.raises(RetryLaterError):
            await reconciler(KEY)
        there = api.objects[CHECKPOINTS.path("team", "load")]
        api.add(CHECKPOINTS, there | {"metadata": there["metadata"] | {"labels": {"a": "b"}}})
        seen(api, reconciler)
        assert reconciler.series.of("team", SERIES_UID).readers == {url: ("load",)}
        object.__setattr__(api, "refuse", lambda _: None)
        await reconciler(KEY)
        seen(api, reconciler)
        assert reconciler.series.of("team", SERIES_UID).readers == {url: ("load",)}
        assert reconciler.series._reserved == {}

    asyncio.run(scenario())


@pytest.mark.adversary
def test_a_reader_is_known_whether_its_url_says_the_account_or_not() -> None:
    async def scenario() -> None:
        api = FakeApi()
        api.add(SERIES, series_manifest())
        name = run(1).name
        body = manifest({"metadata.name": name, "metadata.uid": f"uid-{name}", "spec.storage": {"url": "az://c/run"}})
        body["metadata"]["ownerReferences"] = [OWNER]
        done = {"phase": "Succeeded", "reason": "Saved", "completionTime": "2026-11-24T09:30:00Z"}
        api.add(CHECKPOINTS, body | {"status": {**done, "checkpoint": {"url": "az://c/run", "saveId": "a"}}})
        load = {**LOAD, "spec.storage": {"url": "abfs://c@account.dfs.core.windows.net/run"}}
        api.add(CHECKPOINTS, manifest(load))
        reconciler = checkpoints(api, now=lambda: NOW)
        seen(api, reconciler)
        assert reconciler.series.of("team", SERIES_UID).readers == {"az://c/run": ("load",)}

    asyncio.run(scenario())


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("changes", "status", "known"),
    [
        pytest.param({}, {}, True, id="by hand"),
        pytest.param(
            {"metadata.ownerReferences": [OWNER | {"name": "hourly", "uid": "u2"}]}, {}, True, id="of another"
        ),
        pytest.param({"metadata.ownerReferences": [OWNER]}, {}, False, id="of the series itself"),
        pytest.param({"metadata.deletionTimestamp": "2026-11-24T09:30:00Z"}, {}, False, id="being deleted"),
        pytest.param({"metadata.namespace": "other"}, {}, False, id="elsewhere"),
        pytest.param({"spec.operation": "Verify", "spec.workload": None}, {}, False, id="a Verify of it"),
        pytest.param({"spec.runId": "again"}, {}, False, id="asked for again"),
        pytest.param({}, {"saveId": "of another save"}, False, id="another save"),
    ],
)
def test_who_has_saved_the_same_is_known(changes: dict[str, Any], status: dict[str, Any], known: bool) -> None:  # noqa: FBT001 - a row of the table
    async def scenario() -> None:
        api = FakeApi()
        api.add(SERIES, series_manifest())
        url = saved(api, 1)
        body = manifest(
            {"metadata.name": "other", "metadata.uid": "uid-other", "spec.storage": {"url": url}, **changes}
        )
        done = {"phase": "Succeeded", "reason": "Saved", "completionTime": f"{hours(2):%Y-%m-%dT%H:%M:%SZ}"}
        info = {"url": f"{url}/", "saveId": "id-1", **status}
        api.add(CHECKPOINTS, body | {"status": {**done, "checkpoint": info}})
        reconciler = checkpoints(api, now=lambda: NOW)
        seen(api, reconciler)
        found = reconciler.series.of("team", SERIES_UID).others
        assert list(found.values()) == (["other"] if known else [])
        if changes.get("metadata.ownerReferences", [OWNER]) != [OWNER]:
            # A Delete of the other series is under way: then it keeps nothing any more.
            spec = {"operation": "Delete", "storage": {"url": url}, "delete": {"saveId": "id-1"}}
            gone = {"apiVersion": API_VERSION, "kind": "Checkpoint", "spec": spec}
            owners = changes["metadata.ownerReferences"]
            names = {"name": "hourly-delete-1", "namespace": "team", "uid": "uid-delete", "ownerReferences": owners}
            api.add(CHECKPOINTS, gone | {"metadata": names})
            seen(api, reconciler)
            assert reconciler.series.of("team", SERIES_UID).others == {}

    asyncio.run(scenario())
