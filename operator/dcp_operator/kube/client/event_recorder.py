"""Kubernetes events, posted in the background. Reconciles come first: an event waits while others wait for a worker."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from dcp_operator.api.json_types import Body
from dcp_operator.controllers.decision import Event
from dcp_operator.kube.client.api import Resource
from dcp_operator.kube.client.cluster import Cluster

LIMIT: Final = 10_000
"""Events that may wait. Those beyond are dropped: the status says all that an event says."""

PAUSE: Final = 0.1
LONGEST_DELAY: Final = 10.0


_Waiting = tuple[Body, Event, str, Resource]
"""An object, what happened to it, when, and its resource."""


@dataclass
class EventRecorder:
    """Posts events with a few workers.

    Args:
        cluster: Where to post.
        busy: Says whether reconciles wait. Then events wait too, for LONGEST_DELAY seconds at most.
        workers: Requests under way at most.
    """

    cluster: Cluster
    busy: Callable[[], bool]
    workers: int = 4
    _waiting: asyncio.Queue[_Waiting] = field(default_factory=lambda: asyncio.Queue(LIMIT), init=False)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list, init=False)

    def start(self) -> None:
        """Start posting."""
        self._tasks = [asyncio.create_task(self._work(), name=f"recorder-{number}") for number in range(self.workers)]

    def record(self, resource: Resource, body: Body, event: Event) -> None:
        """Have an event posted about an object whose status has just been written."""
        involved = {"metadata": body["metadata"]}
        with contextlib.suppress(asyncio.QueueFull):
            self._waiting.put_nowait((involved, event, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), resource))

    async def stop(self, grace: float = 5.0) -> None:
        """Post what waits, for `grace` seconds at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._waiting.join()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            body, event, now, resource = await self._waiting.get()
            try:
                await self._give_way()
                await self.cluster.post_event(
                    resource, body, kind=event.type, reason=event.reason, message=event.message, now=now
                )
            finally:
                self._waiting.task_done()

    async def _give_way(self) -> None:
        deadline = asyncio.get_running_loop().time() + LONGEST_DELAY
        while self.busy() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - nothing tells the end
            await asyncio.sleep(PAUSE)
