"""What a series may say, and the Checkpoint that each of its runs is."""

import pytest

from dcp_operator.api.checkpoint.parsing import parse as parse_checkpoint
from dcp_operator.api.naming import run_name, scheduled_time
from dcp_operator.api.problems import SpecError
from dcp_operator.api.series.parsing import parse
from dcp_operator.api.site import CLUSTER
from dcp_operator.controllers.series.actions import CreateRun
from dcp_operator.objects.series_run import checkpoint_of_run
from scenes import NOW
from series_scenes import BAD, GOOD, SERIES_UID, VERIFY, Changes, hours, series, series_manifest


@pytest.mark.adversary
@pytest.mark.parametrize(("changes", "field", "said"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_said_in_a_line_with_its_field(changes: Changes, field: str, said: str) -> None:
    """The API server is asked about the same table."""
    with pytest.raises(SpecError) as caught:
        series(changes)
    (problem,) = caught.value.problems
    assert problem.startswith(field), problem
    assert said in problem
    assert "hunter2" not in problem


@pytest.mark.parametrize("changes", GOOD.values(), ids=GOOD)
def test_each_run_of_what_is_taken_is_a_checkpoint_that_is_taken(changes: Changes) -> None:
    of = series(changes)
    body = checkpoint_of_run(of, CreateRun(name=run_name(of.name, NOW), scheduled=NOW))
    assert parse_checkpoint(body, site=CLUSTER).name == "nightly-20261124-080000"


def test_a_run_saves_below_the_prefix_and_belongs_to_the_series() -> None:
    labels = {"kueue.x-k8s.io/queue-name": "night"}
    of = series({"spec.storage.url": "s3://bucket/run/", "spec.template.metadata": {"labels": labels}})
    body = checkpoint_of_run(of, CreateRun(name="nightly-20261124-100000", scheduled=hours(2)))
    assert body["spec"]["storage"] == {
        "url": "s3://bucket/run/20261124-100000",
        "credentialsSecretRef": {"name": "s3"},
    }
    assert body["spec"].keys() == {"operation", "workload", "storage"}, "what was not written is left to the API server"
    assert body["metadata"]["labels"] == {
        **labels,
        "app.kubernetes.io/managed-by": "dcp-operator",
        "dcp-operator.io/series": "nightly",
    }
    (owner,) = body["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("CheckpointSeries", SERIES_UID, True)


def test_a_run_that_does_not_save_is_its_template() -> None:
    of = series({**VERIFY, "spec.template.metadata": {"annotations": {"a": "b"}}})
    body = checkpoint_of_run(of, CreateRun(name="nightly-20261124-100000", scheduled=hours(2)))
    assert body["spec"] == {"operation": "Verify", "storage": {"url": "s3://bucket/run/step-1"}}
    assert body["metadata"]["annotations"] == {"a": "b"}


def test_null_says_the_same_as_a_field_left_out() -> None:
    changes = {"spec.template.spec.workload.args": {"limit": None}}
    body = series_manifest(changes)
    body["spec"]["schedule"] = None
    body["spec"]["template"]["spec"]["save"] = None
    parsed = parse(body)
    assert parsed == series(changes)
    assert parsed.run_spec["workload"]["args"] == {"limit": None}, "in a free-form field null is a value"


def test_what_another_operator_would_take_waits_for_it() -> None:
    narrow = CLUSTER.model_copy(update={"protocols": ("gs",)})
    with pytest.raises(SpecError) as caught:
        parse(series_manifest(), site=narrow)
    assert caught.value.configured


@pytest.mark.parametrize(
    "name",
    ["nightly", "nightly-20261124", "nightly-20261324-080000", "nightly-2026124-0800001", "other-20261124-080000"],
)
def test_a_name_of_another_form_is_no_run_of_the_schedule(name: str) -> None:
    assert scheduled_time("nightly", run_name("nightly", NOW)) == NOW
    assert scheduled_time("nightly", name) is None
