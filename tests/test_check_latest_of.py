"""The check `record_latest`: what a run reads of a series is written down before an attempt of it is created."""

from typing import Any

import pytest

from dcp_operator.api.checkpoint.parsing import parse
from dcp_operator.api.checkpoint.status import ReadSource, Status
from dcp_operator.controllers.checkpoint.checks.latest_of import record_latest
from dcp_operator.controllers.checkpoint.latest import LatestCheckpoint
from scenes import NOW, attempt, checkpoint, inputs, manifest, running

LOAD = {"spec.operation": "Load", "spec.storage": {"latestOf": {"series": "nightly"}}}
SOURCE = ReadSource(series="nightly", name="nightly-1", url="s3://bucket/run/1", save_id="a" * 32)
FOUND = LatestCheckpoint(exists=True, source=SOURCE)


def test_it_is_written_down_and_nothing_is_created_yet() -> None:
    found = record_latest(inputs(of=parse(manifest(LOAD)), latest=FOUND))
    assert found is not None
    assert (found.status.source, found.status.phase, found.actions, found.wake_at) == (SOURCE, "Pending", (), NOW)
    assert found.message == "The latest of series nightly is s3://bucket/run/1."


@pytest.mark.parametrize(
    ("latest", "reason", "said"),
    [
        (LatestCheckpoint(), "SeriesNotFound", "Attempt 1 waits: series nightly does not exist. Apply the Checkpoint"),
        (
            LatestCheckpoint(exists=True),
            "NothingSaved",
            "Attempt 1 waits: series nightly has no committed checkpoint yet. Look at the series' status",
        ),
    ],
)
def test_while_there_is_none_it_waits(latest: LatestCheckpoint, reason: str, said: str) -> None:
    found = record_latest(inputs(of=parse(manifest(LOAD)), latest=latest))
    assert found is not None
    assert (found.status.phase, found.status.reason, found.actions, found.wake_at) == ("Pending", reason, (), None)
    assert found.message.startswith(said)


@pytest.mark.parametrize(
    "given",
    [
        pytest.param({"of": checkpoint({"spec.operation": "Load"})}, id="a URL"),
        pytest.param({"of": parse(manifest(LOAD)), "status": Status(source=SOURCE)}, id="written down"),
        pytest.param({"of": parse(manifest(LOAD)), "attempts": (attempt(running(0)),)}, id="an attempt under way"),
    ],
)
def test_who_has_nothing_to_look_up(given: dict[str, Any]) -> None:
    others = {name: each for name, each in given.items() if name != "attempts"}
    assert record_latest(inputs(*given.get("attempts", ()), latest=FOUND, **others)) is None
