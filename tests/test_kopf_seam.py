"""kopf stands behind one package, and each private name of kopf that is used there is what it is taken for."""

import ast
import asyncio
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kopf
import pytest
from kopf._cogs.clients import api, errors
from kopf._core.reactor import inventory
from kubernetes.aio.client.configuration import Configuration

import dcp_operator
from dcp_operator.kube.client.api import CHECKPOINTS, JOBS
from dcp_operator.kube.kopf_seam.internals import Forgetful
from dcp_operator.kube.kopf_seam.watching import Change, Watch, _registry, settings

if TYPE_CHECKING:
    from dcp_operator.api.json_types import Body

ROOT = Path(dcp_operator.__file__).parent


def users(wanted: Callable[[str], bool]) -> set[str]:
    """Return the modules of the operator that import a module whose name is wanted."""
    found = set()
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [each.name for each in node.names] if isinstance(node, ast.Import) else []
            if any(wanted(each) for each in modules):
                found.add(str(path.relative_to(ROOT)))
    return found


@pytest.mark.adversary
def test_kopfs_private_names_are_used_in_one_module() -> None:
    """O S3-15: they may be gone with the next version."""
    assert users(lambda module: module.startswith("kopf._")) == {"kube/kopf_seam/internals.py"}


def test_kopf_is_used_in_one_package() -> None:
    modules = users(lambda module: module.partition(".")[0] == "kopf")
    assert {str(Path(each).parent) for each in modules} == {"kube/kopf_seam"}


SIGNATURES: list[tuple[Any, list[str]]] = [
    (api.get, ["url", "settings", "payload", "headers", "timeout", "logger"]),
    (api.request, ["method", "url", "settings", "payload", "headers", "timeout", "backoffs", "context", "logger"]),
    (errors.check_response, ["response"]),
    (inventory.ResourceMemories.recall, ["self", "raw_body", "memobase", "noticed_by_listing", "ephemeral"]),
]


@pytest.mark.adversary
@pytest.mark.parametrize(("function", "parameters"), SIGNATURES, ids=[each.__qualname__ for each, _ in SIGNATURES])
def test_kopfs_private_names_are_there_as_they_are_used(function: Any, parameters: list[str]) -> None:
    assert list(inspect.signature(function).parameters) == parameters
    assert inspect.iscoroutinefunction(inspect.unwrap(function))


def test_what_is_put_in_kopfs_place_is_called_alike() -> None:
    recall = inspect.signature(inventory.ResourceMemories.recall).parameters
    assert list(inspect.signature(Forgetful.recall).parameters) == list(recall)
    # The watch reads each line by `json.loads` of that module, and the list by `get`.
    assert "json.loads" in inspect.getsource(api)
    assert callable(vars(api)["json"].loads)
    assert "headers" in inspect.signature(errors.APIError.__init__).parameters


@pytest.mark.parametrize(
    ("kind", "change"),
    [(None, Change.LISTED), ("ADDED", Change.CHANGED), ("MODIFIED", Change.CHANGED), ("DELETED", Change.DELETED)],
)
def test_an_event_is_heard_by_the_filter_and_reaches_no_handler(kind: str | None, change: Change) -> None:
    heard: list[tuple[Change, Body]] = []
    watches = [Watch(each, "", lambda *said: heard.append(said)) for each in (CHECKPOINTS, JOBS)]
    registry = _registry(watches, Configuration())
    handlers: Any = registry._watching.get_all_handlers()
    assert [each.id for each in handlers] == ["checkpoints", "jobs"]
    body: Body = {"metadata": {"name": "a"}}
    assert handlers[0].when(event={"type": kind, "object": body}, logger=None, memo=None) is False
    assert heard == [(change, body)]


def test_kopf_writes_nothing() -> None:
    made = settings([Watch(JOBS, "a-label", lambda *_: None)])
    assert not made.posting.enabled
    essence: Any = None
    assert made.persistence.diffbase_storage.fetch(body=essence) is None
    assert list(made.watching.label_selectors.values()) == ["a-label"]
    assert isinstance(asyncio.run(Forgetful().recall(kopf.RawBody(metadata={"uid": "u"}))), inventory.ResourceMemory)
