"""Who waits for whom on one URL: Saves, Loads, Verifies, Deletes. Which of two goes first is in test_url_claims.py."""

import asyncio
from dataclasses import replace

import pytest

from dcp_contract.reasons import Reason
from dcp_contract.report import Report
from dcp_operator.api.checkpoint.status import ReadSource
from dcp_operator.api.json_types import Body
from dcp_operator.kube.client.api import CHECKPOINTS, ObjectKey
from fake_api import FakeApi, put_pod, reconciling, seen, status
from scenes import URL, checkpoint, decided, message, phase, stamp
from test_url_claims import claimed, keyed, save

CONTAINER: Body = {"name": "worker", "volumeMounts": [{"name": "v", "mountPath": "/data"}]}
ALONE: Body = {"workload": None, "workers": {}}
KINDS: dict[str, Body] = {
    "Save": {},
    "Load": {"operation": "Load"},
    "Verify": {"operation": "Verify", **ALONE},
    "Delete": {"operation": "Delete", **ALONE},
    "Copy": {"operation": "Copy", "copy": {"from": {"url": "s3://bucket/run/step-0"}}, **ALONE},
    "Export": {"operation": "Export", "export": {"from": {"url": "s3://bucket/run/step-0"}}, **ALONE},
    "Clean": {"operation": "Clean", **ALONE},
}
WRITES = ("Save", "Copy", "Export")
CHANGES = (*WRITES, "Clean")
WAITS = {
    *((own, other) for own in CHANGES for other in CHANGES),
    *(("Delete", other) for other in KINDS),
    *((other, "Delete") for other in KINDS),
}


@pytest.mark.parametrize("older", KINDS)
@pytest.mark.parametrize("own", KINDS)
def test_who_waits_for_whom(own: str, older: str) -> None:
    """A commit takes nothing from those who read; a removal does."""
    of = checkpoint({f"spec.{key}": value for key, value in KINDS[own].items()})
    found = decided(of=of, rivals=(claimed("older", seconds=-1, **KINDS[older]),))
    assert phase(found) == (("Pending", "UrlInUse") if (own, older) in WAITS else ("Starting", None))
    if (own, older) in WAITS:
        does = dict.fromkeys(WRITES, "saving to") | {"Delete": "removing what stands at", "Clean": "cleaning"}
        assert f"Checkpoint older is {does.get(older, 'reading from')} the same URL ({URL})" in message(found)
        assert ("the store says whether the URL is free" in message(found)) is ({own, older} <= {*WRITES})


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("reads", "removes", "waits"),
    [
        pytest.param({"url": URL, "credentialsSecretRef": {"name": "reader"}}, {"url": URL}, True, id="another Secret"),
        pytest.param({"url": f"{URL}/", "options": {"endpointUrl": "http://x"}}, {"url": URL}, True, id="an endpoint"),
        pytest.param({"url": "az://c@account/x"}, {"url": "abfs://c/x"}, True, id="an account"),
        pytest.param({"url": "file:///data/x"}, {"url": "file:///data/x"}, False, id="a path of two pods"),
        pytest.param({"url": f"{URL}0"}, {"url": URL}, False, id="another URL"),
    ],
)
def test_a_delete_waits_for_those_who_get_there_by_another_way(
    reads: Body,
    removes: Body,
    waits: bool,  # noqa: FBT001 - a row of the table
) -> None:
    """Two stores that are taken for one cost a wait; one that is taken for two would cost the data."""
    volume = {"spec": {"volumes": [{"name": "v", "emptyDir": {}}], "containers": [CONTAINER]}}
    workers = {"podTemplate": volume} if "file" in removes["url"] else {}
    load: Body = {"operation": "Load", "storage": reads, "workers": workers}
    delete: Body = {"operation": "Delete", "storage": removes, "workers": workers, "workload": None}
    for own, older in ((delete, load), (load, delete)):
        of = checkpoint({f"spec.{key}": value for key, value in own.items()})
        found = decided(of=of, rivals=(claimed("older", seconds=-1, **older),))
        assert phase(found) == (("Pending", "UrlInUse") if waits else ("Starting", None))


SOURCE = "s3://bucket/run/step-0"
FROM: Body = {"save": {"from": {"url": SOURCE}}}
REMOVES_SOURCE: Body = KINDS["Delete"] | {"storage": {"url": SOURCE}}


@pytest.mark.parametrize(
    ("older", "younger", "result"),
    [
        pytest.param(KINDS["Load"], KINDS["Delete"], Reason.LOADED, id="a Delete waits for a Load"),
        pytest.param(KINDS["Delete"], KINDS["Load"], Reason.DELETED, id="a Load for a Delete"),
        pytest.param(FROM, REMOVES_SOURCE, Reason.SAVED, id="a Delete for a Save that starts from there"),
        pytest.param(REMOVES_SOURCE, FROM, Reason.DELETED, id="such a Save for a Delete"),
        pytest.param(KINDS["Copy"], REMOVES_SOURCE, Reason.COPIED, id="a Delete for a Copy of what is there"),
        pytest.param(REMOVES_SOURCE, KINDS["Copy"], Reason.DELETED, id="such a Copy for a Delete"),
        pytest.param(KINDS["Export"], REMOVES_SOURCE, Reason.EXPORTED, id="a Delete for an Export of what is there"),
        pytest.param(REMOVES_SOURCE, KINDS["Export"], Reason.DELETED, id="such an Export for a Delete"),
    ],
)
def test_whoever_came_first_goes_first(older: Body, younger: Body, result: Reason) -> None:
    """The other waits, and is woken when that has ended."""
    api = FakeApi()
    woken: list[ObjectKey] = []
    api.add(CHECKPOINTS, save("first", **older))
    api.add(CHECKPOINTS, save("second", seconds=1, **younger))
    reconciler = reconciling(api)
    reconciler.live_claims.wake = woken.append
    for name in ("first", "second"):
        asyncio.run(reconciler(keyed(name)))
        seen(api, reconciler)
    assert status(api, keyed("first"))["phase"] == "Starting"
    assert status(api, keyed("second"))["reason"] == "UrlInUse"
    ended_well: Body = {"exitCode": 0, "finishedAt": stamp(0), "startedAt": stamp(0)}
    put_pod(api, "Succeeded", {"terminated": ended_well | {"message": Report(result=result).encode()}})
    seen(api, reconciler)
    asyncio.run(reconciler(keyed("first")))
    seen(api, reconciler)
    assert status(api, keyed("first"))["reason"] == result
    assert woken[-1] == keyed("second")
    asyncio.run(reconciler(keyed("second")))
    assert status(api, keyed("second"))["phase"] == "Starting"
    assert len(reconciler.live_claims._claims) == 1


