"""A series with a retention, a Load of its latest, and an operator that is killed again and again.

etcd, kube-apiserver and the operator are real; the test plays the workers by writing how a Checkpoint has ended.
"""

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest

from benchmarks.operator_load import checkpoint
from e2e.kube import Body, Kube, KubectlError, api_alone, until
from e2e.operator_process import OperatorProcess

pytestmark = [pytest.mark.tier("e2e"), pytest.mark.timeout(300)]

LABEL = "dcp-operator.io/series=run"


@pytest.fixture(scope="module")
def api() -> Iterator[Kube]:
    with api_alone() as kube:
        yield kube


class End(NamedTuple):
    """What a worker did, for which object: of two Checkpoints of one name the uid tells which one it was."""

    url: str
    name: str
    uid: str
    version: str
    """As of which the object asked for it."""
    time: str


class Workers:
    """End every Checkpoint of the series whose attempt was begun, and note what they saved and removed."""

    def __init__(self, api: Kube) -> None:
        self.api = api
        self.saves: list[End] = []
        self.removals: list[End] = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._work)

    @property
    def saved(self) -> list[str]:
        return [each.url for each in self.saves]

    @property
    def removed(self) -> list[str]:
        return [each.url for each in self.removals]

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()

    def _work(self) -> None:
        while not self.stop.wait(0.2):
            for each in self.api.every("checkpoint", LABEL):
                status = each.get("status") or {}
                if status.get("attempts") and "completionTime" not in status:
                    self._end(each)

    def _end(self, body: Body) -> None:
        metadata, url = body["metadata"], body["spec"]["storage"]["url"]
        reason = "Saved" if body["spec"]["operation"] == "Save" else "Deleted"
        time = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        found = {"url": url, "saveId": hashlib.md5(url.encode(), usedforsecurity=False).hexdigest(), "step": 1}
        status = {"phase": "Succeeded", "reason": reason, "completionTime": time, "checkpoint": found}
        patch = json.dumps({"status": status, "metadata": {"resourceVersion": metadata["resourceVersion"]}})
        try:
            self.api("patch", "checkpoint", metadata["name"], "--subresource=status", "--type=merge", "-p", patch)
        except KubectlError:
            return  # The operator wrote it in between: the next round finds it.
        end = End(url, metadata["name"], metadata["uid"], metadata["resourceVersion"], time)
        (self.saves if reason == "Saved" else self.removals).append(end)


def series() -> Body:
    """Return a series of which a run is due every three seconds, and the last two are kept."""
    template = checkpoint("unused", "default")["spec"]
    storage = template.pop("storage")
    spec = {"every": "3s", "immediate": True, "retention": {"last": 2}, "storage": storage}
    return {
        "apiVersion": "dcp-operator.io/v1alpha1",
        "kind": "CheckpointSeries",
        "metadata": {"name": "run"},
        "spec": spec | {"template": {"spec": template}},
    }


@pytest.mark.adversary
@pytest.mark.alone
@pytest.mark.slow("eight checkpoints are saved and removed, one every three seconds, by four operators")
def test_nothing_is_saved_or_removed_twice_and_what_is_read_stays(api: Kube, tmp_path: Path) -> None:
    def seen() -> Any:
        return api.get("checkpointseries", "run").get("status") or {}

    def removed(at_least: int) -> Body:
        found: Body = until(seen, lambda status: count(status) >= at_least, f"{at_least} removals", 90)
        return found

    with OperatorProcess(api.kubeconfig, tmp_path / "operator.log") as operator, Workers(api) as workers:
        operator.wait_in_service()
        api.apply(series())
        load = checkpoint("resume", "default")
        load["spec"] |= {"operation": "Load", "storage": {"latestOf": {"series": "run"}}}
        load["spec"].pop("save", None)
        api.apply(load)
        read = api.until_status("resume", lambda status: status.get("source"), 60)["source"]["url"]
        for number in range(1, 4):
            removed(2 * number)
            operator.kill()
            operator.start()
        removed(8)
        api("patch", "checkpointseries", "run", "--type=merge", "-p", '{"spec": {"suspend": true}}')
        rest = until(lambda: api.every("checkpoint", LABEL), ended, "the end of all that runs", 60)

    assert not more_than_one(workers.saves), f"a run came twice: {more_than_one(workers.saves)}"
    assert not more_than_one(workers.removals), f"removed twice: {more_than_one(workers.removals)}"
    assert read in workers.saved
    assert read not in workers.removed, "the Load is not finished"
    standing = [url for url in workers.saved if url not in workers.removed]
    assert sorted(standing) == sorted(each["spec"]["storage"]["url"] for each in rest if saves(each))
    assert set(workers.saved[-2:]) <= set(standing)
    # Every run that exists has one Job, whoever created it.
    assert len(api.every("job", "dcp-operator.io/checkpoint=resume")) == 1


def more_than_one(ends: list[End]) -> list[End]:
    """Return all that was done at URLs where something was done more than once."""
    often = Counter(each.url for each in ends)
    return [each for each in ends if often[each.url] > 1]


def count(status: Body) -> int:
    return int((status.get("retention") or {}).get("removedCount", 0))


def saves(body: Body) -> bool:
    return bool(body["spec"]["operation"] == "Save")


def ended(bodies: list[Body]) -> bool:
    return all("completionTime" in each.get("status", {}) for each in bodies) and all(map(saves, bodies))
