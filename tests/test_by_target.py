"""Series are found by the labels of their targets: each that a pod is of, and few besides."""

from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcp_operator.api.checkpoint.target import Target
from dcp_operator.kube.client.api import BUDGETS, PODS, SERIES, ApiRequest
from dcp_operator.kube.view.by_target import ByTarget, target_of
from disruption_rig import LABELS, RANK0, World
from hypothesis_profile import examples

LABEL: Final = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xy"), max_size=3)
CHANGES: Final = st.lists(st.tuples(st.integers(0, 3), st.none() | LABEL), max_size=12)


def body(labels: dict[str, str]) -> dict[str, Any]:
    return {"spec": {"template": {"spec": {"target": {"selector": {"matchLabels": labels}}}}}}


@settings(max_examples=examples(100, 2000))
@given(CHANGES, LABEL)
def test_each_series_is_found_that_a_pod_is_of(
    changes: list[tuple[int, dict[str, str] | None]], pod: dict[str, str]
) -> None:
    index, there = ByTarget(), dict[int, Target | None]()
    for number, labels in changes:
        key = SERIES.key("team", f"s{number}")
        if labels is None:
            index.drop(key)
            there.pop(number, None)
        else:
            index.put(key, body(labels))
            there[number] = target_of(body(labels))
    found = index.of("team", pod)
    of = [SERIES.key("team", f"s{each}") for each, target in sorted(there.items()) if target and target.selects(pod)]
    assert [each for each in found if each in of] == of
    assert all(set(pod) & set(target.labels) for each in found if (target := there[int(each.name[1:])]))
    assert index.of("other", pod) == []


def test_what_names_no_target_is_found_by_nobody() -> None:
    index = ByTarget()
    targets: list[Any] = [None, {}, {"kind": "Pod"}, {"selector": {"matchLabels": {}}}]
    for target in targets:
        index.put(SERIES.key("team", "run"), {"spec": {"template": {"spec": {"target": target}}}})
    assert index.of("team", LABELS) == []


@pytest.mark.adversary
def test_series_of_which_no_agent_is_connected_cost_nothing() -> None:
    """Whoever may create series could else keep the operator busy for all."""
    world = World()
    world.connect()
    for number in range(50):
        target = {"kind": "Job", "name": f"other-{number}"}
        name = f"a-{number}"
        world.put_series(**{"metadata.name": name, "metadata.uid": name, "spec.template.spec.target": target})
        world.hub.series.note(SERIES.key("team", name), world.view.cache.served.body(SERIES.key("team", name)) or {})
    for second in (0, 5):
        world.round(second)
    asked: list[object] = []

    def note(request: ApiRequest) -> None:
        asked.append(request.resource)

    object.__setattr__(world.api, "refuse", note)
    world.round(10)
    assert (asked.count(PODS), asked.count(BUDGETS)) == (1, 1)
    parsed: list[object] = []
    real = world.view.cache.served.parsed
    world.view.cache.served.parsed = lambda key, body=None: parsed.append(key) or real(key, body)  # type: ignore[method-assign,func-returns-value]
    assert world.hub.series.retention(RANK0.namespace, world.hub.agents("team")[0]) == ""
    assert parsed == []