def test_a_save_that_starts_from_a_checkpoint_reads_that() -> None:
    """Nobody removes it meanwhile, and the message names the URL that they share."""
    training = checkpoint({"spec.save.from": {"url": SOURCE}})
    removing = claimed("gone", seconds=-1, storage={"url": SOURCE}, **KINDS["Delete"])
    assert f"Checkpoint gone is removing what stands at the same URL ({SOURCE})" in message(
        decided(of=training, rivals=(removing,))
    )
    of = checkpoint({f"spec.{key}": value for key, value in KINDS["Delete"].items()} | {"spec.storage.url": SOURCE})
    reading = claimed("older", seconds=-1, save={"from": {"url": SOURCE}})
    assert f"Checkpoint older is reading from the same URL ({SOURCE})" in message(decided(of=of, rivals=(reading,)))
    loads = checkpoint({"spec.operation": "Load", "spec.storage.url": SOURCE})
    assert phase(decided(of=loads, rivals=(reading,)))[0] == "Starting"


def test_what_reads_the_latest_of_a_series_claims_it_once_that_is_known() -> None:
    """From the first attempt on, before the status that says so has come back."""
    latest = {"storage": {"latestOf": {"series": "nightly"}}, **KINDS["Load"]}
    api = FakeApi()
    api.add(CHECKPOINTS, save("first", **latest))
    reconciler = reconciling(api)
    seen(api, reconciler)
    assert reconciler.live_claims._claims == {}, "nobody knows yet what it reads"
    source = ReadSource(series="nightly", name="x", url=SOURCE).to_dict()
    body = api.objects[CHECKPOINTS.path("team", "first")]
    asyncio.run(reconciler.decide(keyed("first"), body | {"status": {"source": source}}))
    (claim,) = reconciler.live_claims._claims.values()
    of = checkpoint({f"spec.{key}": value for key, value in REMOVES_SOURCE.items()})
    assert of.place == claim.place
    assert phase(decided(of=of, rivals=(replace(claim, begun=True),))) == ("Pending", "UrlInUse")


@pytest.mark.parametrize(
    ("prefix", "older", "seconds", "waits"),
    [
        pytest.param("s3://bucket/run", {}, -1, True, id="a Save that is older"),
        pytest.param("s3://bucket/run", KINDS["Copy"], -1, True, id="a Copy that is older"),
        pytest.param("s3://bucket/run", {}, 1, False, id="a Save that is younger"),
        pytest.param("s3://bucket/run", KINDS["Verify"], -1, False, id="a Verify"),
        pytest.param("s3://bucket/ru", {}, -1, False, id="a prefix of the name alone"),
        pytest.param("s3://other/run", {}, -1, False, id="another bucket"),
    ],
)
def test_a_clean_of_a_prefix_waits_for_what_wrote_there_before_it(
    prefix: str,
    older: Body,
    seconds: int,
    waits: bool,  # noqa: FBT001 - a row of the table
) -> None:
    """And nobody below waits for it: what a younger Save writes is too young to go."""
    cleaning: Body = {**KINDS["Clean"], "clean": {"recursive": True}, "storage": {"url": prefix}}
    of = checkpoint({f"spec.{key}": value for key, value in cleaning.items()})
    rival = claimed("older", seconds=seconds, **older)
    found = decided(of=of, rivals=(replace(rival, begun=True),))
    assert phase(found) == (("Pending", "UrlInUse") if waits else ("Starting", None))
    if waits:
        assert f"Checkpoint older is saving to a URL below {prefix}." in message(found)
    other = checkpoint({f"spec.{key}": value for key, value in older.items()})
    assert phase(decided(of=other, rivals=(claimed("clean", seconds=-2, **cleaning),))) == ("Starting", None)


def test_the_clean_of_a_prefix_is_told_of_all_that_write_in_its_namespace() -> None:
    api = FakeApi()
    api.add(CHECKPOINTS, save("first"))
    cleaning: Body = {**KINDS["Clean"], "clean": {"recursive": True}, "storage": {"url": "s3://bucket/run"}}
    api.add(CHECKPOINTS, save("second", seconds=1, **cleaning))
    reconciler = reconciling(api)
    for name in ("first", "second"):
        asyncio.run(reconciler(keyed(name)))
        seen(api, reconciler)
    assert status(api, keyed("first"))["phase"] == "Starting"
    assert status(api, keyed("second"))["reason"] == "UrlInUse"
