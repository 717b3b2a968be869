"""What a Clean's own fields may say, and what its success says."""

import re
from datetime import timedelta
from typing import Any

import pytest

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.durations import duration_text
from dcp_contract.operations import Operation
from dcp_contract.reasons import Reason
from dcp_contract.report import Report
from dcp_operator.api.checkpoint.operations import rules_of
from dcp_operator.api.checkpoint.parsing import parse
from dcp_operator.api.checkpoint.spec import CheckpointSpec
from dcp_operator.api.site import CLUSTER
from dcp_operator.generate.crd import custom_resource_definition
from scenes import attempt, checkpoint, decided, ended, manifest, message
from test_spec import problems

CLEAN: dict[str, Any] = {"spec.operation": "Clean", "spec.workload": None, "spec.workers": {}}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param({"spec.clean.minAge": "59m"}, "spec.clean.minAge: is too short: a save that is", id="too young"),
        pytest.param({"spec.clean.minAge": "0s"}, "spec.clean.minAge: is too short", id="no age"),
        pytest.param({"spec.clean.minAge": "1 day"}, "spec.clean.minAge: ", id="no duration"),
        pytest.param({"spec.deletionPolicy": "Delete"}, "spec.deletionPolicy: a Clean saves nothing", id="goes along"),
        pytest.param({"spec.workers": {"numNodes": 2}}, "spec.workers: a Clean runs as one process", id="two pods"),
        pytest.param(
            {"spec.storage": {"latestOf": {"series": "nightly"}}},
            "spec.storage.latestOf: is for a Load or a Verify, and this is a Clean",
            id="of a series",
        ),
    ],
)
def test_a_problem_names_the_field_and_the_fix(changes: dict[str, Any], problem: str) -> None:
    found = problems({**CLEAN, **changes})
    assert any(line.startswith(problem) for line in found), found


def test_the_defaults_are_a_day_and_this_url_alone() -> None:
    spec = parse(manifest(CLEAN)).spec
    assert (spec.of_clean.min_age, spec.of_clean.dry_run, spec.sweeps) == (timedelta(days=1), False, False)
    schema = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    default = schema["properties"]["clean"]["properties"]["minAge"]["default"]
    assert default == duration_text(spec.of_clean.min_age), "what the API server writes into an object"


@pytest.mark.parametrize(
    ("text", "old_enough"),
    [
        *((text, True) for text in ("1h", "60m", "3600s", "1d", "7d", "100h", "10000s", "1d5m", "12h30m", "0d1h")),
        *((text, False) for text in ("59m", "3599s", "0d", "0h", "5m", "0d0h59m", "1s", "59m59s")),
    ],
)
def test_the_api_server_and_the_operator_agree_about_an_age(text: str, old_enough: bool) -> None:  # noqa: FBT001
    (rule,) = (each for each in rules_of(Operation.CLEAN).cel if each.field == "minAge" and "matches" in each.cel)
    assert bool(re.search(rule.cel.partition("matches('")[2].removesuffix("')"), text)) is old_enough
    (*found,) = rules_of(Operation.CLEAN).problems(
        CheckpointSpec.model_validate({"operation": "Clean", "clean": {"minAge": text}}), CLUSTER
    )
    assert (found == []) is old_enough


def test_a_success_says_what_went() -> None:
    of = checkpoint(CLEAN)
    removed = "Removed 2 orphaned saves (24 B)"
    info = CheckpointInfo(url=of.spec.storage.url, bytes=24, files=3, removed=removed)
    found = decided(attempt(ended(0, Report(result=Reason.CLEANED, checkpoint=info)), of=of), of=of)
    assert message(found).startswith(f"Cleaned. {removed}.")
    assert found.status["checkpoint"]["removed"] == removed
