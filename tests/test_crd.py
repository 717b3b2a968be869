"""The CRD says what the models say, bounds everything, and is the one that is committed."""

import re
from collections.abc import Iterator
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from dcp_operator.api.checkpoint.cel import Rule
from dcp_operator.api.checkpoint.cel_rules import RULES
from dcp_operator.api.checkpoint.spec import MUTABLE_FIELDS, CheckpointSpec
from dcp_operator.api.checkpoint.status import Status
from dcp_operator.generate import crd
from scenes import MANIFEST, manifest

DEFINITION = crd.custom_resource_definition()
VERSION = DEFINITION["spec"]["versions"][0]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]
SPEC = SCHEMA["properties"]["spec"]


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, each in schema.get("properties", {}).items():
        yield from nodes(each, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from nodes(schema["additionalProperties"], f"{path}[]")


@pytest.mark.adversary
@pytest.mark.parametrize("section", ["spec", "status"])
def test_everything_is_structural_and_bounded(section: str) -> None:
    for path, node in nodes(SCHEMA["properties"][section], section):
        assert "type" in node, path
        assert not {"$ref", "anyOf", "allOf"} & node.keys(), path
        match node["type"]:
            case "string":
                assert {"maxLength", "enum", "format"} & node.keys(), path
            case "array":
                assert "maxItems" in node, path
            case "object":
                free = node.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in node
                assert "properties" in node or (free and "maxProperties" in node), path
            case _:
                assert node["type"] in {"integer", "number", "boolean"}, path


@pytest.mark.parametrize("section", ["spec", "status"])
def test_kubectl_explain_has_a_sentence_for_every_field(section: str) -> None:
    fields = [(path, node) for path, node in nodes(SCHEMA["properties"][section], section) if not path.endswith("[]")]
    assert [path for path, node in fields if not node.get("description")] == []


def test_every_field_of_the_spec_says_whether_it_may_change() -> None:
    for path, node in nodes(SPEC, "spec"):
        if path.endswith("[]") or node.get("properties") or path == "spec":
            continue
        word = "May change." if path.split(".")[1] in MUTABLE_FIELDS else "Immutable."
        assert node["description"].endswith(f". {word}"), path


def filled(schema: dict[str, Any], value: Any) -> Any:
    """Fill in defaults as the API server does."""
    if not isinstance(value, dict):
        return value
    value = dict(value)
    for name, each in schema.get("properties", {}).items():
        if name not in value and "default" in each:
            value[name] = each["default"]
        if name in value:
            value[name] = filled(each, value[name])
    return value


def test_the_api_servers_defaults_are_the_models() -> None:
    def parsed(spec: dict[str, Any]) -> CheckpointSpec:
        return CheckpointSpec.model_validate(spec)

    assert parsed(filled(SPEC, MANIFEST["spec"])) == parsed(MANIFEST["spec"])


def test_rules_see_every_field_that_they_name() -> None:
    at: Any
    for rule in RULES:
        at = SCHEMA
        for part in rule.at:
            at = at["properties"][part]
        # What a rule reads without has() is required or has a default, so that it is always there.
        for name in re.findall(r"(?<!has\()\bself\.(\w+)", rule.cel):
            if rule.at:
                assert name in at["properties"], rule
        assert len(rule.message) < 200
        assert rule.message[0].islower()


def held(rule: Rule) -> str:
    """Return the field of the spec that a rule compares with its old value."""
    found = re.search(r"oldSelf\.(\w+)", rule.cel)
    assert found is not None
    return [*rule.at, found[1]][1]


@pytest.mark.adversary
def test_all_but_the_mutable_fields_are_held_still() -> None:
    fields = {held(rule) for rule in RULES if "oldSelf" in rule.cel}
    assert fields == SPEC["properties"].keys() - set(MUTABLE_FIELDS)


@pytest.mark.adversary
def test_what_may_not_change_is_named_once_and_with_the_way_out() -> None:
    """O S3-10: the API server puts the field in front, and says `Forbidden` where the value is not what is wrong."""
    for rule in (rule.to_dict() for rule in RULES if "oldSelf" in rule.cel):
        assert (rule["reason"], rule["fieldPath"][0]) == ("FieldValueForbidden", ".")
        said, way_out = rule["message"].split("; ")
        assert rule["fieldPath"][1:] not in said
        assert "under another name, or delete this one first: its data stays" in way_out


@pytest.mark.adversary
def test_null_is_no_value() -> None:
    """O S3-1: `kubectl apply` takes a null for a field that is not there, and the default comes back."""
    assert [path for path, node in nodes(SCHEMA) if node.get("nullable")] == []
    assert "-1" in SPEC["properties"]["ttlSecondsAfterFinished"]["description"]
    assert SPEC["properties"]["ttlSecondsAfterFinished"]["minimum"] == -1


def test_columns() -> None:
    columns = VERSION["additionalPrinterColumns"]
    usual = [each["name"] for each in columns if not each.get("priority")]
    assert usual == ["Operation", "Phase", "Step", "Size", "Duration", "Reason", "Age"]
    wide = [each["name"] for each in columns if each.get("priority")]
    assert wide == ["Ranks", "Throughput", "Entries", "URL", "Target"]


def test_names() -> None:
    names = DEFINITION["spec"]["names"]
    assert (names["shortNames"], names["categories"]) == (["dcp"], ["dcp"])
    assert VERSION["subresources"] == {"status": {}}


@pytest.mark.adversary
def test_a_secret_among_the_options_is_not_in_the_schema() -> None:
    options = SPEC["properties"]["storage"]["properties"]["options"]
    assert "x-kubernetes-preserve-unknown-fields" not in options
    assert not [name for name in options["properties"] if name in {"key", "secret", "token"}]


def test_an_empty_status_is_valid() -> None:
    jsonschema.validate(Status().to_dict(), SCHEMA["properties"]["status"])
    jsonschema.validate(manifest(), SCHEMA)
