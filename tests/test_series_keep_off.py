"""Where a series has a retention over its training's prefix, the agent's own keep is off, and the series says so."""

from typing import Any

import pytest

from dcp_operator.api.problems import SpecError
from dcp_operator.api.site import Site
from dcp_operator.controllers.series.adoption import keepers, removes_for
from dcp_operator.controllers.series.decide import decide
from dcp_operator.controllers.series.runs import Runs
from dcp_operator.kube.client.api import SERIES
from dcp_operator.kube.view.adopting_series import AdoptingSeries
from dcp_operator.kube.view.cache import Cache, ClusterView
from dcp_operator.kube.view.series_runs import SeriesRuns
from report_scenes import ADOPTS, agent
from scenes import NOW
from series_scenes import PREFIX, series, series_manifest


@pytest.mark.parametrize(
    ("of", "by", "removes"),
    [
        pytest.param({}, {}, True, id="its prefix"),
        pytest.param({"spec.storage": {"url": f"{PREFIX}/"}}, {}, True, id="spelt otherwise"),
        pytest.param({}, {"prefix": f"{PREFIX}/one"}, True, id="the prefix of several trainings"),
        pytest.param({"spec.suspend": True}, {}, True, id="suspended"),
        pytest.param({"spec.storage": {"url": f"{PREFIX}/deeper"}}, {}, False, id="a part of the prefix"),
        pytest.param({"spec.storage": {"url": f"{PREFIX}-2"}}, {}, False, id="a longer name"),
        pytest.param({"spec.retention": None}, {}, False, id="no retention"),
        pytest.param({}, {"labels": {}}, False, id="a pod that is none of the target"),
        pytest.param({"spec.storage": {"url": "file:///mnt/run"}}, {"prefix": "/mnt/run"}, True, id="a path"),
    ],
)
def test_where_a_retention_removes_the_agent_does_not(of: dict[str, Any], by: dict[str, Any], *, removes: bool) -> None:
    found = series({**ADOPTS, "spec.retention": {"last": 1}, **of})
    for keeps in (True, False):
        speaks = agent(keeps=keeps, **by)
        assert removes_for(found, speaks) == removes
        assert keepers(found, [speaks]) == (("rank0",) if removes and keeps else ())


def test_that_an_agents_keep_is_off_stands_in_the_status_and_in_one_event() -> None:
    of = series({**ADOPTS, "spec.retention": {"last": 1}})
    found = decide(of, Runs(keepers=("rank0",)), {}, NOW)
    assert found.status["retention"]["keepOff"] == ["rank0"]
    assert [each.message for each in found.events if each.reason == "KeepIsOff"] == [
        "The agent in pod rank0 has a keep of its own, which is off: spec.retention removes in its place."
    ]
    again = decide(of, Runs(keepers=("rank0",)), found.status, NOW)
    assert (again.status, again.events) == (found.status, ())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        pytest.param({}, "nightly", id="as it is"),
        pytest.param({"spec.schedule": "no such time"}, "nightly", id="a spec that can't be worked on"),
        pytest.param({"spec.storage": {"url": "gs://bucket/run"}}, "nightly", id="a protocol that is not enabled"),
        pytest.param({"spec.schedule": "no such time", "spec.retention": None}, "", id="neither it nor a retention"),
        pytest.param({"spec.schedule": "no such time", "spec.storage": {"url": "s3://a/b"}}, "", id="another prefix"),
        pytest.param({"spec.schedule": "no such time", "spec.storage": None}, "", id="no prefix"),
    ],
)
def test_a_series_that_can_not_be_worked_on_is_no_reason_to_remove_what_it_keeps(
    changes: dict[str, Any], named: str
) -> None:
    """The agent knows nothing of what is pinned: an operator with other options must not set it free."""
    cache = Cache(site=Site(protocols=("s3",)))
    adopting = AdoptingSeries(cache, SeriesRuns())
    view = ClusterView(cache, {SERIES.kind: (adopting,)})
    body = series_manifest({**ADOPTS, "spec.retention": {"last": 1}, **changes, "metadata.resourceVersion": "1"})
    key = view.ingest(SERIES, body)
    assert key is not None
    assert isinstance(cache.served.parsed(key), SpecError) == bool(changes)
    prefix = "gs://bucket/run" if "gs:" in str(changes) else PREFIX
    assert adopting.retention("team", agent(prefix=prefix)) == named
