"""Objects that are nested deeper than Python's own reader of JSON goes: nobody else's work depends on them."""

import asyncio
import json
import sys
from typing import Any, Self

import pytest
from kopf._cogs.clients import api

from dcp_operator.checkpoint.spec import LEVELS, LOCAL, SpecError, parse
from dcp_operator.kube import kopf_internals
from dcp_operator.kube.shallow import read_json
from scenes import manifest

pytestmark = pytest.mark.adversary


def nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


DEPTHS = (LEVELS, LEVELS + 1, 150, 170, 180, 190, 200, 250, 900, 1000, 1500, 9990)


@pytest.mark.parametrize("levels", DEPTHS)
@pytest.mark.parametrize("field", ["workload.args", "workers.podTemplate"])
def test_a_deep_checkpoint_is_listed_watched_and_refused(levels: int, field: str) -> None:
    """Python 3.12 reads 1,500 levels, whatever its recursion limit; API servers take 10,000."""
    body = manifest({f"spec.{field}": {"metadata": "DEEP"}})
    text = json.dumps({"items": [body, manifest()]}).replace('"DEEP"', nested(levels))
    kopf_internals.read_any_depth()
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    try:
        for found in (read_json(text), read_json(text.encode()), vars(api)["json"].loads(text)):
            deep, other = found["items"]
            assert other == manifest()
            json.dumps(deep)
            with pytest.raises(SpecError, match="write at most 100 levels"):
                parse(deep, site=LOCAL)
            with pytest.raises(SpecError):
                parse(deep)
    finally:
        sys.setrecursionlimit(before)


def test_what_is_cut_is_what_is_too_deep_alone() -> None:
    inside = '{"s": "a ] } \\" { [ b", "deep": %s, "n": [1, -2.5, true, null, 18446744073709551617]}'
    found = read_json(inside % nested(5000))
    assert found | {"deep": None} == json.loads(inside % "null")
    with pytest.raises(ValueError, match="EOF"):
        read_json('{"a": [')


async def listed_by_kopf(text: bytes, monkeypatch: pytest.MonkeyPatch) -> Any:
    class Response:
        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_: object) -> None:
            return None

        async def read(self) -> bytes:
            return text

    async def request(**how: Any) -> Response:
        assert how["method"] == "get"
        return Response()

    monkeypatch.setattr(api, "request", request)
    kopf_internals.read_any_depth()
    return await vars(api)["get"]("/x")


def test_kopf_lists_what_is_deep(monkeypatch: pytest.MonkeyPatch) -> None:
    found = asyncio.run(listed_by_kopf(b'{"items": [' + nested(9990).encode() + b"]}", monkeypatch))
    assert list(found) == ["items"]
