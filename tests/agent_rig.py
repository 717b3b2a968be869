"""A real agent in a training of this process, and an operator in a thread that it may be connected to."""

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from channel_rig import TokenApi
from dcp_agent import Agent
from worker_process import until as until_

ApiT = TypeVar("ApiT", bound=TokenApi)


def until(condition: Callable[[], object]) -> None:
    until_(lambda: bool(condition()), 20)


class Reached(NamedTuple):
    """What an agent needs to know of an operator."""

    url: str
    certificate: str


class ThreadedOperator(ABC, Generic[ApiT]):
    """An operator that works in a thread of its own, and may be ended and started anew.

    Args:
        folder: What a pod mounts, to be made: the token of a pod `rank0`, and how the operator is reached.
        api: The API server.
        labels: Of the pod.
    """

    def __init__(self, folder: Path, api: ApiT, labels: dict[str, str] | None = None) -> None:
        self.folder, self.api = folder, api
        folder.mkdir()
        (folder / "token").write_text(api.run_pod("rank0", labels=labels))
        self._up = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._over: asyncio.Event
        self._thread: threading.Thread

    def start(self) -> None:
        """Work from now on."""
        self._up.clear()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._up.wait(10)

    def stop(self) -> None:
        """End."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(20)

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function in the thread that serves."""

        async def called() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result(10)

    @abstractmethod
    def serving(self) -> AbstractAsyncContextManager[Reached]:
        """Serve while the context lasts."""

    async def work(self) -> None:
        """Do what is to be done now; called again and again."""

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        async with self.serving() as reached:
            (self.folder / "ca.crt").write_text(reached.certificate)
            (self.folder / "url").write_text(reached.url)
            self._up.set()
            while not self._over.is_set():
                await self.work()
                await asyncio.sleep(0.02)


@contextmanager
def training(prefix: Path, **options: Any) -> Iterator[Agent]:
    """Train in this thread's background, one step each hundredth of a second, until the context ends."""
    weights = torch.zeros(4)
    agent = Agent(lambda: {"weights": weights}, prefix, signals=False, **options)
    over = threading.Event()

    def train() -> None:
        step = agent.resume()
        while not over.wait(0.01):
            step += 1
            agent.step(step)
        agent.close(save=False)

    thread = threading.Thread(target=train)
    thread.start()
    try:
        yield agent
    finally:
        over.set()
        thread.join(30)
        assert not thread.is_alive()
