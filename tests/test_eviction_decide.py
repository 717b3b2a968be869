"""What an eviction of a training's pod is answered, as a table over pods, Saves and time."""

from datetime import timedelta
from typing import Any, Final

import pytest

from dcp_operator.api.checkpoint.status import Phase
from dcp_operator.api.naming import DISRUPTION_LABEL, EVICTED_POD_ANNOTATION, SERIES_LABEL, disruption_name
from dcp_operator.controllers.disruption.decide import PASSING, Answer, Begin, Held, LetThrough, decide, holds
from dcp_operator.controllers.disruption.observed import Disruption, EvictedPod
from dcp_operator.controllers.series.history import outdated_runs
from dcp_operator.controllers.series.retention import retain
from dcp_operator.controllers.series.runs import REMEMBERED, Runs, SeriesRun
from dcp_operator.objects.series_run import checkpoint_before_disruption
from scenes import NOW, at, stamp
from series_scenes import SERIES_UID, TARGET, run, series

HELD: Final = {**TARGET, "spec.onDisruption": {"hold": "10m"}}
LABELS: Final = {"batch.kubernetes.io/job-name": "train", "app": "x"}
FIRST: Final = disruption_name("nightly", SERIES_UID, "")


def pod(created: float = -3600, uid: str = "u0", **fields: Any) -> EvictedPod:
    return EvictedPod(name="train-0", uid=uid, created=at(created), labels=LABELS, **fields)


def save(begun: float, ended: float | None = None, name: str = FIRST, first: str = "u0") -> Disruption:
    over = at(ended) if ended is not None else None
    return Disruption(name=name, begun=at(begun), ended=over, first_pod=first, state="Running")


def answer(*known: Disruption, of: EvictedPod | None = None) -> Answer:
    return decide(series(HELD), of or pod(), known, NOW)


@pytest.mark.parametrize(
    ("known", "of", "expected"),
    [
        pytest.param([], pod(), Begin, id="the first eviction begins one"),
        pytest.param([save(0)], pod(), Held, id="just begun"),
        pytest.param([save(-599)], pod(), Held, id="until the hold has passed"),
        pytest.param([save(-600)], pod(), LetThrough, id="the hold has passed"),
        pytest.param([save(-599)], pod(uid="u1"), Held, id="every pod of the training"),
        pytest.param([save(-60)], pod(created=-10), Held, id="a pod that came meanwhile"),
        pytest.param([save(-60, -1)], pod(), LetThrough, id="saved"),
        pytest.param([save(-60, -1)], pod(uid="u1"), LetThrough, id="every pod may go"),
        pytest.param([save(-360, -299)], pod(uid="u1"), LetThrough, id="for five minutes"),
        pytest.param([save(-360, -300)], pod(uid="u1"), Begin, id="and no longer"),
        pytest.param([save(-1860, -1799)], pod(), LetThrough, id="the first one for half an hour"),
        pytest.param([save(-1860, -1800)], pod(), Begin, id="and no longer, either"),
        pytest.param([save(-60, -1)], pod(created=-59), Begin, id="a pod of another start"),
        pytest.param([save(-60, -1)], pod(created=-60), LetThrough, id="a pod of the same second"),
        pytest.param([save(-9000, -8990), save(-60)], pod(), Held, id="the newest one counts"),
        pytest.param([save(-60), save(-9000, -8990)], pod(), Held, id="in whatever order"),
    ],
)
def test_what_an_eviction_is_answered(known: list[Disruption], of: EvictedPod, expected: type[Answer]) -> None:
    found = answer(*known, of=of)
    assert isinstance(found, expected)
    if isinstance(found, Begin):
        assert (
            found.name == disruption_name("nightly", SERIES_UID, max(known, key=lambda each: each.begun).name)
            if (known)
            else found.name == FIRST
        )


def test_whoever_hears_of_it_at_the_same_time_makes_the_same_name_and_later_ones_another() -> None:
    first, again = answer(), answer()
    assert first == again == Begin(name=FIRST)
    second = answer(save(-7200, -7000))
    assert isinstance(second, Begin)
    third = answer(save(-7200, -7000), save(-3600, -3500, second.name))
    assert isinstance(third, Begin)
    assert len({FIRST, second.name, third.name}) == 3
    assert len(disruption_name("n" * 47, SERIES_UID, FIRST)) <= 63


def test_the_evictor_is_told_what_it_waits_for_and_until_when() -> None:
    held = answer(save(-60))
    assert isinstance(held, Held)
    assert held.line(series(HELD)) == (
        f"Checkpoint {FIRST} saves Job train first: Running. "
        "The pod can be evicted when that has ended, at the latest at 2026-11-24T08:09:00Z."
    )


