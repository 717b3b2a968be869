"""A series on a real cluster: it saves, a Load reads its latest, its retention removes, and its operator is killed."""

from typing import Any

import pytest

from cluster.facts import Facts
from e2e.kube import Body, Kube, condition, until
from e2e.objects import checkpoint, gpt, storage

pytestmark = [pytest.mark.tier("e2e"), pytest.mark.timeout(420), pytest.mark.alone]

RUNS = "dcp-operator.io/series=run"
OPERATOR = "app.kubernetes.io/name=dcp-operator"


def series(facts: Facts, space: str) -> Body:
    """Return a series of Saves of a small GPT, of which the last two are kept."""
    template = gpt(facts, "unused", "unused")["spec"]
    saved = template.pop("storage")
    return {
        "apiVersion": "dcp-operator.io/v1alpha1",
        "kind": "CheckpointSeries",
        "metadata": {"name": "run"},
        "spec": {
            "every": "20s",
            "immediate": True,
            "retention": {"last": 2},
            "storage": saved | storage(facts, f"{space}/run"),
            "template": {"spec": template},
        },
    }


def until_series(kube: Kube, true: Any, what: str, seconds: float = 120) -> Body:
    found: Body = until(
        lambda: kube.get("checkpointseries", "run"), lambda body: true(body.get("status") or {}), what, seconds
    )
    status: Body = found["status"]
    return status


def test_it_saves_is_read_removes_and_survives_its_operator(kube: Kube, operator: Kube, facts: Facts) -> None:
    kube.apply(series(facts, kube.namespace))
    load = gpt(facts, "resume", "unused", operation="Load", storage={"latestOf": {"series": "run"}})
    kube.apply(load)
    status = kube.until_status("resume", lambda status: status.get("source"), 120)
    assert status["source"]["series"] == "run"
    until_series(kube, lambda status: status.get("latest"), "the first checkpoint")
    status = kube.until_phase("resume", "Succeeded", seconds=120)
    assert status["checkpoint"]["url"] == status["source"]["url"]

    # Killed as it works: runs are created, end and are removed meanwhile.
    operator("delete", "pod", "-l", OPERATOR, "--grace-period=0", "--force")
    status = until_series(kube, removed, "a removal", 200)
    operator("delete", "pod", "-l", OPERATOR, "--grace-period=0", "--force")
    before = status["retention"]["removedCount"]
    status = until_series(
        kube, lambda found: removed(found) and found["retention"]["removedCount"] > before, "one more", 200
    )
    kube("patch", "checkpointseries", "run", "--type=merge", "-p", '{"spec": {"suspend": true}}')
    status = until_series(kube, lambda found: condition(found, "Suspended").get("status") == "True", "its rest", 60)

    runs = [each for each in kube.every("checkpoint", RUNS) if each["spec"]["operation"] == "Save"]
    assert [each["status"].get("attempts") for each in runs if "completionTime" in each["status"]] != []
    assert all(each["status"].get("attempts", 1) == 1 for each in runs), "no run was begun twice"
    jobs = [each["metadata"]["name"].rpartition("-")[0] for each in kube.every("job")]
    assert len(jobs) == len(set(jobs))

    # What was removed is gone from the store, and what is kept is whole.
    gone, kept = status["retention"]["removed"][0]["url"], status["latest"]["url"]
    for name, url in (("gone", gone), ("kept", kept)):
        where = storage(facts, "unused") | {"url": url}
        kube.apply(checkpoint(name, {"operation": "Verify", "storage": where, "retries": 0}))
    assert kube.until_phase("gone", "Failed", seconds=90)["reason"] == "CheckpointNotFound"
    assert kube.until_phase("kept", "Succeeded", seconds=90)["reason"] == "Verified"
    listed = kube("get", "checkpointseries", "run")
    assert "Suspended" in listed
    assert "every 20s" in listed
    assert kube("get", "cps", "run", "-o", "wide").split()[0] == "NAME"


def removed(status: Body) -> bool:
    return bool((status.get("retention") or {}).get("removedCount"))
