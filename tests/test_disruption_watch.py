"""Signs of evictions, and the budget that holds them: decisions as tables, and rounds over an API server in memory."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

import pytest

from dcp_operator.controllers.disruption.budget import (
    Budget,
    CreateGuard,
    DeleteBudget,
    DeleteGuard,
    Guard,
    PutBudget,
    drop,
    in_the_way,
    keep,
    selects,
)
from dcp_operator.controllers.disruption.observed import Disruption, EvictedPod
from dcp_operator.controllers.disruption.signals import TAINTS, node_signal, pod_signal
from dcp_operator.controllers.disruption.watch import Watched, watch
from dcp_operator.objects.disruption_budget import budget_of, guard_of_budget
from scenes import at, stamp
from series_scenes import SERIES_UID, TARGET, series

TRAIN: Final = {"batch.kubernetes.io/job-name": "train"}
SERIES: Final = series({**TARGET, "spec.storage": None, "spec.onDisruption": {"hold": "10m"}})
FIRST: Final = EvictedPod(name="rank0", uid="u0", created=at(0), labels=TRAIN)
SECOND: Final = EvictedPod(name="rank1", uid="u1", created=at(0), labels=TRAIN)
CORDON: Final = {"u0": "the node is cordoned"}
BOTH: Final = {**CORDON, "u1": "the node is cordoned"}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        pytest.param({}, "", id="nothing"),
        pytest.param({"unschedulable": True}, "the node is cordoned", id="kubectl cordon"),
        pytest.param({"unschedulable": False}, "", id="uncordoned"),
        pytest.param({"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}]}, "", id="not ready"),
        pytest.param({"taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]}, "", id="a node for GPUs"),
        pytest.param(
            {"taints": [{"key": "DeletionCandidateOfClusterAutoscaler", "effect": "PreferNoSchedule"}]},
            "",
            id="only a candidate",
        ),
        *(
            pytest.param({"taints": [{"key": "x"}, {"key": key, "effect": "NoSchedule", "value": "1"}]}, said, id=key)
            for key, said in TAINTS.items()
        ),
    ],
)
def test_what_a_node_says(spec: dict[str, Any], said: str) -> None:
    assert node_signal({"spec": spec}) == said


def test_what_a_pod_says() -> None:
    target = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
    assert "PreemptionByScheduler" in pod_signal({"status": {"conditions": [target]}})
    assert pod_signal({"status": {"conditions": [{**target, "status": "False"}]}}) == ""
    assert pod_signal({}) == ""


def saved(begun: float, ended: float | None = None, first: str = "u0", name: str = "d1") -> Disruption:
    return Disruption(name=name, begun=at(begun), ended=None if ended is None else at(ended), first_pod=first)


@pytest.mark.parametrize(
    ("seen", "second", "begins", "held"),
    [
        pytest.param({}, 100, False, True, id="no sign"),
        pytest.param({"signals": CORDON}, 100, True, True, id="a sign"),
        pytest.param({"signals": CORDON, "connected": False}, 100, False, False, id="nobody who could save"),
        pytest.param({"signals": CORDON, "known": [saved(90)]}, 100, False, True, id="it saves"),
        pytest.param({"signals": CORDON, "known": [saved(90)]}, 690, False, False, id="it has saved for too long"),
        pytest.param({"signals": CORDON, "known": [saved(90, 100)]}, 105, False, False, id="it has saved"),
        pytest.param({"signals": BOTH, "known": [saved(90, 100)]}, 105, False, False, id="one save for all pods"),
        pytest.param({"signals": CORDON, "known": [saved(-90, -80, "u1")]}, 400, True, True, id="an old save"),
        pytest.param(
            {"signals": CORDON, "known": [saved(90, 100)], "answered": {"u0"}},
            90_000,
            False,
            False,
            id="a node that stays cordoned",
        ),
        pytest.param(
            {"signals": BOTH, "known": [saved(90, 100)], "answered": {"u0"}}, 90_000, True, True, id="a second node"
        ),
        pytest.param({"connected": False, "late": True}, 100, False, None, id="agents may be on their way"),
        pytest.param({"signals": CORDON, "connected": False, "late": True}, 100, False, None, id="and there is a sign"),
        pytest.param(
            {"signals": CORDON, "connected": False, "late": True, "known": [saved(90, 100)]},
            105,
            False,
            False,
            id="it has saved, whoever is connected",
        ),
        pytest.param({"known": [saved(90)]}, 100, False, True, id="a save without a sign"),
    ],
)
def test_what_follows_from_a_sign(seen: dict[str, Any], second: float, begins: object, held: object) -> None:
    found = watch(SERIES, Watched(**{"pods": (FIRST, SECOND), "connected": True, **seen}), at(second))
    assert (found.begin is not None, found.held) == (begins, held)


def test_a_sign_that_has_gone_and_comes_again_has_another_save() -> None:
    known = [saved(90, 100)]
    seen: dict[str, Any] = {"pods": (FIRST,), "connected": True, "known": known}
    first = watch(SERIES, Watched(**seen, signals=CORDON), at(105))
    assert first.answered == {"u0"}
    between = watch(SERIES, Watched(**seen, answered=first.answered), at(5_000))
    assert (between.answered, between.held) == (frozenset(), True)
    again = watch(SERIES, Watched(**seen, signals=CORDON, answered=between.answered), at(5_005))
    assert again.begin is not None
    assert again.begin[1] != "d1"


def guard(number: int = 1, started: float | None = 0, *, over: bool = False, deleting: bool = False) -> Guard:
    return Guard(
        name=f"g-{number}",
        uid=f"g{number}",
        number=number,
        started=None if started is None else at(started),
        lasts=timedelta(minutes=10),
        over=over,
        deleting=deleting,
    )


def budget(of: str = "nightly", name: str = "nightly-hold", **fields: Any) -> Budget:
    given: dict[str, Any] = {"guard": "g1", "minimum": 2, "selector": {"matchLabels": TRAIN}, **fields}
    return Budget(name=name, uid="b", version="7", of_series=of, **given)


NEW: Final = CreateGuard(number=2, seconds=600)


@pytest.mark.parametrize(
    ("guards", "there", "second", "expected"),
    [
        pytest.param([], None, 0, [CreateGuard(number=1, seconds=600)], id="first a Job"),
        pytest.param([guard(started=None)], None, 1, [], id="it has not started"),
        pytest.param([guard(started=None)], budget(), 1, [DeleteBudget(budget=budget())], id="it is suspended"),
        pytest.param([guard()], None, 2, [PutBudget(guard=guard(), minimum=2)], id="then the budget"),
        pytest.param([guard()], budget(), 299, [], id="it stands"),
        pytest.param(
            [guard()],
            budget(minimum=1),
            3,
            [PutBudget(guard=guard(), minimum=2, there=budget(minimum=1))],
            id="another pod",
        ),
        pytest.param([guard()], budget(), 301, [NEW], id="half of its time has passed"),
        pytest.param([guard(), guard(2, None)], budget(), 302, [], id="the next one has not started"),
        pytest.param(
            [guard(), guard(2, 302)],
            budget(),
            303,
            [PutBudget(guard=guard(2, 302), minimum=2, there=budget())],
            id="handed over",
        ),
        pytest.param(
            [guard(), guard(2, 302)],
            budget(guard="g2"),
            304,
            [DeleteGuard(guard=guard())],
            id="the old one is of no use",
        ),
        pytest.param([guard(over=True)], None, 700, [NEW], id="after the operator was away"),
        pytest.param([guard(deleting=True)], budget(deleting=True), 700, [NEW], id="while it is being removed"),
        pytest.param([guard()], budget(deleting=True, guard="gone"), 5, [], id="an old one is being removed"),
    ],
)
def test_how_a_budget_is_kept(
    guards: Sequence[Guard], there: Budget | None, second: float, expected: list[Any]
) -> None:
    assert keep(guards, there, 2, TRAIN, timedelta(minutes=10), at(second)) == expected


def test_a_budget_goes_with_its_jobs_and_the_budget_first() -> None:
    assert drop([guard(), guard(2)], budget()) == [
        DeleteBudget(budget=budget()),
        DeleteGuard(guard=guard()),
        DeleteGuard(guard=guard(2)),
    ]
    assert drop([guard(deleting=True)], budget(deleting=True)) == []


def test_a_short_hold_leaves_time_for_the_next_job() -> None:
    assert keep([], None, 2, TRAIN, timedelta(seconds=1), at(0)) == [CreateGuard(number=1, seconds=30)]


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("other", "named"),
    [
        pytest.param(budget("", "theirs"), "theirs", id="somebody else's"),
        pytest.param(budget("", "theirs", selector={}), "theirs", id="one of all pods"),
        pytest.param(budget("", "theirs", selector=None), "", id="one of no pods"),
        pytest.param(budget("", "theirs", selector={"matchLabels": {"app": "x"}}), "", id="one of other pods"),
        pytest.param(budget("", "theirs", deleting=True), "", id="one that goes"),
        pytest.param(budget("a", "a-hold"), "a-hold", id="an earlier series"),
        pytest.param(budget("z", "z-hold"), "", id="a later series"),
        pytest.param(budget(), "", id="its own"),
        pytest.param(budget("", "nightly-hold", selector=None), "nightly-hold", id="its name is taken"),
    ],
)
def test_a_pod_has_one_budget(other: Budget, named: str) -> None:
    assert in_the_way([other], "nightly-hold", "nightly", (FIRST, SECOND)) == named


@pytest.mark.parametrize(
    ("rule", "selected"),
    [
        ({"key": "app", "operator": "In", "values": ["train", "x"]}, True),
        ({"key": "app", "operator": "In", "values": ["x"]}, False),
        ({"key": "none", "operator": "In", "values": ["x"]}, False),
        ({"key": "app", "operator": "NotIn", "values": ["train"]}, False),
        ({"key": "none", "operator": "NotIn", "values": ["train"]}, True),
        ({"key": "app", "operator": "Exists"}, True),
        ({"key": "none", "operator": "Exists"}, False),
        ({"key": "app", "operator": "DoesNotExist"}, False),
        ({"key": "none", "operator": "DoesNotExist"}, True),
    ],
)
def test_which_pods_a_budget_is_of(rule: dict[str, Any], selected: object) -> None:
    assert selects({"matchExpressions": [rule]}, {"app": "train"}) is selected
    assert not selects({"matchExpressions": [rule], "matchLabels": {"app": "y"}}, {"app": "train"})


def test_a_job_is_read_as_it_was_made() -> None:
    body = guard_of_budget(SERIES, NEW)
    body["metadata"] |= {"uid": "g2"}
    made = Guard.of(body)
    assert (made.number, made.lasts, made.started, made.left(at(0))) == (2, timedelta(minutes=10), None, made.lasts)
    body["status"] = {"startTime": stamp(5)}
    assert Guard.of(body).left(at(65)) == timedelta(minutes=9)
    body["spec"]["suspend"] = True
    assert Guard.of(body).started is None
    body["status"]["conditions"] = [{"type": "Failed", "status": "True"}]
    assert Guard.of(body).left(at(65)) == timedelta(0)


def test_a_budget_is_of_the_pods_of_the_training_and_hangs_on_the_job() -> None:
    body = budget_of(SERIES, PutBudget(guard=guard(), minimum=2))
    assert body["spec"] == {
        "minAvailable": 2,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": TRAIN},
    }
    (owner,) = body["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("Job", "g1")
    (above,) = guard_of_budget(SERIES, NEW)["metadata"]["ownerReferences"]
    assert above["uid"] == SERIES_UID
    body["metadata"] |= {"uid": "b", "resourceVersion": "7"}
    assert Budget.of(body) == budget()
