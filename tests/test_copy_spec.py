"""What a Copy's own fields may say."""

from typing import Any

import pytest

from dcp_operator.api.checkpoint.parsing import parse
from scenes import manifest
from test_spec import problems

SOURCE = "s3://bucket/run/step-1"

COPY: dict[str, Any] = {"spec.operation": "Copy", "spec.workload": None, "spec.workers": {}}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param(
            {"spec.operation": "Copy", "spec.workload": None, "spec.workers": {}},
            "spec.copy: is missing; write copy: {from: {url: s3://bucket/run/step-1000}}",
            id="a copy of nothing",
        ),
        pytest.param(
            {"spec.operation": "Copy", "spec.copy": {}, "spec.workload": None, "spec.workers": {}},
            "spec.copy.from: is missing",
            id="a copy without a source",
        ),
        pytest.param(
            {**COPY, "spec.copy.from.url": "gs://bucket/run"},
            "spec.copy.from.url: is read with the options of spec.storage; write a URL of the same protocol",
            id="a copy from another kind of store",
        ),
        pytest.param(
            {
                **COPY,
                "spec.copy.from.url": "s3://bucket/run/step-1000/",
                "spec.storage.url": "s3://bucket/run/step-1000",
            },
            "spec.copy.from.url: is spec.storage.url, where the copy goes; write another one",
            id="a copy of itself",
        ),
        pytest.param(
            {**COPY, "spec.copy.from.url": "s3://bucket/run//./step-1", "spec.storage.url": "s3://bucket/run/step-1"},
            "spec.copy.from.url: is spec.storage.url, where the copy goes; write another one",
            id="a copy of itself by another spelling",
        ),
        pytest.param(
            {**COPY, "spec.copy.from.url": "s3://bucket/run::x"},
            "spec.copy.from.url: chained URLs",
            id="a copy from a chained URL",
        ),
        pytest.param(
            {**COPY, "spec.copy.from.url": SOURCE, "spec.deletionPolicy": "Delete"},
            "spec.deletionPolicy: a copy has the save id of its source",
            id="a copy that goes with its object",
        ),
        pytest.param(
            {"spec.copy.from.url": "s3://bucket/run"},
            "spec.copy: is for a Copy, and this is a Save; drop it, or write operation: Copy",
            id="copy of a save",
        ),
        pytest.param(
            {**COPY, "spec.copy.from.url": "s3://bucket/run", "spec.workers": {"numNodes": 2}},
            "spec.workers: a Copy runs as one process; write numNodes: 1 and numProcPerNode: 1",
            id="a copy of many",
        ),
    ],
)
def test_a_problem_names_the_field_and_the_fix(changes: dict[str, Any], problem: str) -> None:
    found = problems(changes)
    assert any(line.startswith(problem) for line in found), found


def test_a_copy_takes_all_its_fields() -> None:
    every = {"from": {"url": SOURCE}, "ifExists": "Replace", "verify": False, "bytesPerSecond": 1 << 20}
    spec = parse(manifest({**COPY, "spec.copy": every})).spec
    assert (spec.of_copy.verify, spec.overwrites, spec.source_url) == (False, True, SOURCE)
