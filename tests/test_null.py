"""null in a spec says the same as a field left out: to the API server, to the operator and to `dcp validate`."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from dcp_operator.api.checkpoint.parsing import parse
from dcp_operator.api.problems import SpecError
from dcp_operator.cli.app import app
from dcp_operator.generate.crd import custom_resource_definition
from scenes import MANIFEST

(VERSION,) = custom_resource_definition()["spec"]["versions"]
SPEC: dict[str, Any] = VERSION["schema"]["openAPIV3Schema"]["properties"]["spec"]
Path = tuple[str, ...]


def fields(schema: dict[str, Any], at: Path = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    for name, inner in schema.get("properties", {}).items():
        yield (*at, name), inner
        yield from fields(inner, (*at, name))


FIELDS = dict(fields(SPEC))


def with_null(path: Path) -> dict[str, Any]:
    """Return a manifest whose field is null, in sections that have nothing else but what they need."""
    body = copy.deepcopy(MANIFEST)
    at = body["spec"]
    for part in path[:-1]:
        at = at.setdefault(part, {})
    at[path[-1]] = None
    return body


def without(path: Path) -> dict[str, Any]:
    body = with_null(path)
    at = body["spec"]
    for part in path[:-1]:
        at = at[part]
    del at[path[-1]]
    return body


def said(body: dict[str, Any]) -> object:
    try:
        return parse(body)
    except SpecError as error:
        return error.problems


@pytest.mark.adversary
@pytest.mark.parametrize("path", FIELDS, ids=".".join)
def test_null_is_a_field_left_out(path: Path) -> None:
    assert said(with_null(path)) == said(without(path))
    # So does the API server: it prunes null where a field is not nullable.
    assert "nullable" not in FIELDS[path]


def test_dcp_validate_takes_null() -> None:
    body = copy.deepcopy(MANIFEST)
    body["spec"] |= {"parallelism": None, "runId": None, "timeouts": {"startSeconds": None}}
    body["spec"]["storage"] |= {"options": {"region": None}, "credentialsSecretRef": None}
    body["spec"]["workers"] |= {"podTemplate": None, "image": None}
    result = CliRunner().invoke(app, ["validate", "-f", "-"], input=json.dumps(body))
    assert (result.exit_code, result.stderr) == (0, "")


def test_null_is_a_value_in_a_free_form_field() -> None:
    body = copy.deepcopy(MANIFEST)
    body["spec"]["workload"]["args"] = {"limit": None, "more": {"seed": None}}
    workload = parse(body).spec.workload
    assert workload is not None
    assert workload.args == {"limit": None, "more": {"seed": None}}


def test_null_is_no_item_of_a_list() -> None:
    body = copy.deepcopy(MANIFEST)
    body["spec"]["workload"]["allow"] = [None]
    assert said(body) == ["spec.workload.allow[0]: has the wrong type; write a string"]
