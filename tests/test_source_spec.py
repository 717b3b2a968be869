"""What a Save may start from: exactly one of a checkpoint, a folder of safetensors, a file of torch.save."""

from typing import Any

import pytest

from dcp_operator.api.checkpoint.parsing import parse
from scenes import manifest
from test_spec import problems

URL = "s3://bucket/run"


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ({"strict": False}, "spec.save.from: write exactly one of url, safetensors, torch"),
        ({"torch": URL, "url": URL}, "spec.save.from: write exactly one of url, safetensors, torch"),
        ({"safetensors": "s3://b/../x"}, "spec.save.from.safetensors: is not a plain URL"),
        ({"torch": "gs://b/x"}, "spec.save.from.torch: is read with the options of spec.storage"),
    ],
)
def test_a_source_that_is_none_is_named(source: dict[str, Any], problem: str) -> None:
    assert any(problem in each for each in problems({"spec.save.from": source}))


@pytest.mark.parametrize("field", ["url", "safetensors", "torch"])
def test_each_source_is_one(field: str) -> None:
    source = parse(manifest({"spec.save.from": {field: URL}})).spec.of_save.from_
    assert source is not None
    assert (source.given, source.place) == ([field], URL)
