"""The work queue's promises: dedupe, one worker per key, earliest wake-up, backoff, graceful stop."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from dcp_operator.kube.loop.queue import RetryLaterError, WorkQueue

Reconcile = Callable[[str], Awaitable[float | None]]


@asynccontextmanager
async def running(reconcile: Reconcile, workers: int = 4, slow: float = 60) -> AsyncIterator[WorkQueue[str]]:
    queue = WorkQueue(reconcile, workers=workers, slow=slow)
    queue.start()
    try:
        async with asyncio.timeout(20):
            yield queue
    finally:
        await queue.stop(grace=1)


class Gate:
    """A reconcile that counts, and holds each key until it is let go."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.inside: set[str] = set()
        self.overlaps = 0
        self.open = asyncio.Event()
        self.entered = asyncio.Condition()

    async def __call__(self, key: str) -> float | None:
        self.overlaps += key in self.inside
        self.inside.add(key)
        self.started.append(key)
        async with self.entered:
            self.entered.notify_all()
        await self.open.wait()
        self.inside.discard(key)
        return None

    async def until(self, count: int) -> None:
        async with self.entered:
            await self.entered.wait_for(lambda: len(self.started) >= count)


def test_a_burst_of_events_costs_one_reconcile() -> None:
    async def scenario() -> None:
        gate = Gate()
        gate.open.set()
        queue = WorkQueue(gate, workers=2)
        for _ in range(100):
            queue.add("a")
        assert queue.depth == 1
        queue.start()
        queue.add("b")
        await gate.until(2)
        await queue.stop()
        assert sorted(gate.started) == ["a", "b"]

    asyncio.run(scenario())


def test_a_key_added_while_in_work_runs_once_more_and_never_twice_at_once() -> None:
    async def scenario() -> None:
        gate = Gate()
        async with running(gate) as queue:
            queue.add("a")
            await gate.until(1)
            for _ in range(10):
                queue.add("a")
            assert queue.busy == 1
            gate.open.set()
            await gate.until(2)
        assert gate.started == ["a", "a"]
        assert gate.overlaps == 0

    asyncio.run(scenario())


def test_at_most_so_many_keys_are_in_work() -> None:
    async def scenario() -> None:
        gate = Gate()
        async with running(gate, workers=3) as queue:
            for number in range(10):
                queue.add(str(number))
            await gate.until(3)
            assert (queue.busy, queue.depth) == (3, 7)
            gate.open.set()
            await gate.until(10)
        assert len(gate.started) == 10

    asyncio.run(scenario())


@pytest.mark.adversary
@pytest.mark.parametrize("error", [None, RetryLaterError("no answer", seconds=0)], ids=["slow", "slow, and in vain"])
def test_slow_keys_take_no_more_than_their_own_workers(error: Exception | None) -> None:
    """However many there are: the API server takes seconds for what somebody stored there."""
    slow = [f"slow-{number}" for number in range(50)]

    async def scenario() -> None:
        gate, quick = Gate(), asyncio.Event()
        first = set(slow)
        over = asyncio.Event()

        async def reconcile(key: str) -> float | None:
            if key == "quick":
                quick.set()
                return None
            if key not in first:
                return await gate(key)
            await asyncio.sleep(0.03)
            first.discard(key)
            if not first:
                over.set()
            if error is not None:
                raise error
            return 0

        async with running(reconcile, workers=16, slow=0.01) as queue:
            for key in slow:
                queue.add(key)
            await over.wait()
            await gate.until(2)
            queue.add("quick")
            await quick.wait()
            assert len(gate.inside) == 2, "an eighth of sixteen"
            gate.open.set()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("delays", "expected"),
    [
        pytest.param([30.0, 0.05], 0.05, id="the earlier one stands"),
        pytest.param([0.05, 30.0], 0.05, id="in either order"),
        pytest.param([-5.0], 0.0, id="a time that is past is now"),
    ],
)
def test_of_several_wake_ups_the_earliest_stands(delays: list[float], expected: float) -> None:
    async def scenario() -> None:
        gate = Gate()
        gate.open.set()
        async with running(gate) as queue:
            before = asyncio.get_running_loop().time()
            for delay in delays:
                queue.add_after("a", delay)
            await gate.until(1)
            assert asyncio.get_running_loop().time() - before >= expected - 0.01
        assert gate.started == ["a"]

    asyncio.run(scenario())


def test_a_reconcile_asks_for_its_next_one() -> None:
    async def scenario() -> None:
        seen = asyncio.Semaphore(0)
        waits = iter([0.01, 0.01, None])

        async def reconcile(_key: str) -> float | None:
            seen.release()
            return next(waits)

        async with running(reconcile) as queue:
            queue.add("a")
            for _ in range(3):
                await seen.acquire()
            assert not queue._timers

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [ValueError("a bug"), RetryLaterError("the API server is away")])
def test_a_failing_key_backs_off_and_does_not_stop_the_others(error: Exception) -> None:
    async def scenario() -> None:
        times: list[float] = []
        enough = asyncio.Event()
        other = asyncio.Event()

        async def reconcile(key: str) -> float | None:
            if key == "other":
                other.set()
                return None
            times.append(asyncio.get_running_loop().time())
            if len(times) == 4:
                enough.set()
                return None
            raise error

        async with running(reconcile, workers=1) as queue:
            queue.add("failing")
            queue.add("other")
            await other.wait()
            await enough.wait()
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert gaps[0] >= 0.09
        assert gaps[1] >= 0.19
        assert gaps[2] >= 0.39

    asyncio.run(scenario())


def test_an_event_shortens_the_backoff_and_a_stated_delay_is_kept() -> None:
    async def scenario() -> None:
        calls = asyncio.Semaphore(0)
        later = RetryLaterError("wait for it", seconds=3600)

        async def reconcile(_key: str) -> float | None:
            calls.release()
            raise later

        async with running(reconcile) as queue:
            queue.add("a")
            await calls.acquire()
            queue.add("a")
            await calls.acquire()

    asyncio.run(scenario())


def test_stop_lets_the_work_in_hand_finish_and_takes_up_no_more() -> None:
    async def scenario() -> None:
        finished: list[str] = []
        began = asyncio.Event()

        async def reconcile(key: str) -> float | None:
            began.set()
            await asyncio.sleep(0.1)
            finished.append(key)
            return None

        queue = WorkQueue(reconcile, workers=1)
        queue.start()
        for key in ("a", "b", "c"):
            queue.add(key)
        await began.wait()
        await queue.stop(grace=5)
        assert finished == ["a"]

    asyncio.run(scenario())


def test_stop_cancels_what_outlives_the_grace() -> None:
    async def scenario() -> None:
        gate = Gate()
        queue = WorkQueue(gate, workers=1)
        queue.start()
        queue.add("a")
        await gate.until(1)
        assert queue.longest_running >= 0
        await queue.stop(grace=0.05)
        assert queue.busy == 0

    asyncio.run(scenario())
