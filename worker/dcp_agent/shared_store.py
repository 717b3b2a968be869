"""Carries a role of the protocol out on the store that joined the ranks."""

import threading
from collections.abc import Callable, Generator
from datetime import timedelta
from typing import Any, Final, TypeVar

import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d

from dcp_agent.agreement import Ask, Await, AwaitDone, AwaitHalt, Count, Gate, NextOrder, Read, WriteFirst

T = TypeVar("T")
_LONG: Final = timedelta(hours=1)


class SharedStore:
    """The keys of one agent, over a connection of its own: one thread at a time may use it.

    A wait holds its connection. So the thread that listens has one, and those who ask have another.
    """

    def __init__(self, joined: c10d.Store, agent: int) -> None:
        """Connect, on any rank.

        Args:
            joined: The store that joined the ranks; a clone of it is a connection of its own.
            agent: The number of the agent in its process: keys of two agents must not meet.
        """
        self._store = c10d.PrefixStore(str(agent), joined.clone())

    def read(self, key: str) -> str | None:
        """Return a value, or None where nothing stands."""
        return self._store.get(key).decode() if self._store.check([key]) else None

    def write_first(self, key: str, value: str) -> None:
        """Set a key that nobody has set."""
        self._store.compare_set(key, "", value)

    def count(self, key: str, amount: int) -> int:
        """Add to a number that begins at 0, and return the sum."""
        return int(self._store.add(key, amount))

    def wait(self, keys: tuple[str, ...], seconds: float | None) -> bool:
        """Return whether all keys were set in time; None waits for ever."""
        while True:
            try:
                self._store.wait(list(keys), _LONG if seconds is None else timedelta(seconds=seconds))
            except dist.DistStoreError:
                if seconds is not None:
                    return False
            else:
                return True


class Halting:
    """The gate of this rank's training, for its threads."""

    def __init__(self) -> None:
        """Begin with a gate that is shut until the rank listens."""
        self.gate = Gate()
        self.next_order: Callable[[], str] = str
        """Returns what the next save is for; asked on rank 0 alone."""
        self.changed = threading.Condition()
        """The lock around all that a role does between two questions, and around `passage`."""

    def carry_out(self, role: Generator[Ask, Any, T], store: SharedStore) -> T:
        """Carry out a role until its end, in the calling thread.

        Raises:
            dist.DistError: the store is gone.
        """
        value: Any = None
        while True:
            with self.changed:
                try:
                    asked = role.send(value)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return] # what the role returns
                finally:
                    self.changed.notify_all()
            value = self._answered(asked, store)

    def _answered(self, asked: Ask, store: SharedStore) -> Any:  # noqa: ANN401 - what each question returns
        answer: Any = None
        match asked:
            case Read(key):
                answer = store.read(key)
            case WriteFirst(key, value):
                store.write_first(key, value)
            case Count(key, amount):
                answer = store.count(key, amount)
            case Await(keys, seconds):
                answer = store.wait(keys, seconds)
            case AwaitHalt(seconds):
                with self.changed:
                    answer = self.changed.wait_for(lambda: self.gate.halted, seconds)
            case AwaitDone():
                with self.changed:
                    self.changed.wait_for(lambda: self.gate.done)
            case NextOrder():
                answer = self.next_order()
        return answer
