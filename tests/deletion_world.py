"""A deleted Checkpoint and its operator over an API server in memory and a clock of the test's own."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any

from dcp_operator.api.json_types import Body
from dcp_operator.api.naming import data_removal_name
from dcp_operator.kube.client import metrics
from dcp_operator.kube.client.api import CHECKPOINTS, EVENTS
from fake_api import checkpoints, seen
from scenes import NOW, URL, manifest, stamp
from series_world import DyingApi, OperatorEndedError

NAME, SAVE = "save-1000", "a" * 32
KEY = CHECKPOINTS.key("team", NAME)
SAVED = {
    "phase": "Succeeded",
    "reason": "Saved",
    "attempts": 1,
    "completionTime": stamp(0),
    "checkpoint": {"url": URL, "saveId": SAVE},
}
REMOVED = {"phase": "Succeeded", "reason": "Deleted", "completionTime": stamp(1)}


class World:
    """The objects, the time, and an operator that may be started anew."""

    def __init__(self, changes: Mapping[str, Any] | None = None, name: str = NAME) -> None:
        self.api, self.now, self.name = DyingApi(), NOW, name
        self.put({"spec.deletionPolicy": "Delete", "spec.workers": {"device": "cpu"}, **(changes or {})}, name)
        self.start()

    def put(self, changes: Mapping[str, Any], name: str) -> None:
        self.api.add(CHECKPOINTS, manifest({**changes, "metadata.name": name, "metadata.uid": f"uid-{name}"}))

    def start(self) -> None:
        self.api.lives()
        self.reconciler = checkpoints(self.api, now=lambda: self.now)
        seen(self.api, self.reconciler)

    async def work(self, now: datetime | None = None, name: str = "") -> float | None:
        """Hear, and reconcile once."""
        self.now = now or self.now
        seen(self.api, self.reconciler)
        return await self.reconciler(CHECKPOINTS.key("team", name or self.name))

    async def through(self, now: datetime | None = None) -> None:
        """Reconcile until nothing is written any more, by operators of which one may end."""
        self.now = now or self.now
        for _ in range(20):
            before = len(self.api.seen)
            try:
                await self.work()
            except OperatorEndedError:
                self.start()
                continue
            if len(self.api.seen) == before:
                return
        raise AssertionError("it never comes to rest")

    def change(self, name: str = "", **fields: Any) -> None:
        """Write to an object as somebody else does."""
        body = self.api.objects[CHECKPOINTS.path("team", name or self.name)]
        metadata = {**body["metadata"], **fields.pop("metadata", {})}
        self.api.add(CHECKPOINTS, {**body, **fields, "metadata": metadata})

    def delete(self, name: str = "") -> None:
        self.change(name, metadata={"deletionTimestamp": stamp(0)})

    def body(self, name: str = "") -> Body | None:
        return self.api.objects.get(CHECKPOINTS.path("team", name or self.name))

    @property
    def removal(self) -> str:
        return data_removal_name(self.name, f"uid-{self.name}")

    @property
    def events(self) -> list[Body]:
        return [each for each in self.api.objects.values() if each["kind"] == EVENTS.kind]


def played(scenario: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await scenario()

    asyncio.run(whole())


def counted(end: str) -> float:
    return metrics.REGISTRY.get_sample_value("dcp_deletions_total", {"data": end}) or 0
