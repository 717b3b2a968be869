"""etcd restored from a backup: versions go back, and a cache that never goes back would hear nothing any more."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from dcp_operator.kube.client.api import CHECKPOINTS
from dcp_operator.kube.feed import resync
from dcp_operator.kube.feed.resync import Resync, WentBackError
from fake_api import FakeApi, reconciling, seen
from scenes import manifest

if TYPE_CHECKING:
    from dcp_operator.api.json_types import Body


def versions(api: FakeApi, version: int) -> None:
    for body in api.objects.values():
        body["metadata"] = body["metadata"] | {"resourceVersion": str(version)}


def audited(change: Callable[[FakeApi, Any], None], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(resync, "PATIENCE", 0.05)
    api = FakeApi()
    api.add(CHECKPOINTS, manifest())
    reconciler = reconciling(api)
    change(api, reconciler)
    return asyncio.run(Resync(api, reconciler.view, lambda _: None, ("team",)).compare(CHECKPOINTS))


@pytest.mark.adversary
def test_an_older_version_than_was_seen_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WentBackError, match=r"checkpoints team/save-1000 has an older version"):
        audited(lambda api, _: versions(api, 7), monkeypatch)


@pytest.mark.adversary
def test_what_was_deleted_and_is_there_again_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def restored(api: FakeApi, reconciler: Any) -> None:
        kept = dict(api.objects)
        api.objects.clear()
        seen(api, reconciler)
        api.objects.update(kept)

    with pytest.raises(WentBackError):
        audited(restored, monkeypatch)


@pytest.mark.adversary
@pytest.mark.parametrize("deleted", [False, True], ids=["older", "without its deletion"])
def test_a_list_that_lags_is_no_restore(monkeypatch: pytest.MonkeyPatch, *, deleted: bool) -> None:
    """An API server may list from its own watch cache; what is read alone is read from etcd."""
    read = FakeApi._read

    def lagging(api: FakeApi, reconciler: Any) -> None:
        body: Body = next(iter(api.objects.values()))
        old = body | {"metadata": body["metadata"] | {"resourceVersion": "7"}}
        if deleted:
            api.objects.clear()
            seen(api, reconciler)
        monkeypatch.setattr(
            FakeApi,
            "_read",
            lambda self, request: (
                {"metadata": {}, "items": [old]} if request.path.endswith("/checkpoints") else read(self, request)
            ),
        )

    assert audited(lagging, monkeypatch) == 0
