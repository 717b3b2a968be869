"""The annotation for schedulers: when it is written, with what, and on which object."""

import asyncio
import logging
from datetime import datetime, timedelta
from typing import Any, Final

import pytest

from dcp_operator.api.naming import LAST_CHECKPOINT_ANNOTATION
from dcp_operator.controllers.target.last_checkpoint import annotation_due, next_write
from dcp_operator.kube.client.api import (
    CHECKPOINTS,
    JOB_SETS,
    JOBS,
    PODS,
    ApiRequest,
    ConflictError,
    RefusedError,
    Resource,
    UnavailableError,
)
from dcp_operator.kube.loop.last_checkpoint import Announcer
from dcp_operator.kube.view.cache import Cache, ClusterView
from dcp_operator.kube.view.last_checkpoints import LastCheckpoints
from fake_api import FakeApi
from scenes import at, manifest, stamp
from target_cases import TARGETED

SELECTED: Final = {"spec.target": {"selector": {"matchLabels": {"app": "train"}}}}


@pytest.mark.parametrize(
    ("committed", "ended", "stands", "expected"),
    [
        pytest.param(at(50), at(60), None, stamp(50), id="the first"),
        pytest.param(at(50), at(60), stamp(40), stamp(50), id="a newer one"),
        pytest.param(at(50.7), at(60), stamp(50), None, id="the same second"),
        pytest.param(at(50), at(60), stamp(55), None, id="never back in time"),
        pytest.param(at(50), at(60), "2026-11-24T09:00:55+01:00", None, id="never back in time, in another zone"),
        pytest.param(at(50), at(60), "yesterday", stamp(50), id="what stands there is no time"),
        pytest.param(at(50), at(60), "2026-11-24T08:00:55", stamp(50), id="what stands there has no zone"),
        pytest.param(at(9_000), at(60), None, stamp(60), id="a training's clock that runs ahead"),
        pytest.param(at(-500), at(60), None, stamp(-500), id="a training's clock that is late"),
        pytest.param(at(-500), at(-1), None, None, id="a younger object of the same name"),
    ],
)
def test_what_is_written(committed: datetime, ended: datetime, stands: str | None, expected: str | None) -> None:
    assert annotation_due(committed, ended, at(0), stands) == expected


def test_an_object_is_written_once_a_minute() -> None:
    assert next_write(None, at(5)) == at(5)
    assert next_write(at(0), at(5)) == at(60)
    assert next_write(at(0), at(200)) == at(200)


class World:
    """An API server in memory, and the announcer over it, with a clock that is set by hand."""

    def __init__(self) -> None:
        self.api = FakeApi()
        self.now = at(0)
        cache = Cache()
        commits = LastCheckpoints(cache)
        self.view = ClusterView(cache, {CHECKPOINTS.kind: (commits,)})
        self.announcer = Announcer(self.api, commits, lambda: self.now)

    def saved(self, name: str, second: float, changes: dict[str, Any] | None = None, **status: Any) -> None:
        """Have a Save committed in that second."""
        body = manifest({**TARGETED, **(changes or {}), "metadata.name": name, "metadata.uid": f"uid-{name}"})
        body["status"] = {
            "phase": "Succeeded",
            "reason": "Saved",
            "completionTime": stamp(second + 1),
            "target": {"name": "Job train", "group": "g", "pod": "rank0", "podUid": "uid-rank0"},
            "checkpoint": {"url": "s3://b/run/step-8", "createdTime": stamp(second)},
            **status,
        }
        self.view.ingest(CHECKPOINTS, self.api.add(CHECKPOINTS, body))

    def add(self, resource: Resource, name: str, owner: tuple[Resource, str] | None = None, **fields: Any) -> None:
        """Add an object, with another one for its controller."""
        references = [
            {
                "apiVersion": each.api_version,
                "kind": each.kind,
                "name": its,
                "uid": f"uid-{its}",
                "controller": True,
            }
            for each, its in ([owner] if owner else [])
        ]
        metadata = {"name": name, "namespace": "team", "ownerReferences": references, **fields}
        self.api.add(resource, {"metadata": metadata})

    def announce(self, second: float) -> list[str]:
        """Return what is written at that time."""
        self.now = at(second)
        self.api.writes()
        asyncio.run(self.announcer.announce())
        return self.api.writes()

    def stands(self, resource: Resource, name: str) -> str | None:
        annotations = self.api.objects[resource.path("team", name)]["metadata"].get("annotations") or {}
        found: str | None = annotations.get(LAST_CHECKPOINT_ANNOTATION)
        return found


@pytest.fixture
def world() -> World:
    return World()


def test_the_job_says_when_its_newest_checkpoint_was_committed(world: World) -> None:
    world.add(JOBS, "train", annotations={"mine": "stays"})
    world.saved("one", 10)
    assert world.announce(20) == ["PATCH jobs/train"]
    assert world.stands(JOBS, "train") == stamp(10)
    assert world.api.objects[JOBS.path("team", "train")]["metadata"]["annotations"]["mine"] == "stays"
    assert world.announce(500) == []


