"""What an Export's own fields may say."""

from typing import Any

import pytest

from dcp_contract.operations import ExportDtype
from dcp_engine.format.safetensors import CODES
from dcp_operator.api.checkpoint.parsing import parse
from scenes import manifest
from test_spec import problems

SOURCE = "s3://bucket/run/step-1"
ALONE: dict[str, Any] = {"spec.operation": "Export", "spec.workload": None, "spec.workers": {}}
EXPORT: dict[str, Any] = {**ALONE, "spec.export.from.url": SOURCE}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param(ALONE, "spec.export: is missing; write export: {from: {url: s3://", id="an export of nothing"),
        pytest.param({**ALONE, "spec.export": {}}, "spec.export.from: is missing", id="an export without a source"),
        pytest.param(
            {**ALONE, "spec.export.from.url": "gs://bucket/run"},
            "spec.export.from.url: is read with the options of spec.storage; write a URL of the same protocol",
            id="an export from another kind of store",
        ),
        pytest.param(
            {**ALONE, "spec.export.from.url": f"{SOURCE}/", "spec.storage.url": SOURCE},
            "spec.export.from.url: is spec.storage.url, where the export goes; write another one",
            id="an export among the source's files",
        ),
        pytest.param(
            {
                **ALONE,
                "spec.export.from.url": "s3://bucket/run//./step-1",
                "spec.storage.url": "s3://bucket/run/step-1",
            },
            "spec.export.from.url: is spec.storage.url, where the export goes; write another one",
            id="the same by another spelling",
        ),
        pytest.param(
            {**EXPORT, "spec.deletionPolicy": "Delete"},
            "spec.deletionPolicy: an export is no checkpoint",
            id="an export that goes with its object",
        ),
        pytest.param(
            {**EXPORT, "spec.export.format": "gguf"},
            "spec.export.format: is not one of its values",
            id="another format",
        ),
        pytest.param(
            {**EXPORT, "spec.export.dtype": "int8"}, "spec.export.dtype: is not one of its values", id="no float"
        ),
        pytest.param(
            {**EXPORT, "spec.export.keys": {"model.*": "*"}}, "spec.export.keys: ", id="a mapping, which has no order"
        ),
        pytest.param(
            {**EXPORT, "spec.export.keys": [{"glob": "a.*", "name": "*.*"}]},
            "spec.export.keys.0.name: has more stars than its glob; write at most as many",
            id="a star from nowhere",
        ),
        pytest.param(
            {**EXPORT, "spec.export.keys": [{"glob": "a", "name": "b"}, {"glob": "a", "name": "c"}]},
            "spec.export.keys: has the glob 'a' twice, and the first one counts; write it once",
            id="a glob twice",
        ),
        pytest.param(
            {**EXPORT, "spec.export.configFiles": ["/config/"]},
            "spec.export.configFiles.0: names no file; write a path in the pod, such as /config/config.json, or a URL",
            id="a folder",
        ),
        pytest.param(
            {**EXPORT, "spec.export.configFiles": ["/config/a.json", "gs://bucket/config.json"]},
            "spec.export.configFiles.1: is read with the options of spec.storage; write a path, or a URL of the same",
            id="a config file in another kind of store",
        ),
        pytest.param(
            {**EXPORT, "spec.export.configFiles": ["config.json"]},
            "spec.export.configFiles.0: has no protocol",
            id="a config file somewhere",
        ),
        pytest.param(
            {"spec.export.from.url": "s3://bucket/run"},
            "spec.export: is for an Export, and this is a Save; drop it, or write operation: Export",
            id="export of a save",
        ),
        pytest.param(
            {**EXPORT, "spec.workers": {"numNodes": 2}},
            "spec.workers: an Export runs as one process; write numNodes: 1 and numProcPerNode: 1",
            id="an export of many",
        ),
    ],
)
def test_a_problem_names_the_field_and_the_fix(changes: dict[str, Any], problem: str) -> None:
    found = problems(changes)
    assert any(line.startswith(problem) for line in found), found


def test_an_export_takes_all_its_fields() -> None:
    keys = [{"glob": "model.lm_head.*", "name": "lm_head.*"}, {"glob": "model.*", "name": "*"}]
    every = {
        "from": {"url": SOURCE},
        "format": "safetensors",
        "dtype": "bfloat16",
        "include": ["model"],
        "keys": keys,
        "shardBytes": 1 << 30,
        "configFiles": ["/config/config.json", "s3://bucket/base/tokenizer.json"],
        "ifExists": "Replace",
    }
    spec = parse(manifest({**EXPORT, "spec.export": every})).spec
    assert spec.of_export.to_dict() == every
    assert (spec.overwrites, spec.source_url) == (True, SOURCE)


def test_the_types_are_those_that_safetensors_have() -> None:
    assert {*ExportDtype} == {name for name in CODES if "float" in name}
