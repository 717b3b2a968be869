"""Objects that are nested deeper than Python's own reader of JSON goes: nobody else's work depends on them."""

import asyncio
import json
import sys
import tracemalloc
from typing import Any, Self

import pytest
from kopf._cogs.clients import api

from dcp_operator.api.bounds import BYTES, FREE_FORM, LEVELS, WRITABLE, deeper, larger
from dcp_operator.api.checkpoint.parsing import parse
from dcp_operator.api.json_types import Body
from dcp_operator.api.problems import SpecError
from dcp_operator.api.site import LOCAL
from dcp_operator.generate import admission
from dcp_operator.kube.client.api import CHECKPOINTS
from dcp_operator.kube.client.transport import LEVELS as READ
from dcp_operator.kube.client.transport import read_json
from dcp_operator.kube.kopf_seam.internals import read_any_depth
from dcp_operator.kube.view.cache import Cache
from fake_api import FakeApi, reconciling, status
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
    read_any_depth()
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    try:
        for found in (read_json(text), read_json(text.encode()), vars(api)["json"].loads(text)):
            deep, other = found["items"]
            assert other == manifest()
            json.dumps(deep)
            with pytest.raises(SpecError, match="write at most 32 levels"):
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
    read_any_depth()
    return await vars(api)["get"]("/x")


def test_kopf_lists_what_is_deep(monkeypatch: pytest.MonkeyPatch) -> None:
    found = asyncio.run(listed_by_kopf(b'{"items": [' + nested(9990).encode() + b"]}", monkeypatch))
    assert list(found) == ["items"]


KEY = CHECKPOINTS.key("team", "save-1000")
FIELDS = [".".join(("spec", *path)) for path in FREE_FORM]


def of_depth(levels: int) -> Any:
    return read_json(nested(levels))


@pytest.mark.parametrize("levels", [0, 1, 2, LEVELS, WRITABLE])
@pytest.mark.parametrize("shape", [of_depth, lambda levels: json.loads("[" * levels + "]" * levels) if levels else 1])
def test_depth(levels: int, shape: Any) -> None:
    assert not deeper(shape(levels), levels)
    assert deeper(shape(levels + 1), levels)


@pytest.mark.parametrize("path", FREE_FORM, ids=FIELDS)
def test_a_free_form_field_may_be_so_deep(path: tuple[str, str]) -> None:
    field = ".".join(path)
    # Below metadata.annotations, where the operator looks at nothing.
    prefix: list[str] = ["metadata", "annotations"] if "pod" in field else ["x", "y"]

    def body(levels: int) -> Body:
        return manifest({f"spec.{field}.{'.'.join(prefix)}.z": of_depth(levels - 3)})

    parse(body(LEVELS))
    with pytest.raises(SpecError) as error:
        parse(body(LEVELS + 1))
    assert error.value.problems == [f"spec.{field}: is nested too deeply; write at most 32 levels"]


def test_the_api_server_is_told_of_the_same_fields() -> None:
    said = [each["message"].partition(":")[0] for each in admission.shallow()["spec"]["validations"]]
    assert said == FIELDS
    assert all(each["expression"].count(".all(") == LEVELS for each in admission.shallow()["spec"]["validations"])


@pytest.mark.parametrize("levels", [WRITABLE, READ, 9900])
@pytest.mark.parametrize("begun", [False, True], ids=["new", "begun"])
@pytest.mark.parametrize("field", FIELDS)
def test_nothing_is_written_to_what_was_cut(field: str, levels: int, *, begun: bool) -> None:
    """The API server needs seconds for each such write, and a worker waits for it that others wait for."""
    api = FakeApi()
    api.add(CHECKPOINTS, manifest())
    if begun:
        asyncio.run(reconciling(api)(KEY))
    before = status(api, KEY)
    text = json.dumps(manifest({f"spec.{field.removeprefix('spec.')}": {"x": "DEEP"}})["spec"])
    path = CHECKPOINTS.path(KEY.namespace, KEY.name)
    api.add(CHECKPOINTS, api.objects[path] | {"spec": read_json(text.replace('"DEEP"', nested(levels)))})
    api.writes()
    reconciler = reconciling(api)
    assert asyncio.run(reconciler(KEY)) is None, "nor is it looked at again before anything is heard of it"
    assert (api.writes(), status(api, KEY)) == ([], before)
    event = reconciler.recorder._waiting.get_nowait()[1]
    assert (event.type, event.reason) == ("Warning", "InvalidSpec")
    assert event.message == "spec: is nested too deeply; write at most 32 levels. No status is written for it."


def test_a_spec_is_at_most_so_large() -> None:
    fits = {"x": "y" * (BYTES - 7 - len('{"x": ""}'))}
    assert not larger(fits)
    with pytest.raises(SpecError) as error:
        parse(manifest({"spec.workers.podTemplate": {"metadata": {"annotations": {"x": "y" * BYTES}}}}))
    assert error.value.problems == ["spec: is larger than 256 KiB; move what is large into the image or a ConfigMap"]


def large(number: int) -> Body:
    body = manifest({"metadata.annotations": {f"a{at}": "x" * 1000 for at in range(250)}})
    body["metadata"] |= {"name": f"c{number}", "uid": f"u{number}", "resourceVersion": str(number + 1)}
    body["metadata"]["labels"] = {f"l{at}": "x" * 60 for at in range(500)}
    body["spec"]["workload"]["args"] = {"x": {f"{at}": f"{at}" for at in range(20_000)}}
    return body


def test_what_is_large_is_not_kept() -> None:
    """A thousand Checkpoints of 1.4 MB, small things in them, would take more memory than the operator is given."""
    cache = Cache()
    tracemalloc.start()
    try:
        cache.put(CHECKPOINTS, large(0))
        before, _ = tracemalloc.get_traced_memory()
        for number in range(1, 5):
            cache.put(CHECKPOINTS, large(number))
        kept = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert kept < 4 * 8_192


def test_what_is_large_is_refused_in_its_status() -> None:
    api = FakeApi()
    api.add(CHECKPOINTS, manifest({"spec.workload.args": {"x": "y" * BYTES}}))
    asyncio.run(reconciling(api)(KEY))
    found = status(api, KEY)
    assert (found["phase"], found["reason"]) == ("Failed", "InvalidSpec")
    assert "spec: is larger than 256 KiB" in found["conditions"][0]["message"]
    api.writes()
    again = reconciling(api)
    asyncio.run(again(KEY))
    assert api.writes() == []


def test_what_is_large_and_has_begun_is_carried_on() -> None:
    """It was accepted by an earlier version, which had no such bound."""
    api = FakeApi()
    api.add(CHECKPOINTS, manifest())
    asyncio.run(reconciling(api)(KEY))
    path = CHECKPOINTS.path(KEY.namespace, KEY.name)
    spec = manifest({"spec.workload.args": {"x": "y" * BYTES}})["spec"]
    api.add(CHECKPOINTS, api.objects[path] | {"spec": spec})
    kept = reconciling(api).cache.served.body(KEY)
    assert kept is not None
    assert kept["spec"] == spec