def test_within_a_minute_only_the_newest_of_several_is_written(world: World) -> None:
    world.add(JOBS, "train")
    world.saved("one", 10)
    world.announce(20)
    for second in (30, 50, 40):
        world.saved(f"at-{second}", second)
        assert world.announce(second + 5) == []
    assert world.announce(79) == []
    assert world.announce(80) == ["PATCH jobs/train"]
    assert world.stands(JOBS, "train") == stamp(50)


def test_an_operator_that_starts_anew_writes_what_is_missing_and_nothing_twice(world: World) -> None:
    world.add(JOBS, "train", annotations={LAST_CHECKPOINT_ANNOTATION: stamp(30)})
    for second in (30, 10, 20):
        world.saved(f"at-{second}", second)
    assert world.announce(40) == []
    world.saved("at-35", 35)
    assert world.announce(41) == ["PATCH jobs/train"]


@pytest.mark.parametrize("changes", [{}, SELECTED], ids=["by name", "by labels"])
def test_the_topmost_object_of_the_training_is_written(world: World, changes: dict[str, Any]) -> None:
    world.add(JOB_SETS, "set")
    world.add(JOBS, "train", (JOB_SETS, "set"))
    world.add(PODS, "rank0", (JOBS, "train"))
    world.saved("one", 10, changes)
    assert world.announce(20) == ["PATCH jobsets/set"]


@pytest.mark.adversary
@pytest.mark.parametrize(
    "case", ["another pod", "no pod", "a bare pod", "another owner", "a younger Job", "one being deleted", "no Job"]
)
def test_what_is_not_the_training_is_not_written(world: World, case: str) -> None:
    changes: dict[str, Any] = SELECTED
    if case == "another pod":
        world.add(JOBS, "train")
        world.add(PODS, "rank0", (JOBS, "train"), uid="another")
    elif case == "a bare pod":
        world.add(JOBS, "train")
        world.add(PODS, "rank0")
    elif case == "another owner":
        world.add(JOBS, "train", uid="another")
        world.add(PODS, "rank0", (JOBS, "train"))
    elif case == "a younger Job":
        changes = {}
        world.add(JOBS, "train", creationTimestamp=stamp(12))
    elif case == "one being deleted":
        changes = {}
        world.add(JOBS, "train", deletionTimestamp=stamp(12))
    world.saved("one", 10, changes)
    assert world.announce(20) == []
    assert world.announce(500) == []


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        pytest.param({}, {"phase": "Failed", "reason": "TargetEnded"}, id="failed"),
        pytest.param({}, {"phase": "Running", "completionTime": None}, id="running"),
        pytest.param({"spec.runId": "again"}, {}, id="another run"),
        pytest.param({"spec.target": None, "spec.workload": {"entrypoint": "a:B"}}, {}, id="no target"),
    ],
)
def test_only_a_save_of_a_training_that_succeeded_is_told(
    world: World, changes: dict[str, Any], status: dict[str, Any]
) -> None:
    world.add(JOBS, "train")
    world.saved("one", 10, {"spec.storage": {"url": "s3://b/x"}, **changes}, **status)
    assert world.announce(20) == []


@pytest.mark.parametrize("error", [ConflictError("another version", 409), UnavailableError("no answer")])
def test_what_was_in_the_way_is_tried_again(world: World, error: Exception) -> None:
    world.add(JOBS, "train")
    world.saved("one", 10)
    object.__setattr__(world.api, "refuse", lambda _: error)
    assert world.announce(20) == []
    object.__setattr__(world.api, "refuse", lambda _: None)
    assert world.announce(21) == []
    assert world.announce(31) == ["PATCH jobs/train"]


def test_without_the_permission_it_says_so_once_and_rests(world: World, caplog: pytest.LogCaptureFixture) -> None:
    asked = 0

    def refuse(request: ApiRequest) -> Exception:
        nonlocal asked
        asked += 1
        return RefusedError(f"may not {request.method}", 403)

    object.__setattr__(world.api, "refuse", refuse)
    world.add(JOBS, "train")
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            world.saved(f"save-{number}", number)
            world.announce(number * 100.0)
            world.announce(number * 100.0 + 50)
    assert (asked, len(caplog.records)) == (3, 1)
    assert "component last-checkpoint-time" in caplog.text


def test_one_that_can_not_be_written_keeps_no_other_from_it(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.add(JOBS, "train")
    world.add(JOBS, "other")
    world.saved("one", 10)
    world.saved("two", 10, {"spec.target": {"kind": "Job", "name": "other"}})
    refused = RefusedError("denied the request", 422)
    object.__setattr__(world.api, "refuse", lambda request: refused if request.path.endswith("/train") else None)
    with caplog.at_level(logging.WARNING):
        assert world.announce(20) == ["PATCH jobs/other"]
    assert "denied the request" in caplog.text


def test_a_minute_is_a_minute_of_the_object_whoever_names_it(world: World) -> None:
    """A selector and a name may mean the same Job."""
    world.add(JOBS, "train")
    world.add(PODS, "rank0", (JOBS, "train"))
    world.saved("one", 10)
    world.saved("two", 20, SELECTED)
    assert world.announce(30) in (["PATCH jobs/train"], [])
    assert world.announce(40) == []
    world.announce(30 + timedelta(minutes=1).total_seconds())
    assert world.stands(JOBS, "train") == stamp(20)
