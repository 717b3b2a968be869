"""What a store may say, and which one of a namespace is the default one."""

import re
from datetime import timedelta
from typing import Any

import pytest

from dcp_operator.api.problems import SpecError
from dcp_operator.api.site import LOCAL, Site
from dcp_operator.api.store.cel_rules import RULES
from dcp_operator.api.store.parsing import parse
from dcp_operator.api.store.spec import AccessMode, default_of
from dcp_operator.api.store.status import StoreStatus
from dcp_operator.generate import crd
from scenes import stamp
from store_scenes import BAD, GOOD, Changes, store, store_manifest
from test_crd import nodes

(VERSION,) = crd.store_definition()["spec"]["versions"]
SCHEMA: dict[str, Any] = VERSION["schema"]["openAPIV3Schema"]


@pytest.mark.adversary
@pytest.mark.parametrize(("changes", "field", "said"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_said_in_a_line_with_its_field(changes: Changes, field: str, said: str) -> None:
    """The API server is asked about the same table."""
    with pytest.raises(SpecError) as caught:
        store(changes)
    problem = caught.value.problems[0]
    assert problem.startswith(f"{field}:"), problem
    assert said in problem
    assert "hunter2" not in str(caught.value)


@pytest.mark.adversary
@pytest.mark.parametrize("host", ["169.254.169.254", "2852039166", "metadata.google.internal", "[fd00:ec2::254]"])
def test_no_pod_is_sent_to_where_a_cloud_hands_out_the_identity_of_a_node(host: str) -> None:
    """The CRD can't say so: the operator makes no validation of such a store, and its status says why."""
    with pytest.raises(SpecError) as caught:
        store({"options": {"endpointUrl": f"http://{host}/"}})
    (problem,) = caught.value.problems
    assert problem.startswith("spec.options.endpointUrl: link-local and metadata addresses are refused")


@pytest.mark.parametrize("changes", GOOD.values(), ids=GOOD)
def test_what_is_taken(changes: Changes) -> None:
    found = store(changes)
    assert found.spec.url == changes.get("url", "s3://bucket/team")
    assert found.spec.writable is (found.spec.access_mode is AccessMode.READ_WRITE)


def test_what_is_left_out() -> None:
    spec = store().spec
    assert (spec.writable, spec.default, spec.interval) == (True, False, timedelta(hours=1))


def test_on_one_machine_a_store_may_be_a_folder() -> None:
    assert parse(store_manifest({"url": "file:///data/runs"}), site=LOCAL).spec.url == "file:///data/runs"


def test_an_operator_that_serves_fewer_protocols_says_that_it_is_its_own_options() -> None:
    with pytest.raises(SpecError) as caught:
        parse(store_manifest({"url": "gs://bucket/team"}), site=Site(protocols=("s3",)))
    assert caught.value.configured


def test_the_oldest_default_one_wins_and_then_the_first_by_name() -> None:
    def made(name: str, seconds: int, *, default: bool = True) -> Any:
        return store({"default": default}, name=name, creationTimestamp=stamp(seconds))

    assert default_of([]) is None
    assert default_of([made("old", 0, default=False)]) is None
    several = [made("c", 2), made("b", 1), made("a", 1), made("first", 0, default=False)]
    found = default_of(several)
    assert found is not None
    assert found.name == "a"


@pytest.mark.adversary
def test_the_crd_is_bounded_and_says_what_each_field_is() -> None:
    for section in ("spec", "status"):
        for path, node in nodes(SCHEMA["properties"][section], section):
            assert node["type"] != "string" or {"maxLength", "enum", "format"} & node.keys(), path
            assert node["type"] != "array" or "maxItems" in node, path
            assert path.endswith("[]") or node.get("description"), path


def test_rules_see_every_field_that_they_name() -> None:
    for rule in RULES:
        at: Any = SCHEMA
        for part in rule.at:
            at = at["properties"][part]
        for name in re.findall(r"(?<!has\()\bself\.(\w+)", rule.cel):
            assert not rule.at or name in at["properties"], rule
        assert len(rule.message) < 200


def test_columns() -> None:
    columns = VERSION["additionalPrinterColumns"]
    usual = [each["name"] for each in columns if not each.get("priority")]
    assert usual == ["URL", "Access", "Available", "Reason", "Default", "Validated", "Age"]


def test_a_status_of_another_version_is_read_as_far_as_it_goes() -> None:
    condition = {
        "type": "Available", "status": "True", "reason": "Validated", "message": "", "lastTransitionTime": stamp(0),
        "observedGeneration": 1,
    }  # fmt: skip
    found = StoreStatus.read({"conditions": [condition], "versioning": 3, "new": {"a": 1}})
    assert (found.available, found.versioning) == (True, "")
