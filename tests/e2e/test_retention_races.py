"""Two races of a retention with Loads on a real cluster: whatever is about to be removed, no Load loses its data."""

from typing import Any

import pytest

from cluster.facts import Facts
from e2e.kube import Body, Kube, until
from e2e.objects import gpt, storage

pytestmark = [pytest.mark.tier("e2e"), pytest.mark.timeout(300)]

ONE_RANK = {"numProcPerNode": 1, "device": "cpu"}


def series(facts: Facts, space: str) -> Body:
    """Return a series that begins no run while the test lasts."""
    template = gpt(facts, "unused", "unused", workers=ONE_RANK)["spec"]
    template.pop("storage")
    spec = {"schedule": "0 0 1 1 *", "storage": storage(facts, f"{space}/run"), "template": {"spec": template}}
    meta = {"name": "run"}
    return {"apiVersion": "dcp-operator.io/v1alpha1", "kind": "CheckpointSeries", "metadata": meta, "spec": spec}


def run(facts: Facts, space: str, number: int, uid: str) -> Body:
    """Return the Checkpoint of a run, as the series makes it."""
    time = f"20260101-00000{number}"
    body = gpt(facts, f"run-{time}", f"{space}/run/{time}", workers=ONE_RANK)
    owner = {"apiVersion": body["apiVersion"], "kind": "CheckpointSeries", "name": "run", "uid": uid}
    body["metadata"]["ownerReferences"] = [owner | {"controller": True}]
    return body


def test_no_load_loses_what_a_retention_is_about_to_remove(kube: Kube, facts: Facts) -> None:
    """One Load reads what no rule keeps; one reads the latest, after which another run commits."""
    space = kube.namespace
    kube.apply(series(facts, space))
    uid = kube.get("checkpointseries", "run")["metadata"]["uid"]
    old, latest, newer = (run(facts, space, number, uid) for number in (1, 2, 3))
    kube.apply(old)
    kube.until_phase(old["metadata"]["name"], "Succeeded")
    kube.apply(latest)
    kube.until_phase(latest["metadata"]["name"], "Succeeded")

    by_url = gpt(facts, "by-url", "unused", operation="Load", workers=ONE_RANK, storage=old["spec"]["storage"])
    resume = {"latestOf": {"series": "run"}}
    by_series = gpt(facts, "by-series", "unused", operation="Load", workers=ONE_RANK, storage=resume)
    kube.apply(by_url, by_series, newer)
    kube("patch", "checkpointseries", "run", "--type=merge", "-p", '{"spec": {"retention": {"last": 1}}}')
    ends = {}
    for name in ("by-url", "by-series"):
        status = kube.until_phase(name, "Succeeded", "Failed", seconds=120)
        assert status["reason"] == "Loaded", status
        ends[status["checkpoint"]["url"]] = status["completionTime"]
    assert set(ends) == {old["spec"]["storage"]["url"], latest["spec"]["storage"]["url"]}

    status = until(
        lambda: kube.get("checkpointseries", "run").get("status") or {}, all_removed, "the end of both removals", 120
    )
    gone = {each["url"]: each["time"] for each in status["retention"]["removed"]}
    assert gone.keys() == ends.keys()
    assert all(gone[url] >= ended for url, ended in ends.items()), (gone, ends)
    assert status["latest"]["url"] == newer["spec"]["storage"]["url"]


def all_removed(status: Body) -> Any:
    return (status.get("retention") or {}).get("removedCount") == 2