@pytest.mark.parametrize(
    ("changes", "labels", "expected"),
    [
        (HELD, LABELS, True),
        (HELD, {"batch.kubernetes.io/job-name": "other"}, False),
        (HELD, {}, False),
        (TARGET, LABELS, False),
        ({**HELD, "spec.suspend": True}, LABELS, False),
        ({**HELD, "spec.template.spec": {**TARGET["spec.template.spec"], "suspend": True}}, LABELS, False),
    ],
    ids=["its pod", "another's pod", "no label", "no onDisruption", "suspended", "runs that are suspended"],
)
def test_whose_evictions_wait(changes: dict[str, Any], labels: dict[str, str], *, expected: bool) -> None:
    assert holds(series(changes), EvictedPod(name="x", uid="u", created=NOW, labels=labels)) is expected


def checkpoint(phase: str | None = None, completed: float | None = None, **spec: Any) -> dict[str, Any]:
    """Return the Checkpoint of a disruption as it stands in the cluster."""
    body = checkpoint_before_disruption(series(HELD), FIRST, "u0")
    body["metadata"] |= {"creationTimestamp": stamp(-60), "uid": "c"}
    body["spec"] |= spec
    if phase is not None:
        body["status"] = {"phase": phase, "reason": "TargetNotListening", "runId": ""}
    if completed is not None:
        body["status"]["completionTime"] = stamp(completed)
    return body


def test_the_checkpoint_is_one_of_the_series_and_tells_what_began_it() -> None:
    body = checkpoint()
    assert body["metadata"]["labels"][SERIES_LABEL] == "nightly"
    assert body["metadata"]["labels"][DISRUPTION_LABEL] == "true"
    assert body["metadata"]["annotations"] == {EVICTED_POD_ANNOTATION: "u0"}
    assert body["spec"] == TARGET["spec.template.spec"]
    assert Disruption.of(body) == Disruption(name=FIRST, begun=at(-60), state="Pending", first_pod="u0")
    found = SeriesRun.of(body, "nightly")
    assert (found.before_disruption, found.made, found.scheduled) == (True, True, None)


@pytest.mark.parametrize(
    ("body", "ended", "state"),
    [
        (checkpoint("Failed", -10), at(-10), "Failed (TargetNotListening)"),
        (checkpoint("Succeeded", -10), at(-10), "Succeeded"),
        (checkpoint("Pending"), None, "Pending (TargetNotListening)"),
        (checkpoint("Failed", -10, runId="again"), None, "Failed (TargetNotListening)"),
    ],
    ids=["failed", "succeeded", "waits", "asked once more"],
)
def test_how_far_it_is_stands_in_its_status(body: dict[str, Any], ended: Any, state: str) -> None:
    found = Disruption.of(body)
    assert (found.ended, found.state) == (ended, state)


@pytest.mark.parametrize(
    ("status", "metadata", "runs"),
    [
        ({"phase": "Running"}, {}, True),
        ({"phase": "Pending"}, {}, False),
        ({"phase": "Succeeded"}, {}, False),
        ({"phase": "Failed"}, {}, False),
        ({}, {}, False),
        ({"phase": "Running"}, {"deletionTimestamp": stamp(0)}, False),
    ],
    ids=["runs", "waits", "succeeded", "failed", "new", "is being deleted"],
)
def test_only_a_pod_that_trains_is_held(status: dict[str, Any], metadata: dict[str, Any], *, runs: bool) -> None:
    body = {"metadata": {"name": "x", "uid": "u", "creationTimestamp": stamp(-9), **metadata}, "status": status}
    assert EvictedPod.of(body).runs is runs


@pytest.mark.parametrize(("phase", "limit"), [(Phase.FAILED, "failed"), (Phase.SUCCEEDED, "successful")])
def test_its_object_stays_while_evictions_are_let_through_by_it(phase: Phase, limit: str) -> None:
    """Without it the next eviction would begin another disruption, and a drain would never end."""
    of = series({**HELD, "spec.historyLimit": {"failed": 0, "successful": 1}})
    gone = run(0, phase, name=FIRST, scheduled=None, before_disruption=True)
    runs = Runs(all=(gone, run(5, Phase.SUCCEEDED)))
    assert gone.ended is not None
    assert PASSING < REMEMBERED
    assert list(outdated_runs(of, runs, gone.ended + REMEMBERED - timedelta(seconds=1))) == []
    (deleted,) = outdated_runs(of, runs, gone.ended + REMEMBERED)
    assert deleted.name == FIRST
    assert limit in deleted.why


def test_a_retention_leaves_what_evictions_were_let_through_for_and_judges_it_later() -> None:
    changes = {**HELD, "spec.retention": {"last": 1}}
    saved = run(0, Phase.SUCCEEDED, name=FIRST, scheduled=None, before_disruption=True, save_id="0" * 32, step=1)
    newer = run(0.5, Phase.SUCCEEDED, save_id="1" * 32, step=2)
    assert saved.ended is not None
    now = saved.ended + REMEMBERED - timedelta(seconds=1)
    found = retain(series(changes), Runs.of([saved, newer]), None, now)
    assert found.create == ()
    assert found.status is not None
    assert found.status.kept[-1].reasons == "an eviction has just waited for it"
    assert found.wake_at == saved.ended + REMEMBERED
    later = retain(series(changes), Runs.of([saved, newer]), None, saved.ended + REMEMBERED)
    assert [each.run for each in later.create] == [FIRST]
