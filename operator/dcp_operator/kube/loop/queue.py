"""A keyed work queue: it turns watch events and wake-ups into reconciles.

The rules are those of client-go's workqueue, on asyncio:

- a key waits at most once, however often it is added (a burst of events costs one reconcile);
- a key is never reconciled by two workers at once; added while it is being reconciled, it runs once more afterwards;
- a key may ask to be woken later; of several wake-ups the earliest stands, and any reconcile replaces them all;
- a key may be given a rest: all that is added during the rest is one reconcile after it;
- a key that fails comes back after an exponential backoff, or sooner if it is added;
- a key that took long waits for workers of its own from then on, until it is quick again: however many such keys there
  are, the others' workers are free.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

logger = logging.getLogger(__name__)

QueueKey = TypeVar("QueueKey", bound=Hashable)

FIRST_BACKOFF: Final = 0.1
LONGEST_BACKOFF: Final = 30.0
SLOW: Final = 3.0
"""A reconcile that takes more seconds is slow. A quick one takes some hundredths."""


class RetryLaterError(Exception):
    """A reconcile that could not finish for a reason outside of the object; it says when to come back.

    Args:
        message: What was in the way.
        seconds: When to try again; None leaves it to the queue's backoff.
    """

    def __init__(self, message: str, seconds: float | None = None) -> None:
        super().__init__(message)
        self.seconds = seconds


@dataclass
class WorkQueue(Generic[QueueKey]):
    """Reconciles keys with a bounded number of workers.

    Args:
        reconcile: Brings one key's world in order and returns the seconds after which to look again, or None.
        workers: Keys reconciled at the same time, an eighth as many slow ones beside them.
        rest: Seconds between the end of a key's reconcile and its next one, at least.
        slow: Seconds above which a reconcile is slow.
    """

    reconcile: Callable[[QueueKey], Awaitable[float | None]]
    workers: int = 32
    rest: Callable[[QueueKey], float] = field(default=lambda _: 0.0)
    slow: float = SLOW
    _resting: dict[QueueKey, float] = field(default_factory=dict, init=False)
    """When the rest of a key is over."""
    _ready: asyncio.Queue[QueueKey] = field(default_factory=asyncio.Queue, init=False)
    _slow_ready: asyncio.Queue[QueueKey] = field(default_factory=asyncio.Queue, init=False)
    _slow: set[QueueKey] = field(default_factory=set, init=False)
    """Keys whose last reconcile took long."""
    _waiting: set[QueueKey] = field(default_factory=set, init=False)
    _busy: dict[QueueKey, float] = field(default_factory=dict, init=False)
    _again: set[QueueKey] = field(default_factory=set, init=False)
    _timers: dict[QueueKey, asyncio.TimerHandle] = field(default_factory=dict, init=False)
    _failures: dict[QueueKey, int] = field(default_factory=dict, init=False)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list, init=False)

    def add(self, key: QueueKey) -> None:
        """Have the key reconciled as soon as a worker is free."""
        if key in self._busy:
            self._again.add(key)
        elif (left := self._rest_left(key)) > 0:
            self.add_after(key, left)
        elif key not in self._waiting:
            self._waiting.add(key)
            (self._slow_ready if key in self._slow else self._ready).put_nowait(key)

    def add_after(self, key: QueueKey, seconds: float) -> None:
        """Have the key reconciled after a while, unless it is due earlier anyway."""
        loop = asyncio.get_running_loop()
        due = loop.time() + max(0.0, seconds)
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= due:
                return
            timer.cancel()
        self._timers[key] = loop.call_at(due, self._wake, key)

    def start(self) -> None:
        """Start the workers. What was added before is still there."""
        ready = [self._ready] * self.workers + [self._slow_ready] * max(1, self.workers // 8)
        self._tasks = [
            asyncio.create_task(self._work(keys), name=f"reconciler-{number}") for number, keys in enumerate(ready)
        ]

    async def stop(self, grace: float = 10.0) -> None:
        """Take up no more keys, give the ones in work `grace` seconds, then cancel them."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for ready in (self._ready, self._slow_ready):
            while not ready.empty():
                self._waiting.discard(ready.get_nowait())
        self._again.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while self._busy:
                    await asyncio.wait(self._tasks, timeout=0.02)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    @property
    def depth(self) -> int:
        """Keys that wait for a worker now. Slow keys are not counted: they have workers of their own."""
        return self._ready.qsize()

    @property
    def slow_depth(self) -> int:
        """Slow keys that wait for one of their workers now."""
        return self._slow_ready.qsize()

    @property
    def busy(self) -> int:
        """Keys in work now."""
        return len(self._busy)

    @property
    def longest_running(self) -> float:
        """Seconds since the oldest reconcile in work began; 0 if there is none."""
        return asyncio.get_running_loop().time() - min(self._busy.values()) if self._busy else 0.0

    async def _work(self, ready: asyncio.Queue[QueueKey]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            key = await ready.get()
            self._waiting.discard(key)
            self._drop_timer(key)
            self._busy[key] = loop.time()
            try:
                await self._reconcile_once(key)
            finally:
                took = loop.time() - self._busy.pop(key)
            (self._slow.add if took > self.slow else self._slow.discard)(key)
            if (rest := self.rest(key)) > 0:
                self._resting[key] = loop.time() + rest
            if key in self._again:
                self._again.discard(key)
                self.add(key)

    async def _reconcile_once(self, key: QueueKey) -> None:
        try:
            seconds = await self.reconcile(key)
        except RetryLaterError as error:
            delay = self._backoff(key) if error.seconds is None else error.seconds
            logger.info("%s: %s; again in %.1f s", key, error, delay)
            self.add_after(key, delay)
        except Exception:
            # An error with one object, whatever it is, must not stop the others.
            delay = self._backoff(key)
            logger.exception("%s: the reconcile failed; again in %.1f s", key, delay)
            self.add_after(key, delay)
        else:
            self._failures.pop(key, None)
            if seconds is not None:
                self.add_after(key, seconds)

    def _backoff(self, key: QueueKey) -> float:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        return float(min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** min(failures, 20)))

    def _rest_left(self, key: QueueKey) -> float:
        left = self._resting.get(key, 0.0) - asyncio.get_running_loop().time() if key in self._resting else 0.0
        if left <= 0:
            self._resting.pop(key, None)
        return left

    def _wake(self, key: QueueKey) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _drop_timer(self, key: QueueKey) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
